"""The augmentations on the device against those on the host."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import warm
from jax.sharding import Mesh
from music import db, notes, power, white
from runs import assert_same, lines_of, stopped_at

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.data import augment, freeverb, input_pipeline
from vicreg_jax.data import device_augment as D
from vicreg_jax.data.augment_config import default_augment
from vicreg_jax.jobs import pretrain

SR, T = 22_050, 20_000
ROOMS = ((100, 100, 0), (0, 0, 0), (0, 100, 0), (50, 50, 50), (33, 80, 100))


def signals():
  """Noise, music, a square wave at full scale, a constant, and silence."""
  square = np.sign(np.sin(2 * np.pi * 300 * np.arange(T) / SR))
  constant, silence = np.ones(T), np.zeros(T)
  rows = (white(1, length=T), notes(2)[-T:], square, constant, silence)
  return np.stack(rows).astype(np.float32)


def pairs(op, host, *parameters):
  """(device's view, host's, what it was) of all signals by all parameters.

  `parameters` are lists of equal lengths; each becomes one number a view.
  """
  x_SxT = signals()
  rows = np.array(parameters, np.float32).T
  x_BxT = np.concatenate([x_SxT] * len(rows))
  parameters_PxB = np.repeat(rows, len(x_SxT), 0).T
  y_BxT = jax.jit(op)(x_BxT, *parameters_PxB)
  assert y_BxT.shape == x_BxT.shape and y_BxT.dtype == np.float32
  for y_T, x_T, row in zip(y_BxT, x_BxT, parameters_PxB.T, strict=True):
    yield np.asarray(y_T), host(x_T, *row).numpy(), x_T


def assert_equal_within(decibels, found):
  for y_T, expected_T, x_T in found:
    if not x_T.any():
      np.testing.assert_array_equal(y_T, 0)
    else:
      error = power(y_T - expected_T.astype(np.float64)) + 1e-30
      # Of what a filter leaves nothing of, the host's is rounding too.
      scale = max(power(expected_T), 1e-6 * power(x_T))
      assert db(error / scale) < decibels


def test_polarity_and_gain_equal_the_host_s():
  x_SxT = signals()
  np.testing.assert_array_equal(D.invert_polarity(x_SxT), -x_SxT)
  found = pairs(D.gain, augment.gain, [-6.0, -2.5, 0.0, 20.0])
  assert_equal_within(-120, found)


def test_delay_equals_the_host_s_bit_for_bit():
  ms = [*np.arange(200.0, 501.0, 50.0), 123.4, 0.0, 60_000.0]
  device, host = (
    functools.partial(module.delay, factor=0.5, sample_rate=SR)
    for module in (D, augment)
  )
  for y_T, expected_T, _ in pairs(device, host, ms):
    np.testing.assert_array_equal(y_T, expected_T)


@pytest.mark.parametrize("op", ["lowpass", "highpass"])
def test_filters_equal_the_host_s(op):
  cutoffs = [200.0, 201.3, 731.7, 1_200.0, 2_200.0, 3_333.3, 4_000.0]
  device, host = (
    functools.partial(getattr(module, op), sample_rate=SR, lowest_hz=200.0)
    for module in (D, augment)
  )
  assert_equal_within(-60, pairs(device, host, cutoffs))


def test_reverb_equals_the_host_s():
  rng = np.random.default_rng(0)
  rooms = np.concatenate([ROOMS, rng.uniform(0, 100, (4, 3))])
  device, host = (
    functools.partial(module.reverb, sample_rate=SR) for module in (D, augment)
  )
  assert_equal_within(-60, pairs(device, host, *rooms.T))


@pytest.mark.parametrize("rate", [SR, 44_100, 16_000])
def test_combs_are_the_host_s_to_the_sample(rate):
  room_B = np.random.default_rng(1).uniform(0, 100, 20_000).astype(np.float32)
  room_B[:3] = 0.0, 100.0, np.nextafter(np.float32(100), np.float32(0))
  expected_Bx8 = freeverb.comb_delays(room_B[:, None], rate)
  np.testing.assert_array_equal(D._comb_delays(room_B, rate), expected_Bx8)
  scale_B = 0.9 * room_B.astype(np.float64) / 100 + 0.1
  exact_Bx8 = scale_B[:, None] * rate / 44_100 * freeverb.COMBS + 0.5
  assert abs(expected_Bx8 - (exact_Bx8 - 0.5)).max() < 0.5 + 1e-3


@pytest.mark.parametrize("snr", [80.0, 20.0])
def test_noise_has_the_snr_and_is_a_stream_of_each_view(snr):
  x_BxT = np.stack([white(3, 3.0, T), white(4, 0.01, T), white(3, 3.0, T)])
  seed_Bx2 = np.array([[1, 2], [1, 3], [2, 2]], np.uint32)
  add = jax.jit(functools.partial(D.add_noise, snr_db=snr))
  noise = np.asarray(add(x_BxT, seed_Bx2), np.float64) - x_BxT
  for x_T, noise_T in zip(x_BxT, noise):
    assert db(power(x_T) / power(noise_T)) == pytest.approx(snr, abs=0.2)
  assert np.abs(np.corrcoef(noise)[np.triu_indices(3, 1)]).max() < 0.03
  if snr < 50:  # at 80 dB the sum with x is rounded to a coarse grid
    z = noise / noise.std(1, keepdims=True)
    np.testing.assert_allclose((z**4).mean(1), 3, atol=0.25)
    lag = (z[:, 1:] * z[:, :-1]).mean(1)
    np.testing.assert_allclose(lag, 0, atol=0.03)
  alone = add(x_BxT[1:2], seed_Bx2[1:2])
  np.testing.assert_array_equal(alone[0], add(x_BxT, seed_Bx2)[1])
  assert not np.asarray(add(np.zeros([1, T], np.float32), seed_Bx2[:1])).any()


def test_pitch_of_silence_is_silent_and_of_full_scale_bounded():
  x_SxT = signals()
  shift = jax.jit(D.pitch_shift)
  for semitones in (-7.0, -5.0, 0.0, 7.0):
    y_SxT = np.asarray(shift(x_SxT, np.full(len(x_SxT), semitones, np.float32)))
    assert np.isfinite(y_SxT).all() and not y_SxT[-1].any()
    for y_T, x_T in zip(y_SxT[:-1], x_SxT):
      assert power(y_T) < 4 * power(x_T)


def test_other_parameters_compile_nothing_anew():
  traced = []

  @jax.jit
  def augmented(x_BxT, draws):
    traced.append(len(x_BxT))
    return D.augment(x_BxT, draws, default_augment(), SR)

  x_BxT = np.stack([white(i, length=700) for i in range(4)])
  for hertz in (300.0, 1_000.0):
    draws = {
      "filter": {
        "on": np.arange(4) < hertz / 300,
        "highpass": np.arange(4) < 2,
        "highpass_hz": np.full(4, hertz, np.float32),
        "lowpass_hz": np.full(4, 9 * hertz, np.float32),
      }
    }
    y_BxT = augmented(x_BxT, draws)
    for i in range(4):
      expected_T = x_BxT[i]
      if draws["filter"]["on"][i]:
        op = augment.highpass if i < 2 else augment.lowpass
        cutoff = hertz if i < 2 else 9 * hertz
        expected_T = op(x_BxT[i], cutoff, SR)
      np.testing.assert_allclose(y_BxT[i], expected_T, atol=1e-5)
  assert traced == [4]


@pytest.mark.parametrize("length, rate", [(1, SR), (5_000, 44_100)])
def test_ops_take_any_length_and_rate(length, rate):
  x_BxT = white(13, length=length)[None]
  low, reverberated, shifted = jax.jit(
    lambda x, one: (
      D.lowpass(x, 300 * one, rate),
      D.reverb(x, 40 * one, 60 * one, 30 * one, rate),
      D.pitch_shift(x, -3 * one),
    )
  )(x_BxT, jnp.ones(1))
  expected = augment.lowpass(x_BxT[0], 300.0, rate)
  np.testing.assert_allclose(low[0], expected, atol=1e-5)
  expected = augment.reverb(x_BxT[0], 40.0, 60.0, 30.0, rate)
  np.testing.assert_allclose(reverberated[0], expected, atol=1e-5)
  assert shifted.shape == x_BxT.shape and np.isfinite(shifted).all()


# --- the chain ---------------------------------------------------------------


def views_on(where, config, prepared, count=2, **chain):
  """The first batches of views, augmented on the host or on the device."""
  config.data.augment_on = where
  for op in config.augment:
    config.augment[op].p = chain.get(op, 0.0)
  views_of = D.views_of(config, mesh.make_mesh())
  stream = input_pipeline.train_views(prepared, config)
  batches = list(itertools.islice(stream, count))
  return np.stack([views_of(batch) for batch in batches]), batches


def test_seed_epoch_and_clip_say_the_same_on_either_side(small, prepared):
  """All that is drawn; over all batches of an epoch, and into the next."""
  usual = {op: c["p"] for op, c in default_augment().items()}
  usual |= {"noise": 0.0, "pitch": 0.0}  # which are others on the device
  host, _ = views_on("host", small, prepared, 4, **usual)
  device, batches = views_on("device", small, prepared, 4, **usual)
  assert device.dtype == np.float32 and device.shape == host.shape
  error_BxV = np.square(host - device.astype(np.float64)).mean(-1)
  power_BxV = np.square(host, dtype=np.float64).mean(-1)
  assert (db(error_BxV / power_BxV) < -60).all()
  assert 0 < batches[0].draws["gain"]["on"].mean() < 1


def test_what_no_op_touches_is_the_crop(small, prepared):
  device, batches = views_on("device", small, prepared)
  for views_BxVxT, (pcm_BxVxT, draws) in zip(device, batches):
    assert pcm_BxVxT.dtype == np.int16 and not draws
    np.testing.assert_allclose(views_BxVxT, pcm_BxVxT / 32_767, rtol=2e-7)
  rare = dict.fromkeys(("polarity", "noise", "gain", "delay"), 1e-9)
  never, _ = views_on("device", small, prepared, **rare)
  np.testing.assert_array_equal(never, device)


def test_each_view_is_touched_by_what_was_drawn_for_it_alone(small, prepared):
  plain, _ = views_on("device", small, prepared)
  usual = {"polarity": 0.2, "noise": 0.2, "pitch": 0.3}
  views, batches = views_on("device", small, prepared, **usual)
  for op in usual:
    on = [batch.draws[op]["on"] for batch in batches]
    assert 0.05 < np.mean(on) < 0.5
  any_on = [
    np.any([draw["on"] for draw in batch.draws.values()], 0)
    for batch in batches
  ]
  np.testing.assert_array_equal((views != plain).any(-1), any_on)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("takers", [0, 1, 2, 3, 4, 5])
def test_any_number_of_takers_is_right(rows, takers):
  rng = np.random.default_rng(takers)
  x_BxT = rng.normal(size=(5, 3)).astype(np.float32)
  on_B = rng.permutation(np.arange(5) < takers)
  by_B = np.arange(5, dtype=np.float32)
  sizes = []

  def op(x, given):
    sizes.append(len(x))
    return x * 2 + given["by"][:, None]

  y_BxT = D.apply_where(op, x_BxT, on_B, {"by": by_B}, rows)
  expected = np.where(on_B[:, None], x_BxT * 2 + by_B[:, None], x_BxT)
  np.testing.assert_array_equal(y_BxT, expected)
  assert set(sizes) == {rows}


def test_a_rare_op_costs_all_views_little():
  x_BxT = np.ones((64, 27), np.float32)
  gone = []

  def op(x, _):
    jax.debug.callback(lambda: gone.append(len(x)))
    return -x

  takes = jax.jit(lambda x, on: D.apply_where(op, x, on, {}, 2))
  for takers, goes in ((0, 0), (1, 1), (3, 2), (64, 32)):
    gone.clear()
    takes(x_BxT, np.arange(64) < takers)
    jax.effects_barrier()
    assert gone == [2] * goes


# --- trainings ---------------------------------------------------------------


def on_device(config):
  """Some of everything: choices, a loop, and the other generator."""
  config.data.augment_on = "device"
  for op, p in (("noise", 0.5), ("gain", 0.5), ("polarity", 0.5)):
    config.augment[op].p = p
  config.checkpoint.every_epochs = 1.0
  return config


def test_continuing_on_the_device_equals_an_unbroken_run(small, tmp_path):
  on_device(small)
  expected = pretrain.run(small, str(tmp_path / "unbroken"))
  with stopped_at(4):
    pretrain.run(small, str(tmp_path / "broken"))
  assert_same(pretrain.run(small, str(tmp_path / "broken")), expected)
  rows = lines_of(tmp_path / "broken")
  assert rows == lines_of(tmp_path / "unbroken")
  assert [r["step"] for r in rows if "validation/loss" in r] == [3, 5]
  small.data.augment_on = "host"
  with pytest.raises(ValueError, match="augment_on: device -> host"):
    pretrain.run(small, str(tmp_path / "broken"))


@pytest.mark.parametrize("best_by", ["loss", "knn"])
def test_a_run_on_the_device_is_that_on_the_host(small, tmp_path, best_by):
  """By ops that are the same on both: losses, validation, and what is best."""
  small.checkpoint.best_by = best_by
  for op, p in (("noise", 0.0), ("gain", 0.5), ("polarity", 0.5)):
    small.augment[op].p = p
  rows, best = [], []
  for small.data.augment_on in ("host", "device"):
    workdir = tmp_path / small.data.augment_on
    best.append(int(pretrain.run(small, str(workdir)).step))
    rows.append(lines_of(workdir))
  assert best[0] == best[1] and len(rows[0]) == len(rows[1]) > 5
  assert any(f"validation/{best_by}" in row for row in rows[1])
  for host, device in zip(*rows):
    assert device == pytest.approx(host, rel=2e-3)


def split_over_devices():
  """Prints how far eight devices' views are off one's, by their power."""
  rng = np.random.default_rng(0)
  pcm = (3_000 * rng.normal(size=(16, 2, 2_187))).astype(np.int16)
  config = configs.base_pretrain()
  for op in config.augment.values():
    op.p = 0.5
  count = pcm[..., 0].size
  draw = tf.function(lambda i: augment.draw([i, 1], config.augment.to_dict()))
  rows = [draw(tf.constant(i, tf.int64)) for i in range(count)]
  draws = jax.tree.map(lambda *d: np.reshape(d, (16, 2)), *rows)
  draws["noise"]["seed"] = rng.integers(0, 2**32, (16, 2, 2), np.uint32)
  found = []
  for number in (1, 8):
    devices = Mesh(np.array(jax.devices()[:number]), ("data",))
    crops = jax.device_put((pcm, draws), mesh.batch_sharding(devices))
    views = D.jit_augment(config, devices)(crops)
    assert len(views.sharding.device_set) == number
    found.append(np.asarray(views, np.float64))
  error = np.square(found[0] - found[1]).mean(-1)
  print(float((error / np.square(found[0]).mean(-1)).max()))


@pytest.mark.slow
def test_eight_devices_augment_as_one(tmp_path):
  printed = warm.on_eight_devices(tmp_path, split_over_devices)
  assert float(printed) < 1e-8
