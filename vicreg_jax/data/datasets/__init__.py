"""The data sets by name, and the function that prepares their clips."""

import importlib
from typing import NamedTuple


class Entry(NamedTuple):
  """A data set: imported when asked for, as TensorFlow is slow to load."""

  module: str  # of this package
  builder: str  # the class in it
  train_clips: int = 0  # published: clips of the variant that configs train on


DATASETS = {
  "fma": Entry("fma", "Fma", 25_000),
  "folder": Entry("folder", "Folder"),
  "gtzan": Entry("gtzan", "Gtzan", 930),
  "magnatagatune": Entry("magnatagatune", "Magnatagatune", 18_709),
  "mtg_jamendo": Entry("mtg_jamendo", "MtgJamendo", 32_136),
  "nsynth": Entry("nsynth", "Nsynth", 289_205),
  "synthetic": Entry("synthetic", "Synthetic"),
}


def prepare(data):
  """Decodes the data set `data.name` once, or opens it when that is done.

  Args:
    data: the config's `data` section: `name`, `dir` (prepared data; `~` is the
      home), `sample_rate` (Hz), `crop` (samples: shorter clips are left out)
      and `beam`; `path` where there are source files; for "folder" also
      `labels`, `csv`, `folders` and `track_pattern`; for "synthetic" `seed`,
      `sizes` and `clip_seconds`; for "fma" `subset` and `genres`; for "gtzan"
      `split_set`; for "magnatagatune" `convention`; for "mtg_jamendo" `tags`
      and `split_number`; for "nsynth" `target`.

  Returns:
    A `Prepared`. Later calls find it at once, while neither the source files
    nor these options change. The first of several hosts decodes; the others
    decode after it only if they cannot see its result.

  Raises:
    ValueError: the name is unknown, or there is nothing to train on.
  """
  if data.name not in DATASETS:
    raise ValueError(
      f"data.name={data.name!r} is unknown; use one of {sorted(DATASETS)}"
    )
  from vicreg_jax import mesh

  module, builder, _ = DATASETS[data.name]
  with mesh.first_host_first():
    module = importlib.import_module(f"{__name__}.{module}")
    return getattr(module, builder).get(data)
