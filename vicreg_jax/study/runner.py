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

from vicreg_jax import files
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


# --- running -----------------------------------------------------------------


class Runner:
  """Runs jobs one after another, each in a process of its own."""

  def __init__(self, root: str, extra: list[str], jobs: list[plan.Job]):
    self._root = root
    self._extra = extra
    self._left = {job.workdir: job for job in jobs}
    self._count = len(jobs)
    self._seconds = {}  # config: (seconds, work) of what has been done
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
    """Whether the job is finished, by now or before."""
    extra = applicable(job, self._extra)
    done = _finished(job, extra, self._root)
    if done is None:
      started = time.monotonic()
      # What a run took before it was interrupted is not known.
      whole = not files.exists(f"{self._root}/{job.workdir}/checkpoints")
      self._say(f"{job.workdir}: started{self._eta()}")
      code = self._call(job, [*job.flags(self._root), *extra])
      if code:
        if not self.stopped:
          log = _log_path(f"{self._root}/{job.workdir}")
          self._say(f"{job.workdir}: FAILED with code {code}, see {log}")
        return False
      seconds = time.monotonic() - started
      done = {
        "flags": _identity(job, extra),
        "work": job.work,
        "seconds": seconds if whole else None,
      }
      path = f"{self._root}/{job.workdir}/{FINISHED}"
      tables.write(path, json.dumps(done, indent=1) + "\n")
      state = f"finished in {datetime.timedelta(seconds=round(seconds))}"
    else:
      state = "was finished before"
    del self._left[job.workdir]
    if done["seconds"] is not None:
      seconds, work = self._seconds.get(job.config, (0.0, 0.0))
      self._seconds[job.config] = seconds + done["seconds"], work + done["work"]
    self._say(f"{job.workdir}: {state}{self._eta()}")
    return True

  def skip(self, job: plan.Job, why: str):
    self._left.pop(job.workdir)
    self._say(f"{job.workdir}: skipped, {why}")

  def _say(self, text):
    number = self._count - len(self._left)
    print(f"[{number}/{self._count}] {text}", file=sys.stderr, flush=True)

  def _eta(self) -> str:
    """By the rate of what has been done of each kind."""
    left, unknown = 0.0, False
    for job in self._left.values():
      seconds, work = self._seconds.get(job.config, (0.0, 0.0))
      unknown |= not work
      left += seconds / work * job.work if work else 0.0
    if not left:
      return ""
    about = "at least" if unknown else "about"
    return f", {about} {datetime.timedelta(seconds=round(left))} left"

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
    """What a run says goes into its log; its progress is shown as well."""
    for line in self._child.stderr:
      # A full disk or a closed terminal must not stop the reading: the run
      # would wait for ever to be heard.
      with contextlib.suppress(OSError):
        log.write(line)
        log.flush()
      with contextlib.suppress(OSError):
        if line.startswith((b"step ", b"error: ")):
          sys.stderr.write(f"    {line.decode(errors='replace')}")
          sys.stderr.flush()


_libc = ctypes.CDLL(None)


def _die_with_parent():
  """A suite that is killed shall not leave a run behind: it saves and ends."""
  pr_set_pdeathsig = 1
  _libc.prctl(pr_set_pdeathsig, signal.SIGTERM)


def _log_path(workdir) -> pathlib.Path:
  """Beside the run, or on this disk: nothing can be appended in a bucket."""
  if files.is_bucket(workdir):
    return pathlib.Path("suite_logs", *workdir.split("/")[-2:], LOG)
  return pathlib.Path(workdir, LOG)


def _open_log(workdir):
  path = _log_path(workdir)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")
  except OSError as e:
    raise ValueError(
      f"cannot write {path} ({e.strerror}); free space or choose another"
      " --workdir"
    ) from e


def _wait_for_lock(workdir, stopped):
  """Waits for a run that a killed suite has left, and which is saving."""
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
  """Of the --config flags given to the suite those whose key the job has."""
  keys = job_keys(job.config) if extra else ()
  return [flag for flag in extra if key_of(flag) in keys]


@functools.cache
def job_keys(config: str) -> set[str]:
  """All keys, with dots, of a config file."""
  path = pathlib.Path("configs", f"{config}.py")
  flat, keys = [("", plan.load_file(path).get_config())], set()
  while flat:
    prefix, node = flat.pop()
    for key, value in node.items():
      keys.add(prefix + key)
      if hasattr(value, "items"):
        flat.append((f"{prefix}{key}.", value))
  return keys


def key_of(flag):
  return flag.removeprefix("--config.").partition("=")[0]


def _identity(job, extra) -> list[str]:
  """What makes a job: its flags, but not where things are."""
  places = ("data.dir", "data.path", "data.download", "data.beam")
  extra = [flag for flag in extra if key_of(flag) not in places]
  return [*job.flags(""), *extra]


def _finished(job, extra, root) -> dict | None:
  """Its finished.json, if the job is finished with these flags."""
  found = tables.read_json(f"{root}/{job.workdir}/{FINISHED}")
  if not (found and {"flags", "work", "seconds"} <= found.keys()):
    return None
  before, now = found["flags"], _identity(job, extra)
  if job.longer and found["work"] > job.work:
    length = ("--config.epochs=", "--config.checkpoint.keep_at_epochs=")
    before, now = (
      [f for f in some if not f.startswith(length)] for some in (before, now)
    )
  return found if before == now else None


def run_all(runner: Runner, chosen: list[list[plan.Job]]) -> list[plan.Job]:
  """Runs members until all are done or it is stopped; those that failed."""
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
