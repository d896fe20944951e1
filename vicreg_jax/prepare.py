"""The `prepare` job: decodes a data set once, and says what is in it."""

from vicreg_jax import datasets
from vicreg_jax.datasets import base


def run(config) -> base.Prepared:
  """Prepares `config.data` unless it is there already."""
  return datasets.prepare(config.data)
