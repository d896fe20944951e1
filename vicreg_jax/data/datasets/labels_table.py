"""A folder's table: labels, splits and groups of its files.

UTF-8 with commas; `README.md` beside this module describes the columns.
"""

import csv
import hashlib
import io
import posixpath
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from vicreg_jax.data import audio

SPLIT_NAMES = {
  "train": "train",
  "valid": "valid",
  "validation": "valid",
  "val": "valid",
  "test": "test",
}
# Columns that are no labels. Clips that share a group, or a track, are never
# in two splits.
_GROUPS = ("group", "track")
_RESERVED = ("split", *_GROUPS)
_NUMBER = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?", re.IGNORECASE)
# As pandas reads and writes cells without a value. "none" may be a class.
_MISSING = frozenset(
  ("#N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan",
   "null")
)  # fmt: skip
# Cells of a column whose header is the tag, in small letters.
_NUMBERS = {"0": False, "1": True, "0.0": False, "1.0": True}
_TRUTH = {"false": False, "true": True}
_TAG_CELLS = {**_NUMBERS, **_TRUTH, "no": False, "yes": True}


class Table(NamedTuple):
  """The content of a table, by the ids of existing files.

  Attributes:
    labels: their names, in order.
    label_kind: "multi", "single" or, if the table has no labels, "none".
    tags: {id: its labels} of all clips that are not left out.
    splits: {id: split}; empty without a column of splits.
    groups: {id: [(rank, name)]}, the least rank names the clip's track.
    where: {id: file and line, for messages}.
    skipped: {id: reason}.
    digest: of the file, and of how its cells are read.
  """

  labels: tuple[str, ...]
  label_kind: str
  tags: dict[str, set[str]]
  splits: dict[str, str]
  groups: dict[str, list[tuple[int, str]]] = {}
  where: dict[str, str] = {}
  skipped: dict[str, str] = {}
  digest: str = ""


class _Row(NamedTuple):
  where: str  # for messages
  line: int
  cells: list[str]  # without the path


def read(path, ids: Collection[str], unread: Collection[str]) -> Table:
  """Reads a table; it may lack some of the files `ids`, and have others.

  Args:
    path: of the table, a `pathlib.Path`.
    ids: paths of audio files below the root.
    unread: paths of files that are left out already.

  Raises ValueError, which names the line and the remedy.
  """
  content = _content(path)
  header, rows, skipped = _rows(path, content, ids, unread)
  digest = _digest(content, rows)
  rows = {
    id_: row._replace(cells=["" if c in _MISSING else c for c in row.cells])
    for id_, row in rows.items()
  }
  columns = {}
  if header is None:
    tags = {i: {cell for cell in row.cells if cell} for i, row in rows.items()}
    names, kind = sorted(set().union(*tags.values())), "multi"
    if names and all(name.lower() in _TAG_CELLS for name in names):
      raise ValueError(
        f"{path}: {' and '.join(map(repr, names))} are no tags: give the table"
        " a header, 'path' and the tag of each column"
      )
  else:
    columns = _reserved(path, header)
    splits = _splits(columns, rows)
    for id_ in [i for i, split in splits.items() if not split]:
      skipped[id_] = f"no split in {path.name}"
      del rows[id_], splits[id_]
    labels = [i for i in range(len(header)) if i not in columns.values()]
    names, kind, tags = _labels(header, labels, rows)
    if kind == "single":
      for id_ in [i for i, tags_ in tags.items() if not tags_]:
        skipped[id_] = f"no {header[labels[0]]} in {path.name}"
        del rows[id_], tags[id_]
  if not rows or not (names or columns):
    raise ValueError(f"{path}: no {'tags' if rows else 'clips'} in it")
  return Table(
    tuple(names),
    kind,
    tags,
    {i: splits[i] for i in rows} if "split" in columns else {},
    {
      id_: [
        (rank, row.cells[columns[name]])
        for rank, name in enumerate(_GROUPS)
        if name in columns and row.cells[columns[name]]
      ]
      for id_, row in rows.items()
    },
    {id_: row.where for id_, row in rows.items()},
    skipped,
    digest,
  )


def _digest(content, rows):
  """SHA-256 of a table; another if older versions read it differently."""
  new = _MISSING | _TAG_CELLS.keys() - {"0", "1"}
  cells = {cell for row in rows.values() for cell in row.cells}
  if any(cell in new or cell.lower() in new for cell in cells):
    content += b"\0truth and missing values"
  return hashlib.sha256(content).hexdigest()


def _content(path):
  try:
    return path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"{path}: cannot be read ({error.strerror}); check its permissions"
    ) from None


def _rows(path, content, ids, unread):
  """(header or None, {id: row}, {id: reason}) with all cells stripped."""
  try:
    text = content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = content[: error.start].count(b"\n") + 1
    raise ValueError(
      f"{path} line {line}: not UTF-8; save the file as UTF-8"
    ) from None
  if "\0" in text:
    line = text[: text.index("\0")].count("\n") + 1
    raise ValueError(
      f"{path} line {line}: a zero byte, as UTF-16 has; save the file as UTF-8"
    )
  reader = csv.reader(io.StringIO(text, newline=""), strict=True)
  find = finder(ids)
  header, rows, skipped = None, {}, {}
  first_missing = ""
  try:
    for row in reader:
      where = f"{path} line {reader.line_num}"
      name, *cells = (cell.strip() for cell in row) if row else ("",)
      if not name and not any(cells):
        continue
      cells = [unicodedata.normalize("NFC", cell) for cell in cells]
      if header is None and not rows and not skipped and name.lower() == "path":
        header = cells
        if "" in header or len(set(header)) < len(header):
          raise ValueError(f"{where}: tag names must differ and not be empty")
        continue
      if header is not None and len(cells) != len(header):
        raise ValueError(
          f"{where}: {len(cells)} cells for {len(header)} columns of the"
          " header; give one for each"
        )
      id_ = _clip_id(where, name, find, unread)
      if id_ is None:
        id_ = posixpath.normpath(name)
        if id_ not in unread:
          skipped[id_] = f"in {path.name}, but not found"
          first_missing = first_missing or f"{name!r} of line {reader.line_num}"
        continue
      if id_ in rows:
        raise ValueError(
          f"{where}: {name!r} was listed in line {rows[id_].line} already"
        )
      rows[id_] = _Row(where, reader.line_num, cells)
  except csv.Error as error:
    raise ValueError(f"{path} line {reader.line_num}: {error}") from None
  if first_missing and not rows:
    raise ValueError(
      f"{path}: none of its {len(skipped)} files is there, neither"
      f" {first_missing} nor another: give paths below data.path"
    )
  return header, rows, skipped


def finder(ids: Iterable[str]) -> Callable[[str], str | None]:
  """Maps a name to its id, or None. macOS decomposes accents (NFD)."""
  ids, composed = set(ids), {}
  for id_ in sorted(ids, reverse=True):
    composed[unicodedata.normalize("NFC", id_)] = id_

  def find(name):
    if name in ids:
      return name
    return composed.get(unicodedata.normalize("NFC", name))

  return find


def _clip_id(where, name, find, unread):
  """The id of the file that a cell names, or None if it does not exist."""
  id_ = posixpath.normpath(name)
  if posixpath.isabs(id_) or id_.split("/")[0] == "..":
    raise ValueError(
      f"{where}: {name!r} is outside data.path; give paths below it"
    )
  found = find(id_)
  suffix = posixpath.splitext(id_)[1].lower()
  # A header without "path", or another separator, is no file that is missing.
  if found is None and suffix not in audio.EXTENSIONS | audio.UNREAD:
    raise ValueError(
      f"{where}: no audio file {name!r} below data.path (columns are separated"
      " by commas; a header row must start with 'path')"
    )
  return found


def _reserved(path, header):
  """{name: its column} of columns that are no labels."""
  columns = {}
  for column, name in enumerate(header):
    name = name.lower()
    if name in _RESERVED:
      if name in columns:
        raise ValueError(f"{path}: two columns are called {name!r}; remove one")
      columns[name] = column
  return columns


def _splits(columns, rows):
  """{id: split or ""}; empty without such a column."""
  splits = {}
  if "split" in columns:
    for id_, row in rows.items():
      cell = row.cells[columns["split"]]
      if cell and cell.lower() not in SPLIT_NAMES:
        raise ValueError(
          f"{row.where}: {cell!r} in the column of splits; use"
          f" {', '.join(SPLIT_NAMES)}, or leave the cell empty to leave the"
          " clip out"
        )
      splits[id_] = SPLIT_NAMES.get(cell.lower(), "")
  return splits


def _labels(header, columns, rows):
  """(names, label kind, {id: its labels}) of some columns of a table.

  A column is of 0 and 1, or of True and False, and its header the tag; or it
  is of names.
  """
  named = [
    c for c in columns if _has_names([r.cells[c] for r in rows.values()])
  ]
  tags = {id_: set() for id_ in rows}
  for id_, row in rows.items():
    for column in columns:
      cell = row.cells[column]
      if column in named:
        tags[id_] |= {cell} - {""}
      elif cell.lower() not in _TAG_CELLS:
        raise ValueError(
          f"{row.where}: {cell!r} for tag {header[column]!r}; use 0 or 1, or"
          " names that are no numbers in the whole column"
        )
      elif _TAG_CELLS[cell.lower()]:
        tags[id_].add(header[column])
  names = [header[c] for c in columns if c not in named]
  if named:
    names += sorted(set().union(*tags.values()) - set(names))
  if not columns:
    return [], "none", tags
  return names, "single" if named and len(columns) == 1 else "multi", tags


def _has_names(cells):
  """Whether a column is of names; 0, 1 and "rock" together are an error."""
  found = {cell.lower() for cell in cells if cell}
  return not found & (_NUMBERS.keys() | _TRUTH.keys()) and not all(
    cell in _TAG_CELLS or _NUMBER.fullmatch(cell) for cell in found
  )
