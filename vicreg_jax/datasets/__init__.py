"""The data sets by name, and the one way to get at their clips."""

import importlib

# name -> module and class, imported when asked for: TensorFlow is slow to load.
DATASETS = {
  "folder": ("vicreg_jax.datasets.folder", "Folder"),
  "synthetic": ("vicreg_jax.datasets.synthetic", "Synthetic"),
}
_PLANNED = ("fma", "gtzan", "magnatagatune")


def prepare(data):
  """Decodes the data set `data.name` once, or opens it when that is done.

  Args:
    data: the config's `data` section: `name`, `dir` (prepared data; `~` is the
      home), `sample_rate` (Hz), `crop` (samples: shorter clips are left out);
      for "folder" also `path`, `labels` and `csv`; for "synthetic" `seed`,
      `sizes` and `clip_seconds`.

  Returns:
    A `base.Prepared`. It is found again, at once, while neither the source
    files nor these options change.

  Raises:
    ValueError: the name is unknown, or there is nothing to train on.
  """
  if data.name in _PLANNED:
    raise ValueError(
      f"data.name={data.name!r} is not available in this version; use one of "
      f"{sorted(DATASETS)} ('folder' reads any tree of audio files)"
    )
  if data.name not in DATASETS:
    raise ValueError(
      f"data.name={data.name!r} is unknown; use one of {sorted(DATASETS)}"
    )
  module, builder = DATASETS[data.name]
  return getattr(importlib.import_module(module), builder)(data).prepare()
