"""Runs a frozen encoder over crops and segments, and the `embed` job."""

import copy
import io
from collections.abc import Callable, Iterable, Iterator

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from vicreg_jax import (
  checkpoint,
  datasets,
  files,
  input_pipeline,
  mesh,
  metrics,
  models,
  steps,
)
from vicreg_jax import config as configs
from vicreg_jax.datasets import base

FILE = "embeddings.npz"


class Encoder:
  """A frozen encoder on a mesh, in evaluation mode.

  Attributes:
    crop: samples that it reads.
    sample_rate: Hz that it was trained at.
    size: D, of its representations.
    step: of the checkpoint; 0 is untrained.
    config: of the pretraining run, as written to its config.json.
  """

  def __init__(self, config: dict, variables: dict, step: int, devices: Mesh):
    config = ml_collections.ConfigDict(config)
    self.config = config
    self.crop = config.data.crop
    self.sample_rate = config.data.sample_rate
    self.size = config.model.representation_size
    self.step = step
    self._devices = devices
    self._variables = variables
    self._apply = jit_encode(config, devices)

  def with_variables(self, variables: dict) -> "Encoder":
    """The same encoder with other weights; nothing is compiled again."""
    other = copy.copy(self)
    other._variables = variables
    return other

  def __call__(self, batches_BxT: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """`y_BxD` of each batch `x_BxT`; all but the last of one size.

    A batch is computed while the one before it is fetched.
    """
    pending, rows = None, 0
    for x_BxT in batches_BxT:
      # One compiled shape: the devices' multiple of the first batch.
      if pending is None:
        rows = -(-len(x_BxT) // self._devices.size) * self._devices.size
      padding = ((0, rows - len(x_BxT)), (0, 0))
      placed = mesh.share_batch(self._devices, np.pad(x_BxT, padding))
      result = self._apply(self._variables, placed), len(x_BxT)
      if pending is not None:
        yield np.asarray(pending[0])[: pending[1]]
      pending = result
    if pending is not None:
      yield np.asarray(pending[0])[: pending[1]]

  def crops(self, prepared, split, *, seed, epoch, batch_size) -> np.ndarray:
    """`y_NxD` of one random crop of each clip."""
    batches = input_pipeline.crops(
      prepared,
      split,
      crop=self.crop,
      seed=seed,
      epoch=epoch,
      batch_size=batch_size,
    )
    return np.concatenate(list(self(batches)))

  def segments(
    self, prepared, split, *, batch_size, progress=False
  ) -> tuple[np.ndarray, np.ndarray]:
    """`y_MxD` of every segment, and the position `clip_M` of its clip."""
    clips, masks = [], []

    def batches():
      for batch in input_pipeline.segments(
        prepared, split, crop=self.crop, batch_size=batch_size
      ):
        clips.append(batch.clip_B)
        masks.append(batch.mask_B > 0)
        yield batch.x_BxT

    y = tqdm(
      self(batches()),
      desc=f"embed {split}",
      unit="batch",
      disable=None if progress else True,
    )
    y_MxD, mask_M = np.concatenate(list(y)), np.concatenate(masks)
    return y_MxD[mask_M], np.concatenate(clips)[mask_M]


def jit_encode(config, devices: Mesh) -> Callable:
  """`encode(variables, x_BxT) -> y_BxD` compiled for a mesh, as a run's."""
  whole = mesh.replicated(devices)
  return jax.jit(
    steps.make_encoder(config.model, config.dtype).apply,
    in_shardings=(whole, mesh.batch_sharding(devices)),
    out_shardings=whole,
    compiler_options=mesh.compiler_options(devices),
  )


def load(run: str, step: int, devices: Mesh, *, epoch: float = -1.0) -> Encoder:
  """The encoder that the training in workdir `run` saved.

  At `step` (-1 is the newest), or after `epoch` where that is not negative.
  """
  config = checkpoint.load_config(run)
  if epoch >= 0:
    step = _step_of(config, epoch, run)
  try:
    configs.validate_encoder(ml_collections.ConfigDict(config))
  except ValueError as e:
    raise ValueError(
      f"checkpoint={run}: no encoder is described by its config.json ({e})"
    ) from e
  variables, step = checkpoint.load_encoder(
    run, step, abstract_encoder(config, devices)
  )
  return Encoder(config, variables, step, devices)


def _step_of(config: dict, epoch: float, run: str) -> int:
  per_epoch = config.get("steps_per_epoch")
  if not isinstance(per_epoch, int):
    raise ValueError(
      f"epoch={epoch:g}: config.json of checkpoint={run} does not say how many"
      " steps_per_epoch there were; give the step instead"
    )
  return configs.epoch_to_step(epoch, per_epoch)


def untrained(
  config: dict,
  prepared: base.Prepared,
  devices: Mesh,
  *,
  seed: int,
  batch_size: int,
) -> Encoder:
  """The encoder of `config` before training, with statistics of the data.

  Parameters come from the run's seed. BatchNorm's running statistics are the
  mean of the batch statistics over one random crop of each training clip.
  """
  like = abstract_encoder(config, devices)
  c = ml_collections.ConfigDict(config)
  whole = mesh.replicated(devices)
  variables = jax.jit(
    lambda: steps.init_encoder(c.model, c.dtype, c.data.crop, c.seed),
    out_shardings=jax.tree.map(lambda _: whole, like),
  )()
  module = steps.make_encoder(c.model, c.dtype)

  @jax.jit
  def batch_statistics(params, x_BxT):
    # From zero, one update leaves (1 - momentum) of the batch's statistics.
    zeros = jax.tree.map(np.zeros_like, variables["batch_stats"])
    _, updated = module.apply(
      {"params": params, "batch_stats": zeros},
      x_BxT,
      train=True,
      mutable=["batch_stats"],
    )
    share = 1 - models.BatchNorm.momentum
    return jax.tree.map(lambda s: s / share, updated["batch_stats"])

  crops = input_pipeline.crops(
    prepared,
    "train",
    crop=c.data.crop,
    seed=seed,
    epoch=0,
    batch_size=min(batch_size, prepared.num_clips["train"]),
  )
  total, count, rows = None, 0, 0
  for x_BxT in crops:
    rows = rows or len(x_BxT)
    if len(x_BxT) < rows:  # a short last batch has noisier statistics
      break
    placed = mesh.replicate(devices, x_BxT)
    stats = batch_statistics(variables["params"], placed)
    total = stats if total is None else jax.tree.map(np.add, total, stats)
    count += 1
  stats = jax.tree.map(lambda s: s / count, total)
  variables = {"params": variables["params"], "batch_stats": stats}
  return Encoder(config, variables, 0, devices)


def data_for(encoder: Encoder, data) -> base.Prepared:
  """Prepares a job's `data` section with the encoder's crop and rate."""
  data = ml_collections.ConfigDict(data.to_dict())
  data.crop, data.sample_rate = encoder.crop, encoder.sample_rate
  return datasets.prepare(data)


def run(config, workdir: str) -> str:
  """The `embed` job: writes `embeddings.npz`, returns its path.

  For each split: `<split>_y` [N, D], mean over a clip's segments;
  `<split>_ids` [N]; `<split>_labels` [N, K]; and the names in `labels`.
  """
  devices = mesh.make_mesh()
  encoder = load(config.checkpoint, config.step, devices, epoch=config.epoch)
  prepared = data_for(encoder, config.data)
  checkpoint.save_config(config, workdir)
  arrays = {"labels": np.array(prepared.labels, str)}
  for split, count in prepared.num_clips.items():
    y_MxD, clip_M = encoder.segments(
      prepared, split, batch_size=config.batch_size, progress=True
    )
    y_NxD = metrics.mean_over_clip(y_MxD, clip_M, count)
    names = input_pipeline.labels(prepared, split)
    arrays[f"{split}_y"] = y_NxD.astype(np.float32)
    arrays[f"{split}_ids"] = np.array(names.ids)
    arrays[f"{split}_labels"] = names.labels_NxK
  path = f"{workdir}/{FILE}"
  if mesh.is_first_host():
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write(path, content.getvalue())
  return path


def abstract_encoder(config: dict, devices: Mesh):
  """Shapes of an encoder's variables, replicated over the devices."""
  c = ml_collections.ConfigDict(config)
  shapes = jax.eval_shape(
    lambda: steps.init_encoder(c.model, c.dtype, c.data.crop, c.seed)
  )
  return checkpoint.abstract(shapes, mesh.replicated(devices))
