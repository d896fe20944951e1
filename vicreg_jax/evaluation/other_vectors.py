"""Reads vectors of other models for a data set's clips, to probe them, too.

A table is Parquet with the columns `path` and `embedding`, one row a clip.
Paths are those of a folder's table of labels, or begin with `data.path`.
"""

import hashlib
import io
import os
import posixpath
import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vicreg_jax import files, messages
from vicreg_jax.data import input_pipeline
from vicreg_jax.data.datasets import labels_table
from vicreg_jax.data.prepared import SPLITS, Prepared
from vicreg_jax.evaluation import classifiers

_COLUMNS = ("path", "embedding")
_OURS = ("trained", "start", "untrained", "mfcc", "mean")


class Made(NamedTuple):
  """Vectors of another model."""

  y: dict[str, np.ndarray]  # {split: y_NxD} of all clips, in their order
  sha256: str  # of the table


def read(prepared: Prepared, config) -> dict[str, Made]:
  """{name: vectors} of the tables that `config.probe.others` names.

  Args:
    prepared: the data set. Rows of other clips do not count.
    config: `data.path`; `probe.others`, "name=table.parquet,..."; and
      `probe.heads`, one of which has to take clips' vectors.

  Raises:
    ValueError: a table does not exist or cannot be read, a clip has no row or
      two, or vectors are not finite or differ in length.
  """
  found, others = {}, config.probe.others
  if others and not set(classifiers.NAMES) & set(config.probe.heads):
    raise ValueError(
      f"probe.others is {others!r}, and no head takes a clip's vector: add"
      f" {' or '.join(classifiers.NAMES)} to probe.heads"
    )
  for item in filter(None, others.split(",")):
    name, _, path = item.partition("=")
    if not re.fullmatch(r"\w[\w.-]*", name) or not path:
      raise ValueError(
        f"probe.others is {others!r}; it must be name=table.parquet, or several"
        " of them with commas between"
      )
    if name in (*_OURS, *found):
      raise ValueError(f"probe.others: there is a row {name!r}: rename {item}")
    found[name] = _made(prepared, f"probe.others: {item}", path, config.data)
  return found


def _made(prepared, where, path, data) -> Made:
  names, y_NxD, sha256 = _table(where, path)
  ids = {s: input_pipeline.labels(prepared, s).ids for s in SPLITS}
  clips = [id_ for split in SPLITS for id_ in ids[split]]
  find, row_of = labels_table.finder(clips), {}
  root = os.path.expanduser(data.path)
  for row, name in enumerate(names):
    id_ = find(posixpath.normpath(name or ""))
    if id_ is None and name and root:
      id_ = find(os.path.relpath(name, root))
    if id_ in row_of:
      raise ValueError(
        f"{where} has two rows of {id_!r}: give one, of segments their mean"
      )
    if id_ is not None:
      row_of[id_] = row
  lacking = [id_ for id_ in clips if id_ not in row_of]
  if lacking:
    raise ValueError(
      f"{where} has no row for {len(lacking)} of {len(clips)} clips, such as"
      f" {', '.join(map(repr, lacking[:3]))}: add rows, by paths below"
      " data.path, or leave these clips out of the data set"
    )
  y = {s: y_NxD[[row_of[id_] for id_ in ids[s]]] for s in SPLITS}
  for split in SPLITS:
    odd = np.flatnonzero(~np.isfinite(y[split]).all(axis=1))
    if odd.size:
      raise ValueError(
        f"{where}: the vector of {ids[split][odd[0]]!r} is not finite: make it"
        " anew"
      )
  return Made(y, sha256)


def _table(where, path) -> tuple[list, np.ndarray, str]:
  """Paths, vectors `y_NxD`, and the SHA-256 of a table."""
  try:
    content = files.read(os.path.expanduser(path))
    table = pq.ParquetFile(io.BytesIO(content)).read(_COLUMNS)
    lacking = set(_COLUMNS) - set(table.column_names)
    if lacking:
      raise ValueError(f"{where} has no column {', '.join(sorted(lacking))}")
    names = table["path"].cast(pa.string()).to_pylist()
    rows = table["embedding"].combine_chunks()
    lengths = pc.unique(pc.list_value_length(rows)).to_pylist()
    values = rows.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
  except (OSError, pa.ArrowException) as e:
    raise ValueError(
      f"{where} cannot be read ({messages.line(e)}): give a Parquet file with"
      " the columns path, of text, and embedding, of lists of numbers"
    ) from e
  if len(lengths) != 1 or not lengths[0]:
    some = ", ".join(str(length or "no") for length in lengths[:3])
    raise ValueError(
      f"{where} has vectors of {some or 'no'} numbers: all must have as many"
    )
  return (
    names,
    values.reshape(-1, lengths[0]),
    hashlib.sha256(content).hexdigest(),
  )
