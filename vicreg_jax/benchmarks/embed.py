"""The verb `embed` with the starter encoder: its rate, its start, its memory.

`embed` makes a table of the files. `onnxruntime` runs the same weights in a
plain loop: `librosa.load`, then the file's segments in batches. `encoder alone`
has all segments in memory. `first embedding` is the time from a command to its
output for one file, with a full compilation cache; `short files` is a command
that embeds many files of half a second.
"""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import librosa
import numpy as np
import soundfile

from vicreg_jax.benchmarks.support import music, timing
from vicreg_jax.data import audio
from vicreg_jax.library import embedding
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import export

OURS = "embed"
_SHORT_SECONDS = 0.5
# What commands run, with their arguments.
_FIRST = """
import sys, vicreg_jax
print(vicreg_jax.load("starter").embed(sys.argv[1]))
"""
_VERB = """
import sys
from vicreg_jax import __main__ as command
try:
  command.main(["embed", "starter", *sys.argv[1:]])
except SystemExit as end:
  assert not end.code
"""
_PEAK = """
from vicreg_jax.benchmarks.support import timing
print(timing.peak_mib())
"""


def add_arguments(parser):
  """The benchmark's own flags."""
  music.add_arguments(parser)
  parser.add_argument("--short", type=int, default=2000, help="short files")


def run(args) -> timing.Report:
  """The peers in turns; then commands, each a process of its own."""
  with music.files(args) as paths, tempfile.TemporaryDirectory() as directory:
    report = compare(paths, args.repeats, directory)
    _command(directory, _FIRST, paths[0])  # compiles
    started = [
      _command(directory, _FIRST, paths[0]) for _ in range(args.repeats)
    ]
    many = _short_files(paths[0], args.short, directory)
    seconds, peak = _command(directory, _VERB, many, f"--output={many}.parquet")
  report.results["first embedding"] = {
    "s": timing.spread([s for s, _ in started]),
    "peak_mib": timing.spread([mib for _, mib in started]),
  }
  report.results["short files"] = {
    "files": args.short,
    "files_per_s": args.short / seconds,
    "peak_mib": peak,
  }
  return report


def compare(paths, repeats, directory) -> timing.Report:
  """Rates, and how many times as fast `embed` is (`speedup_of_ours`).

  `hours_per_hour` counts the audio of whole segments.
  """
  encoder = encoders.load(encoders.STARTER)
  crops_SxT = np.concatenate([_segments(encoder, path) for path in paths])
  seconds = crops_SxT.size / encoder.sample_rate
  runs = {
    OURS: functools.partial(
      embedding.embed_files,
      encoder,
      paths,
      f"{directory}/table",
      overwrite=True,
    ),
    "encoder alone": functools.partial(_embed_crops, encoder, crops_SxT),
  }
  notes = []
  try:
    peer = onnxruntime_embed(encoder, directory)
    runs["onnxruntime"] = lambda: [peer(path) for path in paths]
  except (ImportError, ValueError) as e:
    notes.append(f"onnxruntime is left out: {e}")
  for run_files in runs.values():  # compiles
    run_files()

  def figures(taken):
    hours = [seconds / t.wall for t in taken]
    return timing.per_second(taken, len(paths), "clips") | {
      "hours_per_hour": timing.spread(hours)
    }

  times = timing.take_turns(runs, repeats)
  return timing.Report(timing.compared(times, OURS, figures), notes)


def onnxruntime_embed(encoder, directory):
  """A function from a path to its embedding [D], by onnxruntime.

  Raises ImportError or ValueError if a package for that is missing.
  """
  import onnxruntime

  card = export.make_card(encoder.config.to_dict(), name="a", licence="")
  export.write(encoder.variables, card, f"{directory}/onnx", "onnx")
  session = onnxruntime.InferenceSession(
    f"{directory}/onnx/{export.WEIGHTS['onnx']}"
  )

  def embed(path):
    batches = encoders.batched(_segments(encoder, path), encoders.BATCH)
    y = [session.run(None, {"audio": x_BxT})[0] for x_BxT in batches]
    return np.concatenate(y).mean(0)

  return embed


def _segments(encoder, path):
  """Consecutive segments [S, crop] of a file."""
  x_T, _ = librosa.load(path, sr=encoder.sample_rate)
  count = len(x_T) // encoder.crop
  return x_T[: count * encoder.crop].reshape(count, -1)


def _embed_crops(encoder, crops_SxT):
  for _ in encoder(encoders.batched(crops_SxT, encoders.BATCH)):
    pass


def _short_files(path, count, directory):
  x_T = audio.load(path, music.RATE)[: int(_SHORT_SECONDS * music.RATE)]
  short = pathlib.Path(directory, "short.wav")
  soundfile.write(short, x_T, music.RATE)
  links = pathlib.Path(directory, "short")
  links.mkdir()
  for i in range(count):
    (links / f"{i:05d}.wav").symlink_to(short)
  return str(links)


def _command(directory, code, *arguments) -> tuple[float, float]:
  """Seconds until a process of this code prints, and its peak MiB."""
  start = time.perf_counter()
  with subprocess.Popen(
    [sys.executable, "-u", "-c", code + _PEAK, *arguments],
    env=os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{directory}/xla"},
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  ) as process:
    process.stdout.readline()
    seconds = time.perf_counter() - start
    rest = process.stdout.read().split()
  if process.returncode:
    raise ValueError(f"this code failed with {arguments}: {code}")
  return seconds, float(rest[-1])
