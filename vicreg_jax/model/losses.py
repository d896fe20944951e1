"""The objectives of pretraining (`LOSSES` is their table), and that of labels.

The study compares VICReg and NT-Xent; Barlow Twins, DCL and SIGReg stand beside
them. Each takes the embeddings of two views, `z1_BxD` and `z2_BxD`, float32 or
bfloat16, row i of one being the positive of row i of the other. It gives
`(loss, terms)`: a float32 scalar to minimise and a dict of float32 scalars to
watch. It raises ValueError on shapes that differ, or B < 2. Statistics and sums
are in float32 whatever the inputs' type. Under `jit` with the batch sharded,
every mean and Gram matrix is over the global batch.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

CONVENTIONS = ("release", "paper")
# A vector shorter than this has no direction: similarity and gradient are zero.
MIN_NORM = 1e-8
# Added to the variance by which Barlow Twins divides, as BatchNorm does.
BARLOW_EPS = 1e-5


def vicreg_loss(
  z1_BxD,
  z2_BxD,
  *,
  sim_coeff=25.0,
  std_coeff=25.0,
  cov_coeff=1.0,
  gamma=1.0,
  eps=1e-4,
  convention="release",
):
  """VICReg: weighted sum of invariance, variance and covariance.

  Args:
    sim_coeff, std_coeff, cov_coeff: lambda, mu and nu of thesis eq. 2.16.
    gamma: the standard deviation that the variance hinge asks for, eq. 2.11.
    eps: added to the variance inside the square root, eq. 2.12.
    convention: "release" is the VICReg authors' code (squared error averaged
      over batch and dimensions, hinge averaged over the views); "paper" is
      eq. 2.13 (summed over dimensions) and eq. 2.16 (hinges summed). Both sum
      the covariance terms of the views.

  Returns:
    The loss, and the unweighted terms "invariance", "variance", "covariance".
  """
  _check_pair("vicreg_loss", z1_BxD, z2_BxD)
  diff_BxD = z1_BxD.astype(jnp.float32) - z2_BxD.astype(jnp.float32)
  squared_B = jnp.sum(diff_BxD**2, axis=1)
  std1, cov1 = _variance_and_covariance(z1_BxD, gamma, eps)
  std2, cov2 = _variance_and_covariance(z2_BxD, gamma, eps)
  divisors = {"release": (z1_BxD.shape[1], 2), "paper": (1, 1)}
  dimensions, views = divisors[convention]
  terms = {
    "invariance": jnp.mean(squared_B) / dimensions,
    "variance": (std1 + std2) / views,
    "covariance": cov1 + cov2,
  }
  loss = (
    sim_coeff * terms["invariance"]
    + std_coeff * terms["variance"]
    + cov_coeff * terms["covariance"]
  )
  return loss, terms


def nt_xent_loss(z1_BxD, z2_BxD, *, temperature=0.5):
  """NT-Xent (thesis eq. 2.10), the mean over the 2B anchors, as in CLMR.

  Each view of a clip is an anchor: its positive is the clip's other view, its
  negatives the 2B - 2 views of other clips, compared by cosine similarity.

  Args:
    temperature: tau, above 0.

  Returns:
    The loss, and "positive_similarity" and "negative_similarity" (mean
    cosines), "top1" (share of anchors whose positive beats every negative; a
    tie, as in a collapse, is not a win).
  """
  _check_pair("nt_xent_loss", z1_BxD, z2_BxD)
  cosine_AxA, paired_AxA, negative_AxA = _cosines(z1_BxD, z2_BxD)
  # The denominator of eq. 2.10 holds the positive and every negative.
  others_AxA = paired_AxA | negative_AxA
  logits_AxA = jnp.where(others_AxA, cosine_AxA / temperature, -jnp.inf)
  log_p_AxA = jax.nn.log_softmax(logits_AxA, axis=1)
  loss = -jnp.mean(jnp.sum(log_p_AxA, axis=1, where=paired_AxA))
  return loss, _contrast(cosine_AxA, paired_AxA, negative_AxA)


def dcl_loss(z1_BxD, z2_BxD, *, temperature=0.1):
  """Decoupled contrastive loss (arXiv 2110.06848, eq. 6), unweighted.

  NT-Xent without the positive in the denominator, so that a positive that is
  close already does not weaken the pull. The mean over the 2B anchors.

  Args:
    temperature: tau, above 0.

  Returns:
    The loss, which may be below 0, and the terms of `nt_xent_loss`.
  """
  _check_pair("dcl_loss", z1_BxD, z2_BxD)
  cosine_AxA, paired_AxA, negative_AxA = _cosines(z1_BxD, z2_BxD)
  logits_AxA = cosine_AxA / temperature
  positive_A = jnp.sum(logits_AxA, axis=1, where=paired_AxA)
  negative_A = jax.nn.logsumexp(
    jnp.where(negative_AxA, logits_AxA, -jnp.inf), axis=1
  )
  loss = jnp.mean(negative_A - positive_A)
  return loss, _contrast(cosine_AxA, paired_AxA, negative_AxA)


def barlow_twins_loss(z1_BxD, z2_BxD, *, redundancy_coeff=0.005):
  """Barlow Twins (arXiv 2103.03230, eq. 1): correlations become the identity.

  C_DxD are the correlations of the views' dimensions, each of mean 0 and
  variance 1 over the batch.

  Args:
    redundancy_coeff: lambda, the weight of the second term.

  Returns:
    The loss, and the unweighted terms: "invariance", the sum over the diagonal
    of (1 - C_ii)^2, and "redundancy", the sum of C_ij^2 off the diagonal.
  """
  _check_pair("barlow_twins_loss", z1_BxD, z2_BxD)
  n, d = z1_BxD.shape
  a32_BxD, b32_BxD = _standardised(z1_BxD), _standardised(z2_BxD)
  diagonal_D = jnp.mean(a32_BxD * b32_BxD, axis=0)

  # As in VICReg: back to bfloat16 for the matrix unit, if it was bfloat16.
  a_BxD, b_BxD = a32_BxD.astype(z1_BxD.dtype), b32_BxD.astype(z2_BxD.dtype)
  if n < d:
    product_BxD = a_BxD.astype(jnp.float32) * b_BxD.astype(jnp.float32)
    on_diagonal = jnp.sum(jnp.sum(product_BxD, axis=0) ** 2)
    off_diagonal = _cross_squared(a_BxD, b_BxD) - on_diagonal
  else:
    cross_DxD = _matmul(a_BxD.T, b_BxD)
    off_diagonal = jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, cross_DxD**2))
  terms = {
    "invariance": jnp.sum((1 - diagonal_D) ** 2),
    "redundancy": off_diagonal / n**2,
  }
  loss = terms["invariance"] + redundancy_coeff * terms["redundancy"]
  return loss, terms


def sigreg_loss(
  z1_BxD, z2_BxD, *, key, trade_off=0.05, slices=1024, knots=17, t_max=3.0
):
  """LeJEPA's objective (arXiv 2511.08544): invariance, and SIGReg.

  SIGReg asks that each view's embeddings, along random directions, be standard
  normal: it integrates the squared distance of their characteristic function to
  exp(-t^2 / 2), weighted by that (the test of Epps and Pulley).

  Args:
    key: of the random directions.
    trade_off: lambda, the weight of SIGReg, 0 to 1; invariance has the rest.
    slices: how many directions.
    knots: at how many t, evenly from 0 to t_max, the functions are compared.
    t_max: the integral is from -t_max to t_max.

  Returns:
    The loss, and the unweighted terms: "invariance", the mean square of the
    embeddings less the mean of both views, and "gaussianity", the test's
    statistic, its mean over directions and views.
  """
  _check_pair("sigreg_loss", z1_BxD, z2_BxD)
  n, d = z1_BxD.shape
  half_BxD = (z1_BxD.astype(jnp.float32) - z2_BxD.astype(jnp.float32)) / 2
  directions_DxS = jax.random.normal(key, (d, slices))
  directions_DxS /= jnp.linalg.norm(directions_DxS, axis=0)

  t_K = np.linspace(0, t_max, knots, dtype=np.float32)
  normal_K = np.exp(-(t_K**2) / 2)
  # The trapezoidal rule, twice over: the integrand is even in t.
  weight_K = np.full(knots, 2 * t_max / (knots - 1), np.float32) * normal_K
  weight_K[[0, -1]] /= 2
  statistics = []
  for z_BxD in (z1_BxD, z2_BxD):
    sliced_BxS = _matmul(z_BxD, directions_DxS.astype(z_BxD.dtype))
    angle_BxSxK = sliced_BxS[..., None] * t_K
    real_SxK = jnp.mean(jnp.cos(angle_BxSxK), axis=0)
    imaginary_SxK = jnp.mean(jnp.sin(angle_BxSxK), axis=0)
    distance_SxK = (real_SxK - normal_K) ** 2 + imaginary_SxK**2
    statistics.append(n * jnp.mean(jnp.sum(distance_SxK * weight_K, axis=1)))
  terms = {
    "invariance": jnp.mean(half_BxD**2),
    "gaussianity": sum(statistics) / 2,
  }
  loss = (1 - trade_off) * terms["invariance"]
  return loss + trade_off * terms["gaussianity"], terms


@dataclasses.dataclass(frozen=True)
class Objective:
  """A row of `LOSSES`.

  Attributes:
    loss: `(z1_BxD, z2_BxD, **options) -> (loss, terms)`.
    keys: its options, as the config's section `loss.NAME` has them, or, where
      there is none of that name, the section `loss`.
    random: whether the loss draws random numbers: then it takes a `key`.
  """

  loss: Callable
  keys: tuple[str, ...]
  random: bool = False


# By `loss.name`. .github/CONTRIBUTING.md says how to add one.
LOSSES = {
  "vicreg": Objective(
    vicreg_loss,
    ("sim_coeff", "std_coeff", "cov_coeff", "gamma", "eps", "convention"),
  ),
  "nt_xent": Objective(nt_xent_loss, ("temperature",)),
  "dcl": Objective(dcl_loss, ("temperature",)),
  "barlow_twins": Objective(barlow_twins_loss, ("redundancy_coeff",)),
  "sigreg": Objective(
    sigreg_loss, ("trade_off", "slices", "knots", "t_max"), random=True
  ),
}


def label_loss(logits_BxK, labels_BxK, *, single):
  """Each clip's loss [B]: how far its logits are from its labels; float32.

  Args:
    logits_BxK: scores before the activation.
    labels_BxK: 0 or 1; with `single` exactly one 1 in each row.
    single: cross-entropy of the softmax; else the mean over the labels of the
      sigmoids' binary cross-entropy.
  """
  logits_BxK = logits_BxK.astype(jnp.float32)
  labels_BxK = labels_BxK.astype(jnp.float32)
  if single:
    return optax.softmax_cross_entropy(logits_BxK, labels_BxK)
  return optax.sigmoid_binary_cross_entropy(logits_BxK, labels_BxK).mean(-1)


def _check_pair(name, z1_BxD, z2_BxD):
  if z1_BxD.ndim != 2 or z1_BxD.shape != z2_BxD.shape:
    raise ValueError(
      f"{name} needs two embeddings of one shape (batch, dimensions), not "
      f"{z1_BxD.shape} and {z2_BxD.shape}."
    )
  if z1_BxD.shape[0] < 2:
    raise ValueError(
      f"{name} needs a batch of at least 2 clips, not {z1_BxD.shape[0]}: it "
      "compares the clips of a batch. Raise batch_size."
    )


def _matmul(a, b):
  """a @ b, summed in float32; float32 inputs keep every bit."""
  # A TPU multiplies float32 in bfloat16 unless told otherwise.
  exact = a.dtype == jnp.float32
  return jnp.matmul(
    a,
    b,
    precision=jax.lax.Precision.HIGHEST if exact else None,
    preferred_element_type=jnp.float32,
  )


def _variance_and_covariance(z_BxD, gamma, eps):
  """v(Z) and c(Z) of one view, eqs. 2.11 and 2.14."""
  n, d = z_BxD.shape
  z32_BxD = z_BxD.astype(jnp.float32)
  z32_BxD = z32_BxD - jnp.mean(z32_BxD, axis=0)
  var_D = jnp.sum(z32_BxD**2, axis=0) / (n - 1)
  hinge = jnp.mean(jax.nn.relu(gamma - jnp.sqrt(var_D + eps)))

  # Centred in float32; bfloat16 embeddings return to bfloat16 for the matrix
  # unit, so that the diagonal is taken from the same rounded values.
  zc_BxD = z32_BxD.astype(z_BxD.dtype)
  if n < d:
    # ||Z^T Z||_F = ||Z Z^T||_F: B x B in place of D x D.
    diagonal_D = jnp.sum(zc_BxD.astype(jnp.float32) ** 2, axis=0)
    off_diagonal = _gram_squared(zc_BxD) - jnp.sum(diagonal_D**2)
  else:
    cov_DxD = _matmul(zc_BxD.T, zc_BxD)
    off_diagonal = jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0.0, cov_DxD**2))
  return hinge, off_diagonal / (n - 1) ** 2 / d


@jax.custom_vjp
def _gram_squared(z_BxD):
  """||Z Z^T||_F^2, with the gradient 4 (Z Z^T) Z.

  Autodiff treats the two Z as different: it would multiply twice, and sum the
  second product over all devices. Here each device uses its own rows of the
  Gram matrix, and the embeddings gathered once.
  """
  return _gram_squared_fwd(z_BxD)[0]


def _gram_squared_fwd(z_BxD):
  # A barrier, or the compiler gathers twice: once before the centring.
  z_BxD = jax.lax.optimization_barrier(z_BxD)
  gram_BxB = _matmul(z_BxD, z_BxD.T)
  return jnp.sum(gram_BxB**2), (gram_BxB, z_BxD)


def _gram_squared_bwd(saved, g):
  gram_BxB, z_BxD = saved
  dz_BxD = _matmul(gram_BxB.astype(z_BxD.dtype), z_BxD)
  return ((4 * g * dz_BxD).astype(z_BxD.dtype),)


_gram_squared.defvjp(_gram_squared_fwd, _gram_squared_bwd)


@jax.custom_vjp
def _cross_squared(a_BxD, b_BxD):
  """||A^T B||_F^2 = <A A^T, B B^T>, gradients 2 (B B^T) A and 2 (A A^T) B.

  For the reasons of `_gram_squared`.
  """
  return _cross_squared_fwd(a_BxD, b_BxD)[0]


def _cross_squared_fwd(a_BxD, b_BxD):
  a_BxD, b_BxD = jax.lax.optimization_barrier((a_BxD, b_BxD))
  a_BxB, b_BxB = _matmul(a_BxD, a_BxD.T), _matmul(b_BxD, b_BxD.T)
  return jnp.sum(a_BxB * b_BxB), (a_BxB, b_BxB, a_BxD, b_BxD)


def _cross_squared_bwd(saved, g):
  a_BxB, b_BxB, a_BxD, b_BxD = saved
  da_BxD = _matmul(b_BxB.astype(a_BxD.dtype), a_BxD)
  db_BxD = _matmul(a_BxB.astype(b_BxD.dtype), b_BxD)
  return (
    (2 * g * da_BxD).astype(a_BxD.dtype),
    (2 * g * db_BxD).astype(b_BxD.dtype),
  )


_cross_squared.defvjp(_cross_squared_fwd, _cross_squared_bwd)


def _standardised(z_BxD):
  """Each dimension of mean 0 and variance 1 over the batch; float32."""
  z_BxD = z_BxD.astype(jnp.float32)
  z_BxD = z_BxD - jnp.mean(z_BxD, axis=0)
  var_D = jnp.mean(z_BxD**2, axis=0)
  return z_BxD * jax.lax.rsqrt(var_D + BARLOW_EPS)


def _cosines(z1_BxD, z2_BxD):
  """Cosines of all A = 2B anchors; which are of positives, of negatives."""
  n = z1_BxD.shape[0]
  u_AxD = _unit(jnp.concatenate([z1_BxD, z2_BxD]))
  cosine_AxA = _matmul(u_AxD, u_AxD.T)
  itself_AxA = jnp.eye(2 * n, dtype=bool)
  paired_AxA = itself_AxA[jnp.roll(jnp.arange(2 * n), n)]
  return cosine_AxA, paired_AxA, ~(itself_AxA | paired_AxA)


def _contrast(cosine_AxA, paired_AxA, negative_AxA):
  """The terms of `nt_xent_loss`."""
  positive_A = jnp.sum(cosine_AxA, axis=1, where=paired_AxA)
  hardest_A = jnp.max(cosine_AxA, axis=1, where=negative_AxA, initial=-jnp.inf)
  return {
    "positive_similarity": jnp.mean(positive_A),
    "negative_similarity": jnp.mean(cosine_AxA, where=negative_AxA),
    "top1": jnp.mean((positive_A > hardest_A).astype(jnp.float32)),
  }


def _unit(z_BxD):
  """Rows of length one in float32; rows of (almost) zero give zeros."""
  z_BxD = z_BxD.astype(jnp.float32)
  squared_Bx1 = jnp.sum(z_BxD**2, axis=1, keepdims=True)
  directed_Bx1 = squared_Bx1 > MIN_NORM**2
  # The inner `where` keeps 1 / 0 out of the gradient of the branch not taken.
  inverse_Bx1 = jax.lax.rsqrt(jnp.where(directed_Bx1, squared_Bx1, 1.0))
  return jnp.where(directed_Bx1, z_BxD * inverse_Bx1, 0.0)
