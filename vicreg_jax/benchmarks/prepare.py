"""Preparing a folder data set, end to end.

Clips a second, bytes a clip, peak memory, and milliseconds to read a clip
back.
"""

import pathlib
import tempfile

from vicreg_jax import config as configs
from vicreg_jax.benchmarks.support import music, timing
from vicreg_jax.data import datasets


def add_arguments(parser):
  """The benchmark's own flags."""
  music.add_arguments(parser)


def run(args) -> timing.Report:
  """Prepares once; reads back `args.repeats` times."""
  with music.files(args) as paths, tempfile.TemporaryDirectory() as temporary:
    music.link(paths, f"{temporary}/music")
    data = configs.base_prepare().data
    data.update(
      name="folder", path=f"{temporary}/music", dir=f"{temporary}/data"
    )
    prepared = []
    taken = timing.clock(lambda: prepared.append(datasets.prepare(data)))
    prepared = prepared[0]
    clips = sum(prepared.num_clips.values())
    size = sum(f.stat().st_size for f in pathlib.Path(prepared.path).iterdir())
    examples = [prepared.dataset(split) for split in prepared.num_clips]

    def read():
      for dataset in examples:
        for _ in dataset.as_numpy_iterator():
          pass

    reads = timing.take_turns({"read": read}, args.repeats)["read"]
  figures = {
    "clips": clips,
    "seconds": taken.wall,
    "clips_per_s": clips / taken.wall,
    "clips_per_cpu_s": clips / taken.cpu,
    "bytes_per_clip": size / clips,
    "read_ms_per_clip": timing.spread([1e3 * t.wall / clips for t in reads]),
    "peak_mib": timing.peak_mib(),
  }
  return timing.Report({"prepare": figures}, [])
