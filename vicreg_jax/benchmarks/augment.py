"""The augmentations' CPU time on one core, each alone and the default chain.

Milliseconds of CPU time a view, inside a tf.data map with one thread as
training runs them, against the same effects, with the same coins and the same
parameters, in

sox             one process for all views, an effects chain each; the time of
                empty chains (start, reading, writing) is taken off. White
                noise at 80 dB, for one view in a hundred, is left out
pedalboard      its own effects on a view in memory; filters are of first
                order, and the noise is left out as well
audiomentations its effects: neither echo nor Freeverb, so no chain

With --on=device JAX augments all views as one batch on the available device
(`data.augment_on`): wall time, memory besides the views, bytes a view that the
host sends; against torch-audiomentations, which has no echo and no Freeverb
either, on the same device.
"""

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import tempfile

import jax
import numpy as np
import tensorflow as tf

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.benchmarks.support import timing
from vicreg_jax.data import (
  audio,
  augment,
  augment_config,
  device_augment,
  input_pipeline,
  seeds,
)
from vicreg_jax.data.datasets import synthetic

OURS, CHAIN, NOTHING = "vicreg_jax", "chain", "nothing"
OPS = ("polarity", "noise", "gain", "filter", "delay", "pitch", "reverb")
RATE, CROP = 22_050, 59_049
_PIECES = 8


def add_arguments(parser):
  """The benchmark's own flags."""
  parser.add_argument("--views", type=int, default=200, help="in each round")
  parser.add_argument("--crop", type=int, default=CROP, help="samples a view")
  parser.add_argument("--on", choices=("host", "device"), default="host")


def run(args) -> timing.Report:
  """Every op alone, the default chain, and the chain with all coins "no"."""
  views_NxT = make_views(args.views, args.crop)
  results, notes = {}, []
  run_op = compare_on_device if args.on == "device" else compare
  for name in (CHAIN, *OPS, NOTHING):
    report = run_op(name, views_NxT, args.repeats)
    for peer, figures in report.results.items():
      results[f"{name}: {peer}"] = figures
    notes += [note for note in report.notes if note not in notes]
  return timing.Report(results, notes)


def make_views(count: int, crop: int) -> np.ndarray:
  """`views_NxT` of synthetic music."""
  pieces = [
    synthetic.render(synthetic.compose(0, i), crop, RATE)
    for i in range(min(count, _PIECES))
  ]
  return np.stack([pieces[i % len(pieces)] for i in range(count)])


def only(name: str) -> dict:
  """The default augmentations; with an op's name that alone, always on."""
  config = augment_config.default_augment()
  for op in config:
    if name == NOTHING:
      config[op]["p"] = 1e-9  # 0 would leave the coins out
    elif name != CHAIN:
      config[op]["p"] = float(op == name)
  return config


def draws_of(config: dict, count: int) -> list[dict]:
  """What happens to each view, as plain numbers: {op: {parameter: value}}."""
  draws = []
  for i in range(count):
    row = augment.draw(seeds.example_seed(0, 0, i, 0), config)
    row = tf.nest.map_structure(lambda t: t.numpy().item(), row)
    draws.append({op: d for op, d in row.items() if d["on"]})
  return draws


def compare(name: str, views_NxT, repeats: int) -> timing.Report:
  """`name` is an op, `CHAIN` or `NOTHING`."""
  config, notes = only(name), []
  draws = draws_of(config, len(views_NxT))
  with contextlib.ExitStack() as stack:
    runs = {OURS: _ours(views_NxT, config)}
    if name != NOTHING:
      for peer, make in (
        ("sox", functools.partial(_sox, stack)),
        ("pedalboard", _pedalboard),
        ("audiomentations", _audiomentations),
      ):
        try:
          runs |= make(name, views_NxT, draws)
        except ImportError as error:
          notes.append(f"{peer} is left out: {error}")
    for run_views in runs.values():  # compiles, fills caches
      run_views()
    times = timing.take_turns(runs, repeats)
  if "sox" in times:
    empty = times.pop("sox, empty chains")
    times["sox"] = [
      timing.Time(full.wall - none.wall, max(full.cpu - none.cpu, 0.0))
      for full, none in zip(times["sox"], empty)
    ]

  def figures(taken):
    return {"cpu_ms_per_view": _per_view(taken, "cpu", len(views_NxT))}

  return timing.Report(timing.compared(times, OURS, figures, "cpu"), notes)


def _per_view(times, by, count):
  return timing.spread([1e3 * getattr(t, by) / count for t in times])


def _ours(views_NxT, config):
  def view(i, x_T):
    seed = seeds.example_seed(0, 0, i, 0)
    return augment.augment(x_T, seed, config, RATE)

  views = tf.data.Dataset.from_tensor_slices(views_NxT).enumerate().map(view)
  options = tf.data.Options()
  options.threading.private_threadpool_size = 1
  options.threading.max_intra_op_parallelism = 1
  # Nothing is computed ahead, in another's turn.
  options.experimental_optimization.inject_prefetch = False
  options.autotune.enabled = False
  # A graph is built once, as in training.
  iterator = iter(views.repeat().with_options(options))

  def run_views():
    for _ in itertools.islice(iterator, len(views_NxT)):
      pass

  return run_views


def _sox(stack, name, views_NxT, draws):
  if not shutil.which("sox"):
    raise ImportError("no program `sox` (apt-get install sox)")
  if name == "noise":
    return {}
  directory = stack.enter_context(tempfile.TemporaryDirectory())
  path = os.path.join(directory, "views.f32")
  views_NxT.tofile(path)
  length = views_NxT.shape[1]
  command = ["sox", "-V1", "-D", "--single-threaded"]
  command += [*["-t", "f32", "-c", "1", "-r"], str(RATE), path]
  command += ["-t", "f32", os.devnull]

  def chains(rows):
    effects = []
    for i, row in enumerate(rows):
      if i:
        effects.append(":")
      effects += ["trim", "0", f"{length}s"]
      effects += sox_effects(row)
    return effects

  def run_views(effects):
    subprocess.run(command + effects, check=True, stderr=subprocess.DEVNULL)

  full, empty = chains(draws), chains([{}] * len(draws))
  return {
    "sox": lambda: run_views(full),
    "sox, empty chains": lambda: run_views(empty),
  }


def sox_effects(draws: dict) -> list[str]:
  """The effects of sox for the draws of one view, without noise."""
  effects = []
  for op, d in draws.items():
    if op == "polarity":
      effects += ["vol", "-1"]
    elif op == "gain":
      effects += ["vol", f"{d['db']}dB"]
    elif op == "filter":
      # Windowed sincs as long as ours.
      high = d["highpass"]
      hertz = d["highpass_hz"] if high else d["lowpass_hz"]
      taps = 2 * int(4 * RATE / hertz) + 1
      band = str(hertz) if high else f"-{hertz}"
      effects += ["sinc", "-n", str(taps), band]
    elif op == "delay":
      effects += ["echo", "1", "1", str(d["ms"]), "0.5"]
    elif op == "pitch":
      effects += ["pitch", str(100 * d["semitones"])]
    elif op == "reverb":
      keys = ("reverberance", "damping", "room_size")
      effects += ["reverb", *(str(d[key]) for key in keys), "0"]
  return effects


def _pedalboard(name, views_NxT, draws):
  import pedalboard as p

  if name == "noise":
    return {}

  def effects(draws):
    for op, d in draws.items():
      if op == "polarity":
        yield p.Invert()
      elif op == "gain":
        yield p.Gain(d["db"])
      elif op == "filter" and d["highpass"]:
        yield p.HighpassFilter(d["highpass_hz"])
      elif op == "filter":
        yield p.LowpassFilter(d["lowpass_hz"])
      elif op == "delay":
        yield p.Delay(d["ms"] / 1e3, feedback=0.0, mix=1 / 3)
      elif op == "pitch":
        yield p.PitchShift(d["semitones"])
      elif op == "reverb":
        yield p.Reverb(d["room_size"] / 100, d["damping"] / 100)

  def run_views():
    for x_T, row in zip(views_NxT, draws):
      p.Pedalboard(list(effects(row)))(x_T, RATE)

  return {"pedalboard": run_views}


def _audiomentations(name, views_NxT, draws):
  import audiomentations as a

  if name in (CHAIN, "delay", "reverb"):
    return {}

  def effect(op, d):
    if op == "polarity":
      return a.PolarityInversion(p=1.0)
    if op == "noise":
      return a.AddGaussianSNR(min_snr_db=80.0, max_snr_db=80.0, p=1.0)
    if op == "gain":
      return a.Gain(min_gain_db=d["db"], max_gain_db=d["db"], p=1.0)
    if op == "pitch":
      semitones = d["semitones"]
      return a.PitchShift(
        min_semitones=semitones, max_semitones=semitones, p=1.0
      )
    if d["highpass"]:
      hertz = d["highpass_hz"]
      return a.HighPassFilter(hertz, hertz, p=1.0)
    return a.LowPassFilter(d["lowpass_hz"], d["lowpass_hz"], p=1.0)

  chosen = [effect(name, row[name]) for row in draws]

  def run_views():
    for x_T, apply in zip(views_NxT, chosen):
      apply(x_T, RATE)

  return {"audiomentations": run_views}


# --- on the device -----------------------------------------------------------


def compare_on_device(name: str, views_NxT, repeats: int) -> timing.Report:
  """As `compare`, of one batch."""
  count, notes = len(views_NxT), []
  augmented, crops = _on_device(views_NxT, only(name))
  memory = augmented.memory_analysis()
  runs = {OURS: lambda: jax.block_until_ready(augmented(crops))}
  try:
    runs |= _torch_audiomentations(name, views_NxT)
  except (ImportError, OSError) as error:  # torchaudio has libraries
    notes.append(f"torch-audiomentations is left out: {error}")
  for run_views in runs.values():
    run_views()
  times = timing.take_turns(runs, repeats)
  results = timing.compared(
    times, OURS, lambda taken: {"ms_per_view": _per_view(taken, "wall", count)}
  )
  results[OURS] |= {
    "cpu_ms_per_view": _per_view(times[OURS], "cpu", count),
    "working_mib_per_view": memory.temp_size_in_bytes / 2**20 / count,
    "bytes_per_view_to_device": sum(
      a.nbytes // count for a in jax.tree.leaves(crops)
    ),
  }
  return timing.Report(results, notes)


def _on_device(views_NxT, chain):
  """The compiled augmentation of clips with one view each, and such a batch."""
  config, devices = configs.base_pretrain(), mesh.make_mesh()
  config.augment.update(chain)

  def draw(i):
    seed = seeds.example_seed(0, 0, i, 0)
    return input_pipeline.draw_for_device(seed, chain)

  count = len(views_NxT)
  draws = tf.data.Dataset.range(count).map(draw).batch(count)
  pcm_NxT = np.rint(views_NxT * audio.INT16_SCALE).astype(np.int16)
  batch = pcm_NxT, next(draws.as_numpy_iterator())
  crops = jax.tree.map(
    lambda rows: mesh.global_batch(devices, rows[:, None]), batch
  )
  augmented = device_augment.jit_augment(config, devices)
  return augmented.lower(crops).compile(), crops


def _torch_audiomentations(name, views_NxT):
  import torch
  import torch_audiomentations as a

  if name in (CHAIN, NOTHING, "delay", "reverb"):
    return {}
  always = dict(p=1.0, sample_rate=RATE, output_type="tensor")
  c = augment_config.default_augment()
  effects = {
    "polarity": lambda: a.PolarityInversion(**always),
    "noise": lambda: a.AddColoredNoise(80.0, 80.0, 0.0, 0.0, **always),
    "gain": lambda: a.Gain(c["gain"]["min_db"], 0.0, **always),
    "filter": lambda: a.LowPassFilter(*c["filter"]["lowpass_hz"], **always),
    # Each view by a shift of its own, from a grid that it has.
    "pitch": lambda: a.PitchShift(*c["pitch"]["semitones"], **always),
  }
  effect = effects[name]()
  card = "cuda" if jax.default_backend() == "gpu" else "cpu"
  x_Nx1xT = torch.from_numpy(views_NxT)[:, None].to(card)

  def run_views():
    with torch.no_grad():
      effect(x_Nx1xT, sample_rate=RATE).sum().item()  # waits for the device

  return {"torch-audiomentations": run_views}
