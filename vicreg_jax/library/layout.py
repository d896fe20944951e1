"""The points of a map of music: where they lie, their neighbours and colours.

A point is a track, or a passage. Points that sound alike lie together: they are
laid out by UMAP on the exact neighbours, or without it by scikit-learn.
"""

import collections
import importlib.util
import io
import math
import os
import warnings
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import threadpoolctl
from sklearn import cluster, manifold

from vicreg_jax import files
from vicreg_jax.library import made_by, neighbours
from vicreg_jax.library.tables import Rows, Tables, joined, same
from vicreg_jax.use.heads import Heads

SHOWN = 10  # neighbours of a point
OTHERS, UNKNOWN = "others", "unknown"
_LABELS = 16  # that a colouring tells apart
_CLUSTERS, _BINS = 8, 6
_UMAP_NEIGHBOURS = 15  # as its default
_MOST_TSNE = 5_000  # points that it takes under a minute for


class Colouring(NamedTuple):
  """A label for each point."""

  labels: list[str]
  code_N: np.ndarray  # uint8, which label
  ordered: bool  # labels are ranges of numbers, from low to high


class Points(NamedTuple):
  """Of a map."""

  rows: Rows
  xy_Nx2: np.ndarray  # from 0 to 1
  neighbours_Nx10: np.ndarray  # numbers of points, -1 where there are no more
  colourings: dict[str, Colouring]
  total: int  # points of the tables, of which these may be a sample
  projection: str


def make(
  tables: Tables,
  *,
  by: str = "tracks",
  scale: str = "none",
  projection: str = "",
  most: int = 100_000,
  table: str = "",
  heads: Heads | None = None,
  color: str = "folder",
) -> Points:
  """The points of a map.

  Args:
    tables: of embeddings.
    by: a point is one of the "tracks" or "segments".
    scale: of `neighbours.SCALES`.
    projection: "umap", "tsne" or "pca"; "" takes the best that there is.
    most: of more points, a random sample of so many is drawn.
    table: CSV or Parquet with a column `path`; its others are colourings.
    heads: whose most probable label is the colouring "tag".
    color: a colouring that there must be; a layout takes minutes.

  Raises:
    ValueError: there are less than two points, or table or color do not fit.
  """
  rows, total = _sampled(tables, by, most)
  if len(rows.paths) < 2:
    raise ValueError(
      f"a map takes two {by} or more, and here are {len(rows.paths)}"
    )
  columns = _of_table(table, rows.paths) if table else {}
  scaling = neighbours.scaling_of(tables, scale)
  unit_NxD = np.asarray(scaling.unit(rows.y_NxD))
  colourings = {
    "folder": of_values(_folders(rows.paths)),
    "cluster": _clusters(unit_NxD),
  }
  if heads:
    colourings["tag"] = _tags(tables, heads, rows, by)
  colourings |= columns
  if color not in colourings:
    raise ValueError(
      f"--color={color}: there are {', '.join(colourings)}; tag needs --model,"
      " and a column --table"
    )
  number_N = np.arange(len(rows.paths), dtype=np.int32)
  k = min(max(_UMAP_NEIGHBOURS, SHOWN), len(number_N) - 1)
  near = neighbours.of_all(rows.y_NxD, number_N, scaling, k)
  shown_NxK = near[1]
  if by == "segments":  # other passages of a track are none
    codes = {path: i for i, path in enumerate(dict.fromkeys(rows.paths))}
    path_N = np.array([codes[path] for path in rows.paths], np.int32)
    shown_NxK = neighbours.of_all(rows.y_NxD, path_N, scaling, SHOWN)[1]
  xy_Nx2, projection = _project(unit_NxD, near, projection)
  padding = ((0, 0), (0, max(0, SHOWN - shown_NxK.shape[1])))
  shown_NxK = np.pad(shown_NxK, padding, constant_values=-1)[:, :SHOWN]
  return Points(rows, xy_Nx2, shown_NxK, colourings, total, projection)


def _sampled(tables, by, most) -> tuple[Rows, int]:
  """Rows, of which there are at most so many, and of how many they are."""

  def pieces():
    return tables.tracks() if by == "tracks" else tables.segments()

  total = sum(len(rows.paths) for rows in pieces())
  keep_N = np.ones(total, bool)
  if total > most:
    keep_N[:] = False
    chosen = np.random.default_rng(0).choice(total, most, replace=False)
    keep_N[chosen] = True
  kept, before = [], 0
  for rows in pieces():
    at = np.flatnonzero(keep_N[before : before + len(rows.paths)])
    before += len(rows.paths)
    kept.append(rows.take(at))
  return joined(*kept), total


def _project(unit_NxD, near, projection) -> tuple[np.ndarray, str]:
  """Places [N, 2] from 0 to 1, and how they were found."""
  count = len(unit_NxD)
  projection = projection or _best_projection(count)
  # Too few for neighbourhoods, or all in one place.
  if count < 5 or np.ptp(unit_NxD, axis=0).max() < 1e-6:
    projection = "pca"
  if unit_NxD.shape[1] == 1:  # a plane has two directions
    unit_NxD = np.pad(unit_NxD, ((0, 0), (0, 1)))
  xy_Nx2 = np.full((count, 2), np.nan)
  if projection == "umap":
    xy_Nx2 = _umap(unit_NxD, near)
  elif projection == "tsne":
    layout = manifold.TSNE(
      metric="cosine",
      init="pca",
      perplexity=min(30, (count - 1) / 3),
      random_state=0,
    )
    # Threads wait for one another longer than few points take.
    with threadpoolctl.threadpool_limits(1 if count < 1_000 else None):
      xy_Nx2 = layout.fit_transform(unit_NxD)
  if not np.isfinite(xy_Nx2).all():  # UMAP may fail where many are equal
    projection = "pca"
    _, directions_DxD = np.linalg.eigh(np.cov(unit_NxD, rowvar=False))
    xy_Nx2 = unit_NxD @ directions_DxD[:, -2:]
  return _turned(xy_Nx2), projection


def _turned(xy_Nx2) -> np.ndarray:
  """Places from 0 to 1, as wide as they can be: a layout has no direction."""
  xy_Nx2 = xy_Nx2 - xy_Nx2.mean(axis=0, dtype=np.float64)
  _, _, axes = np.linalg.svd(xy_Nx2, full_matrices=False)
  xy_Nx2 = xy_Nx2 @ axes.T
  low, high = xy_Nx2.min(axis=0), xy_Nx2.max(axis=0)
  width = (high - low).max()  # of both: distances stay true
  return (xy_Nx2 - (low + high) / 2) / (width or 1) + 0.5


def _best_projection(count) -> str:
  if importlib.util.find_spec("umap"):
    return "umap"
  return "tsne" if count <= _MOST_TSNE else "pca"


def _umap(unit_NxD, near):
  try:
    import umap
  except ImportError as e:
    raise ValueError(
      "--projection=umap: UMAP is not installed (pip install umap-learn); or"
      " use tsne or pca"
    ) from e
  cosine_NxK, number_NxK = near
  # UMAP counts a point as its own nearest.
  own_Nx1 = np.arange(len(unit_NxD))[:, None]
  number_NxK = np.hstack([own_Nx1, number_NxK])
  distance_NxK = np.hstack([0 * own_Nx1, np.maximum(1 - cosine_NxK, 0)])
  layout = umap.UMAP(
    n_neighbors=number_NxK.shape[1],
    metric="cosine",
    init="pca",
    random_state=0,
    n_jobs=1,
    precomputed_knn=(number_NxK, distance_NxK.astype(np.float32), None),
  )
  # That it could not place other points, or that all are in one place.
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    warnings.simplefilter("ignore", RuntimeWarning)
    return layout.fit_transform(unit_NxD)


def common_folder(paths: list[str]) -> str:
  """The folder that all paths lie in, "" if there is none or it is "."."""
  try:
    return os.path.commonpath([os.path.dirname(path) for path in set(paths)])
  except ValueError:  # absolute and relative paths
    return ""


def below(folder: str, paths: list[str]) -> list[str]:
  """The paths, as they are called below their `common_folder`."""
  start = len(folder) + 1 if folder not in ("", "/") else len(folder)
  return [path[start:] for path in paths]


def _folders(paths) -> list[str]:
  """Of each path the folder below the one that all lie in."""
  inner = (name.split("/") for name in below(common_folder(paths), paths))
  return [parts[0] if len(parts) > 1 else "." for parts in inner]


def _clusters(unit_NxD) -> Colouring:
  count = min(_CLUSTERS, len(unit_NxD))
  found = cluster.MiniBatchKMeans(count, random_state=0, n_init=1)
  code_N = found.fit_predict(unit_NxD)
  return of_values([f"cluster {code + 1}" for code in code_N])


def _tags(tables, heads, rows, by) -> Colouring:
  """The most probable labels; a track's are the mean over its rows' own."""

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
  """A colouring by names; rare ones are "others"."""
  counts = collections.Counter(values)
  order = sorted(counts, key=lambda v: (v == UNKNOWN, -counts[v], v))
  labels = order
  if len(order) > _LABELS:
    labels = [*order[: _LABELS - 1], OTHERS]
  codes = {value: i for i, value in enumerate(labels)}
  rest = len(labels) - 1
  code_N = np.array([codes.get(value, rest) for value in values], np.uint8)
  return Colouring(labels, code_N, False)


def _of_ordered(values: list) -> Colouring:
  """A colouring by numbers or times.

  They are ranges that hold as many points each, or classes where they are few.
  """
  known = sorted({*values} - {None})
  if len(known) <= _LABELS:
    text_of = {None: UNKNOWN} | dict(zip(known, _texts(known)))
    return of_values([text_of[value] for value in values])
  # By their ranks: of large numbers, floats do not have all digits.
  rank_of = {value: i for i, value in enumerate(known)}
  rank_N = np.array([rank_of.get(value, -1) for value in values])
  shares = np.linspace(0, 1, _BINS + 1)
  edges = np.quantile(rank_N[rank_N >= 0], shares, method="higher")
  if len(np.unique(edges)) <= _BINS:  # one value takes several shares
    edges = shares * (len(known) - 1)
  code_N = np.searchsorted(edges[1:-1], rank_N, side="right")
  first = np.ceil(edges[:-1]).astype(int)
  last = [*(first[1:] - 1), len(known) - 1]
  ends = _texts([known[i] for pair in zip(first, last) for i in pair])
  labels = [f"{a} to {b}" for a, b in zip(ends[::2], ends[1::2])]
  code_N[rank_N < 0] = _BINS
  if None in values:
    labels.append(UNKNOWN)
  return Colouring(labels, code_N.astype(np.uint8), True)


def _texts(values: list) -> list[str]:
  """Values as text; numbers in as few digits as tell them apart."""
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


def _of_table(path, paths) -> dict[str, Colouring]:
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
  """A column's values, None where there are none; and whether they have order.

  Raises ValueError if they cannot be read.
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
