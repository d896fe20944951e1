"""An encoder in the hand: files and arrays in, embeddings of segments out."""

import copy
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile
import soxr

import vicreg_jax
from vicreg_jax.training import steps
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import heads as heads_lib

RATE, CROP = 22_050, 243


@pytest.fixture(scope="module")
def encoder(small_run):
  return vicreg_jax.load(small_run)


def test_a_pickle_is_the_encoder(encoder):
  sent = copy.copy(encoder)
  sent.heads, sent.card = heads_lib.Heads(("a",), True, "", 3, {}), {"x": 1}
  found = pickle.loads(pickle.dumps(sent))
  for name in ("crop", "sample_rate", "size", "step", "heads", "card"):
    assert getattr(found, name) == getattr(sent, name)
  assert found.config.to_dict() == sent.config.to_dict()
  assert found.fingerprint() == sent.fingerprint()
  # With other weights an encoder is still this process's: nothing is compiled.
  other = encoder.with_variables(encoder.variables)
  assert other._apply is encoder._apply


def noise(samples, channels=1, seed=0):
  shape = (channels, samples) if channels > 1 else samples
  x = np.random.default_rng(seed).normal(size=shape) * 0.1
  return x.astype(np.float32)


def reference(encoder, x_NxT):
  """By Flax's module alone, one after another."""
  module = steps.make_encoder(encoder.config.model, encoder.config.dtype)
  one = jax.jit(module.apply)
  rows = [one(encoder._variables, x_T[None]) for x_T in np.asarray(x_NxT)]
  return np.concatenate(rows)


def test_segments_are_consecutive_crops(encoder):
  x_T = noise(5 * CROP + 100)
  found = encoder.embed_segments(x_T, RATE)
  want = reference(encoder, x_T[: 5 * CROP].reshape(5, CROP))
  np.testing.assert_allclose(found.embeddings, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found.start_seconds, np.arange(5) * CROP / RATE)
  np.testing.assert_allclose(found.end_seconds, np.arange(1, 6) * CROP / RATE)
  assert not found.padded
  np.testing.assert_allclose(
    encoder.embed(x_T, RATE), want.mean(0), rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize("hop", [100, 243, 300, 1000])
def test_a_hop_overlaps_or_leaves_gaps(encoder, hop):
  x_T = noise(3000)
  starts = range(0, len(x_T) - CROP + 1, hop)
  want = reference(encoder, np.stack([x_T[s : s + CROP] for s in starts]))
  found = encoder.embed_segments(x_T, RATE, hop_seconds=hop / RATE)
  np.testing.assert_allclose(found.embeddings, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found.start_seconds, np.array(starts) / RATE)


def test_segments_do_not_depend_on_how_audio_comes_in_blocks():
  x_T = noise(2000)
  for hop in (50, 243, 700):
    whole = [s for s, _ in encoders.cut([x_T], CROP, hop)]
    pieces = np.split(x_T, [7, 7, 300, 310, 1500])
    again = [s for s, _ in encoders.cut(pieces, CROP, hop)]
    np.testing.assert_array_equal(whole, again)


def test_what_is_shorter_than_a_segment_is_repeated(encoder):
  x_T = noise(100)
  found = encoder.embed_segments(x_T, RATE)
  want = reference(encoder, np.concatenate([x_T, x_T, x_T[:43]])[None])
  np.testing.assert_allclose(found.embeddings, want, rtol=1e-5, atol=1e-6)
  assert found.padded
  assert found.end_seconds.tolist() == [100 / RATE]


def test_an_embedding_is_the_same_bits_in_any_company(encoder):
  x_NxT = noise(40 * CROP).reshape(40, CROP)
  alone = [encoder.embed(x_T, RATE) for x_T in x_NxT]
  together = encoder.embed_segments(x_NxT.ravel(), RATE).embeddings
  backwards = encoder.embed_segments(x_NxT[::-1].ravel(), RATE).embeddings
  np.testing.assert_array_equal(alone, together)
  np.testing.assert_array_equal(together, backwards[::-1])


def test_channels_are_averaged_and_rates_converted(encoder, tmp_path):
  x_2xT = noise(88_200, channels=2)
  mono = soxr.resample(x_2xT.mean(0), 44_100, RATE)
  want = encoder.embed_segments(mono, RATE).embeddings
  found = encoder.embed_segments(x_2xT, 44_100).embeddings
  np.testing.assert_allclose(found[:-1], want[: len(found) - 1], atol=1e-5)
  soundfile.write(tmp_path / "a.wav", x_2xT.T, 44_100, subtype="FLOAT")
  of_file = encoder.embed_segments(tmp_path / "a.wav")
  np.testing.assert_allclose(of_file.embeddings, found, atol=1e-5)


def test_silence_has_an_embedding(encoder):
  assert np.isfinite(encoder.embed(np.zeros(1000), RATE)).all()


@pytest.mark.parametrize(
  "audio, rate, hop, said",
  [
    (np.zeros(9, np.int32), RATE, None, "array of int32: give floats"),
    (np.zeros(9, np.uint8), RATE, None, "array of uint8: give floats"),
    ([[0.0, 0.0], [0.0]], RATE, None, "a list that NumPy does not take"),
    (None, RATE, None, "array of object"),
    (np.full(500, 1e300), RATE, None, "a peak of 1e\\+300, and 1 is full"),
    (noise(500) * 32_768, RATE, None, "a peak of .* by 1 / 32768"),
    (np.zeros((17, 500)), RATE, None, "more than 16 channels"),
    (np.zeros((500, 2)), RATE, None, "transpose it"),
    (np.zeros((1, 1, 5)), RATE, None, r"shape \(1, 1, 5\)"),
    (np.zeros(0), RATE, None, r"shape \(0,\)"),
    (np.zeros(500), None, None, "sample_rate is None"),
    (np.zeros(500), 0, None, "sample_rate is 0"),
    (np.zeros(500), np.inf, None, "sample_rate is inf"),
    (np.zeros(500), np.nan, None, "sample_rate is nan"),
    (np.zeros(500), -22_050, None, "sample_rate is -22050"),
    (np.zeros(500), 900_000, None, "sample_rate is 900000"),
    (np.zeros(500), "44100", None, "sample_rate is '44100'"),
    (np.full(500, np.nan), RATE, None, "not finite"),
    (np.zeros(500), RATE, 0.0, "hop_seconds is 0.0"),
    (np.zeros(500), RATE, float("nan"), "hop_seconds is nan"),
    (np.zeros(500), RATE, float("inf"), "hop_seconds is inf"),
    (np.zeros(500), RATE, 1e300, "hop_seconds is 1e\\+300"),
    (np.zeros(500), RATE, -1.0, "hop_seconds is -1.0"),
    (np.zeros(500), RATE, "1", "hop_seconds is '1'"),
    ("a.wav", RATE, None, "leave sample_rate out"),
    ("a.wav", None, None, "a.wav: not found"),
  ],
)
def test_what_cannot_be_audio_is_one_line(encoder, audio, rate, hop, said):
  with pytest.raises(ValueError, match=said) as error:
    encoder.embed_segments(audio, rate, hop)
  assert "\n" not in str(error.value)


def test_integers_are_scaled_as_those_of_a_file(encoder, tmp_path):
  x_T = np.random.default_rng(0).integers(-(2**15), 2**15, 3000, np.int16)
  soundfile.write(tmp_path / "a.wav", x_T, RATE)
  want = encoder.embed(tmp_path / "a.wav")
  np.testing.assert_array_equal(encoder.embed(x_T, RATE), want)
  # As loud as a file may be, and no louder; see tests/test_audio.py.
  loud = x_T / np.float64(2**15)
  loud *= 16 / np.abs(loud).max()
  assert np.isfinite(encoder.embed(loud, RATE)).all()
  with pytest.raises(ValueError, match="a peak of 16"):
    encoder.embed(loud * 1.01, RATE)


def test_arrays_of_other_libraries(encoder):
  torch = pytest.importorskip("torch")
  x_T = noise(1000)
  want = encoder.embed(x_T, RATE)
  for array in (torch.tensor(x_T, requires_grad=True), jax.numpy.array(x_T)):
    np.testing.assert_array_equal(encoder.embed(array, RATE), want)
  half = torch.tensor(x_T).bfloat16()
  want = encoder.embed(half.float().numpy(), RATE)
  for array in (half, jax.numpy.array(half.float().numpy(), "bfloat16")):
    np.testing.assert_array_equal(encoder.embed(array, RATE), want)
  with pytest.raises(ValueError, match="Tensor"):
    encoder.embed(torch.zeros(500).to_sparse(), RATE)


@pytest.mark.parametrize("which", [{"step": 5}, {"step": 0}, {"epoch": 0.0}])
def test_where_there_are_no_steps_none_is_chosen(which):
  with pytest.raises(ValueError, match="starter"):
    vicreg_jax.load("starter", **which)


def test_what_is_no_model_is_told_what_would_be(tmp_path):
  (tmp_path / "song.wav").touch()
  expected = r"'starter', .* workdir .* `export` .* CLMR's weights \(\.pt, "
  for name, said in (
    ("nosuch", "no such"),
    ("nosuch.pt", "no such"),
    ("song.wav", "no model"),
    (".", "no model"),
  ):
    with pytest.raises(ValueError, match=f"{said}.*{expected}"):
      vicreg_jax.load(tmp_path / name)


def test_eight_devices_give_what_one_gives(small_run, tmp_path):
  code = f"""
import numpy as np, vicreg_jax
x = np.random.default_rng(0).normal(size=5000).astype(np.float32)
encoder = vicreg_jax.load({small_run!r})
np.save({str(tmp_path / "y.npy")!r}, encoder.embed_segments(x, 22_050)[0])
"""
  flags = "--xla_force_host_platform_device_count=8"
  env = os.environ | {"XLA_FLAGS": flags}
  subprocess.run([sys.executable, "-c", code], check=True, env=env)
  x = np.random.default_rng(0).normal(size=5000).astype(np.float32)
  want = vicreg_jax.load(small_run).embed_segments(x, RATE).embeddings
  np.testing.assert_allclose(
    np.load(tmp_path / "y.npy"), want, rtol=1e-5, atol=1e-6
  )


@pytest.mark.slow
def test_three_hours_take_the_memory_of_minutes(small_run, tmp_path):
  """Less than 300 MB above what the encoder itself takes."""
  path = tmp_path / "long.flac"
  with soundfile.SoundFile(path, "w", 8000, 1) as f:
    block = noise(8000 * 600)
    for _ in range(18):
      f.write(block)
  code = f"""
import resource, numpy as np, vicreg_jax
encoder = vicreg_jax.load({small_run!r})
def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
encoder.embed(np.zeros(22_050 * 60), 22_050)
before = peak()
found = encoder.embed_segments({str(path)!r}, hop_seconds=1.0)
print(len(found.embeddings), peak() - before)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  )
  segments, more = done.stdout.split()
  assert int(segments) == 3 * 3600
  assert float(more) < 300


def test_the_command_starts_without_tensorflow(small_run):
  code = f"""
import sys, numpy as np, vicreg_jax
vicreg_jax.load({small_run!r}).embed(np.zeros(500), 22_050)
heavy = {{"tensorflow", "tensorflow_datasets", "matplotlib", "torch"}}
print(*(heavy & sys.modules.keys()))
"""
  done = subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  )
  assert done.stdout.split() == []
  assert jax.devices()
