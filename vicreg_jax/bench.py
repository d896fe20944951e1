"""Measures one part at a time, against its peers, in the same run.

    python -m vicreg_jax.bench decode [--path=DIR] [--clips=N] [--json]
    python -m vicreg_jax.bench prepare [--path=DIR] [--clips=N] [--json]

`--path` holds audio files; without it synthetic pieces of 30 s are written as
MP3 (44.1 kHz, stereo). Peers take turns; every figure is a median over the
repeats. Clips a CPU second count user and system time of this process and its
children, which other work on the machine disturbs less than wall time.

decode   clips a second: this package, on one core and on all, by threads and by
         processes; `librosa.load` in a loop; ffmpeg writing WAV files, as
         CLMR's preprocessing does it.
prepare  a folder data set end to end: clips a second, bytes a clip, peak
         memory, and milliseconds to read a clip back.
"""

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy as np

from vicreg_jax import audio

RATE = 22_050
_MP3_RATE, _SECONDS = 44_100, 30.0


def decode(paths, repeats) -> dict:
  """{peer: {"clips_per_s", "clips_per_cpu_s"}}, and ratios to `audio.load`."""
  import librosa

  cores = os.cpu_count()
  spawn = multiprocessing.get_context("spawn")
  with (
    tempfile.TemporaryDirectory() as out,
    concurrent.futures.ThreadPoolExecutor(cores) as threads,
    concurrent.futures.ProcessPoolExecutor(cores, spawn) as processes,
  ):
    peers = {
      "audio.load": functools.partial(_each, _pcm, map),
      f"audio.load, {cores} threads": functools.partial(
        _each, _pcm, threads.map
      ),
      f"audio.load, {cores} processes": functools.partial(
        _each, _pcm, processes.map
      ),
      "librosa.load": functools.partial(
        _each, functools.partial(librosa.load, sr=RATE), map
      ),
    }
    if shutil.which("ffmpeg"):
      convert = functools.partial(_ffmpeg_to_wav, out)
      peers["ffmpeg"] = functools.partial(_each, convert, map)
    for run in peers.values():  # imports, processes, caches
      run(paths[: 2 * cores])
    rounds = {peer: [] for peer in peers}
    for _ in range(repeats):
      for peer, run in peers.items():
        rounds[peer].append(_timed(run, paths))
  results = {}
  for peer, times in rounds.items():
    wall, cpu = (statistics.median(column) for column in zip(*times))
    results[peer] = {"clips_per_s": len(paths) / wall}
    # Of processes that still live the CPU time cannot be seen.
    if "processes" not in peer:
      results[peer]["clips_per_cpu_s"] = len(paths) / cpu
  base = results["audio.load"]
  for result in results.values():
    for key in list(result):
      result[f"{key}_ratio"] = result[key] / base[key]
  return results


def prepare(paths, repeats) -> dict:
  """{"prepare": figures} of a folder data set made of links to the files."""
  from vicreg_jax import config as configs
  from vicreg_jax import datasets

  with tempfile.TemporaryDirectory() as temporary:
    root = pathlib.Path(temporary, "music")
    root.mkdir()
    for i, path in enumerate(paths):
      (root / f"{i:05d}{path.suffix}").symlink_to(path.resolve())
    data = configs.base_prepare().data
    data.update(name="folder", path=str(root), dir=f"{temporary}/data")
    prepared = []
    wall, cpu = _timed(lambda: prepared.append(datasets.prepare(data)))
    prepared = prepared[0]
    clips = sum(prepared.num_clips.values())
    size = sum(
      file.stat().st_size for file in pathlib.Path(prepared.path).iterdir()
    )
    examples = [prepared.dataset(split) for split in prepared.num_clips]

    def read():
      for dataset in examples:
        for _ in dataset.as_numpy_iterator():
          pass

    seconds = [_timed(read)[0] for _ in range(repeats)]
  return {
    "prepare": {
      "clips": clips,
      "seconds": wall,
      "clips_per_s": clips / wall,
      "clips_per_cpu_s": clips / cpu,
      "bytes_per_clip": size / clips,
      "read_ms_per_clip": 1e3 * statistics.median(seconds) / clips,
      "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
  }


def _each(function, map_, paths):
  """Calls the function for every path; keeps nothing."""
  for _ in map_(function, paths):
    pass


def _pcm(path):
  """What preparing does with a file."""
  return audio.to_int16(audio.load(path, RATE)).tobytes()


def _ffmpeg_to_wav(directory, path):
  command = ["ffmpeg", "-nostdin", "-y", "-loglevel", "quiet", "-i", path]
  command += ["-ar", str(RATE), os.path.join(directory, "out.wav")]
  subprocess.run(command, check=True)


def _timed(function, *args):
  """(wall, CPU) seconds."""

  def cpu():
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usage = [resource.getrusage(kind) for kind in kinds]
    return sum(u.ru_utime + u.ru_stime for u in usage)

  wall, before = time.perf_counter(), cpu()
  function(*args)
  return time.perf_counter() - wall, cpu() - before


def _write_synthetic(directory, clips):
  import soundfile

  from vicreg_jax.datasets import synthetic

  for i in range(clips):
    score = synthetic.compose(0, i)
    x_T = synthetic.render(score, int(_SECONDS * _MP3_RATE), _MP3_RATE)
    path = os.path.join(directory, f"{i:05d}.mp3")
    soundfile.write(path, np.stack([x_T, x_T], 1), _MP3_RATE)


def _print(results):
  for name, result in results.items():
    print(name)
    for key, value in result.items():
      print(f"  {key:<24}{value:>14,.2f}")


def main(argv=None):
  parser = argparse.ArgumentParser(
    prog="python -m vicreg_jax.bench",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("name", choices=("decode", "prepare"))
  parser.add_argument("--path", type=pathlib.Path, help="audio files")
  parser.add_argument("--clips", type=int, default=40, help="at most so many")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--json", action="store_true", help="one JSON object")
  args = parser.parse_args(argv)
  if args.clips < 1 or args.repeats < 1:
    parser.error("--clips and --repeats must be 1 or more")
  with tempfile.TemporaryDirectory() as directory:
    if not args.path:
      _write_synthetic(directory, args.clips)
    paths = sorted(
      path
      for path in (args.path or pathlib.Path(directory)).rglob("*")
      if path.suffix.lower() in audio.EXTENSIONS
    )[: args.clips]
    if not paths:
      parser.error(f"--path={args.path} holds no audio files")
    run = {"decode": decode, "prepare": prepare}[args.name]
    results = run(paths, args.repeats)
  if args.json:
    print(json.dumps(results))
  else:
    _print(results)


if __name__ == "__main__":
  main()
