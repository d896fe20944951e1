"""A frozen encoder's vectors of prepared clips: of crops, of segments."""

from collections.abc import Iterator

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from vicreg_jax import mesh
from vicreg_jax.data import datasets, input_pipeline
from vicreg_jax.data.prepared import Prepared
from vicreg_jax.model import view_norm
from vicreg_jax.training import steps
from vicreg_jax.use.encoder import Encoder, abstract_encoder


def crops(
  encoder: Encoder,
  prepared: Prepared,
  split: str,
  *,
  seed: int,
  epoch: int,
  batch_size: int,
  chosen: np.ndarray | None = None,
) -> np.ndarray:
  """`y_NxD` of one random crop of each clip, or of each of `chosen`."""
  batches = input_pipeline.probe_crops(
    prepared,
    split,
    crop=encoder.crop,
    seed=seed,
    epoch=epoch,
    batch_size=batch_size,
    chosen=chosen,
  )
  return np.concatenate(list(encoder(batches)))


def segments(
  encoder: Encoder,
  prepared: Prepared,
  split: str,
  *,
  batch_size: int,
  most: int = 0,
  progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """`y_MxD` of every segment, and the position `clip_M` of its clip.

  `most`: how many segments a clip, evenly spread; 0: all.
  """
  clips, masks = [], []

  def batches() -> Iterator[np.ndarray]:
    for batch in input_pipeline.segments(
      prepared, split, crop=encoder.crop, batch_size=batch_size, most=most
    ):
      clips.append(batch.clip_B)
      masks.append(batch.mask_B > 0)
      yield batch.x_BxT

  y = tqdm(
    encoder(batches()),
    desc=f"embed {split}",
    unit="batch",
    disable=None if progress else True,
  )
  y_MxD, mask_M = np.concatenate(list(y)), np.concatenate(masks)
  return y_MxD[mask_M], np.concatenate(clips)[mask_M]


def untrained(
  config: dict,
  prepared: Prepared,
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
    # From zero, an update gives (1 - momentum) times the batch's statistics.
    zeros = jax.tree.map(np.zeros_like, variables["batch_stats"])
    _, updated = module.apply(
      {"params": params, "batch_stats": zeros},
      x_BxT,
      train=True,
      mutable=["batch_stats"],
    )
    share = 1 - view_norm.PerViewNorm.momentum
    return jax.tree.map(lambda s: s / share, updated["batch_stats"])

  drawn = input_pipeline.probe_crops(
    prepared,
    "train",
    crop=c.data.crop,
    seed=seed,
    epoch=0,
    batch_size=min(batch_size, prepared.num_clips["train"]),
  )
  total, count, rows = None, 0, 0
  for x_BxT in drawn:
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


def data_for(encoder: Encoder, data) -> Prepared:
  """Prepares a job's `data` section with the encoder's crop and rate."""
  data = ml_collections.ConfigDict(data.to_dict())
  data.crop, data.sample_rate = encoder.crop, encoder.sample_rate
  return datasets.prepare(data)
