"""Barlow Twins, DCL and SIGReg against float64 NumPy, in their papers' terms.

Gradients are those of the references, by central differences in float64.
"""

import dataclasses
import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import warm

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.model import losses
from vicreg_jax.training import steps

SEED, SLICES = 5, 6
# name: (B, D, how the two views are made). Equal shapes are one program.
CASES = {
  "n_below_d": (4, 7, "random"),
  "n_above_d": (7, 4, "random"),
  "two_clips": (2, 4, "random"),
  "collapsed": (4, 7, "constant"),
  "identical_views": (4, 7, "identical"),
}


def views(case):
  n, d, kind = CASES[case]
  rng = np.random.default_rng(3)
  z1_BxD = rng.normal(size=(n, d)) * rng.uniform(0.2, 2.0, d) + 0.7
  z2_BxD = z1_BxD + 0.3 * rng.normal(size=(n, d))
  if kind == "constant":
    z1_BxD, z2_BxD = np.full((n, d), 0.25), np.full((n, d), -0.5)
  if kind == "identical":
    z2_BxD = z1_BxD
  return np.float32(z1_BxD), np.float32(z2_BxD)


def barlow_numpy(z1_BxD, z2_BxD, redundancy_coeff=0.2):
  a_BxD, b_BxD = (
    (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (z1_BxD, z2_BxD)
  )
  c_DxD = a_BxD.T @ b_BxD / len(a_BxD)
  off_DxD = c_DxD - np.diag(np.diag(c_DxD))
  terms = {
    "invariance": ((1 - np.diag(c_DxD)) ** 2).sum(),
    "redundancy": (off_DxD**2).sum(),
  }
  return terms["invariance"] + redundancy_coeff * terms["redundancy"], terms


def dcl_numpy(z1_BxD, z2_BxD, temperature=0.3):
  """Eq. 6 of the paper, an anchor after the other."""
  n, total = len(z1_BxD), 0.0
  z_AxD = np.concatenate([z1_BxD, z2_BxD])
  z_AxD = z_AxD / np.linalg.norm(z_AxD, axis=1, keepdims=True)
  cosine_AxA = z_AxD @ z_AxD.T
  for i in range(2 * n):
    others = [k for k in range(2 * n) if k % n != i % n]
    negatives = np.exp(cosine_AxA[i, others] / temperature).sum()
    positive = cosine_AxA[i, (i + n) % (2 * n)] / temperature
    total += np.log(negatives) - positive
  return total / (2 * n), {}


@functools.cache
def directions(d, slices=SLICES):
  a_DxS = np.float64(jax.random.normal(jax.random.key(SEED), (d, slices)))
  return a_DxS / np.linalg.norm(a_DxS, axis=0)


def sigreg_numpy(z1_BxD, z2_BxD, a_DxS=None, trade_off=0.3):
  """The complex characteristic functions over the whole interval."""
  n, d = z1_BxD.shape
  a_DxS = directions(d) if a_DxS is None else a_DxS
  center_BxD = (z1_BxD + z2_BxD) / 2
  t_K = np.linspace(-2.5, 2.5, 17)
  normal_K = np.exp(-(t_K**2) / 2)
  tests, squares = [], []
  for z_BxD in (z1_BxD, z2_BxD):
    function_SxK = np.exp(1j * (z_BxD @ a_DxS)[..., None] * t_K).mean(0)
    error_SxK = np.abs(function_SxK - normal_K) ** 2 * normal_K
    tests.append(n * np.trapezoid(error_SxK, t_K, axis=1).mean())
    squares.append(((z_BxD - center_BxD) ** 2).mean())
  terms = {"invariance": np.mean(squares), "gaussianity": np.mean(tests)}
  loss = (1 - trade_off) * terms["invariance"] + trade_off * np.mean(tests)
  return loss, terms


def sigreg(z1_BxD, z2_BxD):
  key = jax.random.key(SEED)
  options = dict(trade_off=0.3, slices=SLICES, knots=9, t_max=2.5)
  return losses.sigreg_loss(z1_BxD, z2_BxD, key=key, **options)


# Ours, with options that are not the defaults, and its reference.
PAIRS = {
  "barlow_twins": (
    functools.partial(losses.barlow_twins_loss, redundancy_coeff=0.2),
    barlow_numpy,
  ),
  "dcl": (functools.partial(losses.dcl_loss, temperature=0.3), dcl_numpy),
  "sigreg": (sigreg, sigreg_numpy),
}


@jax.jit
def values_and_grads(z1_BxD, z2_BxD):
  """{name: ((loss, terms), gradients)}, in one program."""
  return {
    name: jax.value_and_grad(ours, (0, 1), has_aux=True)(z1_BxD, z2_BxD)
    for name, (ours, _) in PAIRS.items()
  }


def gradients_numpy(loss_of, z_VxBxD, step=1e-5):
  """Central differences of a function of both views, [V, B, D]."""
  z_VxBxD = z_VxBxD.copy()
  grad_VxBxD = np.zeros_like(z_VxBxD)
  for i in np.ndindex(*z_VxBxD.shape):
    at, ends = z_VxBxD[i], []
    for sign in (1, -1):
      z_VxBxD[i] = at + sign * step
      ends.append(loss_of(*z_VxBxD)[0])
    z_VxBxD[i] = at
    grad_VxBxD[i] = (ends[0] - ends[1]) / (2 * step)
  return grad_VxBxD


@pytest.mark.parametrize(
  "case",
  [
    *(case for case in CASES if case != "two_clips"),
    pytest.param("two_clips", marks=pytest.mark.slow),
  ],
)
def test_values_and_gradients_are_the_references(case):
  pair = views(case)
  z_VxBxD = np.float64(pair)
  found = values_and_grads(*pair)
  for name, (_, reference) in PAIRS.items():
    (got, terms), grads = found[name]
    want, want_terms = reference(*z_VxBxD)
    np.testing.assert_allclose(got, want, 1e-5, 1e-6, err_msg=name)
    for key, value in want_terms.items():
      np.testing.assert_allclose(terms[key], value, 1e-5, 2e-6, err_msg=key)
    want_VxBxD = gradients_numpy(reference, z_VxBxD)
    # By the largest; that of a collapse may be zero but for rounding.
    tolerance = 2e-5 * np.abs(want_VxBxD).max() + 2e-6
    np.testing.assert_allclose(grads, want_VxBxD, 0, tolerance, err_msg=name)


def test_dcl_is_watched_as_nt_xent_is():
  pair = views("n_below_d")
  _, terms = jax.jit(losses.dcl_loss)(*pair)
  _, expected = jax.jit(losses.nt_xent_loss)(*pair)
  assert terms == expected


@pytest.mark.slow
@pytest.mark.parametrize("n, d", [(4, 600), (600, 4)])
def test_bfloat16_is_summed_in_float32(n, d):
  """Each value and product is exact, and bfloat16 cannot count to 300."""
  rng = np.random.default_rng(0)
  sign_Bx1 = np.where(np.arange(n) % 2, 1, -1)[:, None]
  z_BxD = rng.choice([-1.0, 1.0], d) * sign_Bx1
  half_BxD = jnp.asarray(z_BxD, jnp.bfloat16)
  a_DxS = np.float64(jnp.asarray(directions(d), jnp.bfloat16))
  found = values_and_grads(half_BxD, half_BxD)
  for name, (_, reference) in PAIRS.items():
    (loss, _), _ = found[name]
    expected = reference(z_BxD, z_BxD, *([a_DxS] * (name == "sigreg")))
    np.testing.assert_allclose(loss, expected[0], 1e-4, err_msg=name)


def test_gradients_of_bfloat16_embeddings():
  half = [jnp.asarray(z, jnp.bfloat16) for z in views("n_below_d")]
  found = values_and_grads(*half)
  for name, (_, reference) in PAIRS.items():
    values, grads = found[name]
    kinds = {value.dtype for value in jax.tree.leaves(values)}
    assert kinds == {jnp.dtype("float32")}
    assert {grad.dtype for grad in grads} == {jnp.dtype("bfloat16")}
    want_VxBxD = gradients_numpy(reference, np.float64(half))
    error = np.abs(np.float64(grads) - want_VxBxD).max()
    assert error < 0.02 * np.abs(want_VxBxD).max(), name


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_loss_takes_the_keys_of_its_section(name, monkeypatch):
  """And the config's defaults are its own."""
  objective, found = losses.LOSSES[name], {}
  parameters = inspect.signature(objective.loss).parameters.values()
  options = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
  assert objective.random == ("key" in options)

  def record(z1_BxD, z2_BxD, **given):
    found.update(given)

  row = dataclasses.replace(objective, loss=record)
  monkeypatch.setitem(losses.LOSSES, name, row)
  config = configs.base_pretrain()
  config.loss.name = name
  steps.loss_of(config, np.ones((4, 7)))
  assert found.pop("key", None) is None or options.pop("key")
  assert found == options


def test_what_is_drawn_is_of_seed_and_step(monkeypatch):
  """The key that SIGReg is given."""

  def drawn(z1_BxD, z2_BxD, *, key):
    return jax.random.uniform(key), {}

  row = losses.Objective(drawn, (), random=True)
  monkeypatch.setitem(losses.LOSSES, "sigreg", row)
  outputs = None, jnp.ones((12, 7)), {}
  monkeypatch.setattr(steps, "_outputs", lambda *_: outputs)
  config = configs.base_pretrain()
  config.loss.name = "sigreg"
  for config.seed, step in ((0, 0), (0, 3), (1, 3)):
    state = steps.TrainState(step, {}, {}, {})
    got = steps.eval_step(config, state, None)["loss"]
    key = mesh.stream_key(config.seed, "sigreg", step)
    assert got == jax.random.uniform(key)


# name: (loss, B, D). Each D is of one case, so that its D x D can be told.
SHARDED = {
  "barlow_twins n<d": ("barlow_twins", 16, 24),
  "barlow_twins n>d": ("barlow_twins", 24, 16),
  "dcl": ("dcl", 16, 26),
  "sigreg": ("sigreg", 16, 28),
}


def sharded_values_and_grads(z_of):
  """{case: ((loss, terms), gradient)} of rows that alternate between views."""
  config, found = configs.base_pretrain(), {}
  config.loss.sigreg.slices = 20
  for case, (config.loss.name, _, _) in SHARDED.items():
    loss_of = functools.partial(steps.loss_of, config, step=7)
    both = jax.value_and_grad(loss_of, has_aux=True)
    found[case] = both(z_of[case])
  return found


def across_devices():
  """Prints {case: differences of loss and gradient, eight devices to one; that
  of the mean of two halves' losses; how often the program has a D x D}.
  """
  from jax.sharding import Mesh

  assert len(jax.devices()) == 8
  rng, z_of, ran, text = np.random.default_rng(0), {}, {}, ""
  for case, (_, n, d) in SHARDED.items():
    # Clips of unlike loudness: shards have other statistics than the batch.
    scale_B = np.linspace(0.2, 3, n)
    z_BxVxD = rng.normal(size=(n, 2, d)) * scale_B[:, None, None]
    z_of[case] = z_BxVxD.reshape(2 * n, d).astype(np.float32)
  for count in (1, 8):
    devices = Mesh(np.array(jax.devices()[:count]), ("data",))
    whole, split = mesh.replicated(devices), mesh.batch_sharding(devices)
    step = jax.jit(
      sharded_values_and_grads,
      in_shardings=split,
      out_shardings=dict.fromkeys(SHARDED, (whole, split)),
    )
    program = step.lower(z_of).compile()
    text = program.as_text()
    ran[count] = jax.device_get(program(jax.device_put(z_of, split)))
  halves = [
    jax.jit(sharded_values_and_grads)(
      {case: np.split(z_NxD, 2)[half] for case, z_NxD in z_of.items()}
    )
    for half in (0, 1)
  ]
  differences = {}
  for case, (_, _, d) in SHARDED.items():
    (one, _), one_grad = ran[1][case]
    (eight, _), eight_grad = ran[8][case]
    mean = sum(half[case][0][0] for half in halves) / 2
    grad = np.abs(np.subtract(eight_grad, one_grad)).max()
    differences[case] = [
      abs(float(eight / one) - 1),
      float(grad / np.abs(one_grad).max()),
      abs(float(mean / one) - 1),
      text.count(f"f32[{d},{d}]"),
    ]
  print(json.dumps(differences))


@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path):
  found = json.loads(warm.on_eight_devices(tmp_path, across_devices))
  assert set(found) == set(SHARDED)
  for case, (loss, gradients, halves, matrices) in found.items():
    assert loss < 1e-5 and gradients < 1e-5, case
    assert halves > 1e-3, case
    # A D x D, and a sum of it over the devices, only where n is above D.
    assert (matrices > 0) == (case == "barlow_twins n>d"), case
