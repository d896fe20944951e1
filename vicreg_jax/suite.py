"""Runs a suite of trainings and probes, and makes its table and figure.

    python -m vicreg_jax.suite --suite=configs/suites/convergence.py \\
        --workdir=DIR [--scale=smoke] [--config.key=value ...]

Each run is a command of its own, which `--list` prints. What is finished is
skipped, what was interrupted continues, and a run that fails is reported at the
end. Suites that share a --workdir share their runs. `--only=3` does one member,
for arrays of jobs on several machines. `--collect` runs nothing, and makes the
table and the figure of what is there. A --config.key is for all runs that have
it: --config.data.dir, for example.

A suite is a Python file, and is run: only take those you trust.
"""

import argparse
import contextlib
import csv
import ctypes
import dataclasses
import datetime
import fcntl
import functools
import importlib.util
import io
import json
import os
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time

from vicreg_jax import files, study

EXIT_INTERRUPTED = 75  # as vicreg_jax.main
COMMAND = (sys.executable, "-m", "vicreg_jax.main")
FINISHED = "finished.json"
LOG = "log.txt"
_PATIENCE = 120  # seconds, for a run that an interrupted suite has left
_TITLES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "accuracy": "accuracy"}


@dataclasses.dataclass(frozen=True)
class Results:
  """What the runs of a suite have left.

  Attributes:
    rows: {"labels", "scores", "spread", "thesis", "extra"} for each row of the
      table; scores by head and metric in percent, None where a run is missing.
    points: those of the suite.
    root: its --workdir.
  """

  rows: list[dict]
  points: list[study.Point]
  root: str

  def workdir(self, job: study.Job) -> str:
    """Where a job has written."""
    return f"{self.root}/{job.workdir}"


def members(suite: study.Suite) -> list[list[study.Job]]:
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
  return [
    [run, *probes.get(name, {}).values()] for name, run in firsts.items()
  ]


# --- running -----------------------------------------------------------------


class Runner:
  """Runs jobs one after another, each in a process of its own."""

  def __init__(self, root: str, extra: list[str], jobs: list[study.Job]):
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

  def run(self, job: study.Job) -> bool:
    """Whether the job is finished, by now or before."""
    extra = _applicable(job, self._extra)
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
      _write(path, json.dumps(done, indent=1) + "\n")
      state = f"finished in {datetime.timedelta(seconds=round(seconds))}"
    else:
      state = "was finished before"
    del self._left[job.workdir]
    if done["seconds"] is not None:
      seconds, work = self._seconds.get(job.config, (0.0, 0.0))
      self._seconds[job.config] = seconds + done["seconds"], work + done["work"]
    self._say(f"{job.workdir}: {state}{self._eta()}")
    return True

  def skip(self, job: study.Job, why: str):
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


def _applicable(job, extra: list[str]) -> list[str]:
  """Of the --config flags given to the suite those whose key the job has."""
  keys = job_keys(job.config) if extra else ()
  return [flag for flag in extra if _key(flag) in keys]


@functools.cache
def job_keys(config: str) -> set[str]:
  """All keys, with dots, of a config file."""
  path = pathlib.Path("configs", f"{config}.py")
  flat, keys = [("", _load(path).get_config())], set()
  while flat:
    prefix, node = flat.pop()
    for key, value in node.items():
      keys.add(prefix + key)
      if hasattr(value, "items"):
        flat.append((f"{prefix}{key}.", value))
  return keys


def _key(flag):
  return flag.removeprefix("--config.").partition("=")[0]


def _identity(job, extra) -> list[str]:
  """What makes a job: its flags, but not where things are."""
  places = ("data.dir", "data.path", "data.download", "data.beam")
  extra = [flag for flag in extra if _key(flag) not in places]
  return [*job.flags(""), *extra]


def _finished(job, extra, root) -> dict | None:
  """Its finished.json, if the job is finished with these flags."""
  found = _read_json(f"{root}/{job.workdir}/{FINISHED}")
  if not (found and {"flags", "work", "seconds"} <= found.keys()):
    return None
  before, now = found["flags"], _identity(job, extra)
  if job.longer and found["work"] > job.work:
    length = ("--config.epochs=", "--config.checkpoint.keep_at_epochs=")
    before, now = (
      [f for f in some if not f.startswith(length)] for some in (before, now)
    )
  return found if before == now else None


def _read_json(path) -> dict | None:
  """An object; None, and a warning, if the file is not one; None without it."""
  if not files.exists(path):
    return None
  try:
    found = json.loads(files.read(path))
    if isinstance(found, dict):
      return found
  except ValueError:
    pass
  print(f"warning: {path} is damaged and does not count", file=sys.stderr)
  return None


# --- collecting --------------------------------------------------------------


def collect(suite: study.Suite, root: str) -> Results:
  """Reads what is there."""
  groups = {}
  for point in suite.points:
    groups.setdefault(tuple(point.labels.items()), []).append(point)
  rows = []
  for labels, points in groups.items():
    scores = [s for p in points if (s := _scores(p, suite.metrics, root))]
    extra = [
      suite.measure(f"{root}/{p.jobs[0].workdir}", p.epoch)
      for p in points
      if suite.measure and p.jobs
    ]
    rows.append(
      {
        "labels": dict(labels),
        "scores": _over(scores, statistics.fmean) if scores else None,
        "spread": _over(scores, statistics.stdev) if scores[1:] else None,
        "repetitions": len(scores),
        "thesis": points[0].thesis,
        "extra": extra[0] if extra else {},
      }
    )
  return Results(rows, suite.points, root)


def _scores(point, metrics, root) -> dict | None:
  """Of the last job of a point, if it has left any."""
  if not (point.jobs and point.heads):
    return None
  found = _read_json(f"{root}/{point.jobs[-1].workdir}/probe.json")
  if found is None:
    return None
  return {
    head: {m: found[name][m] for m in metrics if m in found[name]}
    for head, name in point.heads.items()
    if name in found
  }


def _over(scores, reduce) -> dict:
  return {
    head: {m: reduce(s[head][m] for s in scores) for m in values}
    for head, values in scores[0].items()
  }


def cells(row: dict, metrics) -> list[dict]:
  """The numbers of a row: ours, spread, thesis and difference."""
  out = []
  for metric in metrics:
    for head in study.HEADS:

      def of(scores, head=head, metric=metric):
        return ((scores or {}).get(head) or {}).get(metric)

      ours, thesis = of(row["scores"]), of(row["thesis"])
      both = ours is not None and thesis is not None
      out.append(
        {
          "metric": metric,
          "head": head,
          "ours": ours,
          "spread": of(row["spread"]),
          "thesis": thesis,
          "difference": ours - thesis if both else None,
        }
      )
  return out


def markdown(suite: study.Suite, results: Results, stamp: str) -> str:
  """The table: a line a row, ours beside the thesis's and the difference."""
  names = list(results.rows[0]["labels"])
  has_thesis = any(row["thesis"] for row in results.rows)
  extra = list(dict.fromkeys(k for row in results.rows for k in row["extra"]))
  kinds = (": ours", ": thesis", ": difference") if has_thesis else ("",)
  heads = [
    f"{_TITLES[cell['metric']]} {cell['head']}{kind}"
    for cell in cells(results.rows[0], suite.metrics)
    for kind in kinds
  ]
  if not any(row["scores"] or row["thesis"] for row in results.rows):
    heads = []
  columns = [*names, *heads, *extra]
  body = [columns, ["---"] * len(columns)]
  for row in results.rows:
    line = [str(row["labels"].get(name, "")) for name in names]
    for cell in cells(row, suite.metrics) if heads else ():
      line.append(_number(cell["ours"], cell["spread"]))
      if has_thesis:
        line.append(_number(cell["thesis"]))
        line.append(_number(cell["difference"], sign="+"))
    line += [_number(row["extra"].get(name), digits=4) for name in extra]
    body.append(line)
  table = "\n".join(f"| {' | '.join(line)} |" for line in body)
  note = f"\n\n{stamp}" if stamp else ""
  return f"# {suite.title}{note}\n\n{table}\n"


def _number(value, spread=None, digits=2, sign=""):
  if value is None:
    return "-"
  text = f"{value:{sign}.{digits}f}"
  return text if spread is None else f"{text} ± {spread:.{digits}f}"


def table_csv(suite: study.Suite, results: Results) -> str:
  """A line a number."""
  names = list(results.rows[0]["labels"])
  out = io.StringIO(newline="")
  write = csv.writer(out)
  numbers = ("metric", "head", "ours", "spread", "thesis", "difference")
  write.writerow([*names, *numbers, "repetitions"])
  for row in results.rows:
    labels = [row["labels"].get(name, "") for name in names]
    for cell in cells(row, suite.metrics):
      if cell["ours"] is not None or cell["thesis"] is not None:
        values = (cell[k] for k in numbers)
        write.writerow(
          [*labels]
          + [f"{v:.4f}" if isinstance(v, float) else v for v in values]
          + [row["repetitions"]]
        )
    for name, value in row["extra"].items():
      write.writerow([*labels, name, "", value, "", "", "", ""])
  return out.getvalue()


def report(suite: study.Suite, name: str, root: str, scale: study.Scale):
  """Writes table and figure, and prints the table."""
  results, stamp = collect(suite, root), study.STAMP if scale.smoke else ""
  text = markdown(suite, results, stamp)
  _write(f"{root}/{name}/table.md", text)
  _write(f"{root}/{name}/table.csv", table_csv(suite, results))
  print(text)
  print(f"table: {root}/{name}/table.md")
  try:
    suite.draw(results, f"{root}/{name}/{name}", stamp)
  except ValueError as e:
    print(f"no figure yet: {e}", file=sys.stderr)
  else:
    print(f"figure: {root}/{name}/{name}.png")


# --- the command -------------------------------------------------------------


def _load(path):
  try:
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
  except (OSError, AttributeError) as e:
    raise ValueError(f"{path}: cannot be read as a Python file ({e})") from e
  return module


def load(path: str, scale: study.Scale) -> study.Suite:
  """The suite of a file."""
  module = _load(path)
  if not hasattr(module, "get_suite"):
    raise ValueError(
      f"--suite={path} has no get_suite(scale): give a file such as those in"
      " configs/suites"
    )
  return module.get_suite(scale)


def _check_workdir(root, scale):
  """One scale a workdir: the names of their runs are the same."""
  path = f"{root}/suites.json"
  found = _read_json(path)
  if found is None:
    _write(path, json.dumps({"scale": scale.name}) + "\n")
  elif found.get("scale") != scale.name:
    raise ValueError(
      f"--workdir={root} holds suites of --scale={found.get('scale')}: use"
      f" another --workdir for --scale={scale.name}"
    )


def _write(path, text):
  try:
    files.write(path, text.encode())
  except OSError as e:
    raise ValueError(
      f"cannot write {path} ({e.strerror or e}); free space or choose another"
      " --workdir, then run the same command to continue"
    ) from e


def _choose(all_members, only):
  if only is None:
    return all_members
  try:
    numbers = list(dict.fromkeys(int(n) for n in only.split(",")))
    if min(numbers) < 0:
      raise IndexError
    return [all_members[n] for n in numbers]
  except (ValueError, IndexError):
    raise ValueError(
      f"--only={only}: use numbers from 0 to {len(all_members) - 1}, with"
      " commas between them (--list shows them)"
    ) from None


def _parse(argv):
  parser = argparse.ArgumentParser(
    prog="python -m vicreg_jax.suite",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--suite", required=True, help="a file")
  parser.add_argument("--workdir", required=True, help="of all runs")
  parser.add_argument("--scale", choices=study.SCALES, default="thesis")
  parser.add_argument("--only", help="numbers of members: 3 or 0,3")
  parser.add_argument("--list", action="store_true", help="print the commands")
  parser.add_argument(
    "--collect", action="store_true", help="run nothing: table and figure"
  )
  args, extra = parser.parse_known_args(argv)
  for flag in extra:
    if not (flag.startswith("--config.") and "=" in flag):
      parser.error(f"unknown argument {flag}: use --config.key=value")
  return args, extra


def run(args, extra: list[str]) -> int:
  """The command; its exit code."""
  scale = study.Scale(args.scale)
  root = str(files.absolute(args.workdir))
  suite, name = load(args.suite, scale), pathlib.Path(args.suite).stem
  everything = members(suite)
  for flag in extra:
    configs = {job.config for jobs in everything for job in jobs}
    if not any(_key(flag) in job_keys(config) for config in configs):
      raise ValueError(f"{flag}: no run of this suite has such a key")
  chosen = _choose(everything, args.only)
  if args.list:
    for number, jobs in enumerate(everything):
      for job in jobs if jobs in chosen else ():
        flags = [*job.flags(root), *_applicable(job, extra)]
        print(f"# {number}: {job.workdir}")
        print(f"python -m vicreg_jax.main {shlex.join(flags)}")
    return 0
  if args.collect and not files.exists(root):
    raise ValueError(f"--workdir={root}: there is no such directory")
  _check_workdir(root, scale)
  failed = []
  if not args.collect:
    jobs = [job for jobs in chosen for job in jobs]
    with Runner(root, extra, jobs) as runner:
      failed = run_all(runner, chosen)
    if runner.stopped:
      print("interrupted; run the same command to continue", file=sys.stderr)
      return EXIT_INTERRUPTED
  report(suite, name, root, scale)
  if failed:
    names = ", ".join(job.workdir for job in failed)
    print(f"{len(failed)} failed: {names}", file=sys.stderr)
  return int(bool(failed))


def run_all(runner: Runner, chosen: list[list[study.Job]]) -> list[study.Job]:
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


def main(argv=None):
  args, extra = _parse(sys.argv[1:] if argv is None else argv)
  try:
    sys.exit(run(args, extra))
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


if __name__ == "__main__":
  os.environ.setdefault("PYTHONUNBUFFERED", "1")
  main()
