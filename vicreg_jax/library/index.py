"""The nearest of very many vectors: a LanceDB table, on a disk or in a bucket.

It is built once, from tables of embeddings, and kept. LanceDB compares a vector
with those of the nearest partitions, in 8 bits for every 16 numbers (IVF-PQ),
and the best of them in full: some of the nearest may be missed. How many are
found is measured after every build.
"""

import contextlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from vicreg_jax import files, messages
from vicreg_jax.library import neighbours
from vicreg_jax.library.neighbours import Hit, Scaling
from vicreg_jax.library.tables import Rows, Tables

_FEWEST = 10_000  # rows; fewer are all compared
# Rows that are compared in full, and partitions that are looked into.
_CANDIDATES, _PROBES = 1_000, 20
# A quarter and a fifth of LanceDB's: a third of the time, the same recall.
_SAMPLES, _ITERATIONS = 64, 10
_ASKED, _TOP = 100, 10  # rows, and neighbours, that recall is measured by
_RECORDS = "index.json"  # by which a directory is known for an index
_COLUMNS = ["path", "start", "end", "vector"]


class Index:
  """Rows that can be asked for the nearest of a vector."""

  def __init__(self, directory: str, table, scaling: Scaling):
    """A table of LanceDB, its vectors as `scaling` makes them."""
    self._directory, self._table, self.scaling = directory, table, scaling
    with _explained(directory):
      self.count = table.count_rows()

  def search(
    self, scaled_QxD: np.ndarray, leave_out: Callable[[str], bool], count: int
  ) -> list[Hit]:
    """As `neighbours.search`, but that some rows may be missed."""
    hits = {}
    for query, unit_D in enumerate(np.asarray(neighbours.unit(scaled_QxD))):
      for row, *told, own_D, cosine in self._nearest(unit_D, leave_out, count):
        if row not in hits or hits[row].similarity < cosine:
          hits[row] = Hit(*told, cosine, query, own_D)
    return sorted(hits.values(), key=lambda hit: -hit.similarity)[:count]

  def _nearest(self, unit_D, leave_out, count) -> list[tuple]:
    """(number of a row, path, start, end, vector, cosine), by cosine."""
    wanted = 4 * count
    while True:
      found = [
        row for row in self._ask(unit_D, wanted) if not leave_out(row[1])
      ]
      if len(found) >= count or wanted >= self.count:
        return sorted(found, key=lambda row: -row[-1])[:count]
      wanted *= 4  # most of them were left out

  def _ask(self, unit_D, wanted) -> list[tuple]:
    with _explained(self._directory):
      query = self._table.search(unit_D, vector_column_name="vector")
      query = query.distance_type("l2").limit(wanted).with_row_id(True)
      if wanted < self.count:
        query = query.nprobes(_PROBES)
        query = query.refine_factor(max(4, _CANDIDATES // wanted))
      else:
        query = query.bypass_vector_index()
      found = query.select([*_COLUMNS, "_distance"]).to_arrow()
    unit_NxD = _vectors(found)
    told = (found[name].to_pylist() for name in ("_rowid", *_COLUMNS[:3]))
    return list(zip(*told, unit_NxD, (unit_NxD @ unit_D).tolist()))

  def recall(self, pieces: Iterable[Rows]) -> float:
    """Of the nearest rows of other paths, the share that is found.

    Args:
      pieces: of the tables, of which all rows are compared with some.
    """
    rng = np.random.default_rng(0)
    chosen = rng.choice(self.count, min(_ASKED, self.count), replace=False)
    with _explained(self._directory):
      asked = self._table.take_offsets(chosen.tolist()).to_arrow()
    unit_QxD, paths = _vectors(asked), asked["path"].to_pylist()
    codes = {path: i for i, path in enumerate(dict.fromkeys(paths))}
    group_Q = np.array([codes[path] for path in paths], np.int32)
    best = neighbours.nothing(len(paths), _TOP)
    for rows in pieces:
      group_N = [codes.get(path, len(codes)) for path in rows.paths]
      best = neighbours.merged(
        best,
        neighbours.nearest(
          unit_QxD,
          group_Q,
          self.scaling.unit(rows.y_NxD),
          np.array(group_N, np.int32),
          _TOP,
        ),
      )
    found = there = 0
    for unit_D, path, cosine_K in zip(unit_QxD, paths, best[0]):
      # By cosine, as of equal rows any will do.
      cosine_K = cosine_K[np.isfinite(cosine_K)]
      there += len(cosine_K)
      for *_, cosine in self._nearest(unit_D, path.__eq__, len(cosine_K) or 1):
        found += bool(len(cosine_K)) and cosine >= cosine_K.min() - 1e-5
    return found / max(there, 1)


def of_tables(directory: str, tables: Tables, by: str, scale: str) -> Index:
  """The index of some tables. It is built if there is none that fits them.

  Args:
    directory: local or gs://...; new, empty, or of indexes of these tables.
    tables: of embeddings.
    by: "tracks" or "segments".
    scale: of `neighbours.SCALES`.

  Raises:
    ValueError: LanceDB is not installed, the directory is none of indexes,
      another command builds one there, the index cannot be read or written, or
      the tables cannot be read.
  """
  try:
    import lancedb
  except ImportError as e:
    raise ValueError(
      f"--index={directory}: LanceDB is not installed: pip install"
      " 'vicreg_jax[index]', or leave --index out for the exact search"
    ) from e
  directory = str(files.absolute(directory))
  if index := _kept(lancedb, directory, tables, by, scale):
    return index
  with (
    files.explained(directory, "--index"),
    files.lock(directory, "--index", directory=True),
  ):
    # Another command may have built it before the lock was ours.
    index = _kept(lancedb, directory, tables, by, scale)
    return index or _build(lancedb, directory, tables, by, scale)


def _kept(lancedb, directory, tables, by, scale) -> Index | None:
  """The index that was built before, if it fits."""
  name = f"{by}-{scale}"
  record = _records(directory).get(name)
  if not record or record.get("of") != _of(tables):
    return None
  if not _is_joined(record, tables):
    return None
  with _explained(directory):
    stored = np.load(io.BytesIO(files.read(f"{directory}/{name}.npz")))
    scaling = Scaling(stored["mean_D"], stored["matrix"])
    table = lancedb.connect(directory).open_table(name)
  return Index(directory, table, scaling)


def _build(lancedb, directory, tables, by, scale) -> Index:
  """A new index, with its record; says so."""
  records, name = _records(directory), f"{by}-{scale}"
  before = records.pop(name, None)
  why = "the tables have changed" if before else "there is none of them"
  print(f"{directory}: building an index of {by}: {why}", file=sys.stderr)
  # What has no record is not complete, and the directory is known for ours.
  _keep(directory, records)
  index = _built(lancedb, directory, name, tables, by, scale)
  pieces = tables.tracks() if by == "tracks" else tables.segments()
  recall = index.recall(pieces)
  record = {"of": _of(tables), "rows": index.count, "recall_at_10": recall}
  record["joined_in"] = os.getcwd() if tables.are_joined() else ""
  _keep(directory, records | {name: record})
  print(
    f"{directory}: {index.count:,} {by}; it finds {recall:.1%} of the 10"
    " nearest",
    file=sys.stderr,
  )
  return index


def _of(tables) -> dict:
  """Of which tables an index is: of others it is another."""
  return {"tables": tables.state(), "encoder": tables.about.get("encoder")}


def _is_joined(record, tables) -> bool:
  """Whether a track of these tables is one in an index.

  Which spellings are of one file depends on the directory that was the current
  one. In older indexes, only rows that follow one another were joined.
  """
  where = record.get("joined_in")
  if where is None:
    return not tables.are_joined()
  return where in ("", os.getcwd())


def _records(directory) -> dict:
  """Of its complete indexes. Raises ValueError if it has anything else."""
  path = f"{directory}/{_RECORDS}"
  try:
    if files.exists(path):
      return dict(json.loads(files.read(path))["vicreg_jax"])
    empty = files.is_empty(directory)
  except (OSError, ValueError, TypeError, KeyError) as e:
    raise ValueError(
      f"--index={directory} is no directory of an index ({messages.line(e)}):"
      " give another, or delete it"
    ) from e
  if not empty:
    raise ValueError(
      f"--index={directory} has other files, and no {_RECORDS}: give a new"
      " directory"
    )
  return {}


def _keep(directory, records):
  content = json.dumps({"vicreg_jax": records}, indent=1).encode()
  files.write(f"{directory}/{_RECORDS}", content)


def _built(lancedb, directory, name, tables, by, scale) -> Index:
  """A new index. Raises OSError or ValueError if it cannot be written."""
  scaling = neighbours.scaling_of(tables, scale)
  with io.BytesIO() as content:
    np.savez(content, **scaling._asdict())
    files.write(f"{directory}/{name}.npz", content.getvalue())
  files.remove_tree(f"{directory}/{name}.lance")
  schema = pa.schema(
    {
      "path": pa.string(),
      "start": pa.float64(),
      "end": pa.float64(),
      "vector": pa.list_(pa.float32(), tables.size),
    }
  )
  pieces, faults = tables.tracks if by == "tracks" else tables.segments, []
  with _explained(directory, faults):
    table = lancedb.connect(directory).create_table(
      name, _batches(pieces(), scaling, schema, faults), schema=schema
    )
    if table.count_rows() >= _FEWEST:
      table.create_index(
        "vector",
        config=lancedb.index.IvfPq(
          distance_type="l2",
          sample_rate=_SAMPLES,
          max_iterations=_ITERATIONS,
        ),
      )
  return Index(directory, table, scaling)


def _batches(pieces, scaling, schema, faults) -> Iterator[pa.RecordBatch]:
  """What LanceDB is given; it forgets of which kind an error was."""
  try:
    for rows in pieces:
      unit_NxD = np.asarray(scaling.unit(rows.y_NxD))
      vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(unit_NxD.ravel()), unit_NxD.shape[1]
      )
      columns = [pa.array(column) for column in rows[:3]]
      yield pa.record_batch([*columns, vectors], schema=schema)
  except ValueError as e:
    faults.append(e)
    raise


def _vectors(table) -> np.ndarray:
  """[N, D] of a column."""
  vectors = table["vector"].combine_chunks()
  return vectors.flatten().to_numpy().reshape(len(table), -1)


@contextlib.contextmanager
def _explained(directory, faults=()):
  """Says what LanceDB could not do in one line, or the first of `faults`."""
  try:
    yield
  except (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    pa.ArrowException,
  ) as e:
    if faults:
      raise ValueError(str(faults[0])) from faults[0]
    full = "o space left" in str(e)
    remedy = (
      "free disk space there, or use another directory"
      if full
      else "delete the directory, and it is built anew"
    )
    text = " ".join(str(e).split())[:300]
    raise ValueError(f"--index={directory} failed ({text}): {remedy}") from e
