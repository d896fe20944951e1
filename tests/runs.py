"""What runs of tests have written, and what befalls them."""

import json
import pathlib

import jax
import numpy as np

from vicreg_jax.training import loop


def lines_of(workdir, name="metrics.jsonl"):
  """The lines of a run's metrics without its timing."""
  text = (pathlib.Path(workdir) / name).read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  for row in rows:
    row.pop("train/clips_per_second", None)
  return rows


def assert_same(a, b):
  """Whether two states are the same to the bit."""
  jax.tree.map(np.testing.assert_array_equal, a, b)


def at_step(monkeypatch, number, what):
  """Does something in a run once a step is recorded."""
  record = loop._Loop._record

  def also(self, step, scalars):
    if step == number:
      what()
    record(self, step, scalars)

  monkeypatch.setattr(loop._Loop, "_record", also)
