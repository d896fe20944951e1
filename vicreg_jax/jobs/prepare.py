"""The `prepare` job: decodes a data set once, and summarises its clips."""

import csv
import io
import os

from etils import epath

from vicreg_jax import mesh, plots
from vicreg_jax.data import datasets
from vicreg_jax.data.datasets import reports
from vicreg_jax.data.prepared import Prepared

_NOT_FOUND_SHARE = 0.1


def main(config, workdir: str):
  """Prepares, and prints a summary; nothing goes into the workdir."""
  prepared = run(config)
  if mesh.is_first_host():
    print(prepared.summary())
    if warning := not_found(prepared):
      print(warning)
    print("figure:", figure(prepared))


def run(config) -> Prepared:
  """Prepares `config.data` unless it is there already."""
  return datasets.prepare(config.data)


def not_found(prepared: Prepared) -> str:
  """A warning of a wrong directory or of missing files; or "".

  There is none for up to a tenth of the clips: most copies lack some.
  """
  lost = prepared.skipped.get(reports.NOT_FOUND, 0)
  listed = sum(prepared.num_clips.values()) + sum(prepared.skipped.values())
  if lost < _NOT_FOUND_SHARE * listed:
    return ""
  return (
    f"warning: {lost:,} of {listed:,} clips were not found, so this is a part"
    " of the data set. If they should be there, check data.path, delete"
    f" {prepared.path} and prepare again"
  )


def figure(prepared: Prepared) -> str:
  """Draws durations, loudness and labels beside the data; the PNG's path."""
  directory = epath.Path(prepared.path)
  seconds = {split: [] for split in prepared.num_clips}
  dbfs = {split: [] for split in prepared.num_clips}
  # Not by splitlines: a name may hold a line end.
  text = io.StringIO((directory / reports.CLIPS_CSV).read_text(), newline="")
  for row in csv.DictReader(text):
    seconds[row["split"]].append(float(row["seconds"]))
    dbfs[row["split"]].append(float(row["dbfs"]))
  out = os.fspath(directory / "prepare.png")
  plots.clips(seconds, dbfs, prepared.labels, prepared.label_counts, out)
  return out
