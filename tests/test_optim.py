"""Optimizers and the schedule against PyTorch and the VICReg release."""

import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vicreg_jax import config as configs
from vicreg_jax.model import optim
from vicreg_jax.training import steps

try:
  import torch

  from vicreg_jax.benchmarks.support.torch_twin import VicregReleaseLars
except ImportError:
  torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="without PyTorch")


pytestmark = pytest.mark.usefixtures("optimized")
X_BxD = np.random.default_rng(0).normal(size=(16, 6))
Y_BxK = np.random.default_rng(1).normal(size=(16, 5))


def initial():
  rng = np.random.default_rng(2)
  return {
    "kernel": rng.normal(size=(6, 5)),
    "bias": rng.normal(size=5),
    "scale": rng.normal(size=5),
    "zero": np.zeros((5, 5)),  # |p| = 0: ratio 1 on the first step
  }


def jax_loss(p):
  h_BxK = jnp.tanh(X_BxD @ p["kernel"] * p["scale"] + p["bias"])
  return jnp.mean((h_BxK + h_BxK @ p["zero"] - Y_BxK) ** 2)


def jax_run(transform, count):
  params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), initial())
  state = transform.init(params)

  @jax.jit
  def step(params, state):
    grads = jax.grad(jax_loss)(params)
    updates, state = transform.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(count):
    params, state = step(params, state)
  return jax.tree.map(np.asarray, params)


def torch_run(make, count, schedule=None):
  p = {
    k: torch.nn.Parameter(torch.tensor(v, dtype=torch.float64))
    for k, v in initial().items()
  }
  x_BxD, y_BxK = torch.tensor(X_BxD), torch.tensor(Y_BxK)
  optimizer = make(list(p.values()))
  for step in range(count):
    if schedule is not None:
      optimizer.param_groups[0]["lr"] = schedule(step)
    optimizer.zero_grad()
    h_BxK = torch.tanh(x_BxD @ p["kernel"] * p["scale"] + p["bias"])
    torch.mean((h_BxK + h_BxK @ p["zero"] - y_BxK) ** 2).backward()
    optimizer.step()
  return {k: v.detach().numpy() for k, v in p.items()}


def assert_params(got, want, tolerance=1e-5):
  assert set(got) == set(want)
  for name, start in initial().items():
    moved = np.abs(want[name] - start).max()
    assert moved > 1e-4, f"{name} never moved: the test would prove nothing"
    np.testing.assert_allclose(
      got[name], want[name], rtol=tolerance, atol=tolerance, err_msg=name
    )


@needs_torch
@pytest.mark.parametrize("order", optim.LARS_ORDERS)
def test_lars_matches_the_release_at_a_constant_rate(order):
  want = torch_run(lambda p: VicregReleaseLars(p, lr=0.5, weight_decay=0.1), 50)
  got = jax_run(optim.lars(0.5, weight_decay=0.1, order=order), 50)
  assert_params(got, want)


@needs_torch
def test_lars_orders_under_a_schedule():
  schedule = schedule_of(0.5, 128, 10, 50)
  want = torch_run(
    lambda p: VicregReleaseLars(p, lr=0.0, weight_decay=0.1),
    50,
    lambda step: release_rate(step, 0.5, 128, 10, 50),
  )
  release = jax_run(optim.lars(schedule, weight_decay=0.1), 50)
  paper = jax_run(optim.lars(schedule, weight_decay=0.1, order="paper"), 50)
  assert_params(release, want)
  by_optax = jax_run(
    optax.lars(
      schedule,
      weight_decay=0.1,
      weight_decay_mask=optim.is_adapted,
      trust_ratio_mask=optim.is_adapted,
    ),
    50,
  )
  assert_params(paper, by_optax)
  apart = np.abs(paper["kernel"] - release["kernel"]).max()
  assert apart > 1e-3, "the orders must differ when the rate changes"


def test_lars_leaves_out_biases_and_batch_norm_by_name():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x_BxTxC):
      x_BxTxC = nn.Conv(4, (3,))(x_BxTxC)
      x_BxTxC = nn.BatchNorm(use_running_average=False)(x_BxTxC)
      return nn.Dense(3)(x_BxTxC)

  params = Net().init(jax.random.key(0), jnp.ones((2, 9, 1)))["params"]
  params = jax.tree.map(lambda p: p + 0.5, params)  # no parameter is zero
  transform = optim.lars(1.0, weight_decay=0.1, momentum=0.0)
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = transform.update(grads, transform.init(params), params)
  seen = {}
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    name = "/".join(key.key for key in path)
    seen[name] = not np.allclose(update, -1.0)  # -1 is plain SGD here
  assert seen == {
    "Conv_0/kernel": True,
    "Conv_0/bias": False,
    "BatchNorm_0/scale": False,
    "BatchNorm_0/bias": False,
    "Dense_0/kernel": True,
    "Dense_0/bias": False,
  }


@needs_torch
def test_adam_matches_torch_with_l2():
  want = torch_run(
    lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1),
    50,
  )
  got = jax_run(optim.adam(0.01, weight_decay=0.1, b1=0.8, b2=0.95), 50)
  # Adam divides by the gradient's size, which lifts float32 rounding.
  assert_params(got, want, 3e-5)
  default = torch_run(lambda p: torch.optim.Adam(p, lr=3e-4), 50)
  assert_params(jax_run(optim.adam(3e-4), 50), default, 3e-5)


def release_rate(step, base_lr, batch_size, warmup_steps, max_steps):
  """`adjust_learning_rate` of the VICReg release."""
  base_lr = base_lr * batch_size / 256
  if step < warmup_steps:
    return base_lr * step / warmup_steps
  step -= warmup_steps
  max_steps -= warmup_steps
  q = 0.5 * (1 + math.cos(math.pi * step / max_steps))
  end_lr = base_lr * 0.001
  return base_lr * q + end_lr * (1 - q)


def schedule_of(rate, batch_size, warmup, total, **optim):
  config = configs.base_pretrain()
  config.batch_size = batch_size
  config.optim.update(learning_rate=rate, **optim)
  durations = types.SimpleNamespace(warmup=warmup, total=total)
  return steps.make_schedule(config, durations)


@pytest.mark.parametrize("warmup,total", [(10, 100), (0, 7), (330, 33_000)])
def test_the_schedule_follows_the_release(warmup, total):
  steps_N = np.unique(np.linspace(0, total, 200, dtype=int))
  want = [release_rate(int(s), 0.2, 768, warmup, total) for s in steps_N]
  got = jax.jit(jax.vmap(schedule_of(0.2, 768, warmup, total)))(steps_N)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)
  assert max(want) == pytest.approx(0.6, rel=1e-3)
  unscaled = schedule_of(
    0.2, 768, warmup, total, final_fraction=0.5, per_256=False
  )
  assert float(unscaled(warmup)) == pytest.approx(0.2)
  assert float(unscaled(total)) == pytest.approx(0.1)


@needs_torch
def test_plateau_follows_torch():
  rng = np.random.default_rng(4)
  # Falls, stalls (with gains below the threshold), falls again, diverges.
  values = np.concatenate(
    [
      np.linspace(1.0, 0.5, 8),
      0.5 - 1e-6 * np.arange(9),
      0.45 + 0.01 * rng.uniform(size=20),
      [0.4, 0.399, np.nan, 0.41, 0.41, 0.41, 0.41, 0.41, 0.3],
      np.linspace(0.5, 0.9, 20),
    ]
  )
  optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
  scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
    optimizer, factor=0.1, patience=5, threshold=1e-4
  )
  plateau = optim.reduce_on_plateau()
  state = plateau.init({"w": jnp.zeros(3)})
  update = jax.jit(lambda state, value: plateau.update((), state, value=value))
  want, got = [], []
  for value in values:
    scheduler.step(float(value))
    want.append(optimizer.param_groups[0]["lr"])
    _, state = update(state, value)
    got.append(float(state.scale))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert len(set(want)) >= 5, "the record must hold several cuts"
