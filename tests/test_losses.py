"""The objectives against float64 NumPy and PyTorch autograd."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.model import losses

try:
  import torch
except ImportError:
  torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="without PyTorch")

# name: (B, D, how the two views are made)
pytestmark = pytest.mark.usefixtures("optimized")
CASES = {
  "n_below_d": (12, 40, "random"),
  "n_above_d": (40, 12, "random"),
  "two_clips": (2, 7, "random"),
  "two_clips_two_dims": (2, 2, "random"),
  "collapsed": (10, 16, "constant"),
  "collapsed_n_above_d": (16, 10, "constant"),
  "identical_views": (9, 30, "identical"),
}

NT_XENT = jax.jit(losses.nt_xent_loss)


def views(case):
  n, d, kind = CASES[case]
  rng = np.random.default_rng(3)
  # Offset and unequal scales: neither the centring nor the hinge is idle.
  scale_D = rng.uniform(0.2, 2.0, d)
  z1_BxD = (rng.normal(size=(n, d)) * scale_D + 0.7).astype(np.float32)
  z2_BxD = (z1_BxD + 0.3 * rng.normal(size=(n, d))).astype(np.float32)
  if kind == "constant":
    z1_BxD = np.full((n, d), 0.25, np.float32)
    z2_BxD = np.full((n, d), -0.5, np.float32)
  if kind == "identical":
    z2_BxD = z1_BxD.copy()
  return z1_BxD, z2_BxD


def vicreg_numpy(z1_BxD, z2_BxD, convention, weights, gamma=1.0, eps=1e-4):
  """Thesis eqs. 2.11-2.16, and the VICReg authors' two departures."""
  z1_BxD, z2_BxD = np.float64(z1_BxD), np.float64(z2_BxD)
  n, d = z1_BxD.shape
  hinge, covariance = 0.0, 0.0
  for z_BxD in (z1_BxD, z2_BxD):
    hinge += np.maximum(
      0, gamma - np.sqrt(np.var(z_BxD, axis=0, ddof=1) + eps)
    ).mean()
    cov_DxD = np.cov(z_BxD, rowvar=False)
    covariance += (cov_DxD[~np.eye(d, dtype=bool)] ** 2).sum() / d
  squared = ((z1_BxD - z2_BxD) ** 2).sum()
  if convention == "release":
    squared, hinge = squared / d, hinge / 2
  terms = {
    "invariance": squared / n,
    "variance": hinge,
    "covariance": covariance,
  }
  return sum(w * t for w, t in zip(weights, terms.values())), terms


def vicreg_torch(x, y, convention, weights=(25, 25, 1), gamma=1.0, eps=1e-4):
  """The authors' release, line by line; "paper" as in thesis eq. 2.16."""
  n, d = x.shape
  repr_loss = torch.nn.functional.mse_loss(x, y)
  x, y = x - x.mean(dim=0), y - y.mean(dim=0)
  std_x = torch.sqrt(x.var(dim=0) + eps)
  std_y = torch.sqrt(y.var(dim=0) + eps)
  std_loss = torch.mean(torch.relu(gamma - std_x)) / 2
  std_loss = std_loss + torch.mean(torch.relu(gamma - std_y)) / 2
  cov_loss = 0.0
  for z in (x, y):
    c = (z.T @ z) / (n - 1)
    cov_loss += (c - torch.diag(torch.diag(c))).pow(2).sum().div(d)
  if convention == "paper":
    repr_loss, std_loss = repr_loss * d, std_loss * 2
  return sum(w * t for w, t in zip(weights, (repr_loss, std_loss, cov_loss)))


def nt_xent_torch(x, y, temperature):
  """SimCLR's form: cross-entropy over 2B anchors, the diagonal left out."""
  n = x.shape[0]
  z = torch.cat([x, y])
  cosine = torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=2)
  logits = cosine / temperature
  logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
  target = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
  return torch.nn.functional.cross_entropy(logits, target)


def torch_value_and_grad(loss_fn, z1_BxD, z2_BxD):
  x = torch.tensor(z1_BxD, dtype=torch.float64, requires_grad=True)
  y = torch.tensor(z2_BxD, dtype=torch.float64, requires_grad=True)
  value = loss_fn(x, y)
  value.backward()
  return value.item(), x.grad.numpy(), y.grad.numpy()


def assert_gradient(got, want, tolerance=1e-5):
  """Relative to the largest entry, where sums of cancelling terms round."""
  np.testing.assert_allclose(
    got, want, rtol=0, atol=tolerance * max(np.abs(want).max(), 1e-6)
  )


@needs_torch
@pytest.mark.parametrize("convention", losses.CONVENTIONS)
@pytest.mark.parametrize("case", CASES)
def test_vicreg_matches_numpy_and_torch(case, convention):
  z1_BxD, z2_BxD = views(case)
  weights, gamma, eps = (3.0, 5.0, 2.0), 1.5, 1e-2

  @jax.jit
  def step(z1_BxD, z2_BxD):
    return jax.value_and_grad(losses.vicreg_loss, (0, 1), has_aux=True)(
      z1_BxD,
      z2_BxD,
      sim_coeff=weights[0],
      std_coeff=weights[1],
      cov_coeff=weights[2],
      gamma=gamma,
      eps=eps,
      convention=convention,
    )

  (got, terms), got_grads = step(z1_BxD, z2_BxD)
  want, want_terms = vicreg_numpy(
    z1_BxD, z2_BxD, convention, weights, gamma, eps
  )
  assert set(terms) == set(want_terms)
  for key, value in want_terms.items():
    assert terms[key].dtype == jnp.float32
    np.testing.assert_allclose(
      terms[key], value, rtol=1e-5, atol=1e-6, err_msg=key
    )
  np.testing.assert_allclose(got, want, rtol=1e-5)
  by_torch, *want_grads = torch_value_and_grad(
    lambda x, y: vicreg_torch(x, y, convention, weights, gamma, eps),
    z1_BxD,
    z2_BxD,
  )
  np.testing.assert_allclose(got, by_torch, rtol=1e-5)
  for got_grad, want_grad in zip(got_grads, want_grads):
    assert_gradient(got_grad, want_grad)


@pytest.mark.parametrize("n,d", [(64, 257), (514, 257)])
def test_vicreg_sums_bfloat16_in_float32(n, d):
  # Rows +v and -v, v of entries +-1, are exact in bfloat16 and so is every
  # product; each sum has 257 or more terms, and bfloat16 cannot hold 257.
  rng = np.random.default_rng(0)
  v_D = rng.choice([-1.0, 1.0], d)
  sign_B = np.where(np.arange(n) % 2, 1.0, -1.0)
  z_BxD = sign_B[:, None] * v_D
  want_loss, want = vicreg_numpy(z_BxD, -z_BxD, "release", (25, 25, 1), 2.0)
  z_BxD = jnp.asarray(z_BxD, jnp.bfloat16)
  got_loss, got = jax.jit(lambda a: losses.vicreg_loss(a, -a, gamma=2.0))(z_BxD)
  for key, value in want.items():
    np.testing.assert_allclose(got[key], value, rtol=1e-6, err_msg=key)
  np.testing.assert_allclose(got_loss, want_loss, rtol=1e-6)
  assert got_loss.dtype == jnp.float32


@needs_torch
@pytest.mark.parametrize("case", ["n_below_d", "n_above_d"])
def test_vicreg_of_bfloat16_embeddings(case):
  z1_BxD, z2_BxD = (jnp.asarray(z, jnp.bfloat16) for z in views(case))
  _, got = jax.jit(losses.vicreg_loss)(z1_BxD, z2_BxD)
  _, want = vicreg_numpy(
    np.float64(z1_BxD), np.float64(z2_BxD), "release", (25, 25, 1)
  )
  # Only the covariance sees embeddings rounded again after the centring.
  for key, tolerance in dict(
    invariance=1e-6, variance=1e-5, covariance=3e-3
  ).items():
    np.testing.assert_allclose(got[key], want[key], rtol=tolerance, err_msg=key)
  # The reference starts from the same rounded embeddings.
  _, *want_grads = torch_value_and_grad(
    lambda x, y: vicreg_torch(x, y, "release"),
    np.float64(z1_BxD),
    np.float64(z2_BxD),
  )
  grad = jax.jit(jax.grad(lambda a, b: losses.vicreg_loss(a, b)[0], (0, 1)))
  got_grads = grad(z1_BxD, z2_BxD)
  for got_grad, want_grad in zip(got_grads, want_grads):
    assert got_grad.dtype == jnp.bfloat16
    assert_gradient(np.float64(got_grad), want_grad, 2.0**-7)


def test_vicreg_large_common_offset_keeps_its_statistics():
  # A mean of 100 beside a spread of 1: E[z^2] - E[z]^2 would lose 4 digits.
  z1_BxD, z2_BxD = (z + 100 for z in views("n_below_d"))
  _, got = jax.jit(losses.vicreg_loss)(z1_BxD, z2_BxD)
  _, want = vicreg_numpy(z1_BxD, z2_BxD, "release", (25, 25, 1))
  for key, value in want.items():
    np.testing.assert_allclose(got[key], value, rtol=2e-5, err_msg=key)


@needs_torch
@pytest.mark.parametrize(
  "case,temperature", [(case, 0.5) for case in CASES] + [("n_below_d", 0.1)]
)
def test_nt_xent_matches_torch(case, temperature):
  z1_BxD, z2_BxD = views(case)
  want, *want_grads = torch_value_and_grad(
    lambda x, y: nt_xent_torch(x, y, temperature), z1_BxD, z2_BxD
  )
  step = jax.jit(
    jax.value_and_grad(
      lambda a, b: losses.nt_xent_loss(a, b, temperature=temperature)[0], (0, 1)
    )
  )
  got, got_grads = step(z1_BxD, z2_BxD)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  for got_grad, want_grad in zip(got_grads, want_grads):
    # A collapse has a gradient of zero up to rounding.
    np.testing.assert_allclose(
      got_grad, want_grad, rtol=0, atol=1e-5 * np.abs(want_grad).max() + 1e-6
    )


def test_nt_xent_diagnostics():
  z1_BxD, z2_BxD = views("n_below_d")
  z_AxD = np.concatenate([z1_BxD, z2_BxD]).astype(np.float64)
  z_AxD /= np.linalg.norm(z_AxD, axis=1, keepdims=True)
  cosine_AxA = z_AxD @ z_AxD.T
  n, wins, positives, negatives = len(z1_BxD), 0, [], []
  for i in range(2 * n):
    j = (i + n) % (2 * n)
    others = [cosine_AxA[i, k] for k in range(2 * n) if k not in (i, j)]
    positives.append(cosine_AxA[i, j])
    negatives += others
    wins += cosine_AxA[i, j] > max(others)
  _, terms = NT_XENT(z1_BxD, z2_BxD)
  np.testing.assert_allclose(
    terms["positive_similarity"], np.mean(positives), rtol=1e-5
  )
  np.testing.assert_allclose(
    terms["negative_similarity"], np.mean(negatives), rtol=1e-5
  )
  np.testing.assert_allclose(terms["top1"], wins / (2 * n), rtol=1e-6)

  # Each clip on an axis of its own: every positive wins. Shuffled: none does.
  eye_BxB = np.eye(5, dtype=np.float32)
  assert NT_XENT(eye_BxB, eye_BxB)[1]["top1"] == 1
  assert NT_XENT(eye_BxB, eye_BxB[::-1][[1, 2, 3, 4, 0]])[1][
    "top1"
  ] == pytest.approx(0.2)
  # All embeddings alike: a tie is not a win, and the loss is log(2B - 1).
  loss, terms = NT_XENT(np.ones((5, 4)), np.ones((5, 4)))
  assert terms["top1"] == 0
  assert float(loss) == pytest.approx(np.log(9), rel=1e-6)


@needs_torch
def test_nt_xent_zero_vector_is_finite_and_still():
  z1_BxD, z2_BxD = (z.copy() for z in views("n_below_d"))
  z1_BxD[4] = 0
  step = jax.jit(
    jax.value_and_grad(lambda a, b: losses.nt_xent_loss(a, b)[0], (0, 1))
  )
  loss, grads = step(z1_BxD, z2_BxD)
  want, _, want_grad2 = torch_value_and_grad(
    lambda x, y: nt_xent_torch(x, y, 0.5), z1_BxD, z2_BxD
  )
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  assert_gradient(grads[1], want_grad2)
  assert np.all(grads[0][4] == 0)
  assert np.isfinite(grads[0]).all() and np.abs(grads[0]).max() < 1


@needs_torch
def test_nt_xent_bfloat16_norms_are_float32():
  # 257 ones: a norm kept in bfloat16 would be sqrt(256).
  z1_BxD, z2_BxD = np.ones((2, 257)), np.ones((2, 257))
  z1_BxD[1, ::2] = -1
  want, *_ = torch_value_and_grad(
    lambda x, y: nt_xent_torch(x, y, 0.5), z1_BxD, z2_BxD
  )
  got, terms = NT_XENT(
    jnp.asarray(z1_BxD, jnp.bfloat16), jnp.asarray(z2_BxD, jnp.bfloat16)
  )
  assert got.dtype == terms["top1"].dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_bad_embeddings_are_refused(name):
  row = losses.LOSSES[name]
  options = {"key": jax.random.key(0)} if row.random else {}
  loss = functools.partial(row.loss, **options)
  with pytest.raises(ValueError, match=r"at least 2 clips, not 1"):
    loss(np.ones((1, 4)), np.ones((1, 4)))
  with pytest.raises(ValueError, match=r"\(3, 4\) and \(3, 5\)"):
    loss(np.ones((3, 4)), np.ones((3, 5)))
  with pytest.raises(ValueError, match="one shape"):
    loss(np.ones((3, 4, 2)), np.ones((3, 4, 2)))
