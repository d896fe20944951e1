"""The nearest of many vectors, by cosine: exact, in blocks on the device.

Every vector is compared, in float32, a block at a time: memory does not grow
with the number of vectors. `Scaling` is applied before the comparison.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vicreg_jax.library.tables import Rows, Tables

SCALES = ("none", "standardise", "whiten")
# The share of the mean variance that is added to each direction's before
# whitening: else directions of noise would count as much as the others.
_RIDGE = 1.0
# Numbers of queries and of vectors that are compared at a time.
_QUERIES, _BLOCK = 1_024, 16_384
_EXACT = jax.lax.Precision.HIGHEST  # accelerators would round to 8 bits


class Scaling(NamedTuple):
  """Maps vectors before they are compared: (y - mean) @ matrix."""

  mean_D: np.ndarray
  matrix: np.ndarray  # [D], which is its diagonal, or [D, D]

  def unit(self, y_NxD) -> jax.Array:
    """Scaled vectors of length 1, or 0 if they have none."""
    unit_NxD, length_N = _unit(y_NxD, *self)
    length_N = np.asarray(length_N)
    # The squares of longer vectors may overflow float32.
    odd = np.flatnonzero(~((length_N > 1e-12) & (length_N < 1e18)))
    if not len(odd):
      return unit_NxD
    y_MxD = np.asarray(y_NxD)[odd].astype(np.float64) - self.mean_D
    one = self.matrix.ndim == 1
    y_MxD = y_MxD * self.matrix if one else y_MxD @ self.matrix
    length_Mx1 = np.linalg.norm(y_MxD, axis=1, keepdims=True)
    y_MxD /= np.where(length_Mx1 > 0, length_Mx1, 1)
    return unit_NxD.at[odd].set(y_MxD)


@jax.jit
def _unit(y_NxD, mean_D, matrix):
  y_NxD = y_NxD - mean_D
  if matrix.ndim == 1:
    y_NxD *= matrix
  else:
    y_NxD = jnp.matmul(y_NxD, matrix, precision=_EXACT)
  length_Nx1 = jnp.linalg.norm(y_NxD, axis=1, keepdims=True)
  return y_NxD / jnp.where(length_Nx1 > 0, length_Nx1, 1), length_Nx1[:, 0]


def fit(blocks: Iterable[np.ndarray], size: int, kind: str) -> Scaling:
  """The scaling of a collection.

  Args:
    blocks: its vectors [N, D]; they are only read if the kind needs them.
    size: D.
    kind: "none": vectors are compared as they are. "standardise": each number
      is its deviations from its mean. "whiten": directions that numbers share
      count less, too.
  """
  if kind == "none":
    return Scaling(np.zeros(size, np.float32), np.ones(size, np.float32))
  count, sum_D, square_DxD = 0, np.zeros(size), np.zeros((size, size))
  shift_D = None  # without a shift, equal vectors differ by rounding
  for y_NxD in blocks:
    shift_D = y_NxD[0].astype(np.float64) if shift_D is None else shift_D
    y_NxD = y_NxD - shift_D
    count += len(y_NxD)
    sum_D += y_NxD.sum(axis=0)
    square_DxD += y_NxD.T @ y_NxD
  mean_D = sum_D / count
  covariance_DxD = square_DxD / count - np.outer(mean_D, mean_D)
  mean_D += shift_D
  if kind == "standardise":
    deviation_D = np.sqrt(np.maximum(np.diag(covariance_DxD), 0))
    # A number that is the same in all vectors tells nothing.
    flat_D = deviation_D <= 1e-6 * np.abs(mean_D).max()
    matrix = np.where(flat_D, 0, 1 / np.where(flat_D, 1, deviation_D))
  else:
    variance_D, directions_DxD = np.linalg.eigh(covariance_DxD)
    variance_D = np.maximum(variance_D, 0)
    ridge = _RIDGE * variance_D.mean() or 1.0
    matrix = directions_DxD / np.sqrt(variance_D + ridge)
  matrix /= np.abs(matrix).max() or 1  # else it may overflow float32
  return Scaling(mean_D.astype(np.float32), matrix.astype(np.float32))


def scaling_of(tables: Tables, kind: str) -> Scaling:
  """The scaling of tables: by all rows, also where tracks are compared."""
  pieces = (rows.y_NxD for rows in tables.segments())
  return fit(pieces, tables.size, kind)


def unit(y_NxD: np.ndarray) -> jax.Array:
  """Vectors of length 1, or 0 if they have none."""
  return fit([], y_NxD.shape[1], "none").unit(y_NxD)


def blend(like_NxD, unlike_NxD=()) -> np.ndarray:
  """One vector [1, D] in the middle of some vectors, and away from others.

  The mean of `like` less the mean of `unlike`, both made by `Scaling.unit`.
  Raises ValueError if the difference is 0.
  """
  y_D = np.mean(like_NxD, axis=0)
  if len(unlike_NxD):
    y_D = y_D - np.mean(unlike_NxD, axis=0)
    if np.abs(y_D).max() < 1e-6:
      raise ValueError("--not: what is asked for is what is not to be found")
  return y_D[None]


def of_all(
  y_NxD: np.ndarray,
  group_N: np.ndarray,
  scaling: Scaling,
  k: int,
  progress: str = "",
) -> tuple[np.ndarray, np.ndarray]:
  """The k nearest of each vector, by falling cosine.

  Args:
    y_NxD: the vectors.
    group_N: int32, not negative; vectors of one group are no neighbours.
    scaling: of the vectors.
    k: how many.
    progress: the name of a bar on stderr; "": there is none.

  Returns:
    Cosines [N, k], and numbers [N, k], -1 where there are no more.
  """
  unit_NxD = scaling.unit(y_NxD)
  found = []
  blocks = tqdm(
    range(0, len(y_NxD), _QUERIES),
    unit=" points",
    unit_scale=_QUERIES,
    **bar(progress),
  )
  for at in blocks:
    part = slice(at, at + _QUERIES)
    found.append(nearest(unit_NxD[part], group_N[part], unit_NxD, group_N, k))
  cosine_NxK, number_NxK = map(np.concatenate, zip(*found))
  return cosine_NxK, number_NxK


def bar(name: str) -> dict:
  """Options of a bar of progress: none without a name, or in 2 seconds."""
  rarely = 0.5 if sys.stderr.isatty() else 30
  return {"desc": name, "disable": not name, "delay": 2, "mininterval": rarely}


def nearest(
  unit_QxD, group_Q, unit_NxD, group_N, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Cosines [Q, k], the highest first, and numbers of the nearest vectors."""
  count = len(unit_QxD)
  rows = -(-count // 8) * 8
  unit_QxD, group_Q = _padded(unit_QxD, rows), _padded(group_Q, rows)
  best = nothing(count, k)
  for at in range(0, len(unit_NxD), _BLOCK):
    unit_BxD = _padded(unit_NxD[at : at + _BLOCK], _BLOCK)
    group_B = _padded(group_N[at : at + _BLOCK], _BLOCK, -1)
    found = _nearest_of_block(unit_QxD, group_Q, unit_BxD, group_B, k)
    cosine_QxK, number_QxK = (np.asarray(x)[:count] for x in found)
    best = merged(best, (cosine_QxK, number_QxK + at))
  return best


@functools.partial(jax.jit, static_argnames="k")
def _nearest_of_block(unit_QxD, group_Q, unit_BxD, group_B, k):
  cosine_QxB = jnp.matmul(unit_QxD, unit_BxD.T, precision=_EXACT)
  left_out_QxB = (group_B == group_Q[:, None]) | (group_B < 0)
  cosine_QxB = jnp.where(left_out_QxB, -jnp.inf, cosine_QxB)
  return jax.lax.top_k(cosine_QxB, min(k, len(unit_BxD)))


def _padded(x, rows, value=0):
  padding = [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1)
  pad = np.pad if isinstance(x, np.ndarray) else jnp.pad
  return pad(x, padding, constant_values=value) if rows > len(x) else x


def nothing(count: int, k: int) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and numbers, as `nearest` gives them, of no vectors."""
  return np.full((count, k), -np.inf, np.float32), np.full((count, k), -1)


def merged(best, found) -> tuple[np.ndarray, np.ndarray]:
  """The best cosines and their numbers; of equal ones the earlier."""
  k = best[0].shape[1]
  cosine, number = (np.concatenate(x, axis=1) for x in zip(best, found))
  order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
  cosine, number = (
    np.take_along_axis(x, order, axis=1) for x in (cosine, number)
  )
  return cosine, np.where(np.isfinite(cosine), number, -1)


class Hit(NamedTuple):
  """A row that was found."""

  path: str
  start: float  # seconds
  end: float
  similarity: float  # the cosine
  query: int  # number of the nearest query
  unit_D: np.ndarray  # its vector, as compared


def search(
  scaled_QxD: np.ndarray,
  pieces: Iterable[Rows],
  scaling: Scaling,
  leave_out: Callable[[str], bool],
  count: int,
) -> list[Hit]:
  """The rows that are nearest to any query, the nearest first.

  Args:
    scaled_QxD: the queries, scaled; their lengths do not count.
    pieces: the rows to search.
    scaling: of the pieces.
    leave_out: whether rows of a path do not count.
    count: how many rows at most.
  """
  unit_QxD, query_Q = unit(scaled_QxD), np.zeros(len(scaled_QxD), np.int32)
  best, told, before = nothing(len(scaled_QxD), count), {}, 0
  for rows in pieces:
    unit_NxD = scaling.unit(rows.y_NxD)
    group_N = np.array([not leave_out(path) for path in rows.paths], np.int32)
    cosine_QxK, number_QxK = nearest(
      unit_QxD, query_Q, unit_NxD, group_N, count
    )
    number_QxK = np.where(number_QxK < 0, -1, number_QxK + before)
    best = merged(best, (cosine_QxK, number_QxK))
    kept = set(best[1].ravel().tolist()) - {-1}
    for number in kept - told.keys():
      i = number - before
      times = float(rows.start_N[i]), float(rows.end_N[i])
      # A copy: of a view, all rows would stay in memory.
      told[number] = rows.paths[i], *times, np.asarray(unit_NxD)[i].copy()
    told = {number: told[number] for number in kept}
    before += len(rows.paths)
  hits = {}
  for query, of_query in enumerate(zip(*best)):
    for cosine, number in zip(*(x.tolist() for x in of_query)):
      if number in told and not (
        number in hits and hits[number].similarity >= cosine
      ):
        *row, unit_D = told[number]
        hits[number] = Hit(*row, cosine, query, unit_D)
  return sorted(hits.values(), key=lambda hit: -hit.similarity)[:count]
