"""Reads tables of embeddings, as `embed` writes them, a piece at a time.

A track is one file. Its path may have several spellings, the first of which is
its name, and its rows may lie apart.
"""

import collections
import contextlib
import functools
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from vicreg_jax import files
from vicreg_jax.library import audio_paths
from vicreg_jax.library.store import KEY

_ROWS = 16_384  # read at a time
_COLUMNS = ("path", "start", "end", "embedding")
# Beginnings of a path, and parts of its rest, that have other spellings.
_BEGINNING, _DOTS = r"^(/|(\.\./)*)", r"(^|/)\.{0,2}(/|$)"


class Rows(NamedTuple):
  """Rows of a table."""

  paths: list[str]
  start_N: np.ndarray  # seconds
  end_N: np.ndarray
  y_NxD: np.ndarray  # float32

  def take(self, index) -> "Rows":
    """The rows of a slice, or of some numbers."""
    index = np.arange(len(self.paths))[index]
    paths = [self.paths[i] for i in index]
    arrays = (self.start_N, self.end_N, self.y_NxD)
    return Rows(paths, *(array[index] for array in arrays))


class Tags(NamedTuple):
  """The tags of a track in a table; "" and None where there are none."""

  artist: str = ""
  album: str = ""
  title: str = ""
  duration: float | None = None  # seconds
  tempo: float | None = None  # beats a minute
  key: str = ""
  genre: str = ""
  year: int | None = None


_NUMBERS = {
  "duration": pa.float64(),
  "tempo": pa.float64(),
  "year": pa.int64(),
}


class Tables:
  """One table of embeddings, in one Parquet file or several.

  Attributes:
    paths: of the files.
    size: D, of the embeddings.
    about: the metadata by `embed`: encoder, hop, pooling. Empty for tables of
      other programs.
  """

  def __init__(self, paths: Sequence[str]):
    """Raises ValueError if the files are no tables, or do not fit together."""
    first = {}
    for path in paths:
      first.setdefault(path if files.is_bucket(path) else same(path), path)
    self.paths, self._told = list(first.values()), {}
    found = {path: self._look_at(path) for path in self.paths}
    first, *others = self.paths
    self.size, self.about, rows = found[first]
    for path in others:
      size, about, more = found[path]
      rows += more
      if size != self.size:
        raise ValueError(
          f"{path} has embeddings of {size} numbers, and {first} of"
          f" {self.size}: give tables of one encoder and pooling"
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
      about = _about(path, (schema.metadata or {}).get(KEY, b"{}"))
      self._told[path] = [name for name in Tags._fields if name in schema.names]
      return kind.list_size, about, table.metadata.num_rows

  @functools.cached_property
  def _groups(self) -> list[tuple[str, int, pa.Array]]:
    """(file, row group, the path of each run of rows in it)."""
    found = []
    for path in self.paths:
      with _reading(path) as table:
        for group in range(table.num_row_groups):
          column = table.read_row_group(group, columns=["path"])["path"]
          names = column.cast(pa.large_string()).combine_chunks()
          names.validate(full=True)  # that it is UTF-8
          found.append((path, group, pc.run_end_encode(names).values))
          if names.null_count:
            raise ValueError(_nothing_in(path))
    return found

  @functools.cached_property
  def _spellings(self) -> tuple[dict[str, str], set[str]]:
    """Both are empty in usual tables.

    Returns:
      {another spelling: the first one of the track}, and the tracks whose rows
      do not all follow one another under one spelling.
    """
    names = pa.concat_arrays([names for *_, names in self._groups])
    names = pc.run_end_encode(names).values
    rest = pc.replace_substring_regex(names, _BEGINNING, "")
    cut = pc.subtract(pc.binary_length(names), pc.binary_length(rest))
    plain = (
      len(pc.unique(cut)) == 1
      and not pc.any(pc.match_substring_regex(rest, _DOTS)).as_py()
    )
    if plain and pc.count_distinct(names).as_py() == len(names):
      return {}, set()
    first, spelled, apart, here = {}, {}, set(), os.getcwd()
    for name in names.to_pylist():
      key = same(name, here)
      if key in first:
        apart.add(first[key])
        if name != first[key]:
          spelled[name] = first[key]
      else:
        first[key] = name
    return spelled, apart

  def names(self) -> list[str]:
    """The path of each track."""
    names = pa.concat_arrays([names for *_, names in self._groups])
    spelled, _ = self._spellings
    names = (spelled.get(name, name) for name in names.to_pylist())
    return list(dict.fromkeys(names))

  def segments(self) -> Iterator[Rows]:
    """All rows; equal rows of one track that lie apart count once.

    Raises ValueError if a row is not finite, or cannot be read.
    """
    (spelled, apart), seen = self._spellings, set()
    for path in self.paths:
      with _reading(path) as table:
        for batch in table.iter_batches(_ROWS, columns=list(_COLUMNS)):
          rows = self._rows(path, batch)
          if apart:
            names = [spelled.get(name, name) for name in rows.paths]
            rows = _unseen(rows._replace(paths=names), apart, seen)
          if rows.paths:
            yield rows

  def _rows(self, path, batch) -> Rows:
    embeddings = batch["embedding"]
    y_NxD = embeddings.flatten().cast(pa.float32()).to_numpy(False)
    y_NxD = y_NxD.reshape(-1, self.size)
    names = batch["path"].cast(pa.string()).to_pylist()
    if len(y_NxD) != len(names):
      raise ValueError(_nothing_in(path))
    finite_N = np.isfinite(y_NxD).all(axis=1)
    if not finite_N.all():
      raise ValueError(
        f"{path}: the embedding of {names[finite_N.argmin()]} is not finite;"
        " leave it out, or embed it anew (--overwrite)"
      )
    times = (batch[c].cast(pa.float64()).to_numpy(False) for c in _COLUMNS[1:3])
    return Rows(names, *times, y_NxD)

  def tracks(
    self, values: Callable[[np.ndarray], np.ndarray] | None = None
  ) -> Iterator[Rows]:
    """A row a track: the mean over its rows.

    Tracks whose rows lie apart come last; only their sums are in memory.

    Args:
      values: maps embeddings [N, D] to the values that are averaged instead.
    """
    pieces = self.segments()
    if values:
      pieces = (rows._replace(y_NxD=values(rows.y_NxD)) for rows in pieces)
    return means(pieces, self._spellings[1])

  def of(self, path: str) -> Rows | None:
    """The rows of a track, by any spelling of its path, or None."""
    return self.of_each([path]).get(path)

  def of_each(self, paths: Collection[str]) -> dict[str, Rows]:
    """{path: its rows} of some tracks, as `of`, in one reading."""
    if not paths:
      return {}
    here = os.getcwd()
    keys = {path: same(path, here) for path in paths}
    wanted, found = set(keys.values()), collections.defaultdict(list)
    for name, group, names in self._groups:
      own = {}
      for n in _ending(names, {os.path.basename(key) for key in wanted}):
        if (key := same(n, here)) in wanted:
          own[n] = key
      if own:
        rows = self._picked(name, group, _COLUMNS, own)
        for batch in rows.to_batches():
          rows = self._rows(name, batch)
          at = collections.defaultdict(list)
          for i, n in enumerate(rows.paths):
            at[own[n]].append(i)
          for key, index in at.items():
            found[key].append(rows.take(index))
    for key, pieces in found.items():
      rows = joined(*pieces)
      first = rows.paths[0]
      rows = rows._replace(paths=[first] * len(rows.paths))
      found[key] = _unseen(rows, {first}, set())
    return {path: found[key] for path, key in keys.items() if key in found}

  def _picked(self, path, group, columns, names) -> pa.Table:
    """The rows of a row group whose paths are some."""
    with _reading(path) as table:
      rows = table.read_row_group(group, columns=list(columns))
      has = pc.is_in(rows["path"].cast(pa.string()), pa.array(list(names)))
      return rows.filter(has).combine_chunks()

  def have(self, column: str) -> bool:
    """Whether a field of `Tags` is a column of any of the files."""
    return any(column in told for told in self._told.values())

  def tags(self, paths: Collection[str]) -> dict[str, Tags]:
    """{path: tags} of those paths that are names of tracks."""
    wanted, found = pa.array(list(paths), pa.large_string()), {}
    for path, group, names in self._groups:
      told = self._told[path]
      if not told or not pc.any(pc.is_in(names, wanted)).as_py():
        continue
      rows = self._picked(path, group, ["path", *told], wanted.to_pylist())
      with _reading(path):  # names the file in an error
        columns = [
          rows[name].cast(_NUMBERS.get(name, pa.string())) for name in told
        ]
      values = zip(*(column.to_pylist() for column in columns))
      for name, row in zip(rows["path"].to_pylist(), values):
        known = {k: v for k, v in zip(told, row) if v is not None and v == v}
        found.setdefault(name, Tags(**known))
    return found


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """Tables and other files: the first argument and all Parquet are tables."""
  first, *rest = arguments
  tables = [path for path in rest if _is_parquet(path)]
  return [first, *tables], [path for path in rest if path not in tables]


def _is_parquet(path) -> bool:
  """Whether a file is Parquet, by its suffix or its first bytes."""
  if path.lower().endswith(".parquet") or files.is_bucket(path):
    return True
  try:
    with open(path, "rb") if os.path.isfile(path) else io.BytesIO() as file:
      return file.read(4) == b"PAR1"
  except OSError:
    return False


def _ending(names: pa.Array, ends: Collection[str]) -> list[str]:
  """Names with one of the ends: Arrow is faster for few, Python for many."""
  if len(ends) < 8:
    masks = (pc.ends_with(names, end) for end in ends)
    return names.filter(functools.reduce(pc.or_, masks)).to_pylist()
  return [n for n in names.to_pylist() if os.path.basename(n) in ends]


same = audio_paths.same


def _nothing_in(path):
  return f"{path} has rows with nothing in them: leave them out"


def _about(path, text) -> dict:
  """The metadata of a table; raises ValueError if they are damaged."""
  try:
    about = json.loads(text)
    hop, pooling = about.get("hop"), about.get("pooling", "")
    known = hop is None or (isinstance(hop, int) and hop > 0)
    if known and isinstance(pooling, str):
      return about
  except (AttributeError, RecursionError, ValueError):
    pass
  raise ValueError(
    f"{path} says of itself {text[:80]!r}, which `embed` has not written: embed"
    f" its files again, or take the entry {KEY.decode()!r} out of its metadata"
  )


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
      # Else rows that were read stay in memory until the file is closed.
      yield stack.enter_context(pq.ParquetFile(source, pre_buffer=False))
  except (pa.ArrowException, OSError) as e:
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


def _unseen(rows: Rows, tracks: Collection[str], seen: set[int]) -> Rows:
  """Rows without those of some tracks that have been seen."""
  kept = []
  for i, path in enumerate(rows.paths):
    if path in tracks:
      times = rows.start_N[i], rows.end_N[i]
      row = hash((path, *times, rows.y_NxD[i].tobytes()))
      if row in seen:
        continue
      seen.add(row)
    kept.append(i)
  return rows.take(kept)


def means(
  pieces: Iterable[Rows], apart: Collection[str] = ()
) -> Iterator[Rows]:
  """A row for each run of rows of one path, their mean.

  `apart`: paths that have several runs; they get one row for all, at the end.
  """
  rest, sums = None, {}
  for rows in pieces:
    if apart:
      rows = _without(rows, apart, sums)
    if rest:
      rows = joined(rest, rows)
    if rows.paths:
      last = _firsts(rows.paths)[-1]  # more of it may follow
      rest = rows.take(slice(last, None))
      if last:
        yield _means(rows.take(slice(last)))
  if rest:
    yield _means(rest)
  paths = list(sums)
  for at in range(0, len(paths), _ROWS):
    part = paths[at : at + _ROWS]
    starts, ends, counts, sums_D = zip(*(sums[path] for path in part))
    y_NxD = (np.stack(sums_D) / np.array(counts)[:, None]).astype(np.float32)
    yield Rows(part, np.array(starts), np.array(ends), y_NxD)


def _without(rows: Rows, apart, sums) -> Rows:
  """The other rows; these are added to {path: (start, end, count, sum)}."""
  others = []
  for i, (path, *row) in enumerate(zip(*rows)):
    if path not in apart:
      others.append(i)
      continue
    start, end, y_D = row
    before = sums.get(path, (start, end, 0, np.zeros(len(y_D))))
    sums[path] = (
      min(start, before[0]),
      max(end, before[1]),
      before[2] + 1,
      before[3] + y_D,
    )
  return rows.take(others)


def _means(rows: Rows) -> Rows:
  """A row for each run of rows of one path."""
  first = _firsts(rows.paths)
  if len(first) == len(rows.paths):
    return rows
  counts = np.diff([*first, len(rows.paths)])
  y_NxD = np.add.reduceat(rows.y_NxD, first, axis=0, dtype=np.float64)
  return Rows(
    [rows.paths[i] for i in first],
    np.minimum.reduceat(rows.start_N, first),
    np.maximum.reduceat(rows.end_N, first),
    (y_NxD / counts[:, None]).astype(np.float32),
  )
