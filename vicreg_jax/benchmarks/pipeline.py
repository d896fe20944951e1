"""The tf.data pipeline from a prepared data set to batches in memory.

`1 core`, `2 cores`: processes on one or two cores, which take turns. Views a
second, and CPU time a view. `crops_...`: crops alone, as for a device that
augments them (`data.augment_on`); the host's other time is augmentation.
`memory`: peak of a process that reads an epoch, or its first 1,000 batches, of
a small and of a large data set of tiny clips, a thousand to a file: only the
shuffle's window and the index may differ. Also the time to make the index, and
the first batch after it.
"""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from vicreg_jax import config as configs
from vicreg_jax.benchmarks.support import timing
from vicreg_jax.data import datasets
from vicreg_jax.data.augment_config import VIEWS

_MAX_CORES = 2  # most cores of the comparison
_A_FILE = 1000  # tiny clips
_NAME = b"a clip's"  # of eight characters, as numbers have
_MOST_BATCHES = 1000  # of tiny clips
_OF_CROPS = "views_per_s", "cpu_ms_per_view", "bytes_per_clip_to_device"


def add_arguments(parser):
  """The benchmark's own flags."""
  parser.add_argument("--clips", type=int, default=256, help="in the data set")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument(
    "--blocks", type=int, default=9, help="crop of 3^(blocks + 1) samples"
  )
  parser.add_argument(
    "--memory-clips", type=int, default=2_500, help="of the large data set"
  )


def run(args) -> timing.Report:
  """One process for each figure, so that each has its own cores and memory."""
  with tempfile.TemporaryDirectory() as directory:
    config = _config(directory, args.clips, args.batch, args.blocks)
    datasets.prepare(config.data)
    usable = sorted(os.sched_getaffinity(0))[:_MAX_CORES]
    results = _by_cores(usable, config, args.repeats)
    notes = [] if len(usable) > 1 else ["only one core may be used: no scaling"]
    sizes = (args.memory_clips // 10, args.memory_clips)
    for clips in sizes:
      with _worker("memory", usable, _tiny(directory, clips)) as ask:
        results[f"memory, {clips} clips"] = ask()
    small, large = (results[f"memory, {n} clips"]["peak_mib"] for n in sizes)
    results[f"memory, {sizes[1]} clips"]["growth_kib_per_clip"] = (
      1024 * (large - small) / (sizes[1] - sizes[0])
    )
  return timing.Report(results, notes)


def _by_cores(usable, config, repeats) -> dict[str, dict]:
  """The pipeline and its crops alone, on one core and on more, in turns."""
  names = {"1 core": 1} | {f"{n} cores": n for n in range(2, len(usable) + 1)}
  with contextlib.ExitStack() as stack:
    asks = {}
    for name, n in names.items():
      for config.data.augment_on in ("host", "device"):
        worker = _worker("stream", usable[:n], config)
        asks[name, config.data.augment_on] = stack.enter_context(worker)
    turns = [
      {key: ask() for key, ask in asks.items()} for _ in range(repeats + 1)
    ][1:]  # the first warms up
  rounds = {name: [] for name in names}
  for turn in turns:
    for name in names:
      figures, alone = turn[name, "host"], turn[name, "device"]
      figures |= {f"crops_{key}": alone[key] for key in _OF_CROPS}
      if name != "1 core":
        rate = turn["1 core", "host"]["views_per_s"]
        figures["times_1_core"] = figures["views_per_s"] / rate
      rounds[name].append(figures)
  return {
    name: {k: timing.spread([f[k] for f in figures]) for k in figures[0]}
    for name, figures in rounds.items()
  }


def _config(directory, clips, batch, blocks):
  """The thesis's recipe on synthetic clips of 30 s."""
  config = configs.base_pretrain()
  config.data.update(
    name="synthetic", dir=f"{directory}/data", crop=3 ** (blocks + 1)
  )
  # A file a split: real sets have many, of which several are read at once.
  third = clips // 3
  config.data.update(sizes=(clips - 2 * third, third, third), clip_seconds=30.0)
  config.train_splits = ("train", "valid", "test")
  config.batch_size = batch
  return config


def _tiny(directory, clips):
  """Prepared data of many clips, which `data.path` names: one by many names.

  They are written here, as to prepare a million would take half an hour.
  """
  import tensorflow as tf

  from vicreg_jax.data.datasets import base

  class Tiny(base.ClipBuilder, skip_registration=True):
    @classmethod
    def source(cls, data):
      x_T = np.random.default_rng(0).normal(size=data.crop + 10, scale=0.1)
      load = x_T.astype(np.float32).copy
      clip = base.Clip(_NAME.decode(), "", load, np.zeros(0, np.uint8))
      return base.Source("tiny", clips, {"train": [clip]}, (), "none")

  config = _config(directory, clips, 16, 4)
  config.train_splits = ("train",)
  path = pathlib.Path(Tiny.get(config.data).path)
  (file,) = path.glob("*.tfrecord*")
  (record,) = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
  file.unlink()
  sizes = [min(_A_FILE, clips - i) for i in range(0, clips, _A_FILE)]
  names = itertools.count()
  for i, size in enumerate(sizes):
    name = f"{file.name.split('-0')[0]}-{i:05d}-of-{len(sizes):05d}"
    with tf.io.TFRecordWriter(str(path / name)) as writer:
      for number in itertools.islice(names, size):
        writer.write(record.replace(_NAME, b"%08d" % number))
  info = json.loads((path / "dataset_info.json").read_text())
  info["splits"][0]["shardLengths"] = [str(size) for size in sizes]
  (path / "dataset_info.json").write_text(json.dumps(info))
  config.data.path = str(path)
  return config


@contextlib.contextmanager
def _worker(job, cores, config):
  """A process of this module that may use the given cores.

  Gives a function that has the process do the next part of its job, and returns
  the result. Between parts the process is stopped, lest it read ahead. It is
  killed, as its end might wait a minute for TensorFlow's tuning of datasets.
  """
  task = {"job": job, "config": config.to_dict()}
  command = [sys.executable, "-m", "vicreg_jax.benchmarks.pipeline"]
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)  # of this thread, for its child to inherit
  try:
    worker = subprocess.Popen(
      [*command, json.dumps(task)],
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
  finally:
    os.sched_setaffinity(0, before)

  def ask() -> dict:
    worker.send_signal(signal.SIGCONT)
    with contextlib.suppress(BrokenPipeError):  # what it said says why
      print(file=worker.stdin, flush=True)
    answer = worker.stdout.readline()
    if not answer:
      raise subprocess.CalledProcessError(worker.wait(), command)
    worker.send_signal(signal.SIGSTOP)
    return json.loads(answer)

  with worker:
    try:
      yield ask
    finally:
      worker.kill()


# --- in the worker: a job yields what each of its parts found ----------------


def _stream(config):
  """Without end: an epoch of the pipeline."""
  import tensorflow as tf

  from vicreg_jax.data import input_pipeline

  prepared = datasets.prepare(config.data)
  batches = (
    input_pipeline.num_train_clips(prepared, config) // config.batch_size
  )
  # One graph and one iterator for all epochs, as in training: what a round
  # takes is a steady stream, without the seconds that it takes to begin.
  stream = input_pipeline.train_views(prepared, config)
  views = batches * config.batch_size * VIEWS
  sizes = []

  def take():
    for batch in itertools.islice(stream, batches):
      arrays = tf.nest.flatten(batch)
      sizes.append(sum(rows.nbytes for rows in arrays) // config.batch_size)

  while True:
    taken = timing.clock(take)
    yield {
      "views_per_s": views / taken.wall,
      "cpu_ms_per_view": 1e3 * taken.cpu / views,
      "bytes_per_clip_to_device": sizes[0],
      "peak_mib": timing.peak_mib(),
    }


def _memory(config):
  from vicreg_jax.data import input_pipeline, records
  from vicreg_jax.data.prepared import Prepared

  prepared = Prepared.open(config.data.path)
  clips = input_pipeline.num_train_clips(prepared, config)
  indexed = timing.clock(lambda: records.Clips(prepared, config.train_splits))
  views = input_pipeline.train_views(prepared, config)
  first = timing.clock(lambda: next(views))
  batches = min(clips // config.batch_size, _MOST_BATCHES) - 1
  start = time.perf_counter()
  for _ in itertools.islice(views, batches):
    pass
  yield {
    "clips": clips,
    "index_s": indexed.wall,
    "first_batch_s": first.wall,
    "ms_per_batch": 1e3 * (time.perf_counter() - start) / batches,
    "peak_mib": timing.peak_mib(),
  }


def _main():
  import ml_collections

  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # output of libraries is no answer
  task = json.loads(sys.argv[1])
  config = ml_collections.ConfigDict(task["config"])
  parts = {"stream": _stream, "memory": _memory}[task["job"]](config)
  for _ in sys.stdin:
    print(json.dumps(next(parts)), file=answers, flush=True)


if __name__ == "__main__":
  _main()
