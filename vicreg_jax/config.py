"""Base configs of the jobs, and the durations of runs in steps.

Every key that a job reads has its default here; files in `configs/` change a
few of them. `config_limits.py` refuses a config that no run could follow.
"""

import dataclasses
import math

import ml_collections

from vicreg_jax import checks
from vicreg_jax.data import augment_config

JOBS = ("pretrain", "supervised", "probe", "prepare", "embed")
TRAINING = ("pretrain", "supervised")  # jobs that train an encoder
# Keys that the configs of older runs lack, and the values of those runs.
ADDED = {
  "checkpoint.best_by": "",
  "data.augment_on": "host",
  "data.folders": "auto",
  "data.genres": "several",
  "data.split_number": 0,
  "data.tags": "top50",
  "data.target": "pitch",
  "data.track_pattern": "",
  "freeze_epochs": 0.0,
  "loss.barlow_twins.redundancy_coeff": 0.005,
  "loss.dcl.temperature": 0.1,
  "loss.sigreg.knots": 17,
  "loss.sigreg.slices": 1024,
  "loss.sigreg.t_max": 3.0,
  "loss.sigreg.trade_off": 0.05,
  "model.remat": False,
  "optim.encoder_scale": 1.0,
  "train_fraction": 1.0,
}


def _data() -> dict:
  return dict(
    name="",  # a name of datasets.DATASETS
    path="",  # source files, for data sets that have any
    dir="~/tensorflow_datasets",  # prepared data, shared by all runs; or gs://
    beam="",  # "runner=DirectRunner": options of Apache Beam; "": threads
    labels="auto",  # folder: "folders", "csv", "none", or whichever exists
    csv="",  # folder: labels; "" looks for labels.csv in data.path
    # folder: whether folders called train, valid and test are "splits" or
    # "classes" like others; "auto": splits if there is a train.
    folders="auto",
    track_pattern="",  # folder: its group in a path is the track; "": by names
    seed=0,  # synthetic: which pieces are composed
    sizes=(200, 50, 100),  # synthetic: clips of train, valid and test
    clip_seconds=10.0,  # synthetic
    subset="medium",  # fma: "small", "medium" (the thesis's), "large", "full"
    # fma, "large" and "full": all of a clip's top genres ("several"), or only
    # clips with one ("single").
    genres="several",
    split_set="filtered",  # gtzan: without its faults, or "full"
    convention="all",  # magnatagatune: all clips, or only the "tagged"
    # mtg_jamendo: "top50", "genre", "instrument", "moodtheme", or "all" tags.
    tags="top50",
    split_number=0,  # mtg_jamendo: which of its five official splits
    target="pitch",  # nsynth: labelled by "pitch", or instrument "family"
  )


def _data_with_crop() -> dict:
  """`_data`, and keys that other jobs take from the encoder's run."""
  return _data() | dict(
    sample_rate=22_050,  # Hz
    crop=59_049,  # samples of a view (2.68 s); shorter clips are skipped
  )


def _probe() -> dict:
  """Thesis section 3.3.4 and the code that CLMR released."""
  return dict(
    # The thesis's "linear" and "mlp"; and, for a clip's vector, "logistic"
    # regression and nearest neighbours, "knn".
    heads=("linear", "mlp"),
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
    start=True,  # also report the encoder that the training began from
    mfcc=True,  # also report MFCCs, if "logistic" or "knn" is among the heads
    # A clip's vector for these two, of its segments': their mean and then their
    # deviation, "mean_std", beside rows of the mean alone; or the "mean".
    pooling="mean_std",
    others="",  # also report tables made elsewhere: "musicnn=m.parquet,b=..."
    # The share of the training tracks to learn from: a fixed choice, at least
    # one track, or one of each class where labels are single.
    # (But checkpoint.best_by="knn" chooses an encoder by all labels.)
    label_fraction=1.0,
    # > 1: "logistic" and "knn" also on this many random splits of all labelled
    # clips; no track is in two parts. If labels chose the weights
    # (checkpoint.best_by="knn"), only the fixed test split's tracks are tested.
    splits=1,
    # > 0: also writes retrieval.json: whether test clips find their class and
    # track, and whether this many of them are found by augmented crops.
    retrieval=0,
  )


def _loss() -> dict:
  """VICReg's keys, NT-Xent's, and a section for each other objective."""
  return dict(
    name="vicreg",  # or another of `losses.LOSSES`
    convention="release",
    sim_coeff=25.0,
    std_coeff=25.0,
    cov_coeff=1.0,
    gamma=1.0,
    eps=1e-4,
    temperature=0.5,  # nt_xent
    dcl=dict(temperature=0.1),
    barlow_twins=dict(redundancy_coeff=0.005),  # lambda
    sigreg=dict(
      trade_off=0.05,  # lambda: SIGReg's weight; invariance has the rest
      slices=1024,  # random directions, new ones each step
      knots=17,  # of the characteristic function, from 0 to t_max
      t_max=3.0,
    ),
  )


def base_pretrain() -> ml_collections.ConfigDict:
  """The thesis's VICReg (table 3.1), without data."""
  return ml_collections.ConfigDict(
    dict(
      job="pretrain",
      seed=0,
      batch_size=768,  # clips, over all devices
      epochs=1000,
      steps=0,  # > 0: replaces epochs
      dtype="bfloat16",
      init_from="",  # an encoder to begin with: a workdir, an export, CLMR's
      # Where views are augmented: "host", or "device", before the step.
      data=_data_with_crop() | dict(augment_on="host"),
      # Validation clips: the split "valid" of another data set, whose name,
      # path and seed replace those of `data`; name "": of `data`.
      valid_data=dict(name="", path="", seed=0),
      train_splits=("train",),  # splits to train on
      shuffle_buffer=2048,  # clips; a larger set is shuffled by a window
      augment=augment_config.default_augment(),
      model=dict(
        variant="thesis",
        representation_size=512,
        width=1.0,  # factor on the channels
        blocks=9,
        remat=False,  # gradients compute blocks anew
        projector=(8196, 8196, 8196),
        projector_batch_norm=True,
      ),
      loss=_loss(),
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
      # embeddings of some validation clips (section 5.1); 0: never.
      diagnostics=dict(every_epochs=0.0, clips=2048),
      # keep_at_epochs: these epochs are saved, too, and never deleted.
      # best_by: the state that the run returns. "": the last one. "loss": the
      # one with the lowest loss on the validation clips. "knn": the one whose
      # nearest training clips predict the labels of validation clips best. The
      # state before the first step takes part.
      checkpoint=dict(every_epochs=5.0, keep=3, keep_at_epochs=(), best_by=""),
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
  config.optim.update(_adam())
  return config


def _adam() -> dict:
  return dict(
    name="adam", learning_rate=3e-4, per_256=False, schedule="constant"
  )


def base_supervised() -> ml_collections.ConfigDict:
  """SampleCNN trained with labels (thesis table 4.1, SampleCNN*), without data.

  Batch size, rate, decay and patience are those of CLMR's released code;
  BUILD_NOTES.md lists the differences from it.
  """
  config = base_pretrain()
  for key in (
    "augment", "diagnostics", "loss", "probe", "probe_after", "train_splits",
    "valid_data",
  ):  # fmt: skip
    del config[key]
  del config.checkpoint["best_by"]  # it is the loss
  del config.data["augment_on"]
  for key in ("projector", "projector_batch_norm"):
    del config.model[key]
  config.job = "supervised"
  config.batch_size = 48
  config.epochs = 200
  config.model.dropout = 0.5  # table 2.1
  config.eval_every_epochs = 1.0
  config.optim.update(_adam())
  config.optim.encoder_scale = 1.0  # the encoder's rate over the head's
  config.freeze_epochs = 0.0  # first epochs, in which the head learns alone
  config.train_fraction = 1.0  # of the tracks; see probe.label_fraction
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
      step=-1,  # which checkpoint; -1: the newest, or the run's best
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
  frozen: int  # first steps, which do not change the encoder
  eval_every: int  # 0: never
  diagnose_every: int  # 0: never
  checkpoint_every: int
  keep_at: tuple[int, ...]  # steps that are saved, too, and never deleted
  note: str  # for the summary: differences from the config; or ""

  def save_due(self, step: int) -> bool:
    """Whether the state of a step is saved; the last state always is."""
    every = step % self.checkpoint_every == 0
    return every or step in self.keep_at or step == self.total

  def eval_due(self, step: int) -> bool:
    """Whether a step's state is evaluated; the last is, if any is."""
    return self._due(step, self.eval_every)

  def diagnose_due(self, step: int) -> bool:
    """Whether a step's state is diagnosed; the last is, if any is."""
    return self._due(step, self.diagnose_every)

  def _due(self, step, every):
    return every > 0 and (step % every == 0 or step == self.total)


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
  if total > checks.LARGEST_INT:
    raise ValueError(
      f"epochs is {config.epochs}, {total:.3g} steps; use fewer epochs, or set"
      f" steps to at most {checks.LARGEST_INT}"
    )

  def steps(epochs):
    return max(1, math.ceil(epochs * per_epoch)) if epochs > 0 else 0

  views = config.job == "pretrain"  # there are none of these with labels
  warmup, note = steps(config.optim.warmup_epochs), ""
  if warmup >= total:
    warmup = total - 1
    if config.optim.schedule != "constant":
      note = (
        f"\nwarm-up: {warmup} of the {total} steps, which are shorter than"
        f" optim.warmup_epochs={config.optim.warmup_epochs:g}"
      )
  frozen = 0 if views else steps(config.freeze_epochs)
  if frozen >= total:
    raise ValueError(
      f"freeze_epochs is {config.freeze_epochs:g}, the run ends after"
      f" {total / per_epoch:g}: freeze the encoder for less, or probe it"
      " instead (--config=configs/probe.py)"
    )
  return Durations(
    per_epoch=per_epoch,
    total=total,
    warmup=warmup,
    frozen=frozen,
    eval_every=steps(config.eval_every_epochs),
    diagnose_every=steps(config.diagnostics.every_epochs) if views else 0,
    checkpoint_every=steps(config.checkpoint.every_epochs) or total,
    keep_at=_keep_at(config.checkpoint.keep_at_epochs, per_epoch, total),
    note=note,
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
  """The step at which `epoch` epochs are over."""
  return max(1, round(epoch * per_epoch))
