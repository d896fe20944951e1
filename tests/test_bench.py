"""The benchmarks measure what they say."""

import json
import os
import time

import numpy as np
import pytest
import soundfile

from vicreg_jax import audio, bench


@pytest.fixture
def music(tmp_path):
  for i in range(3):
    x = np.random.default_rng(i).normal(size=(44_100 * 3, 2)) / 9
    soundfile.write(tmp_path / f"{i}.mp3", x, 44_100)
  (tmp_path / "notes.txt").touch()
  return tmp_path


def results_of(capsys, *args):
  bench.main([*map(str, args), "--json"])
  return json.loads(capsys.readouterr().out)


def test_decode(music, capsys, monkeypatch):
  load = audio.load

  def slow(path, rate):
    time.sleep(0.3)
    return load(path, rate)

  monkeypatch.setattr(audio, "load", slow)
  path = f"--path={music}"
  results = results_of(capsys, "decode", path, "--clips=2", "--repeats=1")
  cores = os.cpu_count()
  assert set(results) - {"ffmpeg"} == {
    "audio.load",
    f"audio.load, {cores} threads",
    f"audio.load, {cores} processes",
    "librosa.load",
  }
  ours = results["audio.load"]
  # Two clips of 0.3 s and a little; waiting takes no CPU time.
  assert 0 < ours["clips_per_s"] < 1 / 0.3
  assert ours["clips_per_cpu_s"] > 10
  peer = results["librosa.load"]
  assert peer["clips_per_s_ratio"] == pytest.approx(
    peer["clips_per_s"] / ours["clips_per_s"]
  )
  assert peer["clips_per_s_ratio"] > 1
  if cores > 1:
    assert results[f"audio.load, {cores} threads"]["clips_per_s_ratio"] > 1.2


def test_prepare(music, capsys):
  result = results_of(capsys, "prepare", f"--path={music}", "--repeats=1")
  result = result["prepare"]
  assert result["clips"] == 3
  # 3 s at 22,050 Hz and two bytes a sample; MP3 pads, and a label is small.
  assert result["bytes_per_clip"] == pytest.approx(132_300, rel=0.1)
  assert result["clips_per_s"] == pytest.approx(3 / result["seconds"])
  assert 0 < result["read_ms_per_clip"] < 1000 and result["peak_mib"] > 100


def test_errors(tmp_path, capsys):
  for args, message in (
    ([f"--path={tmp_path}"], "holds no audio files"),
    (["--clips=0"], "must be 1 or more"),
  ):
    with pytest.raises(SystemExit):
      bench.main(["decode", *args])
    assert message in capsys.readouterr().err
