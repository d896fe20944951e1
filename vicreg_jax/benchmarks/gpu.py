"""A card in ten minutes: steps, whole trainings, embedding, memory.

`step` is `bench step`: clips a second of the train step of both recipes, in
bfloat16 and float32, against PyTorch on the same device. `training` is the job
`pretrain` itself, with the augmentation on either side, on synthetic clips: by
its log, and as a share of what the step alone does. `embed` is `bench embed`'s
rates, in hours of audio an hour. `memory` is the compiler's count for the step
of VICReg, and the most clips that fit by it, of what JAX takes of the card
(XLA_PYTHON_CLIENT_MEM_FRACTION). Parts that do not begin within `--minutes` are
left out, and named.
"""

import functools
import json
import pathlib
import tempfile
import time

import jax

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.benchmarks import embed, step
from vicreg_jax.benchmarks.support import music, timing
from vicreg_jax.jobs import pretrain
from vicreg_jax.model import samplecnn
from vicreg_jax.study import tpu_estimate
from vicreg_jax.training import workdir as workdirs

_LOGGED, _STEADY = 5, 3  # rates of a training, and of its end
_CLIP_SECONDS = 10.0
_SIDES = ("host", "device")


def add_arguments(parser):
  """The benchmark's own flags."""
  music.add_arguments(parser)
  parser.add_argument("--batch", type=int, default=256, help="clips a step")
  parser.add_argument("--width", type=float, default=1.0, help="of the encoder")
  parser.add_argument(
    "--blocks", type=int, default=9, help="crop of 3^(blocks + 1) samples"
  )
  parser.add_argument(
    "--projector", type=int, help="widths, in place of the recipes'"
  )
  parser.add_argument("--steps", type=int, default=100, help="of a training")
  parser.add_argument("--minutes", type=float, default=10.0)
  parser.add_argument("--cpu", action="store_true", help="without a card, too")
  parser.add_argument(
    "--memory-gib", type=float, help="of the device; by default, as it says"
  )


def run(args) -> timing.Report:
  """What there is time for, the most wanted first."""
  if jax.default_backend() == "cpu" and not args.cpu:
    return timing.Report({}, ["left out: there is no card (or use --cpu)"])
  end = time.monotonic() + 60 * args.minutes
  bases = (configs.base_pretrain, configs.base_clmr)
  vicreg, nt_xent = (functools.partial(_recipe, base, args) for base in bases)
  report = timing.Report({}, [f"device: {jax.devices()[0].device_kind}"])
  parts = {
    "step, VICReg in bfloat16": lambda: _step(vicreg("bfloat16"), args),
    "training": lambda: _trainings(vicreg("bfloat16"), args, report.results),
    "memory": lambda: _memory(vicreg("bfloat16"), args),
    "embed": lambda: _embed(args),
    "step, NT-Xent in bfloat16": lambda: _step(nt_xent("bfloat16"), args),
    "step, VICReg in float32": lambda: _step(vicreg("float32"), args),
    "step, NT-Xent in float32": lambda: _step(nt_xent("float32"), args),
  }
  for name, part in parts.items():
    if time.monotonic() > end:
      report.notes.append(f"{name} is left out: the minutes have passed")
      continue
    found = part()
    report.results.update(found.results)
    report.notes.extend(n for n in found.notes if n not in report.notes)
  return report


def _recipe(base, args, dtype):
  config = base()
  config.update(dtype=dtype, batch_size=args.batch)
  config.model.update(width=args.width, blocks=args.blocks)
  if args.projector:
    config.model.projector = (args.projector,) * len(config.model.projector)
  config.data.crop = samplecnn.crop_for(args.blocks)
  config.optim.warmup_epochs = 0.0
  return config


def _step_name(config):
  return f"step, {config.loss.name} in {config.dtype}"


def _step(config, args) -> timing.Report:
  report = step.compare(config, args.repeats)
  results = {
    f"{_step_name(config)}: {peer}": figures
    for peer, figures in report.results.items()
  }
  return timing.Report(results, report.notes)


def _trainings(config, args, known) -> timing.Report:
  """The job on either side; `known` has what the step alone does."""
  name = f"{_step_name(config)}: {step.OURS}"
  alone = known[name]["clips_per_s"]["median"]
  results = {}
  with tempfile.TemporaryDirectory() as directory:
    for side in _SIDES:
      rates = _train(config, side, args.steps, f"{directory}/data", directory)
      results[f"training, augmented on {side}"] = {
        "clips_per_s": timing.spread(rates),
        "share_of_step": timing.spread([rate / alone for rate in rates]),
      }
  return timing.Report(results, [])


def _train(config, side, count, data_dir, directory) -> list[float]:
  """Clips a second of a run, by its log, once all is compiled."""
  config = config.copy_and_resolve_references()
  config.data.update(
    name="synthetic",
    dir=data_dir,
    sizes=(2 * config.batch_size, 0, 0),
    clip_seconds=max(_CLIP_SECONDS, 2 * config.data.crop / 22_050),
    augment_on=side,
  )
  config.update(steps=count, eval_every_epochs=0.0)
  config.log_every_steps = max(1, count // _LOGGED)
  config.checkpoint.every_epochs = 0.0  # at the end alone
  workdir = f"{directory}/{side}"
  pretrain.run(config, workdir)
  lines = pathlib.Path(workdir, workdirs.METRICS).read_text().splitlines()
  rates = [json.loads(line).get("train/clips_per_second") for line in lines]
  return [rate for rate in rates if rate][-_STEADY:]


def _embed(args) -> timing.Report:
  with music.files(args) as paths, tempfile.TemporaryDirectory() as directory:
    report = embed.compare(paths, args.repeats, directory)
  results = {
    f"embedding: {name}": {"hours_per_hour": figures["hours_per_hour"]}
    for name, figures in report.results.items()
  }
  return timing.Report(results, report.notes)


def _memory(config, args) -> timing.Report:
  """The step's memory, and the batch that fills the device's."""
  devices = mesh.make_mesh()
  limit = _limit(devices, args)
  peaks = [_peak(config, args.batch * n, devices) for n in (1, 2)]
  figures = {
    "clips": args.batch,
    "peak_gib": peaks[0] / tpu_estimate.GIB,
    "mib_per_clip": (peaks[1] - peaks[0]) / args.batch / 2**20,
  }
  if limit is None:
    return timing.Report(
      {"memory": figures}, ["the device has no limit: no largest batch"]
    )
  # It grows with the batch, and NT-Xent's by its square; then it is tried.
  most = args.batch + (limit - peaks[0]) * args.batch // (peaks[1] - peaks[0])
  most = int(max(most, devices.size) // devices.size * devices.size)
  while most > args.batch and _peak(config, most, devices) > limit:
    most = most * 9 // 10 // devices.size * devices.size
  figures |= {"limit_gib": limit / tpu_estimate.GIB, "largest_batch": most}
  return timing.Report({"memory": figures}, [])


def _limit(devices, args):
  if args.memory_gib:
    return int(args.memory_gib * tpu_estimate.GIB)
  return (devices.devices.flat[0].memory_stats() or {}).get("bytes_limit")


def _peak(config, clips, devices) -> int:
  config = config.copy_and_resolve_references()
  config.batch_size = clips
  lowered = tpu_estimate.train_program(config, 32 * clips, devices)
  return tpu_estimate.peak_bytes(lowered.compile())
