"""The tf.data pipeline from a prepared data set to batches in memory.

`1 core`, `2 cores`: processes that may use so many. Views a second; CPU time a
view, of which `ops` is the augmentations alone, of the same crops by the same
seeds out of memory, and `overhead` the rest over it: reading, cropping,
shuffling, decoding, batching. `training`: a train step of the quickstart's
encoder on all cores, and the share of its time that waits for data.
`memory`: peak of a process that reads an epoch of a small and of a large data
set of tiny clips; only the shuffle's window may tell them apart.
"""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import soundfile

from vicreg_jax import config as configs
from vicreg_jax import datasets
from vicreg_jax.benchmarks import music, timing

_MAX_CORES = 2  # what the comparison of cores goes up to


def add_arguments(parser):
  """The benchmark's own flags."""
  parser.add_argument("--clips", type=int, default=64, help="in the data set")
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
    results, notes = {}, []
    usable = sorted(os.sched_getaffinity(0))[:_MAX_CORES]
    for count in range(1, len(usable) + 1):
      name = f"{count} core" + "s" * (count > 1)
      results[name] = _worker(
        "stream", usable[:count], config, repeats=args.repeats
      )
    if len(usable) > 1:
      rates = [
        results[name]["views_per_s"]["median"] for name in ("1 core", "2 cores")
      ]
      results["2 cores"]["times_1_core"] = rates[1] / rates[0]
    else:
      notes.append("only one core may be used: no scaling")
    results["training"] = _worker("train", usable, config, repeats=args.repeats)
    sizes = (args.memory_clips // 10, args.memory_clips)
    for clips in sizes:
      results[f"memory, {clips} clips"] = _worker(
        "memory", usable, _tiny(directory, clips)
      )
    small, large = (results[f"memory, {n} clips"]["peak_mib"] for n in sizes)
    results[f"memory, {sizes[1]} clips"]["growth_kib_per_clip"] = (
      1024 * (large - small) / (sizes[1] - sizes[0])
    )
  return timing.Report(results, notes)


def one_core(directory, clips, batch, repeats) -> dict:
  """The figures of `1 core` alone, at the thesis's crop."""
  config = _config(directory, clips, batch, 9)
  datasets.prepare(config.data)
  core = sorted(os.sched_getaffinity(0))[:1]
  return _worker("stream", core, config, repeats=repeats)


def _config(directory, clips, batch, blocks):
  """The thesis's recipe on synthetic clips of 30 s, with a small encoder."""
  config = configs.base_pretrain()
  config.data.update(
    name="synthetic", dir=f"{directory}/data", crop=3 ** (blocks + 1)
  )
  config.data.update(sizes=(clips, 0, 0), clip_seconds=30.0)
  config.batch_size = batch
  config.dtype = "float32"
  config.model.update(
    blocks=blocks, width=0.25, representation_size=128, projector=(512, 512)
  )
  return config


def _tiny(directory, clips):
  """A prepared data set of many clips, links to a few short files."""
  config = _config(directory, clips, 16, 4)
  root = pathlib.Path(directory, f"tiny-{clips}")
  sources = pathlib.Path(directory, f"sources-{clips}")
  sources.mkdir()
  paths = [sources / f"{i}.wav" for i in range(20)]
  for i, path in enumerate(paths):
    x = np.random.default_rng(i).normal(size=config.data.crop + 10, scale=0.1)
    soundfile.write(path, x, music.RATE)
  # In a folder train/, all are trained on.
  music.link(paths, root / "train", clips)
  config.data.update(name="folder", path=str(root))
  datasets.prepare(config.data)
  return config


def _worker(job, cores, config, **options) -> dict:
  """Runs a job of this module in a process that may use the given cores."""
  task = {"job": job, "config": config.to_dict(), "options": options}
  command = [sys.executable, "-m", "vicreg_jax.benchmarks.pipeline"]
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)  # of this thread, for its child to inherit
  try:
    worker = subprocess.Popen(
      [*command, json.dumps(task)],
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE,
      text=True,
    )
  finally:
    os.sched_setaffinity(0, before)
  with worker:
    lines = worker.stdout.read().splitlines()
  if worker.returncode:
    raise subprocess.CalledProcessError(worker.returncode, command)
  return json.loads(lines[-1])


# --- in the worker -----------------------------------------------------------


def _stream(config, repeats):
  from vicreg_jax import input_pipeline

  prepared = datasets.prepare(config.data)
  per_epoch = input_pipeline.num_train_clips(prepared, config)
  batches = per_epoch // config.batch_size
  clips = batches * config.batch_size
  views = clips * configs.VIEWS
  sizes = []
  # One graph and one iterator for all epochs, as in training: what a round
  # takes is a steady stream, without the seconds that it takes to begin.
  stream = input_pipeline.train_views(prepared, config)

  def run_stream():
    for batch in itertools.islice(stream, batches):
      sizes.append(batch.nbytes / len(batch))

  # One after the other, as what reads ahead for one would be counted for both.
  taken = _rounds(run_stream, repeats)
  stream.close()
  ops = _rounds(_ops(prepared, config, clips, repeats + 1), repeats)
  return {
    "views_per_s": timing.spread([views / t.wall for t in taken]),
    "cpu_ms_per_view": timing.spread([1e3 * t.cpu / views for t in taken]),
    "ops_cpu_ms_per_view": timing.spread([1e3 * t.cpu / views for t in ops]),
    "overhead": timing.spread([p.cpu / o.cpu - 1 for p, o in zip(taken, ops)]),
    "bytes_per_clip_to_device": sizes[0],
    "peak_mib": timing.peak_mib(),
  }


def _rounds(run, repeats) -> list[timing.Time]:
  """Times of all rounds but the first."""
  return timing.take_turns({"": run}, repeats + 1)[""][1:]


def _ops(prepared, config, clips, epochs, see=lambda x_VxT: None):
  """A function that augments the views of an epoch, held in memory.

  At each call those of the next epoch, of `epochs` in all.
  """
  import tensorflow as tf

  from vicreg_jax import audio, augment, input_pipeline

  rows = []
  for epoch in range(epochs):
    raw = input_pipeline.raw_crops(
      prepared, config, config.train_splits, tf.constant(epoch, tf.int64)
    )
    rows += raw.take(clips).as_numpy_iterator()
  x_NxVxT = np.stack(
    [
      [audio.from_int16(np.frombuffer(pcm, "<i2")) for pcm in raw_V]
      for raw_V, _, _ in rows
    ]
  )
  number_N, epoch_N = (np.array(values) for values in list(zip(*rows))[1:])
  chain = config.augment.to_dict()

  @tf.autograph.experimental.do_not_convert
  def views(x_VxT, number, epoch):
    return tuple(
      augment.augment(
        x_VxT[v],
        augment.example_seed(config.seed, epoch, number, v),
        chain,
        config.data.sample_rate,
      )
      for v in range(configs.VIEWS)
    )

  examples = tf.data.Dataset.from_tensor_slices((x_NxVxT, number_N, epoch_N))
  stream = iter(
    examples.map(
      views, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
  )

  def run_views():
    for x_V in itertools.islice(stream, clips):
      see(x_V)

  return run_views


def _train(config, repeats):
  import time

  import jax

  from vicreg_jax import input_pipeline, mesh, steps

  prepared = datasets.prepare(config.data)
  durations = configs.durations(
    config, input_pipeline.num_train_clips(prepared, config)
  )
  tx = steps.make_optimizer(config, durations)
  devices = mesh.make_mesh()
  state = jax.jit(
    lambda: steps.init_state(config, tx), out_shardings=mesh.replicated(devices)
  )()
  train_step = steps.jit_train_step(config, tx, devices)
  views = input_pipeline.train_views(prepared, config)
  state, _ = train_step(state, mesh.global_batch(devices, next(views)))
  waits, rates = [], []
  for _ in range(repeats):
    waited, start = 0.0, time.perf_counter()
    for _ in range(durations.per_epoch):
      before = time.perf_counter()
      batch = next(views)
      waited += time.perf_counter() - before
      state, _ = train_step(state, mesh.global_batch(devices, batch))
      jax.block_until_ready(state)
    elapsed = time.perf_counter() - start
    waits.append(waited / elapsed)
    rates.append(durations.per_epoch * config.batch_size / elapsed)
  return {
    "clips_per_s": timing.spread(rates),
    "waiting_for_data": timing.spread(waits),
    "peak_mib": timing.peak_mib(),
  }


def _memory(config):
  from vicreg_jax import input_pipeline

  prepared = datasets.prepare(config.data)
  clips = input_pipeline.num_train_clips(prepared, config)
  views = input_pipeline.train_views(prepared, config)
  for _ in itertools.islice(views, clips // config.batch_size):
    pass
  return {"clips": clips, "peak_mib": timing.peak_mib()}


def _main():
  import ml_collections

  task = json.loads(sys.argv[1])
  job = {"stream": _stream, "train": _train, "memory": _memory}[task["job"]]
  config = ml_collections.ConfigDict(task["config"])
  print(json.dumps(job(config, **task["options"])))


if __name__ == "__main__":
  _main()
