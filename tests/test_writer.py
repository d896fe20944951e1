"""A run's files: what is in them, after a crash and on a full disk too."""

import glob
import io
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from vicreg_jax.training import writer as writer_lib
from vicreg_jax.training.writer import Writer


def strict_lines(path):
  """The objects of a .jsonl file, refusing NaN and Infinity."""

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  with open(path, encoding="utf-8") as f:
    text = f.read()
  assert not text or text.endswith("\n")
  return [json.loads(s, parse_constant=refuse) for s in text.splitlines()]


def tensorboard_scalars(workdir):
  """[(step, tag, value)] and purge steps, by TensorFlow's own reader."""
  scalars, starts = [], []
  for path in sorted(glob.glob(os.path.join(workdir, "tb", "*"))):
    for event in tf.compat.v1.train.summary_iterator(path):
      if event.session_log.status:
        starts.append(event.step)
      for value in event.summary.value:
        scalars.append((event.step, value.tag, value.simple_value))
  return scalars, starts


def test_lines_and_events_hold_the_values(tmp_path):
  with Writer(tmp_path, total_steps=10) as writer:
    writer.write(
      1,
      {
        "python": 0.1,
        "float32": np.float32(0.1),
        "jax": jnp.float32(0.25),
        "bfloat16": jnp.bfloat16(1.5),
        "count": np.int64(7),
        "flag": True,
      },
    )
    writer.write(
      np.int64(2), {"a": np.nan, "b": np.inf, "c": -1.0}, prefix="train"
    )
  path = tmp_path / "metrics.jsonl"
  assert strict_lines(path) == [
    {
      "step": 1,
      "python": 0.1,
      "float32": float(np.float32(0.1)),
      "jax": 0.25,
      "bfloat16": 1.5,
      "count": 7,
      "flag": 1,
    },
    {"step": 2, "train/a": None, "train/b": None, "train/c": -1.0},
  ]
  scalars, starts = tensorboard_scalars(tmp_path)
  assert starts == []
  assert len(scalars) == 9
  assert (1, "jax", 0.25) in scalars and (2, "train/c", -1.0) in scalars
  by_tag = {tag: value for _, tag, value in scalars}
  assert np.isnan(by_tag["train/a"]) and by_tag["train/b"] == np.inf


def test_a_line_is_on_disk_when_write_returns(tmp_path):
  writer = Writer(tmp_path, total_steps=2)
  writer.write(1, {"loss": 2.0})
  assert strict_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]
  writer.close()
  writer.close()


def run(workdir, start, stop, resume=False):
  with Writer(workdir, total_steps=9) as writer:
    if resume:
      writer.truncate_after(start)
    for step in range(start + 1, stop + 1):
      writer.write(step, {"loss": 1 / step, "rate": step * 0.1}, "train")
      if step % 3 == 0:
        writer.write(step, {"loss": 2 / step}, "validation")


@pytest.mark.parametrize("torn", [b"", b'{"step": 8, "tra', b'{"step": 8}'])
def test_a_resumed_file_equals_an_unbroken_one(tmp_path, torn):
  run(tmp_path / "whole", 0, 9)
  run(tmp_path / "broken", 0, 7)
  path = tmp_path / "broken" / "metrics.jsonl"
  with open(path, "ab") as f:
    f.write(torn)
  run(tmp_path / "broken", 5, 9, resume=True)
  assert path.read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
  assert sorted(os.listdir(tmp_path / "broken")) == ["metrics.jsonl", "tb"]
  scalars, starts = tensorboard_scalars(tmp_path / "broken")
  assert starts == [6]  # TensorBoard hides steps >= 6 of the first run
  assert sum(tag == "train/loss" for _, tag, _ in scalars) == 7 + 4


def test_truncate_without_a_file_and_with_a_broken_one(tmp_path):
  run(tmp_path, 0, 2, resume=True)
  path = tmp_path / "metrics.jsonl"
  assert [line["step"] for line in strict_lines(path)] == [1, 2]
  path.write_bytes(b'{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
  with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is not"):
    Writer(tmp_path, total_steps=9).truncate_after(5)


def test_header_writes_the_config(tmp_path, capsys):
  config = {"seed": 3, "job": "pretrain", "w": (1, 2)}
  config["loss"] = {"name": "vicreg"}
  with Writer(tmp_path, total_steps=10) as writer:
    writer.run_header(config)
    with pytest.raises(ValueError, match="cannot be written as JSON"):
      writer.run_header({"seed": object()})
  got = json.loads((tmp_path / "config.json").read_text())
  assert got == {
    "seed": 3,
    "job": "pretrain",
    "loss": {"name": "vicreg"},
    "w": [1, 2],
  }
  assert os.listdir(tmp_path) == ["config.json"]  # no temporary file left
  header = capsys.readouterr().err
  assert str(tmp_path) in header and "job=pretrain, seed=3" in header


def test_config_survives_a_failed_replacement(tmp_path, monkeypatch):
  writer = Writer(tmp_path, total_steps=10)
  writer.run_header({"seed": 1})

  def full(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(ValueError, match=r"config.json: No space left.*workdir"):
    writer.run_header({"seed": 2})
  assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}
  assert os.listdir(tmp_path) == ["config.json"]  # no temporary file left


def test_a_disk_that_takes_no_events_is_named(tmp_path):
  class Full:
    def write(self, _):
      raise tf.errors.ResourceExhaustedError(None, None, "No space left")

    def close(self):
      pass

  with Writer(tmp_path, total_steps=2) as writer:
    writer.write(1, {"a": 1.0})
    writer._events.close()
    writer._events = Full()
    with pytest.raises(ValueError, match=r"cannot write .*/tb: No space left"):
      writer.write(2, {"a": 1.0})


def test_bad_metrics_are_refused(tmp_path):
  with Writer(tmp_path, total_steps=10) as writer:
    for bad in (np.ones(2), "1.0", None, {"a": 1}):
      with pytest.raises(ValueError, match=r"'train/loss'.*single numbers"):
        writer.write(1, {"loss": bad}, prefix="train")
    with pytest.raises(ValueError, match="'step' is kept for the step"):
      writer.write(1, {"step": 2})
  assert not (tmp_path / "metrics.jsonl").exists()


class Clock:
  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(writer_lib.time, "monotonic", lambda: self.now)


def test_progress_lines_where_there_is_no_terminal(
  tmp_path, capsys, monkeypatch
):
  clock = Clock(monkeypatch)
  with Writer(tmp_path, total_steps=1000, log_seconds=30) as writer:
    clock.now += 500  # a long compilation, not in the rate
    for step in range(401, 601):
      writer.progress(step, note=f"loss {step}")
      clock.now += 0.5
    clock.now += 0.5
    writer.progress(1000, note="")
  lines = capsys.readouterr().err.splitlines()
  # 2 steps a second from step 401 on: a line at 461, 521 and 581.
  assert lines[:3] == [
    "step 461/1000 (46.1%), 2 step/s, 0:04:30 left, loss 461",
    "step 521/1000 (52.1%), 2 step/s, 0:04:00 left, loss 521",
    "step 581/1000 (58.1%), 2 step/s, 0:03:30 left, loss 581",
  ]
  assert len(lines) == 4 and lines[3].startswith("step 1000/1000 (100.0%), ")
  assert lines[3].endswith(" 0:00:00 left")


def test_progress_bar_on_a_terminal(tmp_path, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr("sys.stderr", terminal)
  with Writer(tmp_path, total_steps=8) as writer:
    for step in range(3, 9):
      writer.progress(step, note=f"loss {step}.5")
  last = terminal.getvalue().split("\r")[-1]
  assert "8/8" in last and "100%" in last and "loss 8.5" in last
