"""Runs the trainings and probes of a suite, one process after another."""

import contextlib
import ctypes
import datetime
import fcntl
import functools
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

from vicreg_jax import files, python_file, shipped
from vicreg_jax.study import plan, tables

COMMAND = (sys.executable, "-m", "vicreg_jax.main")
FINISHED = "finished.json"
LOG = "log.txt"
_PATIENCE = 120  # seconds, for a run that an interrupted suite has left


def members(suite: plan.Suite) -> list[list[plan.Job]]:
  """The runs, each with its probes, all once. Of CLMR's the longest counts."""
  firsts, probes = {}, {}
  for point in suite.points:
    if not point.jobs:
      continue
    run, *rest = point.jobs
    known = firsts.get(run.workdir)
    if known is None or known.work < run.work:
      firsts[run.workdir] = run
    for job in rest:
      probes.setdefault(run.workdir, {})[job.workdir] = job
  return [[run, *probes.get(name, {}).values()] for name, run in firsts.items()]


class Runner:
  """Runs jobs one after another, each in a process of its own."""

  def __init__(self, root: str, extra: list[str], count: int):
    self._root = root
    self._extra = extra
    self._count = count
    self._done = 0  # or skipped
    self._child = None
    self.stopped = False

  def __enter__(self):
    self._before = {
      s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)
    }
    return self

  def __exit__(self, *unused):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _stop(self, number, frame):
    self.stopped = True
    if self._child is not None:
      self._child.send_signal(signal.SIGTERM)  # saves, and ends with 75

  def run(self, job: plan.Job) -> bool:
    """Runs a job unless it is finished; returns whether it is finished now."""
    extra = applicable(job, self._extra)
    if _finished(job, extra, self._root):
      self._done += 1
      self._say(f"{job.workdir}: was finished before")
      return True
    started = time.monotonic()
    self._say(f"{job.workdir}: started")
    code = self._call(job, [*job.flags(self._root), *extra])
    if code:
      if not self.stopped:
        log = _log_path(f"{self._root}/{job.workdir}")
        self._say(f"{job.workdir}: FAILED with code {code}, see {log}")
      return False
    done = {"flags": _identity(job, extra), "work": job.work}
    path = f"{self._root}/{job.workdir}/{FINISHED}"
    tables.write(path, json.dumps(done, indent=1) + "\n")
    taken = datetime.timedelta(seconds=round(time.monotonic() - started))
    self._done += 1
    self._say(f"{job.workdir}: finished in {taken}")
    return True

  def skip(self, job: plan.Job, why: str):
    """Counts a job that cannot run, and prints why."""
    self._done += 1
    self._say(f"{job.workdir}: skipped, {why}")

  def _say(self, text):
    print(f"[{self._done}/{self._count}] {text}", file=sys.stderr, flush=True)

  def _call(self, job, flags) -> int:
    workdir = f"{self._root}/{job.workdir}"
    log = _open_log(workdir)
    _wait_for_lock(workdir, lambda: self.stopped)
    with log:
      command = [*COMMAND, *flags]
      log.write(f"$ {shlex.join(command)}\n".encode())
      log.flush()
      # In a session of its own: Ctrl-C reaches it once, through `_stop`.
      self._child = subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
      )
      if self.stopped:  # between the last look and the child
        self._child.send_signal(signal.SIGTERM)
      relay = threading.Thread(target=self._relay, args=(log,))
      relay.start()
      code = self._child.wait()
      relay.join()
      self._child = None
    return code

  def _relay(self, log):
    """Writes a run's output to its log, and shows its progress."""
    for line in self._child.stderr:
      # A full disk or a closed terminal must not stop the reading: the run
      # would wait forever.
      with contextlib.suppress(OSError):
        log.write(line)
        log.flush()
      with contextlib.suppress(OSError):
        if line.startswith((b"step ", b"error: ")):
          sys.stderr.write(f"    {line.decode(errors='replace')}")
          sys.stderr.flush()


_libc = ctypes.CDLL(None)


def _die_with_parent():
  """Makes a run save and end when its suite is killed."""
  pr_set_pdeathsig = 1
  _libc.prctl(pr_set_pdeathsig, signal.SIGTERM)


def _log_path(workdir) -> pathlib.Path:
  """The log beside the run; on this disk for a bucket, which cannot append."""
  if files.is_bucket(workdir):
    return pathlib.Path("suite_logs", *workdir.split("/")[-2:], LOG)
  return pathlib.Path(workdir, LOG)


def _open_log(workdir):
  path = _log_path(workdir)
  with files.explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _wait_for_lock(workdir, stopped):
  """Waits for a run of a killed suite, which is saving."""
  path = pathlib.Path(workdir, "lock")
  start, said = time.monotonic(), False
  while path.exists() and time.monotonic() < start + _PATIENCE:
    if stopped():
      return
    if not said and time.monotonic() > start + 5:
      said = True
      print(f"waiting for another process in {workdir}", file=sys.stderr)
    with path.open("r") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
      except BlockingIOError:
        time.sleep(0.5)


def applicable(job, extra: list[str]) -> list[str]:
  """Those of the suite's --config flags whose key the job has."""
  keys = job_keys(job.config) if extra else ()
  return [flag for flag in extra if key_of(flag) in keys]


@functools.cache
def job_keys(config: str) -> set[str]:
  """All keys, with dots, of a config file."""
  from flax import traverse_util  # slow to import, and seldom needed

  path = shipped.config(f"configs/{config}.py")
  loaded = python_file.call(path, "get_config")
  return set(traverse_util.flatten_dict(loaded.to_dict(), sep="."))


def key_of(flag):
  return flag.removeprefix("--config.").partition("=")[0]


def _identity(job, extra) -> list[str]:
  """A job's flags, without paths."""
  places = ("data.dir", "data.path", "data.download", "data.beam")
  extra = [flag for flag in extra if key_of(flag) not in places]
  return [*job.flags(""), *extra]


def _finished(job, extra, root) -> bool:
  """Whether the job is finished with these flags."""
  found = tables.read_json(f"{root}/{job.workdir}/{FINISHED}")
  if not (found and {"flags", "work"} <= found.keys()):
    return False
  before, now = found["flags"], _identity(job, extra)
  if job.longer and found["work"] > job.work:
    length = ("--config.epochs=", "--config.checkpoint.keep_at_epochs=")
    before, now = (
      [f for f in some if not f.startswith(length)] for some in (before, now)
    )
  return before == now


def run_all(runner: Runner, chosen: list[list[plan.Job]]) -> list[plan.Job]:
  """Runs members until all are done or it is stopped; returns failed ones."""
  failed = []
  for first, *probes in chosen:
    finished = runner.run(first)
    if not (finished or runner.stopped):
      failed.append(first)
      for job in probes:
        runner.skip(job, f"as {first.workdir} is not finished")
    for job in probes if finished else ():
      if not (runner.stopped or runner.run(job) or runner.stopped):
        failed.append(job)
    if runner.stopped:
      break
  return failed


def check_workdir(root, scale):
  """Raises ValueError if the workdir is of another scale.

  Runs of either scale have the same names.
  """
  path = f"{root}/suites.json"
  found = tables.read_json(path)
  if found is None:
    tables.write(path, json.dumps({"scale": scale.name}) + "\n")
  elif found.get("scale") != scale.name:
    raise ValueError(
      f"--workdir={root} holds suites of --scale={found.get('scale')}: use"
      f" another --workdir for --scale={scale.name}"
    )
