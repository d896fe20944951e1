import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.model import samplecnn, view_norm

VIEWS = 2


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def shapes_of(module, *args):
  return jax.eval_shape(module.init, jax.random.key(0), *args)


def randomise(variables, seed=1):
  """Scales of either sign, biases and statistics away from 0 and 1."""
  leaves, tree = jax.tree.flatten_with_path(variables)
  rng = np.random.default_rng(seed)
  out = []
  for path, leaf in leaves:
    name = path[-1].key
    if name == "scale":
      leaf = rng.choice([-1.0, 1.0], leaf.shape) * rng.uniform(
        0.5, 1.5, leaf.shape
      )
    elif name in ("bias", "mean"):
      leaf = rng.normal(0, 0.2, leaf.shape)
    elif name == "var":
      leaf = rng.uniform(0.5, 1.5, leaf.shape)
    out.append(jnp.asarray(leaf, jnp.float32))
  return jax.tree.unflatten(tree, out)


def test_parameter_counts_are_those_of_the_thesis():
  encoder = shapes_of(samplecnn.SampleCNN(512), jnp.zeros((2, 59_049)))
  head = shapes_of(samplecnn.Head(50), jnp.zeros((2, 512)))
  assert count(encoder["params"]) == 2_434_816
  # Table 2.1's 2.46e6.
  assert count(encoder["params"]) + count(head["params"]) == 2_460_466
  projector = shapes_of(samplecnn.Projector(), jnp.zeros((2, 512)))
  dense = 512 * 8196 + 8196 + 8196 * 8196 + 8196 + 8196 * 8196
  assert count(projector["params"]) == dense + 4 * 8196
  clmr = shapes_of(samplecnn.Projector((512, 128), False), jnp.zeros((2, 512)))
  assert count(clmr) == 512 * 512 + 512 * 128


def test_convolutions_are_those_of_the_table():
  encoder = shapes_of(samplecnn.SampleCNN(512), jnp.zeros((2, 59_049)))
  p = encoder["params"]
  # Table 2.1, but for its rows 3 and 4: it prints 98,560 and 196,864 beside
  # 128 and 256 output channels, which have 49,280 and 98,560.
  table = [512, 49_280, 49_280, 98_560, *[196_864] * 4, 393_728, 786_944]
  names = ["stem", *(f"block{i}" for i in range(9)), "last"]
  assert [count(p[n + "_conv"]) for n in names] == [*table, 262_656]


@pytest.fixture(scope="module")
def torch_twin():
  pytest.importorskip("torch")
  from vicreg_jax.benchmarks.support import torch_twin as twin

  return twin


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("variant", ["thesis", "clmr"])
@pytest.mark.parametrize("train", [False, True])
def test_encoder_equals_pytorch(torch_twin, variant, train):
  import torch

  B = 4
  module = samplecnn.SampleCNN(24, variant=variant, width=0.125)
  x_BxVxT = (
    np.random.default_rng(0).normal(size=(B, VIEWS, 59_049)).astype(np.float32)
  )
  x_NxT = x_BxVxT.reshape(-1, 59_049)
  variables = randomise(jax.jit(module.init)(jax.random.key(0), x_NxT[:2]))
  widths, kernel = samplecnn.VARIANTS[variant]
  twin = torch_twin.SampleCNN(16, [c // 8 for c in widths], 24, kernel)
  torch_twin.copy_encoder(variables, twin)
  twin.train(train)
  # Each view is a forward pass of its own there.
  with torch.no_grad():
    expected = np.stack(
      [twin(torch.tensor(x_BxVxT[:, v])).numpy() for v in range(VIEWS)], 1
    )
  apply = jax.jit(
    lambda v, x: module.apply(
      v, x, train=train, views=VIEWS, mutable=["batch_stats"]
    )
  )
  y, updated = apply(variables, x_NxT)
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(
    y.reshape(B, VIEWS, 24), expected, rtol=1e-4, atol=1e-4
  )
  assert np.abs(expected).max() > 0.1
  if not train:
    return
  norms = [m for m in twin.layers if isinstance(m, torch.nn.BatchNorm1d)]
  names = ["stem", *(f"block{i}" for i in range(9)), "last"]
  for name, norm in zip(names, norms, strict=True):
    stats = updated["batch_stats"][name + "_bn"]
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
      np.testing.assert_allclose(
        stats[ours], getattr(norm, theirs), rtol=1e-4, atol=1e-4
      )


def residual_twin(p, stats, x_BxT, train):
  """ "rese-2-multi" of Kim, Lee and Nam, of Flax's arrays as tensors."""
  import torch
  from torch.nn import functional as F

  def norm(x, *name):  # moves the statistics in place
    running = (stats[*name, key] for key in ("mean", "var"))
    learned = (p[*name, key] for key in ("scale", "bias"))
    return F.batch_norm(x, *running, *learned, training=train)

  def conv(x, *name):
    kernel = p[*name, "kernel"]
    return F.conv1d(x, kernel.permute(2, 1, 0), padding=len(kernel) // 2)

  def dense(x, *name):
    return F.linear(x, p[*name, "kernel"].T, p[*name, "bias"])

  kernel = p["stem_conv", "kernel"].permute(2, 0, 1)
  x = F.conv1d(x_BxT[:, None], kernel, p["stem_conv", "bias"], stride=3)
  x, maxima = F.relu(norm(x, "stem_bn")), []
  for block in ("block0", "block1", "block2", "block3"):
    y = F.relu(norm(conv(x, block, "first_conv"), block, "first_bn"))
    y = norm(conv(y, block, "second_conv"), block, "second_bn")
    gate_BxC = dense(
      F.relu(dense(y.mean(2), block, "squeeze")), block, "excite"
    )
    if (block, "shortcut_conv", "kernel") in p:
      x = norm(conv(x, block, "shortcut_conv"), block, "shortcut_bn")
    x = F.max_pool1d(F.relu(x + torch.sigmoid(gate_BxC)[:, :, None] * y), 3)
    maxima.append(x.amax(2))
  y_BxD = torch.cat(maxima[-3:], 1) @ p["last_conv", "kernel"][0]
  return F.relu(norm(y_BxD + p["last_conv", "bias"], "last_bn"))


@pytest.mark.slow
def test_residual_encoder_equals_pytorch():
  """Outputs, gradients of all parameters, and running statistics."""
  torch = pytest.importorskip("torch")
  from flax.traverse_util import flatten_dict

  B, T, D = 4, 3**5 + 100, 6
  module = samplecnn.SampleCNN(D, "rese-2-multi", width=1 / 32, blocks=4)
  rng = np.random.default_rng(0)
  x_BxVxT = rng.normal(size=(B, VIEWS, T)).astype(np.float32)
  weight_BxVxD = rng.normal(size=(B, VIEWS, D)).astype(np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x_BxVxT[0])
  variables = randomise(
    jax.tree.map(lambda s: rng.normal(0, s.shape[0] ** -0.5, s.shape), shapes)
  )

  def objective(params, train=True):
    y_NxD, updated = module.apply(
      {**variables, "params": params},
      x_BxVxT.reshape(-1, T),
      train=train,
      views=VIEWS,
      mutable=["batch_stats"],
    )
    y_BxVxD = y_NxD.reshape(B, VIEWS, D)
    return (y_BxVxD * weight_BxVxD).sum(), (y_BxVxD, updated)

  p, stats = (
    {
      path: torch.tensor(np.float32(array), requires_grad=kind == "params")
      for path, array in flatten_dict(variables[kind]).items()
    }
    for kind in ("params", "batch_stats")
  )

  def expected(train):
    # Each view is a forward pass of its own there.
    views = [torch.tensor(x_BxVxT[:, v]) for v in range(VIEWS)]
    return torch.stack([residual_twin(p, stats, x, train) for x in views], 1)

  close = dict(rtol=1e-3, atol=1e-4)
  evaluate = jax.jit(lambda params: objective(params, train=False)[1][0])
  y_BxVxD = expected(train=False).detach().numpy()
  assert np.abs(y_BxVxD).max() > 0.1
  np.testing.assert_allclose(evaluate(variables["params"]), y_BxVxD, **close)
  y_BxVxD = expected(train=True)
  (y_BxVxD * torch.tensor(weight_BxVxD)).sum().backward()
  differentiate = jax.jit(jax.grad(objective, has_aux=True))
  g, (found, updated) = differentiate(variables["params"])
  np.testing.assert_allclose(found, y_BxVxD.detach().numpy(), **close)
  gradients = flatten_dict(g)
  # Normalisation takes it away, so ours has none.
  del gradients["stem_conv", "bias"]
  for path, found in gradients.items():
    theirs = p[path].grad.numpy()
    np.testing.assert_allclose(found, theirs, err_msg=str(path), **close)
  for path, found in flatten_dict(updated["batch_stats"]).items():
    theirs = stats[path].numpy()
    np.testing.assert_allclose(found, theirs, err_msg=str(path), **close)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
  "widths, batch_norm", [((40, 48, 56), True), ((32, 8), False)]
)
@pytest.mark.parametrize("train", [False, True])
def test_projector_equals_pytorch(torch_twin, widths, batch_norm, train):
  import torch

  module = samplecnn.Projector(widths, batch_norm)
  y_BxD = np.random.default_rng(0).normal(size=(12, 24)).astype(np.float32)
  variables = randomise(module.init(jax.random.key(0), y_BxD))
  twin = torch_twin.projector(24, widths, batch_norm)
  torch_twin.copy_projector(variables, twin)
  twin.train(train)
  with torch.no_grad():
    expected = twin(torch.tensor(y_BxD)).numpy()
  z, _ = module.apply(variables, y_BxD, train=train, mutable=["batch_stats"])
  np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)


class Plain(nn.Module):
  """Convolve, normalise, ReLU, pool: in the order it is written."""

  pool: bool

  @nn.compact
  def __call__(self, x, kernel, shift, *, train, views=1):
    C = kernel.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (C,))
    bias = self.param("bias", nn.initializers.zeros, (C,))
    mean = self.variable("batch_stats", "mean", jnp.zeros, (C,))
    var = self.variable("batch_stats", "var", jnp.ones, (C,))
    padded = jnp.pad(x, ((0, 0), (len(kernel) // 2,) * 2, (0, 0)))
    T = x.shape[1]
    x = shift + sum(padded[:, k : k + T] @ w for k, w in enumerate(kernel))
    x = x.reshape(-1, views, *x.shape[1:])
    means, variances = mean.value, var.value
    if train:
      means = x.mean((0, 2), keepdims=True)
      variances = x.var((0, 2), keepdims=True)
      n = x.shape[0] * x.shape[2]
      for v in range(views):
        new = means[0, v, 0], variances[0, v, 0] * n / (n - 1)
        mean.value = 0.9 * mean.value + 0.1 * new[0]
        var.value = 0.9 * var.value + 0.1 * new[1]
    y = nn.relu((x - means) / jnp.sqrt(variances + 1e-5) * scale + bias)
    y = y.reshape(-1, T, C)
    if not self.pool:
      return y
    return y[:, : T // 3 * 3].reshape(-1, T // 3, 3, C).max(2)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layer", ["block", "stem"])
def test_fast_layers_are_exact_also_in_gradients(layer, train):
  """Pooling first, statistics from moments: equal in float64."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    pool = layer == "block"
    x = jnp.asarray(rng.normal(1.0, 2.0, size=(6, 29, 3)))
    kernel = jnp.asarray(rng.normal(size=(3 if pool else 1, 3, 5)))
    shift = jnp.asarray(rng.normal(size=5))
    weight = jnp.asarray(rng.normal(size=(6, 9 if pool else 29, 5)))
    scale = jnp.asarray([-1.2, 0.7, -0.3, 1.0, 0.5])
    bias = jnp.asarray([0.1, -0.4, 0.3, 0.0, -0.1])
    stats = {"mean": rng.normal(size=5), "var": rng.uniform(1, 2, size=5)}

    def objective(module, x, kernel, scale, bias):
      if isinstance(module, view_norm.Stem):
        kernel = kernel[0]
      y, updated = module.apply(
        {"params": {"scale": scale, "bias": bias}, "batch_stats": stats},
        x,
        kernel,
        shift,
        train=train,
        views=2,
        mutable=["batch_stats"],
      )
      return (y * weight).sum(), updated

    fast = view_norm.Block() if pool else view_norm.Stem()
    results = (
      jax.value_and_grad(
        lambda *a, m=m: objective(m, *a), argnums=(0, 1, 2, 3), has_aux=True
      )(x, kernel, scale, bias)
      for m in (fast, Plain(pool))
    )
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
      *results,
    )


def test_a_scale_of_zero_can_grow_again():
  """Its gradient is the slope towards positive scales."""
  with jax.enable_x64(True):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 9, 3)))
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 2)))

    def objective(scale):
      y, _ = view_norm.Block().apply(
        {
          "params": {"scale": scale, "bias": jnp.ones(2)},
          "batch_stats": {"mean": jnp.zeros(2), "var": jnp.ones(2)},
        },
        x,
        kernel,
        jnp.zeros(2),
        train=True,
        mutable=["batch_stats"],
      )
      return y.sum()

    (slope, _), zero = jax.grad(objective)(jnp.zeros(2)), jnp.zeros(2)
    step = 1e-6
    measured = (objective(zero.at[0].set(step)) - objective(zero)) / step
    assert measured > 1
    np.testing.assert_allclose(slope, measured, rtol=1e-4)


@pytest.mark.usefixtures("optimized")
def test_ties_give_their_gradient_to_the_first_as_pytorch():
  torch = pytest.importorskip("torch")
  x = np.random.default_rng(0).integers(0, 3, size=(4, 30, 5))
  x = x.astype(np.float32)
  weight = np.random.default_rng(1).normal(size=(4, 10, 5)).astype(np.float32)

  def objective(x):
    y, _, _ = view_norm.norm_relu_pool(x, jnp.ones(5), jnp.ones(5), 1, 1e-5)
    return (y * weight).sum()

  theirs = torch.tensor(x, requires_grad=True)
  y = torch.nn.functional.batch_norm(
    theirs.mT, None, None, bias=torch.ones(5), training=True
  )
  y = torch.nn.functional.max_pool1d(torch.relu(y), 3)
  (y.mT * torch.tensor(weight)).sum().backward()
  np.testing.assert_allclose(
    jax.grad(objective)(x), theirs.grad, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize("crop", [59_048, 2 * 59_049, 19_683])
def test_a_crop_that_does_not_fit_is_refused(crop):
  with pytest.raises(ValueError, match=r"59049.*data\.crop"):
    shapes_of(samplecnn.SampleCNN(), jnp.zeros((2, crop)))
