"""With dtype=bfloat16: what computes in it, and what stays float32."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.model import losses, view_norm
from vicreg_jax.training import steps

pytestmark = pytest.mark.usefixtures("optimized")
B, T = 10, 27
STEM = 3 * 3 * 8  # moments of frames of 3 samples, to 8 channels
BFLOAT16, FLOAT32 = jnp.dtype("bfloat16"), jnp.dtype("float32")


def config_of(loss, width):
  config = configs.base_pretrain()
  config.data.crop = T
  config.model.blocks = 2
  config.model.width = 0.0625
  config.model.representation_size = 16
  config.model.projector = (24, width)
  config.batch_size = B
  config.steps = 10
  config.loss.name = loss
  assert config.dtype == "bfloat16"
  return config


def equations(jaxpr):
  """All equations of a jaxpr and of those inside of it."""
  for eqn in jaxpr.eqns:
    yield eqn
    for value in eqn.params.values():
      for inner in value if isinstance(value, (list, tuple)) else [value]:
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from equations(inner)


def matrix_products(function, *args, above=0):
  """{operation: [(types of the operands, type of the result)]}, but for those
  whose operands have at most `above` values.
  """
  found = collections.defaultdict(list)
  for eqn in equations(jax.make_jaxpr(function)(*args).jaxpr):
    if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
      if max(v.aval.size for v in eqn.invars) <= above:
        continue
      operands = tuple(v.aval.dtype for v in eqn.invars)
      found[eqn.primitive.name].append((operands, eqn.outvars[0].aval.dtype))
  return found


def views():
  rng = np.random.default_rng(0)
  return rng.normal(size=(B, 2, T)).astype(np.float32)


@pytest.mark.parametrize(
  "loss, optimizer", [("vicreg", "lars"), ("nt_xent", "adam")]
)
def test_what_a_step_keeps_is_float32(loss, optimizer):
  config = config_of(loss, 20)
  config.optim.name = optimizer
  tx = steps.make_optimizer(config, configs.durations(config, 80))
  state = jax.eval_shape(lambda: steps.init_state(config, tx))
  after, scalars = jax.eval_shape(
    steps.jit_train_step(config, tx, mesh.make_mesh()), state, views()
  )
  for tree in (state, after):
    kept = (tree.params, tree.batch_stats, tree.opt_state)
    kinds = {x.dtype for x in jax.tree.leaves(kept)}
    assert kinds - {jnp.dtype("int32")} == {FLOAT32}  # counts are int32
  assert {x.dtype for x in scalars.values()} == {FLOAT32}
  variables = {
    "params": after.params["encoder"],
    "batch_stats": after.batch_stats["encoder"],
  }
  encoder = steps.make_encoder(config.model, config.dtype)
  for train in (False, True):
    y_BxD, _ = jax.eval_shape(
      lambda v, train=train: encoder.apply(
        v, views()[:, 0], train=train, mutable=["batch_stats"]
      ),
      variables,
    )
    assert y_BxD.dtype == FLOAT32


def test_convolutions_and_dense_layers_compute_in_bfloat16():
  """Forwards and backwards, in encoder and projector.

  The stem is no matrix product: its kernel meets the frames' moments, in
  float32, and then three samples each.
  """
  config = config_of("vicreg", 20)
  tx = steps.make_optimizer(config, configs.durations(config, 80))
  state = jax.eval_shape(lambda: steps.init_state(config, tx))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)

  def embeddings(params):
    z = []
    for part, module, x in (
      ("encoder", steps.make_encoder, jnp.asarray(views()[:, 0])),
      ("projector", steps.make_projector, jnp.ones((B, 16))),
    ):
      y, _ = module(config.model, config.dtype).apply(
        {"params": params[part], "batch_stats": zeros.batch_stats[part]},
        x,
        train=True,
        mutable=["batch_stats"],
      )
      z.append(y.astype(jnp.float32).sum())
    return sum(z)

  for function, times in ((embeddings, 1), (jax.grad(embeddings), 2)):
    found = matrix_products(function, state.params, above=STEM)
    # Two blocks and the last; two dense layers.
    assert len(found["conv_general_dilated"]) >= 3 * times
    assert len(found["dot_general"]) >= 2 * times
    for operands, _ in sum(found.values(), []):
      assert set(operands) == {BFLOAT16}


@pytest.mark.parametrize("width", [4, 20])
def test_gram_and_covariance_are_summed_in_float32(width):
  z_BxD = jnp.ones((B, width), jnp.bfloat16)
  products = matrix_products(lambda z: losses.vicreg_loss(z, z)[0], z_BxD)
  assert products == {"dot_general": [((BFLOAT16, BFLOAT16), FLOAT32)] * 2}


def test_statistics_of_a_batch_are_summed_in_float32():
  """BatchNorm on bfloat16: a mean of 4096 x 3 values far from zero."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(3, 1, size=(4096, 3, 5)), jnp.bfloat16)
  norm = view_norm.NormRelu()
  variables = norm.init(jax.random.key(0), x, train=True)
  y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
  assert y.dtype == BFLOAT16
  exact = np.asarray(x.astype(jnp.float32), np.float64)
  mean, var = exact.mean((0, 1)), exact.var((0, 1), ddof=1)
  stats = updated["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)
