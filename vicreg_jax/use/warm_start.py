"""Begins a training from an existing encoder."""

from collections.abc import Callable

from jax.sharding import Mesh

from vicreg_jax.training import steps
from vicreg_jax.use.encoder import load


def warm_start(
  config, devices: Mesh
) -> Callable[[steps.TrainState], steps.TrainState] | None:
  """A function that puts the encoder `config.init_from` into a first state.

  None if `init_from` is empty. The function raises ValueError, with both sides
  named, if the encoder differs from the config's.
  """
  if not config.init_from:
    return None

  def put(state):
    encoder = load(config.init_from, devices=devices)
    keys = ("variant", "width", "blocks", "representation_size")
    found = {f"model.{key}": encoder.config.model[key] for key in keys}
    here = {f"model.{key}": config.model[key] for key in keys}
    for key in ("crop", "sample_rate"):
      found[f"data.{key}"] = encoder.config.data[key]
      here[f"data.{key}"] = config.data[key]
    other = [
      f"{key} is {found[key]} there and {value} here"
      for key, value in here.items()
      if found[key] != value
    ]
    if other:
      raise ValueError(
        f"init_from={config.init_from} is another encoder: {', '.join(other)}."
        " Set them alike"
      )
    return steps.with_encoder(state, encoder.variables)

  return put
