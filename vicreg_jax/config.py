"""Base configs of the jobs, from durations to steps, and validation.

Every key that a job reads has its default here; files in `configs/` change a
few of them. It sits above the modules whose keys it holds, so that each of
them checks its own section.
"""

import dataclasses
import difflib
import math

import ml_collections

from vicreg_jax.data import audio, views
from vicreg_jax.model import samplecnn

JOBS = ("pretrain", "supervised", "probe", "prepare", "embed")
TRAINING = ("pretrain", "supervised")  # jobs that train an encoder
# Configs to begin with, where the name is not the job's.
_EXAMPLES = {"pretrain": "folder", "supervised": "supervised_mtat"}
DTYPES = ("float32", "bfloat16")
SPLITS = ("train", "valid", "test")
LABELS = ("auto", "folders", "csv", "none")
SUBSETS = ("small", "medium", "large")
SPLIT_SETS = ("filtered", "full")
CONVENTIONS = ("all", "tagged")
# Beyond these no run could be meant: steps are int32 on a device, and what
# float32 cannot hold would turn into infinity there.
_LARGEST_INT = 2**31 - 1
_LARGEST_FLOAT = 1e30
_LARGEST_WIDTH = 1 << 20  # of a layer


def _data() -> dict:
  return dict(
    name="",  # a name of datasets.DATASETS
    path="",  # source files, for data sets that have any
    dir="~/tensorflow_datasets",  # prepared data, shared by all runs; or gs://
    beam="",  # "runner=DirectRunner": options of Apache Beam; "": threads
    labels="auto",  # folder: "folders", "csv", "none", or whichever is there
    csv="",  # folder: labels; "" looks for labels.csv in data.path
    seed=0,  # synthetic: which pieces are composed
    sizes=(200, 50, 100),  # synthetic: clips of train, valid and test
    clip_seconds=10.0,  # synthetic
    subset="medium",  # fma: "small", "medium" (the thesis's), "large"
    download=False,  # fma: get what data.path lacks, 23 GB for "medium"
    split_set="filtered",  # gtzan: without its faults, or "full"
    convention="all",  # magnatagatune: all clips, or only the "tagged"
  )


def _data_with_crop() -> dict:
  """Probing and embedding take these from the encoder's run instead."""
  return _data() | dict(
    sample_rate=22_050,  # Hz
    crop=59_049,  # samples of a view (2.68 s); shorter clips are skipped
  )


def _probe() -> dict:
  """Thesis section 3.3.4 and the code that CLMR released."""
  return dict(
    batch_size=256,  # crops a step of the heads
    encode_batch_size=64,  # crops a step of the frozen encoder
    learning_rate=1e-3,
    weight_decay=1e-6,  # L2, as torch.optim.Adam's
    max_epochs=200,
    plateau_factor=0.1,
    plateau_patience=5,  # epochs without a lower validation loss
    stop_patience=10,  # epochs without a lower validation loss; 0: never
    distinct_crops=0,  # crops a clip, then over again; 0: new every epoch
    untrained=True,  # also report the encoder before pretraining
  )


def base_pretrain() -> ml_collections.ConfigDict:
  """The thesis's VICReg (table 3.1), without data."""
  return ml_collections.ConfigDict(
    dict(
      job="pretrain",
      seed=0,
      batch_size=768,  # clips, over all devices
      epochs=1000,
      steps=0,  # > 0: so many steps, whatever epochs says
      dtype="bfloat16",
      data=_data_with_crop(),
      # Clips to validate on: split "valid" of another data set, for which
      # name, path and seed stand in for those of `data`; "": of `data` itself.
      valid_data=dict(name="", path="", seed=0),
      train_splits=("train",),  # splits to train on
      shuffle_buffer=2048,  # clips; a larger set is shuffled by a window
      augment=views.default_augment(),
      model=dict(
        variant="thesis",
        representation_size=512,
        width=1.0,  # factor on the channels
        blocks=9,
        projector=(8196, 8196, 8196),
        projector_batch_norm=True,
      ),
      loss=dict(
        name="vicreg",
        convention="release",
        sim_coeff=25.0,
        std_coeff=25.0,
        cov_coeff=1.0,
        gamma=1.0,
        eps=1e-4,
        temperature=0.5,  # nt_xent
      ),
      optim=dict(
        name="lars",
        learning_rate=0.2,
        per_256=True,  # learning_rate is for a batch of 256, and scales
        schedule="cosine",
        warmup_epochs=10.0,
        final_fraction=0.001,  # of the peak, where the cosine ends
        weight_decay=1e-6,
        momentum=0.9,  # lars
        trust_coefficient=0.001,  # lars
        lars_order="release",
        b1=0.9,  # adam
        b2=0.999,  # adam
      ),
      log_every_steps=50,
      eval_every_epochs=20.0,  # validation loss, figure A.1; 0: never
      # Effective rank, spectrum and correlations of representations and
      # embeddings of so many clips to validate on (section 5.1); 0: never.
      diagnostics=dict(every_epochs=0.0, clips=2048),
      # keep_at_epochs: epochs that are saved, and stay, besides.
      checkpoint=dict(every_epochs=5.0, keep=3, keep_at_epochs=()),
      probe_after=False,  # probe the encoder on the same data set
      probe=_probe(),
    )
  )


def base_clmr() -> ml_collections.ConfigDict:
  """The thesis's CLMR (sections 3.1.2, 3.3.3 and 3.3.4), without data."""
  config = base_pretrain()
  config.batch_size = 256
  config.loss.name = "nt_xent"
  config.model.projector = (512, 128)
  config.model.projector_batch_norm = False
  config.optim.name = "adam"
  config.optim.learning_rate = 3e-4
  config.optim.per_256 = False
  config.optim.schedule = "constant"
  return config


def base_supervised() -> ml_collections.ConfigDict:
  """SampleCNN trained with labels (thesis table 4.1, SampleCNN*), without data.

  Batch size, rate, decay and patience are those of the code that CLMR released;
  BUILD_NOTES.md says what it does otherwise.
  """
  config = base_pretrain()
  for key in ("train_splits", "augment", "loss", "probe_after", "probe"):
    del config[key]
  for key in ("valid_data", "diagnostics"):
    del config[key]
  for key in ("projector", "projector_batch_norm"):
    del config.model[key]
  config.job = "supervised"
  config.batch_size = 48
  config.epochs = 200
  config.model.dropout = 0.5  # table 2.1
  config.eval_every_epochs = 1.0
  config.optim.name = "adam"
  config.optim.learning_rate = 3e-4
  config.optim.per_256 = False
  config.optim.schedule = "constant"
  config.stop_patience = 20  # epochs without a lower validation loss; 0: never
  config.encode_batch_size = 64  # segments a step of evaluation
  return config


def base_probe() -> ml_collections.ConfigDict:
  """Linear and two-layer probes of a frozen encoder, without data."""
  return ml_collections.ConfigDict(
    dict(
      job="probe",
      seed=0,
      checkpoint="",  # workdir of the pretraining
      step=-1,  # which checkpoint; -1: the newest
      epoch=-1.0,  # which checkpoint, by epoch; -1: by step
      data=_data(),
      probe=_probe(),
    )
  )


def base_embed() -> ml_collections.ConfigDict:
  """Representations of every clip by a frozen encoder, without data."""
  return ml_collections.ConfigDict(
    dict(
      job="embed",
      seed=0,
      checkpoint="",  # workdir of the pretraining
      step=-1,
      epoch=-1.0,
      batch_size=64,  # crops a step of the encoder
      data=_data(),
    )
  )


def base_prepare() -> ml_collections.ConfigDict:
  """Decodes a data set once, without data."""
  return ml_collections.ConfigDict(dict(job="prepare", data=_data_with_crop()))


@dataclasses.dataclass(frozen=True)
class Durations:
  """A run's durations, in optimizer steps."""

  per_epoch: int
  total: int
  warmup: int
  eval_every: int  # 0: never
  diagnose_every: int  # 0: never
  checkpoint_every: int
  keep_at: tuple[int, ...]  # steps that are saved besides, and stay

  def save_due(self, step: int) -> bool:
    """Whether the state of a step is saved; the last one always is."""
    every = step % self.checkpoint_every == 0
    return every or step in self.keep_at or step == self.total


def durations(config, num_clips: int) -> Durations:
  """Steps of a run that trains an encoder on `num_clips` clips.

  A short last batch is dropped, so an epoch is num_clips // batch_size steps.
  """
  per_epoch = num_clips // config.batch_size
  if not per_epoch:
    raise ValueError(
      f"batch_size is {config.batch_size}, the training split has"
      f" {num_clips} clips: set batch_size to at most {num_clips}"
    )
  total = config.steps or epoch_to_step(config.epochs, per_epoch)
  if total > _LARGEST_INT:
    raise ValueError(
      f"epochs is {config.epochs}, {total:.3g} steps; use fewer epochs, or set"
      f" steps to at most {_LARGEST_INT}"
    )

  def steps(epochs):
    return max(1, math.ceil(epochs * per_epoch)) if epochs > 0 else 0

  views = config.job == "pretrain"  # there are none of these with labels
  return Durations(
    per_epoch=per_epoch,
    total=total,
    warmup=min(steps(config.optim.warmup_epochs), total - 1),
    eval_every=steps(config.eval_every_epochs),
    diagnose_every=steps(config.diagnostics.every_epochs) if views else 0,
    checkpoint_every=steps(config.checkpoint.every_epochs) or total,
    keep_at=_keep_at(config.checkpoint.keep_at_epochs, per_epoch, total),
  )


def _keep_at(epochs, per_epoch, total):
  steps = tuple(epoch_to_step(epoch, per_epoch) for epoch in epochs)
  if max(steps, default=0) > total:
    raise ValueError(
      f"checkpoint.keep_at_epochs is {tuple(epochs)}, the run ends after"
      f" {total / per_epoch:g}: name epochs up to that"
    )
  return steps


def epoch_to_step(epoch: float, per_epoch: int) -> int:
  """The step at which so many epochs are over."""
  return max(1, round(epoch * per_epoch))


def _one_of(key, value, allowed):
  if value not in allowed:
    raise ValueError(f"{key} is {value!r}; use one of {', '.join(allowed)}")


def _at_least(key, value, least):
  if value < least:
    raise ValueError(f"{key} is {value}; it must be at least {least}")


def _at_most(key, value, most):
  if value > most:
    raise ValueError(f"{key} is {value}; it must be at most {most}")


def _above(key, value, bound=0):
  if value <= bound:
    raise ValueError(f"{key} is {value}; it must be above {bound}")


def _check_kinds(config, base):
  """Raises ValueError unless the keys of `base` have values of its kinds."""
  given = dict(_flat(config))
  for key, like in _flat(base):
    if key not in given:
      section = f"section {key.rpartition('.')[0]}" if "." in key else "config"
      raise ValueError(f"{key} is missing: give the {section} all of its keys")
    fault = _fault(given[key], like)
    if fault:
      raise ValueError(f"{key} is {given[key]!r}; it must be {fault}")


def _flat(tree, prefix=""):
  """(name with dots, value) of every key; a section comes before its keys."""
  for key, value in tree.items():
    yield f"{prefix}{key}", value
    if isinstance(value, ml_collections.ConfigDict):
      yield from _flat(value, f"{prefix}{key}.")


def _fault(value, like):
  """What `value` would have to be, if it is not of the kind of `like`."""
  if isinstance(like, ml_collections.ConfigDict):
    is_section = isinstance(value, ml_collections.ConfigDict)
    return "" if is_section else f"a section with {', '.join(like)}"
  if isinstance(like, bool):
    return "" if isinstance(value, bool) else "True or False"
  if isinstance(like, str):
    return "" if isinstance(value, str) and "\0" not in value else "text"
  if isinstance(like, tuple):
    if not isinstance(value, (tuple, list)):
      return f"a list such as {like}"
    example = like[0] if like else 0.0
    faults = [fault for v in value if (fault := _fault(v, example))]
    return f"a list, each of them {faults[0]}" if faults else ""
  whole = isinstance(like, int)
  number = isinstance(value, int if whole else (int, float))
  largest = _LARGEST_INT if whole else _LARGEST_FLOAT
  # Written so that nan is refused too.
  if number and not isinstance(value, bool) and -largest <= value <= largest:
    return ""
  return f"a{' whole' * whole} number of at most {largest}"


def _check_known(config, bases):
  """Raises ValueError on a key that no job reads, such as a misspelt one."""
  known = {key for base in bases for key, _ in _flat(base)}
  for key, _ in _flat(config):
    if key not in known:
      near = difflib.get_close_matches(key, known, 1)
      hint = f" (did you mean {near[0]}?)" if near else ""
      raise ValueError(
        f"{key}: there is no such key{hint}; vicreg_jax/config.py lists all"
      )


def validate(config):
  """Raises ValueError, naming key and remedy, if no run could follow."""
  if "job" not in config:
    raise ValueError(f"job is missing; use one of {', '.join(JOBS)}")
  _one_of("job", config.job, JOBS)
  bases = {
    "pretrain": base_pretrain(),
    "supervised": base_supervised(),
    "probe": base_probe(),
    "prepare": base_prepare(),
    "embed": base_embed(),
  }
  base = bases[config.job]
  lacking = sorted(set(base) - set(config))
  if lacking:
    raise ValueError(
      f"job={config.job} needs {', '.join(lacking)}, which this config does not"
      " have: use a config that is made for it,"
      f" configs/{_EXAMPLES.get(config.job, config.job)}.py for example"
    )
  _check_known(config, bases.values())
  _check_kinds(config, base)
  _validate_data(config)
  if config.job != "prepare":
    _at_least("seed", config.seed, 0)
  if config.job in TRAINING:
    _validate_training(config)
  if config.job == "pretrain":
    _validate_pretrain(config)
  if config.job == "supervised":
    _validate_supervised(config)
  if config.job in ("probe", "embed") and not config.checkpoint:
    raise ValueError(
      "checkpoint is not set: name the workdir of a pretraining run with"
      " --config.checkpoint=DIR"
    )
  if config.job in ("probe", "embed") and config.step >= 0 <= config.epoch:
    raise ValueError(
      f"step is {config.step} and epoch is {config.epoch}: set one of them, and"
      " leave the other at -1"
    )
  if "probe" in base:
    _validate_probe(config.probe)
  if config.job == "embed":
    _above("batch_size", config.batch_size)


def _validate_data(config):
  data = config.data
  _one_of("data.labels", data.labels, LABELS)
  _one_of("data.subset", data.subset, SUBSETS)
  _one_of("data.split_set", data.split_set, SPLIT_SETS)
  _one_of("data.convention", data.convention, CONVENTIONS)
  _at_least("data.seed", data.seed, 0)
  _above("data.clip_seconds", data.clip_seconds)
  _at_most("data.clip_seconds", data.clip_seconds, 3600)
  if len(data.sizes) != 3 or min(data.sizes) < 0:
    raise ValueError(
      f"data.sizes is {tuple(data.sizes)}; give the numbers of clips to train"
      " on, validate and test with, (200, 50, 100) for example"
    )
  if config.job in (*TRAINING, "prepare"):
    _validate_crop(data)


def _validate_crop(data):
  rates = audio.SAMPLE_RATES
  _at_least("data.sample_rate", data.sample_rate, rates[0])
  _at_most("data.sample_rate", data.sample_rate, rates[-1])
  _above("data.crop", data.crop)


def validate_encoder(config):
  """Raises ValueError unless an encoder can be made of a run's config.

  Its other keys are not looked at: a run that an older version of this package
  has saved may lack some.
  """
  base = base_pretrain()
  keys = dict(seed=base.seed, dtype=base.dtype, data={}, model={})
  keys["data"] = {k: base.data[k] for k in ("sample_rate", "crop")}
  keys["model"] = {
    k: base.model[k]
    for k in ("variant", "representation_size", "width", "blocks")
  }
  _check_kinds(config, ml_collections.ConfigDict(keys))
  _validate_encoder(config)


def _validate_encoder(config):
  model = config.model
  _at_least("seed", config.seed, 0)
  _one_of("dtype", config.dtype, DTYPES)
  _validate_crop(config.data)
  _one_of("model.variant", model.variant, sorted(samplecnn.VARIANTS))
  _above("model.width", model.width)
  _at_most("model.width", model.width, 100)
  size = model.representation_size
  _above("model.representation_size", size)
  _at_most("model.representation_size", size, _LARGEST_WIDTH)
  if not 1 <= model.blocks <= 9:
    raise ValueError(f"model.blocks is {model.blocks}; use 1 to 9")
  crop = samplecnn.crop_for(model.blocks)
  if not crop <= config.data.crop < 2 * crop:
    raise ValueError(
      f"data.crop is {config.data.crop}, model.blocks={model.blocks} reduces"
      f" {crop} samples to one frame: set data.crop={crop}"
    )


def _validate_training(config):
  """What all jobs that train an encoder have."""
  _validate_encoder(config)
  _at_least("batch_size", config.batch_size, 2)
  _at_least("steps", config.steps, 0)
  if not config.steps:
    _above("epochs", config.epochs)
  _above("shuffle_buffer", config.shuffle_buffer)
  _validate_optim(config.optim)
  _above("log_every_steps", config.log_every_steps)
  _above("checkpoint.keep", config.checkpoint.keep)
  _at_least("checkpoint.every_epochs", config.checkpoint.every_epochs, 0)
  for epoch in config.checkpoint.keep_at_epochs:
    _above("checkpoint.keep_at_epochs", epoch)


def _validate_optim(optim):
  _one_of("optim.name", optim.name, ("lars", "adam"))
  _one_of("optim.schedule", optim.schedule, ("cosine", "constant"))
  _one_of("optim.lars_order", optim.lars_order, ("release", "paper"))
  _above("optim.learning_rate", optim.learning_rate)
  _above("optim.trust_coefficient", optim.trust_coefficient)
  for key in ("momentum", "b1", "b2"):
    if not 0 <= optim[key] < 1:
      raise ValueError(f"optim.{key} is {optim[key]}; use 0 to below 1")
  for key in ("warmup_epochs", "weight_decay", "final_fraction"):
    _at_least(f"optim.{key}", optim[key], 0)
  _at_most("optim.final_fraction", optim.final_fraction, 1)


def _validate_pretrain(config):
  loss = config.loss
  for split in config.train_splits:
    _one_of("train_splits", split, SPLITS)
  if not config.train_splits or len(set(config.train_splits)) < len(
    config.train_splits
  ):
    raise ValueError(
      f"train_splits is {tuple(config.train_splits)}; name one or more of"
      f" {', '.join(SPLITS)}, each once"
    )
  evaluated = config.eval_every_epochs or config.diagnostics.every_epochs
  other = config.valid_data
  own = not other.name or all(other[k] == config.data[k] for k in other)
  if "valid" in config.train_splits and evaluated and own:
    raise ValueError(
      'train_splits has "valid", so its loss would not be held out: set'
      " eval_every_epochs=0 and diagnostics.every_epochs=0, leave it out, or"
      " name another data set with valid_data.name"
    )
  _at_least("valid_data.seed", config.valid_data.seed, 0)
  widths = config.model.projector
  if not widths or min(widths) < 1 or max(widths) > _LARGEST_WIDTH:
    raise ValueError(
      f"model.projector is {tuple(widths)}; give the widths of its layers,"
      " (512, 128) for example"
    )
  _one_of("loss.name", loss.name, ("vicreg", "nt_xent"))
  _one_of("loss.convention", loss.convention, ("release", "paper"))
  for key in ("sim_coeff", "std_coeff", "cov_coeff", "gamma"):
    _at_least(f"loss.{key}", loss[key], 0)
  _above("loss.eps", loss.eps)
  _above("loss.temperature", loss.temperature)
  _at_least("eval_every_epochs", config.eval_every_epochs, 0)
  _at_least("diagnostics.every_epochs", config.diagnostics.every_epochs, 0)
  _at_least("diagnostics.clips", config.diagnostics.clips, 2)
  views.validate_augment(config.augment.to_dict(), config.data.sample_rate)


def _validate_supervised(config):
  dropout = config.model.dropout
  if not 0 <= dropout < 1:
    raise ValueError(f"model.dropout is {dropout}; use 0 to below 1")
  _above("eval_every_epochs", config.eval_every_epochs)
  _at_least("stop_patience", config.stop_patience, 0)
  _above("encode_batch_size", config.encode_batch_size)


def _validate_probe(probe):
  for key in ("batch_size", "encode_batch_size", "learning_rate", "max_epochs"):
    _above(f"probe.{key}", probe[key])
  for key in (
    "weight_decay",
    "plateau_patience",
    "stop_patience",
    "distinct_crops",
  ):
    _at_least(f"probe.{key}", probe[key], 0)
  if not 0 < probe.plateau_factor < 1:
    raise ValueError(
      f"probe.plateau_factor is {probe.plateau_factor}; it must lie between"
      " 0 and 1"
    )
