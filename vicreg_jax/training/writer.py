"""Writes a run's metrics.jsonl, TensorBoard events and progress.

    with Writer(workdir, total_steps=1000) as writer:
      writer.run_header(config)
      writer.truncate_after(step)  # on resuming from the checkpoint of `step`
      for step in ...:
        writer.write(step, {"loss": 1.5}, prefix="train")
        writer.progress(step, note="loss 1.5")

Objects in a bucket cannot be appended to. There the files are written on the
local disk, and copied whole: each minute, and by `flush`. A flush before each
checkpoint lets a resumed run find all lines up to the checkpoint.

A line of metrics.jsonl is {"step": 7, "train/loss": 1.5}. Values that are nan
or infinite, which JSON lacks, are null; TensorBoard gets them unchanged.
"""

import contextlib
import datetime
import json
import math
import os
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from vicreg_jax import files
from vicreg_jax.training import workdir as workdirs

_v1 = tf.compat.v1  # which has the events' messages

# A flush of the events is a write to the disk: not at every line.
FLUSH_SECONDS = 10.0
BUCKET_FLUSH_SECONDS = 60.0


class Silent:
  """A Writer that writes nothing, for all hosts but the first."""

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def _nothing(self, *_, **unused):
    pass

  run_header = truncate_after = write = progress = note = flush = _nothing


class Writer:
  """Writes a run's metrics into `workdir` and its progress to stderr.

  A line of metrics.jsonl outlives the process once `write` returns; TensorBoard
  may be 10 s behind, and in a bucket both a minute. One process writes a
  workdir: on several hosts the first, and the others have a `Silent`.

  Args:
    workdir: a directory, made if necessary, or gs://...
    total_steps: of the run, for the remaining time.
    log_seconds: between two progress lines if stderr is no terminal; a terminal
      gets a bar.

  Raises:
    ValueError: here and in every method, the disk refuses; names the path.
  """

  def __init__(self, workdir, *, total_steps, log_seconds=30.0):
    self.workdir = os.fspath(workdir)
    self.total_steps = total_steps
    self._log_seconds = log_seconds
    self._bucket = files.is_bucket(workdir)
    self._flush_seconds = FLUSH_SECONDS
    self._directory = self.workdir
    if self._bucket:
      self._flush_seconds = BUCKET_FLUSH_SECONDS
      self._temporary = tempfile.TemporaryDirectory()
      self._directory = self._temporary.name
    self._metrics_path = os.path.join(self._directory, workdirs.METRICS)
    self._metrics_file = None
    self._events = None
    self._flushed = -math.inf
    self._purge_step = None
    self._bar = None
    self._last = None  # (seconds, step) of the last progress line
    with files.explained(self._directory):
      os.makedirs(self._directory, exist_ok=True)

  def __enter__(self):
    return self

  def __exit__(self, error_type, *_):
    try:
      self.close()
    except ValueError:
      if error_type is None:  # else the first error says more
        raise

  def close(self):
    """Closes the files and the bar. May be called twice."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None
    if self._metrics_file is not None:
      self._metrics_file.close()
      self._metrics_file = None
    if self._events is not None:
      events, self._events = self._events, None
      with self._explained_events():
        events.close()
      self._upload()

  def flush(self):
    """Puts everything written so far into the workdir."""
    if self._events is not None:
      with self._explained_events():
        self._events.flush()
      self._upload()
    self._flushed = time.monotonic()

  def _upload(self):
    """Copies metrics.jsonl and events into the bucket, if there is one."""
    if not self._bucket:
      return
    events = os.listdir(os.path.join(self._directory, "tb"))
    for name in [workdirs.METRICS, *(f"tb/{event}" for event in events)]:
      with files.explained(f"{self.workdir}/{name}"):
        content = files.read(os.path.join(self._directory, name))
        files.write(f"{self.workdir}/{name}", content)

  def note(self, text):
    """Prints to stderr."""
    print(text, file=sys.stderr)

  def run_header(self, config):
    """Writes config.json, atomically, and prints the run's first lines.

    Args:
      config: a dict that JSON can hold.
    """
    workdirs.write_config(config, self.workdir)
    plain = {k: v for k, v in config.items() if not isinstance(v, dict)}
    self.note(f"workdir: {self.workdir}, {self.total_steps} steps")
    self.note(
      "config:  " + ", ".join(f"{k}={v}" for k, v in sorted(plain.items()))
    )

  def truncate_after(self, step):
    """Drops the metrics of steps above `step`, and a torn last line.

    Then steps that a resumed run repeats appear once, as in an unbroken run;
    TensorBoard hides the dropped ones. Call it before the first write.
    """
    assert self._metrics_file is None, "truncate_after comes before write"
    self._purge_step = step + 1
    path = f"{self.workdir}/{workdirs.METRICS}"
    with files.explained(path):
      if not files.exists(path):
        return
    lines = files.read_metrics(path)
    kept = b"".join(_encode(line) for line in lines if line["step"] <= step)
    with files.explained(path):
      files.write(path, kept)
    if self._bucket:  # further lines are appended to a copy
      with files.explained(self._metrics_path):
        files.write(self._metrics_path, kept)

  def write(self, step, scalars, prefix=""):
    """Appends one line to metrics.jsonl and the same to TensorBoard.

    Args:
      step: of the optimizer, an int.
      scalars: dict of names to numbers (Python, NumPy or JAX scalars).
      prefix: put before each name, with a slash: "train" gives "train/loss".
    """
    values = {}
    for key, value in scalars.items():
      name = f"{prefix}/{key}" if prefix else key
      array = np.asarray(value)
      if array.ndim or not _is_number(array.dtype) or name == "step":
        raise ValueError(
          f"Metric {name!r} is {value!r} (shape {array.shape}): metrics are "
          "single numbers, and 'step' is kept for the step."
        )
      values[name] = int(array) if array.dtype.kind in "iub" else float(array)
    if self._metrics_file is None:
      self._open()
    line = {"step": int(step)} | {
      k: v if math.isfinite(v) else None for k, v in values.items()
    }
    with files.explained(self._metrics_path):
      rest = _encode(line)
      while rest:  # an unbuffered write may be short on a full disk
        rest = rest[self._metrics_file.write(rest) :]
    points = [
      _v1.Summary.Value(tag=name, simple_value=value)
      for name, value in values.items()
    ]
    self._write_event(step, summary=_v1.Summary(value=points))
    if time.monotonic() - self._flushed > self._flush_seconds:
      self.flush()

  def progress(self, step, note=""):
    """Shows that `step` is done, with the rate and the time left.

    The first call only starts the clock, as the first step also compiles.
    """
    now = time.monotonic()
    if self._last is None:
      self._last = (now, step)
      if sys.stderr.isatty():
        self._bar = tqdm(
          total=self.total_steps,
          initial=step,
          unit="step",
          file=sys.stderr,
          dynamic_ncols=True,
        )
      return
    if self._bar is not None:
      self._bar.set_postfix_str(note, refresh=False)
      self._bar.update(step - self._bar.n)
      return
    seconds, done = now - self._last[0], step - self._last[1]
    if done and (seconds >= self._log_seconds or step >= self.total_steps):
      left = round((self.total_steps - step) * seconds / done)
      print(
        f"step {step}/{self.total_steps} ({step / self.total_steps:.1%}), "
        f"{done / max(seconds, 1e-9):.3g} step/s, "
        f"{datetime.timedelta(seconds=left)} left" + (note and f", {note}"),
        file=sys.stderr,
        flush=True,
      )
      self._last = (now, step)

  def _open(self):
    with files.explained(self._metrics_path):
      self._metrics_file = open(  # noqa: SIM115 (`close` closes it)
        self._metrics_path, "ab", buffering=0
      )
    tb = os.path.join(self._directory, "tb")
    with files.explained(tb):
      os.makedirs(tb, exist_ok=True)
    # The thread of TensorFlow's own summaries would lose the error of a full
    # disk. Names count nanoseconds: a quick resume adds a file.
    name = f"events.out.tfevents.{time.time_ns()}"
    with self._explained_events():
      self._events = tf.io.TFRecordWriter(os.path.join(tb, name))
    self._write_event(0, file_version="brain.Event:2")
    if self._purge_step is not None:
      start = _v1.SessionLog(status=_v1.SessionLog.START)
      self._write_event(self._purge_step, session_log=start)

  def _write_event(self, step, **what):
    event = _v1.Event(wall_time=time.time(), step=int(step), **what)
    with self._explained_events():
      self._events.write(event.SerializeToString())

  @contextlib.contextmanager
  def _explained_events(self):
    """`files.explained` for TensorFlow's errors."""
    with files.explained(os.path.join(self._directory, "tb")):
      try:
        yield
      except tf.errors.OpError as e:
        raise OSError(e.message.rpartition("; ")[2]) from e  # PATH; REASON


def _encode(line):
  return f"{json.dumps(line, allow_nan=False)}\n".encode()


def _is_number(dtype):
  return np.issubdtype(dtype, np.number) or dtype.name in ("bool", "bfloat16")
