"""The encoder and the pooling that a table of embeddings was made by."""

import numpy as np

from vicreg_jax.library.tables import Tables
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import pooling


def check_passages(tables: Tables, by: str):
  """Raises ValueError if `by` is "segments" and each row is a whole file."""
  if by == "segments" and tables.about.get("pooling") in pooling.TIMES:
    raise ValueError(
      f"--by=segments: {tables.paths[0]} has one row a file; embed it with"
      " --pooling=none"
    )


def means(tables: Tables, y_NxD: np.ndarray) -> np.ndarray:
  """The means of rows, which heads read, without the deviations."""
  return y_NxD[:, : tables.size // _times(tables)]


def _times(tables) -> int:
  return pooling.TIMES.get(tables.about.get("pooling"), 1)


def encoder_of(tables: Tables, model: str | None) -> encoders.Encoder:
  """The encoder that made the tables: `model`, or else the starter.

  Raises ValueError if another encoder made them.
  """
  encoder = encoders.load(model or encoders.STARTER)
  weights = encoder.fingerprint()
  if tables.about.get("encoder", weights) != weights:
    raise ValueError(
      f"{tables.paths[0]} was not made by {model or 'the starter encoder'}:"
      " name the MODEL that it was made by, --model=MODEL"
    )
  size = encoder.size * _times(tables)
  if size != tables.size:
    raise ValueError(
      f"{tables.paths[0]} has embeddings of {tables.size} numbers, and the"
      f" encoder of {size}: name the MODEL that it was made by,"
      " --model=MODEL"
    )
  return encoder
