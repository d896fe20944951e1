"""The augmentations on the device against those on the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_augment import ROOMS, SR, db, music, power, white

from vicreg_jax.data import augment, freeverb
from vicreg_jax.data import device_augment as D

T = 20_000


def signals():
  """Noise, music, a square wave at full scale, a constant, and silence."""
  square = np.sign(np.sin(2 * np.pi * 300 * np.arange(T) / SR))
  constant, silence = np.ones(T), np.zeros(T)
  rows = (white(1, length=T), music(2)[-T:], square, constant, silence)
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


def test_filters_take_all_cutoffs_that_there_are():
  lowest = 4 / 1024 * SR
  device = functools.partial(D.lowpass, sample_rate=SR)
  host = lambda x, hz: augment.lowpass(x, float(hz), SR)  # noqa: E731
  assert_equal_within(-60, pairs(device, host, [lowest + 1e-3, SR / 2]))


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
