"""The data sets by name, and the one way to get at their clips."""

import importlib

# name -> module and class, imported when asked for: TensorFlow is slow to load.
DATASETS = {
  "fma": ("vicreg_jax.data.datasets.fma", "Fma"),
  "folder": ("vicreg_jax.data.datasets.folder", "Folder"),
  "gtzan": ("vicreg_jax.data.datasets.gtzan", "Gtzan"),
  "magnatagatune": ("vicreg_jax.data.datasets.magnatagatune", "Magnatagatune"),
  "synthetic": ("vicreg_jax.data.datasets.synthetic", "Synthetic"),
}


def prepare(data):
  """Decodes the data set `data.name` once, or opens it when that is done.

  Args:
    data: the config's `data` section: `name`, `dir` (prepared data; `~` is the
      home), `sample_rate` (Hz), `crop` (samples: shorter clips are left out)
      and `beam`; `path` where there are source files; for "folder" also
      `labels` and `csv`; for "synthetic" `seed`, `sizes` and `clip_seconds`;
      for "fma" `subset` and `download`; for "gtzan" `split_set`; for
      "magnatagatune" `convention`.

  Returns:
    A `Prepared`. It is found again, at once, while neither the source
    files nor these options change. Of several hosts the first decodes, and
    the others after it only where they cannot see its result.

  Raises:
    ValueError: the name is unknown, or there is nothing to train on.
  """
  if data.name not in DATASETS:
    raise ValueError(
      f"data.name={data.name!r} is unknown; use one of {sorted(DATASETS)}"
    )
  from vicreg_jax import mesh

  module, builder = DATASETS[data.name]
  with mesh.first_host_first():
    return getattr(importlib.import_module(module), builder).get(data)
