"""Runs a suite of trainings and probes, and makes its table and figure.

    python -m vicreg_jax.suite --suite=configs/suites/convergence.py \\
        --workdir=DIR [--scale=smoke] [--config.key=value ...]

Each run is a command of its own, which `--list` prints. Finished runs are
skipped, interrupted ones continue, and failed ones are reported at the end.
Suites that share a --workdir share their runs. `--only=3` does one run of the
list, for arrays of jobs on several machines. `--collect` runs nothing, and
makes table and figure of the finished runs. A --config.key, such as
--config.data.dir, is set in all runs that have it.

A suite is a Python file, which is run: only use files that you trust.
"""

import argparse
import os
import pathlib
import shlex
import sys

from vicreg_jax import files, messages, shipped
from vicreg_jax.study import plan, runner, tables


def run(args, extra: list[str]) -> int:
  """The command; its exit code."""
  scale = plan.Scale(args.scale)
  root = str(files.absolute(args.workdir))
  path = shipped.suite(args.suite)
  suite, name = plan.load(path, scale), pathlib.Path(path).stem
  everything = runner.members(suite)
  for flag in extra:
    configs = {job.config for jobs in everything for job in jobs}
    if not any(
      runner.key_of(flag) in runner.job_keys(config) for config in configs
    ):
      raise ValueError(f"{flag}: no run of this suite has such a key")
  chosen = _choose(everything, args.only)
  if args.list:
    for number, jobs in enumerate(everything):
      for job in jobs if jobs in chosen else ():
        flags = [*job.flags(root), *runner.applicable(job, extra)]
        print(f"# {number}: {job.workdir}")
        print(f"python -m vicreg_jax.main {shlex.join(flags)}")
    return 0
  if args.collect and not files.exists(root):
    raise ValueError(f"--workdir={root}: there is no such directory")
  runner.check_workdir(root, scale)
  failed = []
  if not args.collect:
    count = sum(map(len, chosen))
    with runner.Runner(root, extra, count) as running:
      failed = runner.run_all(running, chosen)
    if running.stopped:
      print("interrupted; run the same command to continue", file=sys.stderr)
      return messages.EXIT_INTERRUPTED
  tables.report(suite, name, root, scale)
  if failed:
    names = ", ".join(job.workdir for job in failed)
    print(f"{len(failed)} failed: {names}", file=sys.stderr)
  return int(bool(failed))


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
  parser.add_argument(
    "--suite", required=True, help="a file, or a name: convergence"
  )
  parser.add_argument("--workdir", required=True, help="of all runs")
  parser.add_argument("--scale", choices=plan.SCALES, default="thesis")
  parser.add_argument("--only", help="numbers of members: 3 or 0,3")
  parser.add_argument("--list", action="store_true", help="print the commands")
  parser.add_argument(
    "--collect", action="store_true", help="run nothing: table and figure"
  )
  parser.add_argument(
    "--debug", action="store_true", help="show where an error came from"
  )
  args, extra = parser.parse_known_args(argv)
  for flag in extra:
    if not (flag.startswith("--config.") and "=" in flag):
      parser.error(f"unknown argument {flag}: use --config.key=value")
  return args, extra


def main(argv=None):
  args, extra = _parse(sys.argv[1:] if argv is None else argv)
  try:
    sys.exit(run(args, extra))
  except (ValueError, OSError) as e:
    # The disk's errors come as they are; other packages' are faults of ours.
    if args.debug or not (messages.ours(e) or isinstance(e, OSError)):
      raise
    messages.end(e)


if __name__ == "__main__":
  os.environ.setdefault("PYTHONUNBUFFERED", "1")
  main()
