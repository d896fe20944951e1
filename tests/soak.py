"""Kills a run over and over, and compares what is left with an unbroken one.

    python tests/soak.py --kills=50 [--devices=8] [--seed=0]

A run (pretraining with every augmentation, then the probes) is killed by
SIGKILL at random moments of its start, its steps, its saves and its probes, and
started anew by the same command until it ends. Checkpoints, metrics.jsonl and
probe.json must equal those of an unbroken run bit for bit, and every start must
continue from the newest checkpoint that had been committed. Prints a summary.
`tests/test_soak.py` runs four kills, one in each of these.

Imports take most of a start, and touch nothing of a run: warm.py forks the runs
from a process that has imported all that the command does.
"""

import argparse
import collections
import pathlib
import random
import re
import tempfile
import time

import conftest  # noqa: F401  the environment
import runs
import warm

START, STEP, SAVE, PROBE = PHASES = ("start", "step", "save", "probe")
SAVE_EVERY = 2  # within an epoch of 3 steps

CONFIG = """
from conftest import shrink
from vicreg_jax import config as configs
def get_config():
  c = shrink(configs.base_pretrain(), {data!r})
  for op in c.augment.values():
    op.p = 0.8
  c.steps = {steps}
  c.shuffle_buffer = 7  # a window smaller than the set
  c.log_every_steps = 2
  c.eval_every_epochs = 3.0
  c.checkpoint.every_epochs = {epochs}
  c.checkpoint.keep = 2
  c.probe_after = True
  c.probe.untrained, c.probe.heads = False, ("linear",)
  c.probe.max_epochs = {probe_epochs}
  return c
"""


class Soak:
  """One run in `directory`, its kills, and the run to compare it with."""

  def __init__(self, directory, data_dir, *, kills, devices, seed):
    self._directory = pathlib.Path(directory)
    self._random = random.Random(seed)
    self._devices = devices
    self.total = SAVE_EVERY * max(4, kills)
    self._config = self._directory / "soak_config.py"
    # SIZES of conftest: 24 clips, 3 steps an epoch of 8 clips.
    self._config.write_text(
      CONFIG.format(
        data=str(data_dir),
        steps=self.total,
        epochs=SAVE_EVERY / 3,
        probe_epochs=20,  # long enough to be killed
      )
    )
    self.workdir = self._directory / "killed"
    self.reference = self._directory / "unbroken"
    self.killed = collections.Counter()
    self.starts = 0
    self._newest = 0
    self._plan = self._make_plan(kills)

  def _make_plan(self, kills):
    """(phase, step from which it counts) of each kill, in order."""
    late = max(1, kills // 5)  # in the probes, or starts on the way there
    early = kills - late
    plan = [
      (self._random.choice((START, STEP, SAVE, SAVE)), i * self.total // kills)
      for i in range(early)
    ]
    plan[:3] = [(p, at) for p, (_, at) in zip((SAVE, START, STEP), plan)]
    plan += [(PROBE, self.total) for _ in range(late)]
    return plan

  def run(self):
    """Kills as planned, then lets both runs end.

    Raises:
      AssertionError: something was lost.
    """
    begin = time.monotonic()
    self._finish(self.reference)
    self._unbroken_seconds = time.monotonic() - begin
    for phase, step in self._plan:
      self._live(phase, step)
    self._finish(self.workdir)
    self._check_log()
    self._seconds = time.monotonic() - begin

  def summary(self) -> str:
    kills = ", ".join(f"{self.killed[p]} in {p}" for p in PHASES)
    return (
      f"{sum(self.killed.values())} kills ({kills}), {self.starts} starts,"
      f" {self.total} steps, {self._devices or 1} device(s),"
      f" {self._seconds:.0f} s (unbroken: {self._unbroken_seconds:.0f} s)."
      " Checkpoints, metrics.jsonl and probe.json equal, bit for bit."
    )

  def _start(self, workdir):
    log = self._log(workdir)
    return warm.command(
      f"--config={self._config}",
      f"--workdir={workdir}",
      out=log,
      err=log,
      env=warm.devices(self._devices or 1),
    )

  def _log(self, workdir):
    return self._directory / f"{workdir.name}{self.starts}.log"

  def _finish(self, workdir):
    self.starts += workdir == self.workdir
    code, log, _ = self._start(workdir).wait()
    assert code == 0, log

  def _live(self, phase, step):
    """Starts the run and kills it in `phase`, once `step` is committed."""
    metrics = self.workdir / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    delays = {START: 4.0, STEP: 0.3, SAVE: 0.03, PROBE: 4.0}
    delay = self._random.uniform(0, delays[phase])
    self.starts += 1
    process = self._start(self.workdir)
    deadline = time.monotonic() + warm.PATIENCE

    def now():
      """The phase that the run is in, as its files show."""
      committed = self._committed()
      if any("tmp" in p.name for p in self._checkpoints()):
        return SAVE if self._stepped(before) else START
      if committed == self.total:
        return PROBE
      return STEP if self._stepped(before) else START

    try:
      while phase != START and process.poll() is None:
        assert time.monotonic() < deadline
        if now() == phase and self._committed() >= step:
          break
        if now() == PROBE:  # the moment was missed
          break
        time.sleep(0.001)
      time.sleep(delay)
    finally:
      found = now()
      process.kill()
      code, *_ = process.wait()
    assert code in (0, -9), code
    if code == -9:
      self.killed[found] += 1
    self._check_log()
    self._newest = self._committed()

  def _checkpoints(self):
    path = self.workdir / "checkpoints"
    return list(path.iterdir()) if path.exists() else []

  def _committed(self) -> int:
    names = [p.name for p in self._checkpoints()]
    newest = max((int(n) for n in names if n.isdigit()), default=0)
    assert newest >= self._newest, f"{names}: {self._newest} is lost"
    return newest

  def _stepped(self, before):
    """Whether this life has logged a step that was not committed before."""
    metrics = self.workdir / "metrics.jsonl"
    if not metrics.exists() or metrics.stat().st_mtime_ns <= before:
      return False
    steps = re.findall(r'^{"step": (\d+)', metrics.read_text(), re.MULTILINE)
    return bool(steps) and int(steps[-1]) > self._newest

  def _check_log(self):
    """The life continued from the newest checkpoint, and had no complaint."""
    text = self._log(self.workdir).read_text()
    assert "damaged" not in text and "error" not in text.lower(), text
    if "labels" in text and "step/s" in text and self._newest:
      assert "continuing from step" in text, text
    for step in re.findall(r"continuing from step (\d+)", text):
      assert int(step) == self._newest, (step, self._newest)

  def compare(self):
    """Raises AssertionError unless both runs left the same."""
    names = [
      sorted(p.name for p in (d / "checkpoints").iterdir())
      for d in (self.workdir, self.reference)
    ]
    assert names[0] == names[1], names
    for name in names[0]:
      for item in ("encoder", "rest"):
        one, other = (
          arrays(d / "checkpoints" / name / item)
          for d in (self.workdir, self.reference)
        )
        assert one.keys() == other.keys()
        for key, value in one.items():
          assert value.dtype == other[key].dtype
          assert value.tobytes() == other[key].tobytes(), (name, key)
    assert runs.lines_of(self.workdir) == runs.lines_of(self.reference)
    for name in ("probe.json", "probe_tags.csv"):
      one, other = (d / name for d in (self.workdir, self.reference))
      assert one.read_bytes() == other.read_bytes(), name


def arrays(path) -> dict:
  """All arrays of a checkpoint's item by name, whatever devices saved them."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
    )
    tree = checkpointer.restore(path, restore_args=as_numpy)
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--devices", type=int, default=0)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    soak = Soak(
      directory,
      f"{directory}/data",
      kills=args.kills,
      devices=args.devices,
      seed=args.seed,
    )
    soak.run()
    soak.compare()
  print(soak.summary())


if __name__ == "__main__":
  main()
