"""Limits of a config's values: bounds, or names to choose from.

Names for data sets are repeated here, as their modules need TensorFlow and a
config does not. `validate` refuses a config that no run could follow.
"""

import ml_collections

from vicreg_jax import checks
from vicreg_jax import config as configs
from vicreg_jax.data import audio, augment_config, tracks
from vicreg_jax.data.tracks import SPLITS
from vicreg_jax.model import losses, optim, samplecnn

# Configs to begin with, where the name is not the job's.
_EXAMPLES = {"pretrain": "folder", "supervised": "supervised_mtat"}
_ABOVE_0 = checks.Bounds(above=0)
_AT_LEAST_0 = checks.Bounds(least=0)
_SHARE = checks.Bounds(least=0, below=1)
_PROBABILITY = checks.Bounds(least=0, most=1)
_PERCENT = checks.Bounds(least=0, most=100)
_GAIN = checks.Bounds(least=-100, most=100)
_PART = checks.Bounds(above=0, most=1)
_WIDTH = checks.Bounds(least=1, most=1 << 20)  # of a layer
LIMITS = {
  "seed": _AT_LEAST_0,
  "batch_size": checks.Bounds(least=2),
  "steps": _AT_LEAST_0,
  "dtype": ("float32", "bfloat16"),
  "data.augment_on": ("host", "device"),
  "data.labels": ("auto", "folders", "csv", "none"),
  "data.folders": ("auto", "splits", "classes"),
  "data.seed": _AT_LEAST_0,
  # The pieces of synthetic music are numbered, a million for each split.
  "data.sizes": checks.Bounds(least=0, most=1_000_000),
  "data.clip_seconds": checks.Bounds(above=0, most=3600),
  "data.subset": ("small", "medium", "large", "full"),
  "data.genres": ("several", "single"),
  "data.split_set": ("filtered", "full"),
  "data.convention": ("all", "tagged"),
  "data.tags": ("top50", "genre", "instrument", "moodtheme", "all"),
  "data.split_number": checks.Bounds(least=0, most=4),
  "data.target": ("pitch", "family"),
  "data.sample_rate": checks.Bounds(
    least=audio.SAMPLE_RATES[0], most=audio.SAMPLE_RATES[-1]
  ),
  "data.crop": _ABOVE_0,
  "valid_data.seed": _AT_LEAST_0,
  "train_splits": SPLITS,
  "augment.noise.snr_db": checks.Bounds(least=-100, most=200),
  "augment.gain.min_db": _GAIN,
  "augment.gain.max_db": _GAIN,
  "augment.filter.highpass_p": _PROBABILITY,
  "augment.filter.highpass_hz": _ABOVE_0,
  "augment.filter.lowpass_hz": _ABOVE_0,
  "augment.delay.delay_ms": checks.Bounds(least=0, most=60_000),
  "augment.delay.step_ms": checks.Bounds(least=1e-3, most=60_000),
  "augment.delay.factor": checks.Bounds(least=-1, most=1),
  "augment.pitch.semitones": checks.Bounds(
    least=-augment_config.MAX_SEMITONES, most=augment_config.MAX_SEMITONES
  ),
  "augment.reverb.room_size": _PERCENT,
  "augment.reverb.reverberance": _PERCENT,
  "augment.reverb.damping": _PERCENT,
  "shuffle_buffer": _ABOVE_0,
  "model.variant": tuple(sorted(samplecnn.VARIANTS)),
  "model.representation_size": _WIDTH,
  "model.width": checks.Bounds(above=0, most=100),
  "model.blocks": checks.Bounds(least=1, most=9),
  "model.projector": _WIDTH,
  "model.dropout": _SHARE,
  "loss.name": tuple(losses.LOSSES),
  "loss.convention": losses.CONVENTIONS,
  "loss.sim_coeff": _AT_LEAST_0,
  "loss.std_coeff": _AT_LEAST_0,
  "loss.cov_coeff": _AT_LEAST_0,
  "loss.gamma": _AT_LEAST_0,
  "loss.eps": _ABOVE_0,
  "loss.temperature": _ABOVE_0,
  "loss.dcl.temperature": _ABOVE_0,
  "loss.barlow_twins.redundancy_coeff": _AT_LEAST_0,
  "loss.sigreg.trade_off": _PROBABILITY,
  "loss.sigreg.slices": _WIDTH,
  "loss.sigreg.knots": checks.Bounds(least=2, most=1000),
  "loss.sigreg.t_max": _ABOVE_0,
  "optim.name": optim.NAMES,
  "optim.learning_rate": _ABOVE_0,
  "optim.schedule": optim.SCHEDULES,
  "optim.warmup_epochs": _AT_LEAST_0,
  "optim.final_fraction": _PROBABILITY,
  "optim.weight_decay": _AT_LEAST_0,
  "optim.momentum": _SHARE,
  "optim.trust_coefficient": _ABOVE_0,
  "optim.lars_order": optim.LARS_ORDERS,
  "optim.b1": _SHARE,
  "optim.b2": _SHARE,
  "optim.encoder_scale": _AT_LEAST_0,
  "log_every_steps": _ABOVE_0,
  "eval_every_epochs": _AT_LEAST_0,
  "diagnostics.every_epochs": _AT_LEAST_0,
  "diagnostics.clips": checks.Bounds(least=2),
  "checkpoint.every_epochs": _AT_LEAST_0,
  "checkpoint.keep": _ABOVE_0,
  "checkpoint.keep_at_epochs": _ABOVE_0,
  "checkpoint.best_by": ("", "loss", "knn"),
  "freeze_epochs": _AT_LEAST_0,
  "train_fraction": _PART,
  "stop_patience": _AT_LEAST_0,
  "encode_batch_size": _ABOVE_0,
  "probe.heads": ("linear", "mlp", "logistic", "knn"),
  "probe.batch_size": _ABOVE_0,
  "probe.encode_batch_size": _ABOVE_0,
  "probe.learning_rate": _ABOVE_0,
  "probe.weight_decay": _AT_LEAST_0,
  "probe.max_epochs": _ABOVE_0,
  "probe.plateau_factor": checks.Bounds(above=0, below=1),
  "probe.plateau_patience": _AT_LEAST_0,
  "probe.stop_patience": _AT_LEAST_0,
  "probe.distinct_crops": _AT_LEAST_0,
  "probe.label_fraction": _PART,
  "probe.pooling": ("mean", "mean_std"),
  "probe.splits": checks.Bounds(least=1, most=1000),
  "probe.retrieval": _AT_LEAST_0,
}
for _op in augment_config.default_augment():
  LIMITS[f"augment.{_op}.p"] = _PROBABILITY
_LIMITS_OF_JOB = {
  "embed": {"batch_size": _ABOVE_0},  # no loss compares clips of a batch
  "supervised": {"eval_every_epochs": _ABOVE_0},  # evaluation chooses weights
}


def validate(config):
  """Raises ValueError, naming key and remedy, if no run could follow."""
  bases = {job: getattr(configs, f"base_{job}")() for job in configs.JOBS}
  job = config.get("job")
  if job not in configs.JOBS:
    raise ValueError(f"job is {job!r}; use one of {', '.join(bases)}")
  base = bases[job]
  lacking = sorted(set(base) - set(config))
  if lacking:
    raise ValueError(
      f"job={job} needs {', '.join(lacking)}, which this config does not"
      " have: use a config that is made for it,"
      f" configs/{_EXAMPLES.get(job, job)}.py for example"
    )
  checks.check_known(config, bases.values())
  checks.check_kinds(config, base)
  checks.check_limits(config, base, LIMITS | _LIMITS_OF_JOB.get(job, {}))
  if len(config.data.sizes) != 3:
    raise ValueError(
      f"data.sizes is {tuple(config.data.sizes)}; give the numbers of clips to"
      " train on, validate and test with, (200, 50, 100) for example"
    )
  if config.data.track_pattern:
    tracks.compile_pattern(config.data.track_pattern)
  if job in configs.TRAINING:
    _validate_crop(config)
    if not config.steps and config.epochs <= 0:
      raise ValueError(f"epochs is {config.epochs}; it must be above 0")
  if job == "pretrain":
    _validate_pretrain(config)
  if job in ("pretrain", "probe") and not config.probe.heads:
    raise ValueError(
      'probe.heads is (); name one or more, ("linear", "logistic") for example'
    )
  if job in ("probe", "embed"):
    _validate_checkpoint(config)


def validate_encoder(config):
  """Raises ValueError unless a run's config describes an encoder.

  Other keys are ignored: the run of an older version may lack some.
  """
  base = configs.base_pretrain()
  keys = dict(seed=base.seed, dtype=base.dtype, data={}, model={})
  keys["data"] = {k: base.data[k] for k in ("sample_rate", "crop")}
  keys["model"] = {
    k: base.model[k]
    for k in ("variant", "representation_size", "width", "blocks")
  }
  keys = ml_collections.ConfigDict(keys)
  checks.check_kinds(config, keys)
  checks.check_limits(config, keys, LIMITS)
  _validate_crop(config)


def _validate_crop(config):
  blocks = config.model.blocks
  crop = samplecnn.crop_for(blocks)
  if not crop <= config.data.crop < 2 * crop:
    raise ValueError(
      f"data.crop is {config.data.crop}, model.blocks={blocks} reduces"
      f" {crop} samples to one frame: set data.crop={crop}"
    )


def _validate_pretrain(config):
  splits = tuple(config.train_splits)
  if not splits or len(set(splits)) < len(splits):
    raise ValueError(
      f"train_splits is {splits}; name one or more of {', '.join(SPLITS)}, each"
      " once"
    )
  evaluated = config.eval_every_epochs or config.diagnostics.every_epochs
  other = config.valid_data
  own = not other.name or all(other[k] == config.data[k] for k in other)
  if "valid" in splits and evaluated and own:
    raise ValueError(
      'train_splits has "valid", so its loss would not be held out: set'
      " eval_every_epochs=0 and diagnostics.every_epochs=0, leave it out, or"
      " name another data set with valid_data.name"
    )
  best_by = config.checkpoint.best_by
  if best_by and not config.eval_every_epochs:
    raise ValueError(
      f"checkpoint.best_by is {best_by!r} and eval_every_epochs is 0, so"
      " nothing would be compared: set eval_every_epochs above 0, or"
      " checkpoint.best_by to ''"
    )
  if best_by == "knn" and not own:
    raise ValueError(
      f"checkpoint.best_by is 'knn' and valid_data.name is {other.name!r}:"
      " neighbours are looked for in the same data set only. Set"
      " valid_data.name='' or checkpoint.best_by=loss"
    )
  if not config.model.projector:
    raise ValueError(
      "model.projector is (); give the widths of its layers, (512, 128) for"
      " example"
    )
  augment_config.validate_augment(
    config.augment.to_dict(), config.data.sample_rate
  )


def _validate_checkpoint(config):
  if not config.checkpoint:
    raise ValueError(
      "checkpoint is not set: name the workdir of a pretraining run with"
      " --config.checkpoint=DIR"
    )
  if config.step >= 0 <= config.epoch:
    raise ValueError(
      f"step is {config.step} and epoch is {config.epoch}: set one of them, and"
      " leave the other at -1"
    )
