"""VICReg and NT-Xent, the two objectives of the study, and that of labels.

The two take the embeddings of two views, `z1_BxD` and `z2_BxD`, row i of one
being the positive of row i of the other, and give `(loss, terms)`: a float32
scalar to minimise and a dict of float32 scalars to watch. Statistics and sums
are in float32 whatever the inputs' type. Under `jit` with the batch sharded,
every mean and Gram matrix is over the global batch.
"""

import jax
import jax.numpy as jnp
import optax

CONVENTIONS = ("release", "paper")
# A vector shorter than this has no direction: similarity and gradient are zero.
MIN_NORM = 1e-8


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
    z1_BxD, z2_BxD: embeddings of the two views, float32 or bfloat16, B >= 2.
    sim_coeff, std_coeff, cov_coeff: lambda, mu and nu of thesis eq. 2.16.
    gamma: the standard deviation that the variance hinge asks for, eq. 2.11.
    eps: added to the variance inside the square root, eq. 2.12.
    convention: "release" is the VICReg authors' code (squared error averaged
      over batch and dimensions, hinge averaged over the views); "paper" is
      eq. 2.13 (summed over dimensions) and eq. 2.16 (hinges summed). Both sum
      the covariance terms of the views.

  Returns:
    The loss, and the unweighted terms "invariance", "variance", "covariance".

  Raises:
    ValueError: on an unknown convention, shapes that differ, or B < 2.
  """
  if convention not in CONVENTIONS:
    raise ValueError(
      f"loss.convention is {convention!r}: choose one of {CONVENTIONS}."
    )
  _check_pair("vicreg_loss", z1_BxD, z2_BxD)
  diff_BxD = z1_BxD.astype(jnp.float32) - z2_BxD.astype(jnp.float32)
  squared_B = jnp.sum(diff_BxD**2, axis=1)
  std1, cov1 = _variance_and_covariance(z1_BxD, gamma, eps)
  std2, cov2 = _variance_and_covariance(z2_BxD, gamma, eps)
  invariance, variance = jnp.mean(squared_B), std1 + std2
  if convention == "release":
    invariance, variance = invariance / z1_BxD.shape[1], variance / 2
  terms = {
    "invariance": invariance,
    "variance": variance,
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
    z1_BxD, z2_BxD: embeddings of the two views, float32 or bfloat16, B >= 2.
    temperature: tau, above 0.

  Returns:
    The loss, and "positive_similarity" and "negative_similarity" (mean
    cosines), "top1" (share of anchors whose positive beats every negative; a
    tie, as in a collapse, is not a win).

  Raises:
    ValueError: on a temperature <= 0, shapes that differ, or B < 2.
  """
  if temperature <= 0:
    raise ValueError(
      f"loss.temperature is {temperature}: it must be above 0 (CLMR uses 0.5)."
    )
  _check_pair("nt_xent_loss", z1_BxD, z2_BxD)
  n = z1_BxD.shape[0]
  u_AxD = _unit(jnp.concatenate([z1_BxD, z2_BxD]))  # A = 2B anchors
  cosine_AxA = _matmul(u_AxD, u_AxD.T)
  paired_A = jnp.roll(jnp.arange(2 * n), n)
  itself_AxA = jnp.eye(2 * n, dtype=bool)
  paired_AxA = itself_AxA[paired_A]

  # The denominator of eq. 2.10 holds the positive and every negative.
  logits_AxA = jnp.where(itself_AxA, -jnp.inf, cosine_AxA / temperature)
  log_p_AxA = jax.nn.log_softmax(logits_AxA, axis=1)
  loss = -jnp.mean(jnp.sum(log_p_AxA, axis=1, where=paired_AxA))

  positive_A = jnp.sum(cosine_AxA, axis=1, where=paired_AxA)
  negative_AxA = ~(itself_AxA | paired_AxA)
  hardest_A = jnp.max(cosine_AxA, axis=1, where=negative_AxA, initial=-jnp.inf)
  terms = {
    "positive_similarity": jnp.mean(positive_A),
    "negative_similarity": jnp.mean(cosine_AxA, where=negative_AxA),
    "top1": jnp.mean((positive_A > hardest_A).astype(jnp.float32)),
  }
  return loss, terms


# `loss.name`: the loss, and the keys of the config's section `loss` that it
# takes. .github/CONTRIBUTING.md says how to add one.
LOSSES = {
  "vicreg": (
    vicreg_loss,
    ("sim_coeff", "std_coeff", "cov_coeff", "gamma", "eps", "convention"),
  ),
  "nt_xent": (nt_xent_loss, ("temperature",)),
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
  """a @ b, summed in float32; float32 inputs keep every bit of theirs."""
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

  Autodiff treats the two Z as strangers: it would multiply twice, and sum the
  second product over all devices. Here each device needs what it has: its rows
  of the Gram matrix, and the embeddings gathered once.
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


def _unit(z_BxD):
  """Rows of length one in float32; rows of (almost) zero give zeros."""
  z_BxD = z_BxD.astype(jnp.float32)
  squared_Bx1 = jnp.sum(z_BxD**2, axis=1, keepdims=True)
  directed_Bx1 = squared_Bx1 > MIN_NORM**2
  # The inner `where` keeps 1 / 0 out of the gradient of the branch not taken.
  inverse_Bx1 = jax.lax.rsqrt(jnp.where(directed_Bx1, squared_Bx1, 1.0))
  return jnp.where(directed_Bx1, z_BxD * inverse_Bx1, 0.0)
