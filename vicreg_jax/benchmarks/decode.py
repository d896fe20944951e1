"""Decoding: clips a second of this package and of its peers.

`audio.load` on one core, and by threads on all; `librosa.load` in a loop;
ffmpeg writing WAV files, as CLMR's preprocessing does it.
"""

import concurrent.futures
import functools
import os
import shutil
import subprocess
import tempfile

from vicreg_jax.benchmarks.support import music, timing
from vicreg_jax.data import audio

OURS = "audio.load"


def add_arguments(parser):
  """The benchmark's own flags."""
  music.add_arguments(parser)


def run(args) -> timing.Report:
  """Every peer on the same files."""
  with music.files(args) as paths:
    return compare(paths, args.repeats)


def compare(paths, repeats) -> timing.Report:
  """Rates, and how many times as fast `audio.load` is (`speedup_of_ours`)."""
  import librosa

  cores = os.cpu_count()
  with (
    tempfile.TemporaryDirectory() as out,
    concurrent.futures.ThreadPoolExecutor(cores) as threads,
  ):
    runs = {
      OURS: functools.partial(_each, _pcm, map, paths),
      f"{OURS}, {cores} threads": functools.partial(
        _each, _pcm, threads.map, paths
      ),
      "librosa.load": functools.partial(
        _each, functools.partial(librosa.load, sr=music.RATE), map, paths
      ),
    }
    notes = []
    if shutil.which("ffmpeg"):
      convert = functools.partial(_ffmpeg_to_wav, out)
      runs["ffmpeg"] = functools.partial(_each, convert, map, paths)
    else:
      notes.append("ffmpeg is left out: it is not installed")
    for run_files in runs.values():  # imports, caches
      run_files()
    times = timing.take_turns(runs, repeats)
  figures = functools.partial(timing.per_second, units=len(paths), unit="clips")
  return timing.Report(timing.compared(times, OURS, figures), notes)


def _each(function, map_, paths):
  """Calls the function for every path; keeps nothing."""
  for _ in map_(function, paths):
    pass


def _pcm(path):
  """What preparing does with a file."""
  return audio.to_int16(audio.load(path, music.RATE)).tobytes()


def _ffmpeg_to_wav(directory, path):
  command = ["ffmpeg", "-nostdin", "-y", "-loglevel", "quiet", "-i", path]
  command += ["-ar", str(music.RATE), os.path.join(directory, "out.wav")]
  subprocess.run(command, check=True)
