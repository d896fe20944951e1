"""MFCCs of prepared clips against librosa, called plainly."""

import dataclasses
import io
import pathlib
import tracemalloc

import music
import numpy as np
import pytest

from vicreg_jax.data import datasets, input_pipeline, mfcc


@pytest.fixture
def clips(small):
  small.data.sizes = (3, 2, 2)
  small.data.clip_seconds = 0.5
  return datasets.prepare(small.data)


def sound(x_T):
  return np.frombuffer(x_T, "<i2") / np.float32(32767)


def by_librosa(librosa, x_T, rate):
  found = librosa.feature.mfcc(y=x_T, sr=rate, n_mfcc=20)
  mode = "interp" if found.shape[1] >= 9 else "nearest"
  found = np.vstack([found, librosa.feature.delta(found, mode=mode)])
  return np.concatenate([found.mean(axis=1), found.std(axis=1)])


@pytest.mark.parametrize("rate", [22_050, 16_000, 44_100, 1_600])
@pytest.mark.filterwarnings("ignore:Empty filters", "ignore:n_fft")
def test_features_are_librosa_s(clips, rate, plain_librosa):
  heard = [sound(clip) for clip in input_pipeline.samples(clips, "train")]
  quiet = np.zeros(rate, np.float32)
  quiet[100:200] = heard[0][100:200]  # 80 dB and more between its bands
  for x_T in (*heard, quiet, quiet[:4095], np.zeros(1000, np.float32)):
    expected = by_librosa(plain_librosa, x_T, rate)
    y_D = mfcc.features(x_T, rate)
    np.testing.assert_allclose(y_D, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 9, 10])
def test_features_of_a_few_frames(monkeypatch, plain_librosa, frames):
  """By blocks of three: their seams, and ends at any place."""
  x_T = music.white(length=512 * frames - 1)
  x_T[:-600] *= 1e-5  # the floor depends on the last block
  expected = by_librosa(plain_librosa, x_T, 8000)
  monkeypatch.setattr(mfcc, "_BLOCK", 3)
  y_D = mfcc.features(x_T, 8000)
  np.testing.assert_allclose(y_D, expected, rtol=1e-5, atol=1e-3)


def test_memory_is_not_that_of_the_spectra():
  """Of ten minutes they take 100 MB, as frames 200 MB."""

  def read(start, stop):
    return np.zeros(stop - start, np.int16)

  tracemalloc.start()
  try:
    mfcc.features(mfcc._Clip(600 * 22_050, read), 22_050)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 40e6


@pytest.mark.parametrize(
  "cores, seconds, most", [(2, 30, 2), (64, 3600, 4), (64, 5 * 3600, 1)]
)
def test_long_clips_are_few_at_a_time(clips, monkeypatch, cores, seconds, most):
  asked, run = [], mfcc.map_in_order

  def watched(function, items, threads, ahead):
    asked.append((threads, ahead))
    return run(function, items, threads, ahead)

  monkeypatch.setattr(mfcc, "map_in_order", watched)
  monkeypatch.setattr(mfcc.os, "cpu_count", lambda: cores)
  pathlib.Path(clips.path, "mfcc-test.npz").unlink(missing_ok=True)
  long = dataclasses.replace(clips, seconds={"test": 2 * seconds})
  mfcc.of_split(long, "test")
  assert asked == [(most, most)]


def test_a_split_has_its_clips(clips):
  y_NxD = mfcc.of_split(clips, "train")
  for y_D, clip in zip(y_NxD, input_pipeline.samples(clips, "train")):
    expected = mfcc.features(sound(clip), 22_050)
    np.testing.assert_allclose(y_D, expected, rtol=1e-5, atol=1e-4)
  assert np.ptp(y_NxD, axis=0).min() > 0  # clips differ


def test_they_are_kept_while_they_fit(clips, monkeypatch):
  path = f"{clips.path}/mfcc-test.npz"
  y_NxD = mfcc.of_split(clips, "test")
  features = mfcc.features

  def refuse(*args):
    raise AssertionError("made again")

  mfcc.of_split(clips, "valid")
  monkeypatch.setattr(mfcc, "features", refuse)
  np.testing.assert_array_equal(mfcc.of_split(clips, "test"), y_NxD)
  # Damaged, or of other clips, as many as these.
  other = pathlib.Path(clips.path, "mfcc-valid.npz").read_bytes()
  for content in (b"x", _saved(y_NxD + 1, ["2", "a", "b"]), other):
    with open(path, "wb") as file:
      file.write(content)
    monkeypatch.setattr(mfcc, "features", refuse)
    with pytest.raises(AssertionError, match="made again"):
      mfcc.of_split(clips, "test")
    monkeypatch.setattr(mfcc, "features", features)
    np.testing.assert_array_equal(mfcc.of_split(clips, "test"), y_NxD)


def _saved(y_NxD, made_of):
  content = io.BytesIO()
  np.savez(content, y=y_NxD, made_of=made_of)
  return content.getvalue()


def test_tracks_and_samples_are_in_the_order_of_labels(clips):
  ids = input_pipeline.labels(clips, "train").ids
  assert input_pipeline.tracks(clips, "train") == ids  # each its own track
  by_id = {
    example["id"].numpy().decode(): example["samples"].numpy()
    for example in clips.dataset("train")
  }
  assert list(input_pipeline.samples(clips, "train")) == [
    by_id[clip] for clip in ids
  ]
