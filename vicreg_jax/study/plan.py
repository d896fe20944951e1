"""The parts of a suite: runs, their probes, and the points of a table.

A suite is a file with `get_suite(scale)`, as those in `configs/suites`:

    def get_suite(scale):
      runs = {e: plan.pretrain(scale, "VICReg", epochs=e) for e in (300, 1000)}
      points = [
        plan.probed(scale, {"method": "VICReg", "epochs": e}, run, e)
        for e, run in runs.items()
      ]
      return plan.Suite("Title", points, draw)

All numbers are the thesis's; the scale "smoke" makes them smaller. Equal runs
are one run, in one suite or in several.
"""

import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from vicreg_jax import files, plots, python_file
from vicreg_jax.study import drawing, training_figures

SCALES = ("thesis", "smoke")
STAMP = (
  "smoke scale: shows that the machinery works, says nothing about the thesis"
)
HEADS = {head: head for head in drawing.HEADS}
# The axes of the thesis: tables A.1, A.2 and B.1.
EPOCHS = (300, 1000, 3000, 5000, 8000)
SIZES = (32, 64, 128, 256, 512)
BATCH_SIZES = (64, 128, 256, 512, 768, 1024, 1280, 1536, 1792)
# Clips for diagnostics of collapse: whole batches of both methods.
DIAGNOSED_EPOCHS, DIAGNOSED_CLIPS = 100, 1536
_CONFIGS = {
  ("VICReg", "FMA"): "vicreg_fma",
  ("VICReg", "GTZAN"): "vicreg_gtzan",
  ("VICReg", "MTAT"): "vicreg_mtat",
  ("CLMR", "FMA"): "clmr_fma",
  ("CLMR", "GTZAN"): "clmr_gtzan",
}
_BATCH_SIZE = {"VICReg": 768, "CLMR": 256}
# Objectives beside the thesis's: the method with their recipe, `loss.name`.
_OBJECTIVES = {
  "DCL": ("CLMR", "dcl"),
  "Barlow Twins": ("VICReg", "barlow_twins"),
  "SIGReg": ("VICReg", "sigreg"),
}
# Smoke scale: divisors of epochs, batch sizes and widths.
_FEWER_EPOCHS, _SMALLER_BATCH, _NARROWER = 100, 16, 8
_SEEDS = {"FMA": 0, "GTZAN": 1, "MTAT": 2}  # of the synthetic music


@dataclasses.dataclass(frozen=True)
class Job:
  """One command: `python -m vicreg_jax.main --config=... --workdir=...`.

  Attributes:
    config: the config file, `configs/<config>.py`.
    workdir: below that of the suite.
    overrides: config keys, with dots, and values.
    work: the job's size, such as its epochs: CLMR's largest run includes the
      others.
    longer: a job that differs only by more `epochs` includes this one (the
      schedule is constant).
  """

  config: str
  workdir: str
  overrides: Mapping[str, Any]
  work: float
  longer: bool = False

  def flags(self, root: str) -> list[str]:
    """The flags of `python -m vicreg_jax.main`."""
    return [
      f"--config=configs/{self.config}.py",
      f"--workdir={root}/{self.workdir}",
      *(
        f"--config.{key}={_text(value, root)}"
        for key, value in self.overrides.items()
      ),
    ]


@dataclasses.dataclass(frozen=True)
class Workdir:
  """A value of an override: the workdir of another job."""

  path: str


@dataclasses.dataclass(frozen=True)
class Point:
  """A row of the table.

  Attributes:
    labels: tell the point from other rows. Points with the same labels are
      repetitions, and become one row: mean and standard deviation.
    jobs: to run, in this order.
    heads: {name of the table's head: name in the last job's probe.json}; a name
      with "splits/" is the mean over the job's random splits.
    thesis: the published scores, by head and metric.
    epoch: the epoch of the run for `measure`.
  """

  labels: Mapping[str, Any]
  jobs: tuple[Job, ...]
  heads: Mapping[str, str] = dataclasses.field(default_factory=dict)
  thesis: Mapping[str, Mapping[str, float]] | None = None
  epoch: float | None = None


@dataclasses.dataclass(frozen=True)
class Suite:
  """A comparison.

  Attributes:
    title: above the table.
    points: its rows, in order.
    draw: `(results, out_stem, stamp=...)` writes the figure; see
      `tables.Results`, and `figures`.
    metrics: columns of the table, of each head; keys of `plots.SCORES`.
    heads: rows of scores in the table; names of `drawing.HEAD_NAMES`.
    measure: `(workdir, epoch) -> {column: number}` adds columns from the files
      of a point's first job.
  """

  title: str
  points: list[Point]
  draw: Callable
  metrics: tuple[str, ...] = ("roc_auc", "pr_auc")
  heads: tuple[str, ...] = tuple(HEADS)
  measure: Callable[[str, float], dict[str, float]] | None = None

  def __post_init__(self):
    if not self.metrics or set(self.metrics) - plots.SCORES.keys():
      raise ValueError(
        f"metrics of a suite are {self.metrics}: give some of"
        f" {', '.join(plots.SCORES)}"
      )


@dataclasses.dataclass(frozen=True)
class Scale:
  """The size of a suite's runs: "thesis" or "smoke"."""

  name: str

  @property
  def smoke(self) -> bool:
    return self.name == "smoke"

  def axis(self, values: tuple[int, ...]) -> tuple[int, ...]:
    """An axis of a grid; at smoke scale every other value, and the ends."""
    ends = (values[0], values[-1])
    return tuple(
      v for i, v in enumerate(values) if not (self.smoke and i % 2) or v in ends
    )

  def epochs(self, epochs: int) -> int:
    return epochs // _FEWER_EPOCHS if self.smoke else epochs

  def batch_size(self, size: int) -> int:
    return size // _SMALLER_BATCH if self.smoke else size

  def width(self, size: int) -> int:
    return size // _NARROWER if self.smoke else size


def pretrain(
  scale: Scale,
  method: str,
  *,
  data: str = "FMA",
  epochs: int = 1000,
  batch_size: int | None = None,
  size: int = 512,
  projector: str | None = None,
) -> Job:
  """A pretraining of the thesis, or by another objective in its recipe.

  Args:
    scale: of the suite.
    method: "VICReg", "CLMR", "DCL", "Barlow Twins" or "SIGReg".
    data: "FMA", "GTZAN" or "MTAT".
    epochs: number of epochs. CLMR's rate is constant, so a longer run includes
      all shorter ones.
    batch_size: None: the method's own.
    size: of the representation.
    projector: of "VICReg" or "CLMR"; None: the method's own.
  """
  recipe, loss = _OBJECTIVES.get(method, (method, None))
  batch_size = scale.batch_size(batch_size or _BATCH_SIZE[recipe])
  projector, constant = projector or recipe, recipe == "CLMR"
  name = f"{method}-{data}-b{batch_size}-d{scale.width(size)}".lower()
  name = name.replace(" ", "-")
  if not constant:
    name += f"-e{scale.epochs(epochs)}"
  if projector != recipe:
    name += f"-{projector.lower()}-projector"
  overrides = {
    "epochs": scale.epochs(epochs),
    "batch_size": batch_size,
    "model.representation_size": scale.width(size),
    "model.projector": _projector(scale, projector, size),
    "model.projector_batch_norm": projector == "VICReg",
  }
  if loss:
    overrides["loss.name"] = loss
  if data == "FMA":
    overrides |= _watched(scale)
    if constant or epochs == EPOCHS[-1]:
      marks = (*(e for e in EPOCHS if e < epochs), epochs)
      overrides["checkpoint.keep_at_epochs"] = tuple(map(scale.epochs, marks))
  if scale.smoke:
    overrides |= _smoke_data(data) | _SMOKE_MODEL | _SMOKE_TRAINING
    if data == "FMA":
      overrides["valid_data.name"] = "synthetic"
      overrides["valid_data.seed"] = _SEEDS["MTAT"]
  return Job(
    config=_CONFIGS[recipe, data],
    workdir=f"runs/{name}",
    overrides=overrides,
    work=scale.epochs(epochs),
    longer=constant,
  )


def _watched(scale) -> dict:
  """Keys of validation, diagnostics and checkpoints of a training on FMA."""
  diagnosed = (5, 48) if scale.smoke else (DIAGNOSED_EPOCHS, DIAGNOSED_CLIPS)
  return {
    # Held out, as nothing of FMA is (figure A.1).
    "valid_data.name": "magnatagatune",
    "eval_every_epochs": 1.0 if scale.smoke else 20.0,
    "diagnostics.every_epochs": float(diagnosed[0]),
    "diagnostics.clips": diagnosed[1],
    # 1.2 GB each, at full width.
    "checkpoint.keep": 2,
    "checkpoint.every_epochs": 20.0,
  }


def _projector(scale, method, size) -> tuple[int, ...]:
  if method == "CLMR":  # its hidden layer is as wide as the representation
    return scale.width(size), scale.width(128)
  return (64 if scale.smoke else 8196,) * 3


def supervised(scale: Scale) -> Job:
  """SampleCNN trained with the labels of MagnaTagATune (table 4.1)."""
  overrides = {}
  if scale.smoke:
    overrides = _smoke_data("MTAT") | _SMOKE_MODEL
    overrides |= {"epochs": 10, "batch_size": 16}
    overrides |= {"model.representation_size": scale.width(512)}
  return Job(
    config="supervised_mtat",
    workdir="runs/supervised-mtat",
    overrides=overrides,
    work=scale.epochs(1000),
  )


def probed(
  scale: Scale, labels: Mapping[str, Any], run: Job, epochs: int, thesis=None
) -> Point:
  """The point of a run's checkpoint, probed on MagnaTagATune."""
  epoch = scale.epochs(epochs)
  overrides = {
    "checkpoint": Workdir(run.workdir),
    "epoch": float(epoch),
    "probe.untrained": False,
  }
  if scale.smoke:
    overrides |= _smoke_data("MTAT")
    overrides |= {"probe.max_epochs": 20, "probe.batch_size": 32}
    overrides |= {"probe.distinct_crops": 4}
  probe = Job(
    config="probe_mtat",
    workdir=f"{run.workdir}/probe-{epoch}",
    overrides=overrides,
    work=1.0,
  )
  return Point(labels, (run, probe), HEADS, thesis, epoch)


def _smoke_data(name):
  # All clips of FMA and GTZAN are trained on.
  sizes = (128, 48, 64) if name == "MTAT" else (96, 48, 0)
  return {
    "data.name": "synthetic",
    "data.seed": _SEEDS[name],
    "data.sizes": sizes,
    "data.clip_seconds": 2.0,
  }


_SMOKE_MODEL = {
  "data.crop": 6561,
  "model.blocks": 7,
  "model.width": 0.125,
  "dtype": "float32",
  "log_every_steps": 1,
  "checkpoint.every_epochs": 20.0,
}
_SMOKE_TRAINING = {
  "augment.pitch.p": 0.0,
  "augment.reverb.p": 0.0,
  "optim.warmup_epochs": 1.0,
}


def last_values(workdir: str, epoch: float, keys: Mapping[str, str]) -> dict:
  """{column: value} of the last line up to an epoch that has each key.

  Empty if the run has no such lines yet.

  Args:
    workdir: of the run.
    epoch: later lines do not count.
    keys: {column: name in metrics.jsonl}.
  """
  path = f"{workdir}/metrics.jsonl"
  if not files.exists(path):
    return {}
  lines, found = files.read_metrics(path), {}
  last = round(epoch * training_figures.steps_per_epoch(lines))
  if max((line["step"] for line in lines), default=-1) < last:
    return {}
  for line in lines:
    if line["step"] <= last:
      found |= {column: line[k] for column, k in keys.items() if k in line}
  return found


def spectra(metrics_path: str | None, most: int = 5) -> dict:
  """{epoch: (singular values of representations, of embeddings)} of a run.

  Of at most `most` epochs: the first, the last, and some between.
  """
  if metrics_path is None:
    return {}
  directory = epath.Path(metrics_path).parent / "diagnostics"
  if not directory.exists():
    return {}
  per_epoch = training_figures.steps_per_epoch(files.read_metrics(metrics_path))
  paths = sorted(directory.glob("*.npz"), key=lambda path: int(path.stem))
  if not per_epoch:
    return {}
  chosen = np.linspace(0, len(paths) - 1, min(most, len(paths)))
  found = {}
  for path in (paths[round(i)] for i in chosen):
    arrays = np.load(io.BytesIO(files.read(path)))
    found[int(path.stem) / per_epoch] = (
      arrays["representation_singular"],
      arrays["embedding_singular"],
    )
  return found


def _text(value, root) -> str:
  """A value as the text of a flag."""
  if isinstance(value, Workdir):
    return f"{root}/{value.path}"
  return str(value).replace(" ", "") if isinstance(value, tuple) else str(value)


def load(path: str, scale: Scale) -> Suite:
  """The suite of a file."""
  return python_file.call(path, "get_suite", scale, flag="--suite")
