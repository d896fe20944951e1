"""The quickstart's start: from the command to the first step, and its memory.

`cold` has an empty compilation cache, `warm` that of the run before it; the
data are prepared in both. `imports` is a process that only imports what
training needs. `peak_mib` is that of the training process, after some steps.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from vicreg_jax.benchmarks.support import timing


def add_arguments(parser):
  """The benchmark's own flags."""
  parser.add_argument("--config", default="configs/quickstart.py")
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument(
    "--set", action="append", default=[], help="batch_size=8, say; repeatable"
  )


def run(args) -> timing.Report:
  """Cold and warm in turn."""
  rows = {"imports": [], "cold": [], "warm": []}
  with tempfile.TemporaryDirectory() as directory:
    cache = f"{directory}/xla"
    _train(args, directory, cache)  # prepares the data, reads the files
    for _ in range(args.repeats):
      rows["imports"].append(_imports())
      shutil.rmtree(cache)
      rows["cold"].append(_train(args, directory, cache))
      rows["warm"].append(_train(args, directory, cache))
  results = {
    name: {key: timing.spread([row[key] for row in taken]) for key in taken[0]}
    for name, taken in rows.items()
  }
  return timing.Report(results, [])


def _imports():
  taken = timing.clock(
    lambda: subprocess.run(
      [
        sys.executable,
        "-c",
        "import vicreg_jax.main, vicreg_jax.jobs.pretrain",
      ],
      check=True,
    )
  )
  return {"s": taken.wall, "cpu_s": taken.cpu}


def _train(args, directory, cache):
  workdir = pathlib.Path(directory, "run")
  shutil.rmtree(workdir, ignore_errors=True)
  command = [sys.executable, "-m", "vicreg_jax.main"]
  command += [f"--config={args.config}", f"--workdir={workdir}"]
  changes = ["probe_after=False", f"steps={args.steps}", "log_every_steps=1"]
  changes += [f"data.dir={directory}/data", *args.set]
  command += [f"--config.{change}" for change in changes]
  start = time.perf_counter()
  process = subprocess.Popen(
    command,
    env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  first, waiting = None, os.WEXITED | os.WNOHANG | os.WNOWAIT
  while first is None and not os.waitid(os.P_PID, process.pid, waiting):
    time.sleep(0.01)
    if _has_step(workdir / "metrics.jsonl"):
      first = time.perf_counter() - start
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode or first is None:
    raise ValueError(f"{' '.join(command)} failed; run it to see why")
  return {"first_step_s": first, "peak_mib": usage.ru_maxrss / 1024}


def _has_step(path):
  return path.exists() and '"train/loss"' in path.read_text()
