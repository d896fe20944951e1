"""The points of a map of music: their places, neighbours and colours.

A point is a track, or a passage. Points that sound alike lie together: UMAP
lays them out by their exact neighbours; without UMAP, scikit-learn does.
"""

import importlib.util
import warnings
from typing import NamedTuple

import numpy as np
import threadpoolctl
from sklearn import manifold

from vicreg_jax.data.tracks import tracks_of
from vicreg_jax.library import colourings as colouring
from vicreg_jax.library import neighbours
from vicreg_jax.library.colourings import Colouring
from vicreg_jax.library.tables import Rows, Tables, Tags, joined
from vicreg_jax.use.heads import Heads

SHOWN = 10  # neighbours of a point
_UMAP_NEIGHBOURS = 15  # as its default
# The most points for t-SNE (under a minute) and for UMAP (under five).
_MOST_TSNE, _MOST_UMAP = 5_000, 50_000


class Points(NamedTuple):
  """The points of a map."""

  rows: Rows
  xy_Nx2: np.ndarray  # from 0 to 1
  track_N: np.ndarray  # int32; pieces of one track have one number
  neighbours_Nx10: np.ndarray  # points of other tracks; -1: no more
  cosine_Nx10: np.ndarray  # of the neighbours
  tags: dict[str, Tags]  # by paths
  colourings: dict[str, Colouring]
  total: int  # points of the tables; these points may be a sample
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
    by: "tracks" or "segments": which rows are points.
    scale: of `neighbours.SCALES`.
    projection: "umap", "tsne" or "pca"; "" takes the best one that is
      installed and takes minutes.
    most: of more points, a random sample of this size is drawn.
    table: CSV or Parquet with a column `path`; its others are colourings.
    heads: their most probable label is the colouring "tag".
    color: a colouring that must exist, checked before the layout.

  Raises:
    ValueError: there are fewer than two points, or table or color do not fit.
  """
  rows, total = _sampled(tables, by, most)
  if len(rows.paths) < 2:
    raise ValueError(
      f"a map takes two {by} or more, and here are {len(rows.paths)}"
    )
  columns = colouring.of_table(table, rows.paths) if table else {}
  scaling = neighbours.scaling_of(tables, scale)
  unit_NxD = np.asarray(scaling.unit(rows.y_NxD))
  told = tables.tags(set(rows.paths))
  colourings = colouring.of_points(rows, unit_NxD, told)
  if heads:
    colourings["tag"] = colouring.of_heads(tables, heads, rows, by)
  colourings |= columns
  if color not in colourings:
    raise ValueError(
      f"--color={color}: there are {', '.join(colourings)}; tag needs --model,"
      " artist, album, genre and year need files that tell them, and a column"
      " --table"
    )
  track_N = _track_numbers(rows.paths)
  k = min(_UMAP_NEIGHBOURS, len(track_N) - 1)
  others = neighbours.of_all(
    rows.y_NxD, track_N, scaling, max(k, SHOWN), progress="neighbours"
  )
  near = neighbours.merged(_of_own_track(unit_NxD, track_N, k), others)
  xy_Nx2, projection = _project(unit_NxD, [x[:, :k] for x in near], projection)
  cosine_Nx10, number_Nx10 = (x[:, :SHOWN] for x in others)
  shown = rows, xy_Nx2, track_N, number_Nx10, cosine_Nx10
  return Points(*shown, told, colourings, total, projection)


def _track_numbers(paths) -> np.ndarray:
  """The number of each path's track; see `tracks.tracks_of`."""
  track_of = tracks_of(dict.fromkeys(paths))
  numbers = {t: i for i, t in enumerate(dict.fromkeys(track_of.values()))}
  return np.array([numbers[track_of[path]] for path in paths], np.int32)


def _of_own_track(unit_NxD, track_N, k):
  """Cosines and numbers [N, k] of the nearest pieces of the same track."""
  cosine_NxK, number_NxK = neighbours.nothing(len(track_N), k)
  order = np.argsort(track_N, kind="stable")
  for piece_M in np.split(order, np.flatnonzero(np.diff(track_N[order])) + 1):
    for at in range(0, len(piece_M), 1_024) if len(piece_M) > 1 else ():
      own_Q = piece_M[at : at + 1_024]
      cosine_QxM = unit_NxD[own_Q] @ unit_NxD[piece_M].T
      cosine_QxM[own_Q[:, None] == piece_M] = -np.inf
      best_QxK = np.argsort(-cosine_QxM, axis=1, kind="stable")[:, :k]
      found = slice(best_QxK.shape[1])
      cosine_NxK[own_Q, found] = np.take_along_axis(cosine_QxM, best_QxK, 1)
      number_NxK[own_Q, found] = piece_M[best_QxK]
  return cosine_NxK, number_NxK


def _sampled(tables, by, most) -> tuple[Rows, int]:
  """At most so many rows, sampled, and the number of all rows."""

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
  """Places [N, 2] from 0 to 1, and the name of the projection."""
  count = len(unit_NxD)
  projection = projection or _best_projection(count)
  # Too few points for neighbourhoods, or all in one place.
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
  if count <= _MOST_UMAP and importlib.util.find_spec("umap"):
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
    tqdm_kwds={**neighbours.bar("UMAP"), "bar_format": "{l_bar}{bar}{r_bar}"},
  )
  # Warnings that new points cannot be placed, or that all are in one place.
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    warnings.simplefilter("ignore", RuntimeWarning)
    return layout.fit_transform(unit_NxD)
