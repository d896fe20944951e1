"""What clips find among others: shares by hand, and the job's file."""

import json
import types

import numpy as np
import pytest
from conftest import SIZES, shrink
from tables import cosines, scaled

from vicreg_jax import config as configs
from vicreg_jax.data import datasets
from vicreg_jax.evaluation import retrieval
from vicreg_jax.jobs import probe

OPS = (
  *("polarity", "noise", "gain", "highpass"),
  *("lowpass", "delay", "pitch", "reverb"),
)


def test_shares_are_those_of_float64():
  rng = np.random.default_rng(0)
  track_N = np.arange(60) // 4
  labels_NxK = np.eye(3, dtype=np.uint8)[track_N % 3]
  labels_NxK[track_N == 14] = 0  # has no class
  y_NxD = rng.normal(size=(60, 12)) + 0.8 * rng.normal(size=(15, 12))[track_N]
  results = retrieval.of_clips(y_NxD, labels_NxK, track_N)
  cosine_NxN = cosines(*[scaled(y_NxD, "standardise")] * 2)
  of_class, of_track = [], []
  for i in range(60):
    order = np.argsort(-cosine_NxN[i])
    others = [j for j in order if track_N[j] != track_N[i]]
    if track_N[i] != 14:
      same = [labels_NxK[i] @ labels_NxK[j] for j in others[:10]]
      of_class.append(sum(same) / 10)
    rest = [j for j in order if j != i]
    same = [track_N[i] == track_N[j] for j in rest[:10]]
    of_track.append(sum(same) / 3)
  assert results["class"] == pytest.approx(np.mean(of_class))
  assert results["track"] == pytest.approx(np.mean(of_track))
  assert results["track, by chance"] == pytest.approx(10 / 59)


def test_tracks_alone_are_not_asked_for_their_clips():
  y_NxD = np.random.default_rng(0).normal(size=(30, 4))
  labels_NxK = np.ones((30, 1), np.uint8)
  results = retrieval.of_clips(y_NxD, labels_NxK, np.arange(30))
  assert "track" not in results
  assert results["class"] == results["class, by chance"] == 1


def test_chance_among_fewer_than_ten_clips_is_all_of_them():
  y_NxD = np.random.default_rng(0).normal(size=(6, 4))
  labels_NxK = np.eye(2, dtype=np.uint8)[[0, 0, 0, 1, 1, 1]]
  results = retrieval.of_clips(y_NxD, labels_NxK, np.arange(6) // 2)
  for question in ("class", "track"):
    assert results[question] == results[f"{question}, by chance"] == 1


@pytest.mark.parametrize("clips", [10, 20])
def test_crops_are_searched_for_among_more_than_are_found(
  clips, small, data_dir, tmp_path, monkeypatch
):
  small.data.sizes = (4, 1, 20)
  prepared = datasets.prepare(small.data)
  monkeypatch.setattr(retrieval, "augmented", lambda x, *_: {"gain": x / 2})
  encoder = types.SimpleNamespace(crop=243)
  monkeypatch.setattr(
    retrieval, "_of_encoder", lambda *_: lambda x_NxT: x_NxT[:, :8]
  )
  y_NxD = np.random.default_rng(0).normal(size=(20, 8))
  retrieval.write(
    str(tmp_path),
    prepared,
    {"trained": y_NxD},
    {"trained": encoder},
    clips=clips,
    seed=0,
    batch_size=8,
  )
  results = json.loads((tmp_path / "retrieval.json").read_text())
  assert results["augmented clips"] == clips
  asked = "augmented: gain" in results["trained"]
  assert asked == (clips > 10) == ("augmented" not in results)
  assert results.get("augmented, by chance") == (0.5 if asked else None)


def test_clips_are_found_by_what_is_left_of_them():
  rng = np.random.default_rng(0)
  clean_NxD = rng.normal(size=(100, 16))
  assert retrieval.found(clean_NxD, clean_NxD + 1e-3) == 1
  other = retrieval.found(clean_NxD, rng.normal(size=(100, 16)))
  assert 0 < other < 0.3  # by chance a tenth
  assert retrieval.found(np.ones((100, 16)), np.ones((100, 16))) == 0


@pytest.mark.slow
def test_a_probe_writes_the_file(small_run, data_dir, tmp_path):
  config = shrink(configs.base_probe(), data_dir)
  config.checkpoint = small_run
  config.probe.heads = ("linear",)
  config.probe.retrieval = 5
  probe.run(config, str(tmp_path))
  results = json.loads((tmp_path / "retrieval.json").read_text())
  assert results.pop("clips") == SIZES[2]
  assert results.pop("augmented clips") == 5
  assert "of 5 crops all are among the 10 nearest" in results.pop("augmented")
  assert sorted(results) == ["mfcc", "trained", "untrained"]
  for of in results.values():
    assert of["class"] > 0 and not any("augmented" in name for name in of)


@pytest.mark.slow
def test_each_augmentation_is_applied_alone():
  x_NxT = np.random.default_rng(0).normal(size=(2, 4_000)) * 0.1
  changed = retrieval.augmented(x_NxT.astype(np.float32), 22_050, 0)
  assert sorted(changed) == sorted(OPS)
  np.testing.assert_allclose(changed["polarity"], -x_NxT, atol=1e-6)
  gain = changed["gain"] / x_NxT
  assert np.ptp(gain, axis=1).max() < 1e-4 and gain.max() <= 1
  for op, (low, high) in {
    "highpass": (0, 150),
    "lowpass": (6_000, 11_000),
  }.items():
    spectrum = np.abs(np.fft.rfft(changed[op] * np.hanning(4_000)))
    hertz = np.fft.rfftfreq(4_000, 1 / 22_050)
    gone = (hertz >= low) & (hertz < high)
    assert spectrum[:, gone].mean() < 0.2 * spectrum[:, ~gone].mean()
