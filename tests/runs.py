"""What the tests of trainings share: stopping a run, and what it leaves."""

import contextlib
import json
import os
import resource
import subprocess

import jax
import numpy as np
import pytest
import sklearn.metrics

from vicreg_jax import files
from vicreg_jax.data import input_pipeline
from vicreg_jax.training import loop


def lines_of(workdir, name="metrics.jsonl"):
  """metrics.jsonl without its timing; also of a bucket."""
  lines = files.read(f"{workdir}/{name}").decode().splitlines()
  rows = [json.loads(line) for line in lines]
  timing = "train/clips_per_second"
  return [{k: v for k, v in r.items() if k != timing} for r in rows]


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def auc_of_tags(encoder, prepared, head=""):
  """ROC-AUC in percent of tags of the test clips, by scikit-learn."""
  labels_NxK = input_pipeline.labels(prepared, "test").labels_NxK
  clips = [
    np.frombuffer(pcm, "<i2").astype(np.float32) / 32767
    for pcm in input_pipeline.samples(prepared, "test")
  ]
  shares_NxK = [[*encoder.tags(x, 22_050, head).values()] for x in clips]
  known = (labels_NxK.min(0) == 0) & (labels_NxK.max(0) == 1)
  return 100 * sklearn.metrics.roc_auc_score(
    labels_NxK[:, known], np.array(shares_NxK)[:, known]
  )


@contextlib.contextmanager
def at_step(number, what):
  """Does something in a run once a step is recorded."""
  record = loop._Loop._record

  def also(self, step, scalars):
    record(self, step, scalars)
    if step == number:
      what()

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop._Loop, "_record", also)
    yield


class Stop(Exception):
  pass


@contextlib.contextmanager
def stopped_at(number):
  """A run within crashes once a step is recorded."""

  def stop():
    raise Stop

  with at_step(number, stop), pytest.raises(Stop):
    yield


@contextlib.contextmanager
def small_disk(path):
  """Yields a function that leaves no room below `path`, and one that frees it.

  A disk of its own where that may be mounted; else no file may grow.
  """
  path.mkdir(exist_ok=True)
  command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
  if os.geteuid() == 0 and not subprocess.run(command).returncode:
    filler = path / "filler"

    def fill():
      with contextlib.suppress(OSError), filler.open("wb", buffering=0) as f:
        while f.write(bytes(1 << 12)):
          pass

    try:
      yield fill, filler.unlink
    finally:
      subprocess.run(["umount", "-l", str(path)], check=True)
  else:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
      resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    try:
      yield lambda: limit(1), lambda: limit(soft)
    finally:
      limit(soft)


FULL = r"(No space left on device|File too large)"
