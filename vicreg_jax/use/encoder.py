"""A frozen encoder: loaded from a training's workdir, run over crops."""

import copy
from collections.abc import Callable, Iterable, Iterator

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.training import checkpoint, steps, workdir


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

  @property
  def variables(self) -> dict:
    """{"params", "batch_stats"}, on all devices."""
    return self._variables

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
  config = workdir.load_config(run)
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


def abstract_encoder(config: dict, devices: Mesh):
  """Shapes of an encoder's variables, replicated over the devices."""
  c = ml_collections.ConfigDict(config)
  shapes = jax.eval_shape(
    lambda: steps.init_encoder(c.model, c.dtype, c.data.crop, c.seed)
  )
  return checkpoint.abstract(shapes, mesh.replicated(devices))
