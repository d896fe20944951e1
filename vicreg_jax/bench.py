"""Measures one part at a time, against its peers, in the same run.

    python -m vicreg_jax.bench [NAME] [--repeats=N] [--json] ...

decode    decoding audio files, against librosa and ffmpeg
augment   CPU time of each augmentation, against sox and others
pipeline  the tf.data pipeline: cores, crops alone, memory
step      the train step, against PyTorch
embed     the verb `embed`, against onnxruntime; its start and memory
startup   from the command to the first step; memory of training
gpu       a GPU in ten minutes: steps, whole trainings, embedding, memory

Without NAME all run, one after another. `NAME --help` describes a measurement.
Peers take turns with ours in every round. A figure is the median over the
rounds, with quartiles in brackets; `speedup_of_ours` is the peer's time over
ours. Peers that are not installed are named and left out.
"""

import argparse
import importlib
import json
import sys

from vicreg_jax.benchmarks.support import timing

NAMES = (
  "decode",
  "augment",
  "pipeline",
  "step",
  "embed",
  "similar",
  "startup",
  "gpu",
)


def parse(name: str, argv: list[str]) -> tuple:
  """The module of a benchmark, and its flags."""
  module = importlib.import_module(f"vicreg_jax.benchmarks.{name}")
  parser = argparse.ArgumentParser(
    prog=f"python -m vicreg_jax.bench {name}",
    description=module.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--repeats", type=int, default=5, help="rounds")
  parser.add_argument("--json", action="store_true", help="one JSON object")
  module.add_arguments(parser)
  args = parser.parse_args(argv)
  for key, value in vars(args).items():
    if type(value) in (int, float) and value <= 0:
      parser.error(f"--{key.replace('_', '-')} must be above 0")
  return module, args


def run(name: str, argv: list[str]):
  """Runs one benchmark and prints its report."""
  module, args = parse(name, argv)
  try:
    report = module.run(args)
  except ValueError as error:
    sys.exit(f"error: {error}")
  if args.json:
    row = {"benchmark": name, "machine": timing.machine()}
    print(json.dumps(row | report._asdict()), flush=True)
  else:
    print("\n".join(table(name, report)), flush=True)


def table(name: str, report: timing.Report):
  """Lines for a reader."""
  machine = timing.machine()
  loads = ", ".join(map(str, machine["load_average"]))
  yield f"{name}: {machine['usable_cpus']} of {machine['cpus']} cores, load"
  yield f"average over 1, 5, 15 minutes: {loads}"
  for row, figures in report.results.items():
    yield f"\n{row}"
    for figure, value in figures.items():
      yield f"  {figure:<26}{_text(value)}"
  yield from (f"\nNote: {note}" for note in report.notes)


def _text(value) -> str:
  if isinstance(value, dict):
    median, q1, q3 = (f"{value[k]:,.4g}" for k in ("median", "q1", "q3"))
    return f"{median:>12}  [{q1}, {q3}]"
  if isinstance(value, (str, bool)):
    return f"{value!s:>12}"
  return f"{value:>12,.4g}"


def main(argv=None):
  argv = sys.argv[1:] if argv is None else argv
  if argv and not argv[0].startswith("-"):
    name, *rest = argv
    if name not in NAMES:
      sys.exit(f"error: no benchmark {name!r}: use one of {', '.join(NAMES)}")
    return run(name, rest)
  parser = argparse.ArgumentParser(
    prog="python -m vicreg_jax.bench",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--json", action="store_true", help="an object a line")
  parser.parse_args(argv)
  for name in NAMES:
    run(name, argv)


if __name__ == "__main__":
  main()
