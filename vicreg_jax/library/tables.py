"""Reads tables of embeddings, as `embed` writes them, a piece at a time."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from vicreg_jax import files
from vicreg_jax.library.store import KEY

_ROWS = 16_384  # read at a time
_COLUMNS = ("path", "start", "end", "embedding")


class Rows(NamedTuple):
  """Of a table."""

  paths: list[str]
  start_N: np.ndarray  # seconds
  end_N: np.ndarray
  y_NxD: np.ndarray  # float32

  def take(self, index) -> "Rows":
    """Some of them: by a slice, or by their numbers."""
    index = np.arange(len(self.paths))[index]
    paths = [self.paths[i] for i in index]
    arrays = (self.start_N, self.end_N, self.y_NxD)
    return Rows(paths, *(array[index] for array in arrays))


class Tables:
  """One table of embeddings, in one Parquet file or several.

  Attributes:
    paths: of the files.
    size: D, of the embeddings.
    about: what `embed` has said of them: encoder, hop, pooling. Empty, if the
      tables are somebody else's.
  """

  def __init__(self, paths: Sequence[str]):
    """Raises ValueError if the files are no tables, or do not fit together."""
    self.paths = list(dict.fromkeys(paths))
    found = {path: self._look_at(path) for path in self.paths}
    first, *others = self.paths
    self.size, self.about, rows = found[first]
    for path in others:
      size, about, more = found[path]
      rows += more
      if size != self.size:
        raise ValueError(
          f"{path} has embeddings of {size} numbers, and {first} of"
          f" {self.size}: give tables of one encoder"
        )
      if about.get("encoder") != self.about.get("encoder"):
        raise ValueError(
          f"{path} and {first} are of two encoders, whose embeddings cannot be"
          " compared: embed both by the same MODEL"
        )
    if not rows:
      raise ValueError(f"{', '.join(self.paths)}: there are no rows")

  def _look_at(self, path) -> tuple[int, dict, int]:
    with _reading(path) as table:
      schema = table.schema_arrow
      lacking = [name for name in _COLUMNS if name not in schema.names]
      if lacking:
        raise ValueError(
          f"{path} has no column {', '.join(lacking)}: give a table that"
          " `embed` has written"
        )
      kind = schema.field("embedding").type
      if not pa.types.is_fixed_size_list(kind):
        raise ValueError(
          f"{path}: its embeddings are a {kind}; they must be a list of one"
          " fixed size, as `embed` writes them"
        )
      said = (schema.metadata or {}).get(KEY, b"{}")
      return kind.list_size, dict(json.loads(said)), table.metadata.num_rows

  def state(self) -> list:
    """[path, size, time of the last change] of each file."""
    return [_state(path) for path in self.paths]

  def segments(self) -> Iterator[Rows]:
    """All rows. Raises ValueError if one is not finite, or cannot be read."""
    for path in self.paths:
      with _reading(path) as table:
        for batch in table.iter_batches(_ROWS, columns=list(_COLUMNS)):
          yield self._rows(path, batch)

  def _rows(self, path, batch) -> Rows:
    embeddings = batch["embedding"]
    y_NxD = embeddings.flatten().cast(pa.float32()).to_numpy(False)
    y_NxD = y_NxD.reshape(-1, self.size)
    names = batch["path"].cast(pa.string()).to_pylist()
    if len(y_NxD) != len(names) or None in names:
      raise ValueError(f"{path} has rows with nothing in them: leave them out")
    finite_N = np.isfinite(y_NxD).all(axis=1)
    if not finite_N.all():
      raise ValueError(
        f"{path}: the embedding of {names[finite_N.argmin()]} is not finite;"
        " leave it out, or embed it anew (--overwrite)"
      )
    times = (batch[c].cast(pa.float64()).to_numpy(False) for c in _COLUMNS[1:3])
    return Rows(names, *times, y_NxD)

  def tracks(self) -> Iterator[Rows]:
    """A row a path: the mean over its rows, which follow one another."""
    return means(self.segments())

  def of(self, path: str) -> Rows | None:
    """The rows of a path, or None."""
    wanted = pa.array([path])
    found = []
    for name in self.paths:
      with _reading(name) as table:
        for group in range(table.num_row_groups):
          paths = table.read_row_group(group, columns=["path"])["path"]
          has = pc.is_in(paths.cast(pa.string()), wanted)
          if pc.any(has).as_py():
            rows = table.read_row_group(group, columns=list(_COLUMNS))
            rows = rows.filter(has).combine_chunks()
            found += [self._rows(name, batch) for batch in rows.to_batches()]
    return joined(*found) if found else None


def _state(path):
  if files.is_bucket(path):
    stat = epath.Path(path).stat()
    return [path, stat.length, stat.mtime]
  stat = os.stat(path)
  return [os.path.abspath(path), stat.st_size, stat.st_mtime_ns]


@contextlib.contextmanager
def _reading(path):
  """An open Parquet file, local or in a bucket."""
  try:
    with contextlib.ExitStack() as stack:
      source = path
      if files.is_bucket(path):
        source = stack.enter_context(epath.Path(path).open("rb"))
      elif os.path.isdir(path):
        raise ValueError(f"{path} is a directory; give a table of `embed`")
      # Else what was read stays in memory until the file is closed.
      yield stack.enter_context(pq.ParquetFile(source, pre_buffer=False))
  except (pa.ArrowException, OSError, json.JSONDecodeError) as e:
    text = " ".join(str(e).split())[:300]
    raise ValueError(
      f"{path} cannot be read as a table ({text}): give one that `embed` has"
      " written, as Parquet"
    ) from e


def joined(*rows: Rows) -> Rows:
  """All rows, one after another."""
  paths, *arrays = zip(*rows)
  return Rows(sum(paths, []), *map(np.concatenate, arrays))


def _firsts(paths) -> list[int]:
  """Where runs of one path begin."""
  pairs = zip(paths, [None, *paths])
  return [i for i, (path, before) in enumerate(pairs) if path != before]


def means(pieces: Iterable[Rows]) -> Iterator[Rows]:
  """A row for each run of rows of one path, their mean."""
  rest = None
  for rows in pieces:
    if rest:
      rows = joined(rest, rows)
    if rows.paths:
      last = _firsts(rows.paths)[-1]  # more of it may follow
      rest = rows.take(slice(last, None))
      if last:
        yield _means(rows.take(slice(last)))
  if rest:
    yield _means(rest)


def _means(rows: Rows) -> Rows:
  """A row for each run of rows of one path."""
  first = _firsts(rows.paths)
  if len(first) == len(rows.paths):
    return rows
  ends = [*first[1:], len(rows.paths)]
  counts = np.subtract(ends, first)
  y_NxD = np.add.reduceat(rows.y_NxD, first, axis=0) / counts[:, None]
  return Rows(
    [rows.paths[i] for i in first],
    rows.start_N[first],
    rows.end_N[np.subtract(ends, 1)],
    y_NxD.astype(np.float32),
  )
