"""The train step against PyTorch, layer, loss and optimizer together."""

import json
import pathlib

import jax
import numpy as np
import pytest

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.training import steps

GOLDEN = pathlib.Path(__file__).parent / "golden_step.json"
B, T = 6, 243


@pytest.fixture
def tiny():
  config = configs.base_pretrain()
  config.data.crop = T
  config.model.blocks = 4
  config.model.width = 0.0625
  config.model.representation_size = 12
  config.model.projector = (16, 10)
  config.dtype = "float32"
  config.batch_size = B
  config.optim.warmup_epochs = 0.0
  config.steps = 10
  return config


def views(seed):
  return np.random.default_rng(seed).normal(size=(B, 2, T)).astype(np.float32)


def trainer(config):
  tx = steps.make_optimizer(config, configs.durations(config, 60))
  name = "jax_disable_most_optimizations"
  before = jax.config.values[name]
  jax.config.update(name, True)  # the first state compiles sooner
  devices = mesh.make_mesh()
  state = jax.jit(
    lambda: steps.init_state(config, tx),
    out_shardings=mesh.replicated(devices),  # as a step takes and leaves it
  )()
  jax.config.update(name, before)
  return state, steps.jit_train_step(config, tx, devices)


@pytest.mark.parametrize("name", ["vicreg", "nt_xent"])
def test_five_adam_steps_equal_pytorch(tiny, name):
  pytest.importorskip("torch")
  from vicreg_jax.benchmarks.support import torch_twin

  tiny.loss.name = name
  tiny.optim.name = "adam"
  tiny.optim.learning_rate = 1e-3
  tiny.optim.per_256 = False
  tiny.optim.schedule = "constant"
  state, step = trainer(tiny)
  twin = torch_twin.Trainer(tiny, state, 1e-3)
  for i in range(5):
    state, scalars = step(state, views(i))
    # A step of Adam turns a gradient's rounding error into up to the rate.
    np.testing.assert_allclose(
      scalars["loss"], twin(views(i)), rtol=1e-4 if i == 0 else 2e-3
    )
  assert int(state.step) == 5


def test_gradients_compute_blocks_anew_where_the_config_says_so(tiny):
  tiny.model.blocks, x_BxVxT = 1, views(0)[:, :, :9]
  tiny.data.crop = 9
  tx = steps.make_optimizer(tiny, configs.durations(tiny, 60))
  state = jax.eval_shape(lambda: steps.init_state(tiny, tx))
  for remat in (False, True):
    tiny.model.remat = remat
    program = jax.make_jaxpr(lambda s: steps.train_step(tiny, tx, s, x_BxVxT))
    assert ("remat" in str(program(state))) == remat


def test_what_is_due_at_a_step():
  d = configs.Durations(4, 10, 0, 0, 4, 0, 3, keep_at=(5,), note="")
  steps_ = range(1, 11)
  assert [s for s in steps_ if d.save_due(s)] == [3, 5, 6, 9, 10]
  assert [s for s in steps_ if d.eval_due(s)] == [4, 8, 10]
  assert not any(map(d.diagnose_due, steps_))
  d = configs.Durations(4, 10, 0, 0, 0, 20, 3, keep_at=(), note="")
  assert [s for s in steps_ if d.diagnose_due(s)] == [10]
  assert not any(map(d.eval_due, steps_))


def test_evaluation_uses_running_statistics_and_changes_nothing(tiny):
  state, step = trainer(tiny)
  evaluate = steps.jit_eval_step(tiny, mesh.make_mesh())
  before = evaluate(state, views(0))["loss"]
  shifted = evaluate(state, np.concatenate([views(0)[:3]] * 2))["loss"]
  again = evaluate(state, views(0))["loss"]
  assert before == again != shifted
  state, _ = step(state, views(0))
  assert evaluate(state, views(0))["loss"] != before


@pytest.mark.usefixtures("optimized")
def test_golden_step(tiny):
  """Two steps of the recipe. A change here changes everybody's results."""
  state, step = trainer(tiny)
  for i in range(2):
    state, scalars = step(state, views(i))
  now = {k: float(v) for k, v in sorted(scalars.items())}
  golden = json.loads(GOLDEN.read_text())
  assert now == pytest.approx(golden, rel=1e-3), (
    "The train step gives other numbers than it did. If that is meant, say so"
    f" in BUILD_NOTES.md and write this to {GOLDEN.name}: {json.dumps(now)}"
  )
