"""A frozen encoder: loaded, and run over files, arrays and batches of crops.

encoder = vicreg_jax.load("runs/mine")
encoder.embed("song.mp3")  # float32 [D]
encoder.embed_segments("song.mp3").embeddings  # float32 [S, D]
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vicreg_jax import config as configs
from vicreg_jax import config_limits, files, mesh
from vicreg_jax.training import best_checkpoint, checkpoint, steps
from vicreg_jax.training import workdir as workdirs
from vicreg_jax.use import clmr, export, waveform
from vicreg_jax.use import heads as heads_lib
from vicreg_jax.use import pooling as pooling_lib

# Segments a step, on all devices together, for all inputs: another number is
# another compiled program, whose last bits may differ.
BATCH = 16
# Name and export of the encoder that comes with the package.
STARTER = "starter"
_STARTER_PATH = os.path.join(os.path.dirname(__file__), "starter")


class Segments(NamedTuple):
  """Embeddings of the segments of one recording, in order.

  `padded`: the recording is shorter than a crop, and was repeated to fill the
  one segment. The end of this segment is that of the recording.
  """

  embeddings: np.ndarray  # float32 [S, D]
  start_seconds: np.ndarray  # float64 [S]
  end_seconds: np.ndarray  # float64 [S]
  padded: bool


class Encoder:
  """A frozen encoder on a mesh, in evaluation mode.

  Worker processes get the encoder by pickle, and run it on all devices that
  they see. Start them by "spawn" (`multiprocessing.get_context("spawn")`): a
  fork does not copy JAX's threads, and waits for them forever.

  Attributes:
    crop: length of a segment, in samples.
    sample_rate: of the training, in Hz.
    size: D, of the representations.
    step: of the checkpoint; 0 is untrained.
    config: of the pretraining run, as in its config.json.
    heads: trained on this encoder, or None.
    card: of the export, or None if the encoder is of no export.
  """

  def __init__(self, config: dict, variables: dict, step: int, devices: Mesh):
    config = ml_collections.ConfigDict(config)
    self.heads: heads_lib.Heads | None = None
    self.card: dict | None = None
    self.config = config
    self.crop = config.data.crop
    self.sample_rate = config.data.sample_rate
    self.size = config.model.representation_size
    self.step = step
    self._devices = devices
    self._variables = variables
    self._apply = jit_encode(config, devices)

  def embed(
    self, audio, sample_rate: float | None = None, pooling: str = "mean"
  ) -> np.ndarray:
    """One float32 vector of a recording: the mean of its segments' vectors.

    Args:
      audio: a path; or floats [T] or [channels, T], 1 being full scale, or
        16-bit integers. Loud floats, of arrays and of files, may reach 16.
      sample_rate: of an array, 1,000 to 768,000 Hz; files have their own.
      pooling: "mean", [D]; or "mean_std", [2 D], whose second half is the
        segments' standard deviation.

    Raises:
      ValueError: the file has no audio, or the array cannot be audio.
    """
    y_SxD = self.embed_segments(audio, sample_rate).embeddings
    return pooling_lib.of(y_SxD, pooling)

  def embed_segments(
    self,
    audio,
    sample_rate: float | None = None,
    hop_seconds: float | None = None,
  ) -> Segments:
    """Embeds every whole segment of a recording, `crop` samples long.

    Args:
      audio, sample_rate: as in `embed`. Files are read as a stream: hours take
        as much memory as minutes.
      hop_seconds: from one segment's start to the next; None: the length of a
        segment, without overlaps or gaps. A shorter rest at the end is dropped.
    """
    hop = hop_samples(hop_seconds, self.crop, self.sample_rate)
    lengths = []

    def segments():
      for segment_T, length in cut(
        waveform.mono_blocks(audio, sample_rate, self.sample_rate),
        self.crop,
        hop,
      ):
        lengths.append(length)
        yield segment_T

    batches = list(self(batched(segments(), BATCH), BATCH))
    if not batches:
      raise ValueError("audio holds no samples at the encoder's rate")
    y_SxD = np.concatenate(batches)
    starts_S = np.arange(len(y_SxD)) * hop / self.sample_rate
    ends_S = starts_S + np.array(lengths) / self.sample_rate
    return Segments(y_SxD, starts_S, ends_S, lengths[0] < self.crop)

  def tags(
    self, audio, sample_rate: float | None = None, head: str = ""
  ) -> dict[str, float]:
    """{label: probability} of a recording, the mean over its segments.

    Args:
      audio, sample_rate: as in `embed`.
      head: the name of one of `heads`; else the one with the lowest validation
        loss.

    Raises:
      ValueError: as in `embed`; or no heads were saved with this encoder.
    """
    if self.heads is None:
      raise ValueError(
        "there are no heads for this encoder: probe it"
        " (`vicreg-jax probe MODEL DIR`), and load the workdir of that probe"
      )
    y_SxD = self.embed_segments(audio, sample_rate).embeddings
    shares_K = self.heads.probabilities(y_SxD, head)
    return dict(zip(self.heads.labels, shares_K.tolist()))

  @property
  def variables(self) -> dict:
    """{"params", "batch_stats"}, on all devices."""
    return self._variables

  def fingerprint(self) -> str:
    """A hash of the weights; see `fingerprint`."""
    return fingerprint(self._variables)

  def with_variables(self, variables: dict) -> "Encoder":
    """The same encoder with other weights; nothing is compiled again."""
    other = Encoder.__new__(Encoder)
    other.__dict__ |= self.__dict__ | {"_variables": variables}
    return other

  def __getstate__(self) -> dict:
    """Without devices and compiled program, which processes cannot share."""
    state = self.__dict__ | {"_variables": jax.device_get(self._variables)}
    del state["_devices"], state["_apply"]
    return state

  def __setstate__(self, state: dict):
    self.__dict__ |= state
    self._devices = mesh.make_mesh()
    self._variables = _placed(self._variables, self._devices)
    self._apply = jit_encode(self.config, self._devices)

  def __call__(
    self, batches_BxT: Iterable[np.ndarray], rows: int = 0
  ) -> Iterator[np.ndarray]:
    """`y_BxD` of each batch `x_BxT`, none longer than the first, or `rows`.

    A batch is computed while the batch before it is fetched.
    """
    pending = None
    for x_BxT in batches_BxT:
      # One compiled shape, which divides among the devices.
      if pending is None:
        rows = rows or len(x_BxT)
        rows = -(-rows // self._devices.size) * self._devices.size
      padding = ((0, rows - len(x_BxT)), (0, 0))
      placed = mesh.share_batch(self._devices, np.pad(x_BxT, padding))
      result = self._apply(self._variables, placed), len(x_BxT)
      if pending is not None:
        yield np.asarray(pending[0])[: pending[1]]
      pending = result
    if pending is not None:
      yield np.asarray(pending[0])[: pending[1]]


def hop_samples(seconds: float | None, crop: int, sample_rate: int) -> int:
  """Samples from segment to segment. Raises ValueError for a bad hop."""
  if seconds is None:
    return crop
  # The limit up to which float64 and int64 hold whole numbers exactly.
  if isinstance(seconds, str) or not 1 <= seconds * sample_rate < 2**53:
    raise ValueError(
      f"hop_seconds is {seconds!r}; it must be a number of seconds, at least a"
      f" sample, {1 / sample_rate:.2g}"
    )
  return round(seconds * sample_rate)


def cut(
  blocks: Iterable[np.ndarray], crop: int, hop: int
) -> Iterator[tuple[np.ndarray, int]]:
  """Segments [crop] of consecutive blocks, a hop apart, each with its length.

  The length is `crop`, unless the recording is shorter: then it is repeated
  until it fills its one segment.
  """
  rest_T, skip, none = np.zeros(0, np.float32), 0, True
  for block_T in blocks:
    rest_T = np.concatenate([rest_T, block_T])
    # Drop the samples in gaps between segments.
    dropped = min(skip, len(rest_T))
    rest_T, skip = rest_T[dropped:], skip - dropped
    while len(rest_T) >= crop:
      yield rest_T[:crop], crop
      none = False
      skip = max(hop - len(rest_T), 0)
      rest_T = rest_T[hop:]
  if none and len(rest_T):
    yield np.resize(rest_T, crop), len(rest_T)


def batched(segments: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
  """Batches `x_BxT` of segments [T]; the last batch may be shorter."""
  rows = []
  for segment_T in segments:
    rows.append(segment_T)
    if len(rows) == size:
      yield np.stack(rows)
      rows = []
  if rows:
    yield np.stack(rows)


def fingerprint(arrays) -> str:
  """SHA-256 of a tree of arrays: equal weights have equal ones, anywhere."""
  digest = hashlib.sha256()
  for array in jax.tree.leaves(arrays):
    digest.update(np.asarray(array).tobytes())
  return digest.hexdigest()


def jit_encode(config, devices: Mesh) -> Callable:
  """`encode(variables, x_BxT) -> y_BxD`, compiled for a mesh."""
  whole = mesh.replicated(devices)
  return jax.jit(
    steps.make_encoder(config.model, config.dtype).apply,
    in_shardings=(whole, mesh.batch_sharding(devices)),
    out_shardings=whole,
    compiler_options=mesh.compiler_options(devices),
  )


def load(
  source, *, step: int = -1, epoch: float = -1.0, devices: Mesh | None = None
) -> Encoder:
  """A frozen encoder; see `vicreg_jax.load`.

  `devices`: to run the encoder on; None: all.
  """
  devices = devices or mesh.make_mesh()
  source, at = os.fspath(source), _named(step, epoch)
  path = _STARTER_PATH if source == STARTER else source
  folder, name = os.path.split(path)
  if name in export.WEIGHTS.values() and files.exists(
    f"{folder}/{export.CARD}"
  ):
    path = folder
  _check_model(path)
  if os.path.isfile(path):
    _check_steps(source, at)
    return of_clmr(path, clmr.read(path), devices)
  found = heads_lib.load(path)
  if files.exists(f"{path}/{export.CARD}"):
    _check_steps(source, at)
    config, variables, card = export.read(path)
    encoder = Encoder(config, _placed(variables, devices), 0, devices)
    encoder.card = card
  elif probed := _probed(path):
    _check_steps(source, at)
    encoder = load(**probed, devices=devices)
  else:
    encoder = _of_run(path, step, epoch, devices, found)
  if found and found.encoder == encoder.fingerprint():
    encoder.heads = found
  return encoder


def _named(step, epoch) -> str:
  """The checkpoint that the user asked for, in words; "" for none."""
  if epoch >= 0:
    return f"epoch={epoch:g}"
  return f"step={step}" if step != -1 else ""


def _check_steps(source, named):
  """Raises ValueError if a source without checkpoints is asked for one."""
  if named:
    raise ValueError(
      f"{named}: {source} has one encoder, and no steps to choose from: leave"
      " that out, or name the workdir of the training"
    )


def _check_model(path):
  """Raises ValueError if there is nothing that could be a model."""
  if os.path.isfile(path):
    known = path.lower().endswith(clmr.SUFFIXES)
  else:
    run = workdirs.path_of(path)
    known = any(
      files.exists(f"{run}/{name}") for name in (workdirs.CONFIG, export.CARD)
    )
  if not known:
    what = "no model" if files.exists(path) else "there is no such model"
    raise ValueError(
      f"{path}: {what}; give {STARTER!r}, the workdir of a training or a probe,"
      " a folder that `export` has written, or a file of CLMR's weights"
      f" ({', '.join(clmr.SUFFIXES)})"
    )


def _probed(workdir) -> dict | None:
  """Arguments of `load` for the encoder of a probe with its own workdir."""
  try:
    config = json.loads(files.read(f"{workdir}/config.json"))
    if config["job"] != "probe":
      return None
    keys = {"source": "checkpoint", "step": "step", "epoch": "epoch"}
    return {name: config[key] for name, key in keys.items()}
  except (OSError, ValueError, KeyError, TypeError):
    return None  # `_of_run` raises the error


def _placed(variables, devices):
  return jax.tree.map(lambda x: mesh.replicate(devices, x), variables)


def of_clmr(path: str, weights: clmr.Weights, devices: Mesh) -> Encoder:
  """The encoder of CLMR's weights, with the head if the file has one.

  Raises ValueError, which names the file, if there is no encoder.
  """
  if weights.encoder is None:
    raise ValueError(
      f"{path}: {weights.source} holds no encoder; give the file it was trained"
      " with"
    )
  encoder = Encoder(
    clmr_config().to_dict(), _placed(weights.encoder, devices), 0, devices
  )
  if weights.head:
    outputs = weights.head["out"]["bias"].shape[0]
    labels = weights.tags or tuple(f"output {k}" for k in range(outputs))
    encoder.heads = heads_lib.Heads(
      labels, weights.single, encoder.fingerprint(), 0, {"head": weights.head}
    )
  return encoder


def clmr_config() -> ml_collections.ConfigDict:
  """The config of a pretraining whose encoder is that of CLMR's release."""
  config = configs.base_clmr()
  config.model.variant = "clmr"
  config.dtype = "float32"
  return config


def _of_run(run, step, epoch, devices, heads) -> Encoder:
  """The encoder that the training in workdir `run` saved.

  At `step` (-1: the newest, or the best if `checkpoint.best_by` is set), or
  after `epoch` unless it is negative.
  """
  config = workdirs.load_config(run)
  best_by = _best_by(config)
  if epoch >= 0:
    step = _step_of(config, epoch, run)
  elif step == -1 and heads and config["job"] == "supervised":
    step = heads.step
  elif step == -1 and best_by:
    step = _best_step(run, best_by)
  try:
    config_limits.validate_encoder(ml_collections.ConfigDict(config))
  except ValueError as e:
    raise ValueError(
      f"checkpoint={run}: no encoder is described by its config.json ({e})"
    ) from e
  variables, step = checkpoint.load_encoder(
    run, step, abstract_encoder(config, devices)
  )
  return Encoder(config, variables, step, devices)


def _best_by(config: dict) -> str | None:
  """The measure that chooses a run's best step, if there is one."""
  keys = config.get("checkpoint")
  by = keys.get("best_by") if isinstance(keys, dict) else None
  return by if by in tuple(best_checkpoint.MEASURES) else None  # of any kind


def _best_step(run, by) -> int:
  """The best saved step; -1 if none is saved."""
  saved = checkpoint.saved_steps(run)
  workdir = workdirs.path_of(run)
  found = best_checkpoint.Best(workdir, by)
  step = found.step(saved)
  if saved and step is None:
    raise ValueError(
      f"{workdir}/{workdirs.METRICS} has no {found.key} of a saved step, which"
      " tells the best one: put a copy of it in its place, or name a step of"
      f" {saved}"
    )
  return -1 if step is None else step


def _step_of(config: dict, epoch: float, run: str) -> int:
  per_epoch = config.get("steps_per_epoch")
  if not isinstance(per_epoch, int):
    raise ValueError(
      f"epoch={epoch:g}: config.json of checkpoint={run} does not say how many"
      " steps_per_epoch there were; give the step instead"
    )
  return configs.epoch_to_step(epoch, per_epoch)


def abstract_encoder(config: dict, devices: Mesh) -> dict:
  """Shapes of an encoder's variables, replicated over the devices."""
  c = ml_collections.ConfigDict(config)
  shapes = jax.eval_shape(
    lambda: steps.init_encoder(c.model, c.dtype, c.data.crop, c.seed)
  )
  return checkpoint.abstract(shapes, mesh.replicated(devices))
