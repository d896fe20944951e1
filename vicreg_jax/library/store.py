"""Writes the table of embeddings, in parts, each of them whole or not at all.

    OUT            Parquet: path, start, end (seconds), embedding (float32 [D]),
                   and the file's tags; see `TAGS`
    OUT.files.csv  every file: path, bytes, modified, sha256, rows, reason
    OUT.parts/     finished parts that are not yet in the table
    OUT.lock       held by the one command that writes

A file is known by its path and its content. The content counts as unchanged if
size and time of change are unchanged; else its SHA-256 decides.
"""

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vicreg_jax import files
from vicreg_jax.library import audio_paths

KEY = b"vicreg_jax"  # of a table's metadata: encoder, hop, pooling
# Columns that older tables lack: "" or null, where nothing is known.
TAGS = (
  ("artist", pa.string()),
  ("album", pa.string()),
  ("title", pa.string()),
  ("genre", pa.string()),
  ("track", pa.int32()),
  ("year", pa.int32()),
  ("duration", pa.float64()),  # seconds, of the whole file
)
DESCRIBED = (("tempo", pa.float64()), ("key", pa.string()))  # beats a minute
_LATER = tuple(pa.schema([*TAGS, *DESCRIBED]))
_DAMAGE = (pa.ArrowException, KeyError, OSError, TypeError, ValueError)
# A part is written when it has this many rows, or after this many seconds.
_PART_ROWS, _PART_SECONDS = 20_000, 60.0


# Files of OUT.parts, and half-written ones.
_MERGED = "merged.tmp"
_PART = re.compile(
  rf"{_MERGED}|\d{{20}}-[0-9a-f]{{8}}\.(parquet|csv)(\..*\.tmp)?"
)


class File(NamedTuple):
  """A row of the list of files.

  `reason`: why the file has no rows, or which share of it is lost, or "".
  """

  path: str
  bytes: int
  modified: int  # nanoseconds since 1970
  sha256: str
  rows: int
  reason: str


def list_path(table: str) -> str:
  """Where the list of a table's files lies."""
  return f"{table}.files.csv"


class Store:
  """The table, and its finished parts.

  A part is a Parquet file and, written after it, the list of its files. The
  table names the parts that it contains. So no part counts twice if a process
  is killed after it has written the table and before it deletes the parts.
  """

  def __init__(self, table, about, overwrite, described=False):
    """Opens a table and its parts, or begins anew.

    `files.output` has allowed `table` and its list, and the caller holds the
    lock. `described`: whether the table gets the columns `DESCRIBED`.
    """
    self._table, self._about = table, about
    self._list = list_path(table)
    self._parts = f"{table}.parts"
    self._described = described
    self._check_parts()
    if overwrite:
      for path in (table, self._list):
        with contextlib.suppress(FileNotFoundError):
          os.unlink(path)
      shutil.rmtree(self._parts, ignore_errors=True)
    merged, self.known, self._pending = set(), {}, []
    if os.path.exists(table):  # a list without a table does not count
      merged = set(self._check_about(table).get("parts", ()))
      self.known = {f.path: f for f in read_list(self._list)}
    for path in sorted(glob.glob(f"{glob.escape(self._parts)}/*.csv")):
      name = os.path.basename(path).removesuffix(".csv")
      part = f"{self._parts}/{name}.parquet"
      if name not in merged and not os.path.exists(part):
        os.unlink(path)  # somebody has deleted the part, which was damaged
        continue
      self.known |= {f.path: f for f in read_list(path)}
      if name in merged:
        _write_list(self._list, self.known.values())
        self._remove(name)
      else:
        self._check_about(part)
        self._pending.append(name)
    there = os.path.isdir(self._parts)
    for name in os.listdir(self._parts) if there else ():
      if os.path.splitext(name)[0] not in self._pending:
        os.unlink(f"{self._parts}/{name}")  # half-written, or without a list
    self._schema = pa.schema(
      [
        ("path", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("embedding", pa.list_(pa.float32(), about["size"])),
        *TAGS,
        *(DESCRIBED if self._described else ()),
      ]
    )
    here = os.getcwd()
    self._spelled = {audio_paths.same(path, here): path for path in self.known}
    self._new, self._batch, self._rows = [], [], 0
    self._since = time.monotonic()

  def _check_parts(self):
    """Raises ValueError if other files lie in the directory of the parts."""
    if not os.path.isdir(self._parts):
      return
    others = [n for n in os.listdir(self._parts) if not _PART.fullmatch(n)]
    if others:
      raise ValueError(
        f"{self._parts} has other files, such as {min(others)}: move them away,"
        " or give another --output"
      )

  def _check_about(self, path) -> dict:
    try:
      schema = pq.read_schema(path)
      said = dict(json.loads((schema.metadata or {})[KEY]))
    except _DAMAGE as e:
      self._explain(path, e)
    other = [
      f"{key} {said.get(key)} -> {value}"
      for key, value in self._about.items()
      if said.get(key) != value
    ]
    if other:
      raise ValueError(
        f"{path} was made otherwise ({', '.join(other)}): give another"
        " --output, or --overwrite"
      )
    self._described |= DESCRIBED[0][0] in schema.names
    return said

  def _explain(self, path, error):
    """Raises the error for a table or a part that cannot be read."""
    if isinstance(error, OSError) and error.errno:  # the disk's own
      raise error
    remedy = "give another --output, or --overwrite"
    if path != self._table:
      remedy = "delete it, and its files are embedded again"
    text = " ".join(str(error).split())[:300]
    raise ValueError(
      f"{path} is no table of this command's, or damaged ({text}): {remedy}"
    ) from error

  def find(self, path) -> File | None:
    """A file by any spelling of its path."""
    if file := self.known.get(audio_paths.utf8(path)):
      return file
    return self.known.get(self._spelled.get(audio_paths.same(path)))

  def change(self, moves: Mapping[str, str], dropped: Collection[str]):
    """Gives files other paths, and drops others with their rows.

    Args:
      moves: {path in the table: new path}.
      dropped: paths in the table.
    """
    for path in dropped:
      del self.known[path]
    for path, new in moves.items():
      file = self.known.pop(path)
      modified = os.stat(new).st_mtime_ns
      new = audio_paths.utf8(new)
      self.known[new] = file._replace(path=new, modified=modified)
    here = os.getcwd()
    self._spelled = {audio_paths.same(path, here): path for path in self.known}
    self._make_table(
      {path: audio_paths.utf8(new) for path, new in moves.items()}, set(dropped)
    )

  def wanted(self, paths) -> tuple[list[str], int]:
    """The files to embed, and how many are known."""
    os.makedirs(self._parts, exist_ok=True)  # fail now rather than later
    todo = [path for path in paths if not self._is_known(path)]
    return todo, len(paths) - len(todo)

  def _is_known(self, path):
    before = self.find(path)
    if before is None:
      return False
    try:
      found = os.stat(path)
    except OSError:  # rows of deleted files stay until they are dropped
      return before.rows > 0 and audio_paths.is_gone(path)
    if found.st_size != before.bytes or not stat.S_ISREG(found.st_mode):
      return False
    return found.st_mtime_ns == before.modified or (
      before.sha256 != "" and sha256(path) == before.sha256
    )

  def add(self, file: File, made):
    """Takes a file's rows: starts, ends, embeddings; {column: of the file}."""
    starts_S, ends_S, y_SxD, facts = made
    if before := self.find(file.path):
      file = file._replace(path=before.path)
    self._spelled[audio_paths.same(file.path)] = file.path
    self.known[file.path] = file
    self._new.append(file)
    if len(starts_S):
      self._batch.append((file.path, starts_S, ends_S, y_SxD, facts))
      self._rows += len(starts_S)
    late = time.monotonic() - self._since > _PART_SECONDS
    if self._rows >= _PART_ROWS or late:
      self._write_part()

  def _write_part(self):
    if not self._new:
      return
    name = f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}"
    y_NxD = np.concatenate(
      [y_SxD for *_, y_SxD, _ in self._batch]
      or [np.zeros((0, self._about["size"]), np.float32)]
    ).astype(np.float32)
    columns = [
      [path for path, starts_S, *_ in self._batch for _ in starts_S],
      [s for _, starts_S, *_ in self._batch for s in starts_S],
      [e for _, _, ends_S, *_ in self._batch for e in ends_S],
      pa.FixedSizeListArray.from_arrays(y_NxD.ravel(), self._about["size"]),
    ]
    for field in list(self._schema)[len(columns) :]:
      values = [
        (facts.get(field.name, _nothing(field)), len(starts_S))
        for _, starts_S, *_, facts in self._batch
      ]
      columns.append([value for value, count in values for _ in range(count)])
    part = pa.table(columns, schema=self._said())
    content = io.BytesIO()
    pq.write_table(part, content)
    files.write(f"{self._parts}/{name}.parquet", content.getvalue())
    _write_list(f"{self._parts}/{name}.csv", self._new)
    self._pending.append(name)
    self._new, self._batch, self._rows = [], [], 0
    self._since = time.monotonic()

  def _said(self, **more):
    said = json.dumps(self._about | more)
    return self._schema.with_metadata({KEY: said.encode()})

  def finish(self):
    """Makes the new table of the old one and the parts."""
    self._write_part()
    self._make_table({}, set())

  def _make_table(self, moves, dropped):
    """Merges the old table and the parts; some files move or are dropped."""
    change = self._pending or moves or dropped
    if change or not os.path.exists(self._table):
      sources = [(f"{self._parts}/{n}.parquet", n) for n in self._pending]
      partial = f"{self._parts}/{_MERGED}"
      os.makedirs(self._parts, exist_ok=True)
      try:
        self._merge(partial, sources, moves, dropped)
        os.replace(partial, self._table)
      finally:
        with contextlib.suppress(FileNotFoundError):
          os.unlink(partial)
    _write_list(self._list, self.known.values())
    for name in self._pending:
      self._remove(name)
    self._pending = []
    with contextlib.suppress(OSError):
      os.rmdir(self._parts)

  def _merge(self, partial, sources, moves, dropped):
    """Writes the rows of all sources; a file's last source counts."""
    listed = [read_list(f"{self._parts}/{name}.csv") for _, name in sources]
    later = [{f.path for f in some} for some in listed]
    if os.path.exists(self._table):
      sources = [(self._table, ""), *sources]
      later = [set(), *later]
    schema = self._said(parts=self._pending)
    with pq.ParquetWriter(partial, schema) as writer:
      for i, (path, _) in enumerate(sources):
        for rows in self._kept(path, dropped.union(*later[i + 1 :])):
          if moves:
            names = [moves.get(n, n) for n in rows["path"].to_pylist()]
            rows = rows.set_column(0, "path", pa.array(names, pa.string()))
          writer.write_table(rows.cast(schema))

  def _kept(self, path, replaced) -> Iterator[pa.Table]:
    """Rows of a table or a part, without those of replaced files."""
    try:
      table = pq.ParquetFile(path)
      for group in range(table.num_row_groups):
        rows = table.read_row_group(group)
        for field in self._schema:
          if field in _LATER and field.name not in rows.column_names:
            nothing = pa.scalar(_nothing(field), field.type)
            rows = rows.append_column(field, pa.repeat(nothing, len(rows)))
        rows = rows.cast(self._schema)
        if replaced:
          keep = [name not in replaced for name in rows["path"].to_pylist()]
          rows = rows.filter(pa.array(keep, pa.bool_()))
        if len(rows):
          yield rows
    except _DAMAGE as e:
      self._explain(path, e)

  def _remove(self, name):
    for suffix in (".parquet", ".csv"):
      with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{self._parts}/{name}{suffix}")


def _nothing(field):
  return "" if field.type == pa.string() else None


def _write_list(path, listed: Iterable[File]):
  text = io.StringIO(newline="")
  rows = csv.writer(text)
  rows.writerow(File._fields)
  rows.writerows(sorted(listed))
  files.write(path, text.getvalue().encode())


def read_list(path) -> list[File]:
  if not os.path.exists(path):
    return []
  try:
    with open(path, encoding="utf-8", newline="") as f:
      return [
        File(
          row["path"],
          int(row["bytes"]),
          int(row["modified"]),
          row["sha256"],
          int(row["rows"]),
          row["reason"],
        )
        for row in csv.DictReader(f)
      ]
  except (csv.Error, KeyError, TypeError, ValueError) as e:
    raise ValueError(
      f"{path} is damaged ({e}): put a copy in its place, or begin anew with"
      " --overwrite"
    ) from e


def sha256(path) -> str:
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()
