"""Colours of points of a map: folders, tags, clusters, a table's columns."""

import collections
import io
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from sklearn import cluster

from vicreg_jax import files
from vicreg_jax.library import made_by
from vicreg_jax.library.tables import Rows, Tables, Tags, same
from vicreg_jax.use.heads import Heads

OTHERS, UNKNOWN = "others", "unknown"
# Colourings by tags of files, in this order; the last two are by ranges.
_TAGS = ("artist", "album", "genre", "key", "year", "tempo")
_COLOURS = 16  # more cannot be told apart
_LABELS = 4_000  # that the page can search for
_CLUSTERS, _BINS = 8, 6


class Colouring(NamedTuple):
  """A label for each point."""

  labels: list[str]
  code_N: np.ndarray  # uint16, number of the label
  ordered: bool  # labels are ranges of numbers, from low to high
  coloured: int  # number of labels with a colour, the first ones


def of_points(
  rows: Rows, unit_NxD: np.ndarray, told: Mapping[str, Tags]
) -> dict[str, Colouring]:
  """The colourings of points by folder, cluster and tags.

  `told`: {path: its tags}; a tag that no path has is no colouring.
  """
  colourings = {
    "folder": of_values(_folders(rows.paths)),
    "cluster": _clusters(unit_NxD),
  }
  for name in _TAGS:
    values = [getattr(told.get(path), name, None) for path in rows.paths]
    if not any(values):
      continue
    if name in ("year", "tempo"):
      colourings[name] = _of_ordered(values)
    else:
      colourings[name] = of_values([value or UNKNOWN for value in values])
  return colourings


def common_folder(paths: list[str]) -> str:
  """The folder that all paths lie in, "" if there is none or it is "."."""
  try:
    return os.path.commonpath([os.path.dirname(path) for path in set(paths)])
  except ValueError:  # absolute and relative paths
    return ""


def below(folder: str, paths: list[str]) -> list[str]:
  """The paths, relative to their `common_folder`."""
  start = len(folder) + 1 if folder not in ("", "/") else len(folder)
  return [path[start:] for path in paths]


def _folders(paths) -> list[str]:
  """For each path, the first folder below the one that all lie in."""
  inner = (name.split("/") for name in below(common_folder(paths), paths))
  return [parts[0] if len(parts) > 1 else "." for parts in inner]


def _clusters(unit_NxD) -> Colouring:
  count = min(_CLUSTERS, len(unit_NxD))
  found = cluster.MiniBatchKMeans(count, random_state=0, n_init=1)
  code_N = found.fit_predict(unit_NxD)
  return of_values([f"cluster {code + 1}" for code in code_N])


def of_heads(tables: Tables, heads: Heads, rows: Rows, by: str) -> Colouring:
  """The most probable labels; a track's are of its rows' mean probabilities."""

  def shares_of(y_NxD):
    return heads.of_each(made_by.means(tables, y_NxD))

  if by == "segments":
    best_N = shares_of(rows.y_NxD).argmax(axis=1)
  else:
    best_of = {}
    for shares in tables.tracks(shares_of):
      best_of |= zip(shares.paths, shares.y_NxD.argmax(axis=1))
    best_N = [best_of[path] for path in rows.paths]
  return of_values([heads.labels[i] for i in best_N])


def of_values(values: list[str]) -> Colouring:
  """A colouring by names: the most frequent have colours, the rest is grey."""
  counts = collections.Counter(values)
  labels = sorted(counts, key=lambda v: (v == UNKNOWN, -counts[v], v))
  coloured = min(len(labels) - (UNKNOWN in counts), _COLOURS)
  if len(labels) > _LABELS:
    labels = [*labels[: _LABELS - 1], OTHERS]
  codes = {value: i for i, value in enumerate(labels)}
  rest = len(labels) - 1
  code_N = np.array([codes.get(value, rest) for value in values], np.uint16)
  return Colouring(labels, code_N, False, coloured)


def _of_ordered(values: list) -> Colouring:
  """A colouring by numbers or times.

  Its labels are ranges with equally many points, or the values if they are few.
  """
  known = sorted({*values} - {None})
  if len(known) <= _COLOURS:
    text_of = {None: UNKNOWN} | dict(zip(known, _texts(known)))
    return of_values([text_of[value] for value in values])
  # By ranks, as floats do not have all digits of large numbers.
  rank_of = {value: i for i, value in enumerate(known)}
  rank_N = np.array([rank_of.get(value, -1) for value in values])
  shares = np.linspace(0, 1, _BINS + 1)
  edges = np.quantile(rank_N[rank_N >= 0], shares, method="higher")
  if len(np.unique(edges)) <= _BINS:  # one value fills several ranges
    edges = shares * (len(known) - 1)
  code_N = np.searchsorted(edges[1:-1], rank_N, side="right")
  first = np.ceil(edges[:-1]).astype(int)
  last = [*(first[1:] - 1), len(known) - 1]
  ends = _texts([known[i] for pair in zip(first, last) for i in pair])
  labels = [f"{a} to {b}" for a, b in zip(ends[::2], ends[1::2])]
  code_N[rank_N < 0] = _BINS
  if None in values:
    labels.append(UNKNOWN)
  return Colouring(labels, code_N.astype(np.uint16), True, _BINS)


def _texts(values: list) -> list[str]:
  """Values as text; numbers with the fewest digits that tell them apart."""
  texts = [str(int(v) if _is_whole(v) else v) for v in values]
  for digits in range(6, 17):
    short = [
      f"{v:.{digits}g}" if isinstance(v, float) and not _is_whole(v) else text
      for v, text in zip(values, texts)
    ]
    if len(set(short)) == len(set(values)):
      return short
  return texts


def _is_whole(value) -> bool:
  """Whether a value is a float that is better written as an integer."""
  return isinstance(value, float) and value % 1 == 0 and abs(value) < 1e16


def of_table(path: str, paths: list[str]) -> dict[str, Colouring]:
  """The columns of a table as colourings."""
  table = _read(path)
  count = table.column_names.count("path")
  if count != 1:
    raise ValueError(
      f"--table={path} has {count or 'no'} column{'s' * (count > 1)} `path`,"
      f" among {', '.join(table.column_names)}: name the paths' column so"
    )
  columns = [
    (name, *_values(path, name, column))
    for name, column in zip(table.column_names, table.columns)
  ]
  (names,) = (values for name, values, _ in columns if name == "path")
  here = os.getcwd()
  row_of = {same(str(name), here): i for i, name in enumerate(names)}
  row_N = [row_of.get(same(name, here)) for name in paths]
  if all(row is None for row in row_N):
    raise ValueError(
      f"--table={path} has no row of these tracks: its paths must be as in the"
      f" embeddings, {paths[0]!r}"
    )
  colourings = {}
  for name, known, ordered in columns:
    values = [None if row is None else known[row] for row in row_N]
    if name != "path" and ordered:
      colourings[name] = _of_ordered(values)
    elif name != "path":
      told = [UNKNOWN if v in (None, "") else str(v) for v in values]
      colourings[name] = of_values(told)
  return colourings


def _values(path, name, column) -> tuple[list, bool]:
  """A column's values, None where a cell is empty; and whether they have order.

  Raises ValueError if the values cannot be read.
  """
  try:
    kind = column.type
    if pa.types.is_dictionary(kind):
      column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_duration(kind):
      return column.cast(pa.int64()).to_pylist(), True
    if pa.types.is_temporal(kind):  # Python has no nanoseconds
      return column.cast(pa.string()).to_pylist(), True
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
      column = column.cast(pa.string())  # if it is text
    values = column.to_pylist()
    if pa.types.is_floating(kind):
      values = [
        v if v is not None and math.isfinite(v) else None for v in values
      ]
    ordered = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    return values, ordered or pa.types.is_decimal(kind)
  except (pa.ArrowException, ValueError) as e:
    text = " ".join(str(e).split())[:300]
    raise ValueError(
      f"--table={path}: the column {name} cannot be read ({text}): write it as"
      " text, or leave it out"
    ) from e


def _read(path) -> pa.Table:
  try:
    content = files.read(path)
    if content[:4] == b"PAR1":
      return pq.read_table(io.BytesIO(content))
    content.decode()  # Arrow takes other text for bytes
    return pa.csv.read_csv(io.BytesIO(content))
  except UnicodeDecodeError as e:
    raise ValueError(
      f"--table={path} is not UTF-8 (byte {e.start}): save it as UTF-8"
    ) from e
  except (pa.ArrowException, OSError) as e:
    text = " ".join(str(e).split())[:300]
    raise ValueError(
      f"--table={path} cannot be read ({text}): give a CSV or a Parquet"
    ) from e
