"""Embeds collections of files into one table, and goes on where it stopped.

Threads decode ahead of the encoder, whose batches take the segments of one file
after another, so that they are full. What is done is written in parts beside
the output, each whole or not at all; at the end they become the output:

    OUT            Parquet: path, start, end (seconds), embedding (float32 [D])
    OUT.files.csv  every file: path, bytes, modified, sha256, rows, reason

A file is known by its path and its content: where size and time of change are
those of before, the content is taken to be; else its SHA-256 decides. So what
was added or changed is embedded, and nothing else.
"""

import collections
import concurrent.futures
import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import queue
import shutil
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from vicreg_jax import files
from vicreg_jax.data import audio
from vicreg_jax.use import encoder as encoders

FORMATS = ("parquet", "npz", "npy")
POOLINGS = ("mean", "none")
KEY = b"vicreg_jax"  # of what a table says of itself
_DAMAGE = (pa.ArrowException, KeyError, OSError, TypeError, ValueError)
# Files decoded at a time, and segments that each keeps ahead of the encoder.
_DECODERS, _AHEAD = 2 * (os.cpu_count() or 1), 32
# A part is written when it has so many rows, or after so many seconds.
_PART_ROWS, _PART_SECONDS = 20_000, 60.0


class File(NamedTuple):
  """What became of a file.

  `reason` says why it has no rows, or what of it is lost, or is "".
  """

  path: str
  bytes: int
  modified: int  # nanoseconds since 1970
  sha256: str
  rows: int
  reason: str


class Summary(NamedTuple):
  """What a call has done."""

  embedded: int  # files
  known: int  # files that had been embedded before
  left_out: dict[str, int]  # reason -> files
  damaged: int  # files of which something is lost, and the rest embedded


def expand(arguments: Sequence[str]) -> list[str]:
  """The files that files, folders, globs and @LISTS name, each once, in order.

  A folder stands for the audio files below it, known by their suffix; those
  that no decoder reads are among them, so that they are counted. A list is a
  text file with a name on each line.

  Raises:
    ValueError: one of them is not there, or there is no audio.
  """
  found = {}
  for argument in arguments:
    if argument.startswith("@"):
      names = _lines(argument[1:])
    elif os.path.isdir(argument):
      names = sorted(_below(argument))
    elif os.path.exists(argument):
      names = [argument]
    else:
      names = sorted(glob.glob(argument, recursive=True))
      names = [name for name in names if os.path.isfile(name)]
      if not names:
        raise ValueError(f"{argument}: there is no such file or folder")
    found |= dict.fromkeys(map(os.path.normpath, names))
  if not found:
    raise ValueError(
      f"{', '.join(arguments)}: no audio files; they are known by their"
      f" suffixes, {' '.join(sorted(audio.EXTENSIONS))}"
    )
  return list(found)


def _lines(path):
  try:
    with open(path, encoding="utf-8", errors="surrogateescape") as f:
      return [line for line in f.read().splitlines() if line]
  except OSError as e:
    raise ValueError(f"@{path}: cannot be read ({e.strerror})") from e


def _suffix(path):
  return os.path.splitext(path)[1].lower()


def _below(folder):
  for directory, _, names in os.walk(folder):
    for name in names:
      if _suffix(name) in audio.EXTENSIONS | audio.UNREAD:
        yield os.path.join(directory, name)


def share(paths: Iterable[str], index: int, count: int) -> list[str]:
  """The paths of share `index` of `count`; the others do not matter to it."""
  return [p for p in paths if zlib.crc32(os.fsencode(p)) % count == index]


def embed(
  encoder: encoders.Encoder,
  paths: Sequence[str],
  output: str,
  *,
  hop_seconds: float | None = None,
  pooling: str = "mean",
  format: str = "parquet",
  overwrite: bool = False,
) -> Summary:
  """Embeds files into a table, but those that it has already.

  Args:
    encoder: whose representations they are.
    paths: of audio files.
    output: the table; see the module's docstring. Rows of other files that it
      has stay.
    hop_seconds: as `Encoder.embed_segments`.
    pooling: "mean": a row a file, the mean over its segments; "none": a row a
      segment.
    format: "parquet"; or "npz" (arrays by the columns' names) or "npy" (the
      embeddings alone), made from a table that stays beside it.
    overwrite: begin anew, whatever is there.

  Raises:
    ValueError: the table is of another encoder, hop or pooling, is damaged, or
      cannot be written; what was done is kept.
  """
  for key, value, known in (
    ("pooling", pooling, POOLINGS),
    ("format", format, FORMATS),
  ):
    if value not in known:
      raise ValueError(f"{key} is {value!r}; use one of {', '.join(known)}")
  table = _table(output, format)
  about = {
    "encoder": encoder.fingerprint(),
    "size": encoder.size,
    "hop": encoders.hop_samples(hop_seconds, encoder.crop, encoder.sample_rate),
    "pooling": pooling,
  }
  with files.explained(output, "--output"):
    store = _Store(table, about, encoder.size, overwrite)
    todo, known = store.wanted(paths)
    reader = _Reader(todo, encoder, about["hop"])
    rows = _Rows(pooling == "mean")
    with (
      contextlib.closing(reader),
      tqdm(
        total=len(paths),
        initial=known,
        desc="embed",
        unit="file",
        mininterval=0.5 if sys.stderr.isatty() else 30,
      ) as progress,
    ):
      batches = encoders.batched(reader.segments(), encoders.BATCH)
      for y_BxD in encoder(batches, encoders.BATCH):
        for file, made in rows.of(y_BxD, reader.notes):
          store.add(file, made)
          progress.update()
      for file, made in rows.of((), reader.notes):
        store.add(file, made)
        progress.update()
    store.finish()
    if format != "parquet":
      _convert(table, output, format)
  return Summary(len(todo), known, *_faults(paths, store.known))


def faults(
  paths: Iterable[str], output: str, format: str = "parquet"
) -> tuple[dict[str, int], int]:
  """`left_out` and `damaged` of a `Summary`, of files in a table of `embed`."""
  listed = _read_list(_list(_table(output, format)))
  return _faults(paths, {file.path: file for file in listed})


def _faults(paths, known):
  left_out, damaged = collections.Counter(), 0
  for path in map(utf8, paths):
    if path not in known:
      left_out["not embedded"] += 1
    elif not known[path].rows:
      left_out[known[path].reason] += 1
    elif known[path].reason:
      damaged += 1
  return dict(left_out), damaged


def _table(output, format):
  return output if format == "parquet" else f"{output}.parquet"


def _list(table):
  return f"{table}.files.csv"


def _convert(table, output, format):
  columns = pq.read_table(table)
  y_NxD = columns["embedding"].combine_chunks().flatten().to_numpy()
  y_NxD = y_NxD.reshape(-1, columns["embedding"].type.list_size)
  content = io.BytesIO()
  if format == "npy":
    np.save(content, y_NxD)
  else:
    np.savez(
      content,
      path=np.array(columns["path"].to_pylist(), str),
      start=columns["start"].to_numpy(),
      end=columns["end"].to_numpy(),
      embedding=y_NxD,
    )
  files.write(output, content.getvalue())


# --- reading -----------------------------------------------------------------


class _End(NamedTuple):
  """There are no more segments of this file."""

  file: File


class _Reader:
  """The segments of files, one after another, decoded ahead by threads.

  `notes` says of each segment that was handed out when it starts and ends in
  its file, in seconds, and where a file ends what became of it.
  """

  def __init__(self, paths, encoder, hop):
    self._paths = paths
    self._crop, self._rate = encoder.crop, encoder.sample_rate
    self._hop = hop
    self._closed = threading.Event()
    self.notes = collections.deque()

  def close(self):
    """Ends the threads, which may be waiting to hand out what nobody takes."""
    self._closed.set()

  def segments(self) -> Iterator[np.ndarray]:
    """All segments [crop]."""
    with concurrent.futures.ThreadPoolExecutor(_DECODERS) as pool:
      ahead = collections.deque()
      paths = iter(self._paths)
      try:
        while True:
          while len(ahead) < _DECODERS and (path := next(paths, None)):
            queued = queue.Queue(_AHEAD)
            pool.submit(self._decode, path, queued)
            ahead.append(queued)
          if not ahead:
            return
          yield from self._hand_out(ahead.popleft())
      finally:
        self.close()

  def _hand_out(self, queued):
    start = 0
    while not isinstance(item := queued.get(), _End):
      if isinstance(item, Exception):  # of the thread, which nobody else hears
        raise item
      segment_T, length = item
      seconds = start / self._rate, (start + length) / self._rate
      self.notes.append(seconds)
      start += self._hop
      yield segment_T
    self.notes.append(item)

  def _decode(self, path, queued):
    rows, file = 0, File(utf8(path), 0, 0, "", 0, "")
    try:
      stat = os.stat(path)
      file = file._replace(bytes=stat.st_size, modified=stat.st_mtime_ns)
      file = file._replace(sha256=_sha256(path))
      with audio.reading() as notes:
        for item in encoders.cut(
          audio.blocks(path, self._rate), self._crop, self._hop
        ):
          self._put(queued, item)
          rows += 1
      file = file._replace(rows=rows, reason="; ".join(notes))
    except audio.AudioError as e:
      unread = _suffix(path) in audio.UNREAD
      reason = f"unread suffix {_suffix(path)}" if unread else e.reason
      file = file._replace(reason=reason)
    except FileNotFoundError:
      file = file._replace(reason="not found")
    except OSError as e:
      file = file._replace(reason=f"not readable ({e.strerror})")
    except _Closed:
      return
    except Exception as e:
      with contextlib.suppress(_Closed):
        self._put(queued, e)
      return
    with contextlib.suppress(_Closed):
      self._put(queued, _End(file))

  def _put(self, queued, item):
    while not self._closed.is_set():
      with contextlib.suppress(queue.Full):
        queued.put(item, timeout=0.2)
        return
    raise _Closed


class _Closed(Exception):
  """Nobody takes what a thread has decoded."""


class _Rows:
  """Puts embeddings together by file."""

  def __init__(self, mean: bool):
    self._mean = mean
    self._y, self._seconds = [], []

  def of(self, y_BxD, notes) -> Iterator[tuple[File, tuple]]:
    """Files that are complete with a batch, and their rows.

    The rows are (start [S], end [S], embedding [S, D]); of a file that was left
    out there are none.
    """
    taken = 0
    while notes and (isinstance(notes[0], _End) or taken < len(y_BxD)):
      note = notes.popleft()
      if isinstance(note, _End):
        yield note.file, self._complete(note.file)
        self._y, self._seconds = [], []
      else:
        self._y.append(y_BxD[taken])
        self._seconds.append(note)
        taken += 1

  def _complete(self, file):
    if not file.rows:  # though some may have come before the fault
      return (), (), ()
    starts_S, ends_S = zip(*self._seconds)
    y_SxD = np.stack(self._y)
    if self._mean:
      return starts_S[:1], ends_S[-1:], y_SxD.mean(0, keepdims=True)
    return starts_S, ends_S, y_SxD


# --- keeping -----------------------------------------------------------------


class _Store:
  """The table, and the parts of it that are done.

  A part is a Parquet file and, written after it, the list of its files. The
  table names the parts that it was made of, so a process that is killed
  between the two does not count them twice.
  """

  def __init__(self, table, about, size, overwrite):
    self._table, self._about = table, about
    self._list = _list(table)
    self._parts = f"{table}.parts"
    self._schema = pa.schema(
      [
        ("path", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("embedding", pa.list_(pa.float32(), size)),
      ]
    )
    if overwrite:
      for path in (table, self._list):
        with contextlib.suppress(FileNotFoundError):
          os.unlink(path)
      shutil.rmtree(self._parts, ignore_errors=True)
    os.makedirs(self._parts, exist_ok=True)
    merged, self.known, self._pending = set(), {}, []
    if os.path.exists(table):  # else its list says nothing
      merged = set(self._check_about(table).get("parts", ()))
      self.known = {f.path: f for f in _read_list(self._list)}
    for path in sorted(glob.glob(f"{glob.escape(self._parts)}/*.csv")):
      name = os.path.basename(path).removesuffix(".csv")
      part = f"{self._parts}/{name}.parquet"
      if name not in merged and not os.path.exists(part):
        os.unlink(path)  # somebody has deleted the part, which was damaged
        continue
      self.known |= {f.path: f for f in _read_list(path)}
      if name in merged:
        _write_list(self._list, self.known.values())
        self._remove(name)
      else:
        self._check_about(part)
        self._pending.append(name)
    for path in glob.glob(f"{glob.escape(self._parts)}/*.parquet"):
      if os.path.basename(path).removesuffix(".parquet") not in self._pending:
        os.unlink(path)  # its list was not written any more
    self._new, self._batch, self._rows = [], [], 0
    self._since = time.monotonic()

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
    return said

  def _explain(self, path, error):
    """Raises what is said of a table or a part that cannot be read."""
    if isinstance(error, OSError) and error.errno:  # the disk's own
      raise error
    remedy = "give another --output, or --overwrite"
    if path != self._table:
      remedy = "delete it, and its files are embedded again"
    text = " ".join(str(error).split())[:300]
    raise ValueError(
      f"{path} is no table of this command's, or damaged ({text}): {remedy}"
    ) from error

  def wanted(self, paths) -> tuple[list[str], int]:
    """The files to embed, and how many are known."""
    todo = [path for path in paths if not self._is_known(path)]
    return todo, len(paths) - len(todo)

  def _is_known(self, path):
    before = self.known.get(utf8(path))
    if before is None:
      return False
    try:
      stat = os.stat(path)
    except OSError:
      return False
    if stat.st_size != before.bytes:
      return False
    return stat.st_mtime_ns == before.modified or (
      before.sha256 != "" and _sha256(path) == before.sha256
    )

  def add(self, file: File, made):
    """Takes a file's rows."""
    starts_S, ends_S, y_SxD = made
    self.known[file.path] = file
    self._new.append(file)
    if len(starts_S):
      self._batch.append((file.path, starts_S, ends_S, y_SxD))
      self._rows += len(starts_S)
    late = time.monotonic() - self._since > _PART_SECONDS
    if self._rows >= _PART_ROWS or late:
      self._write_part()

  def _write_part(self):
    if not self._new:
      return
    name = f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}"
    columns = [
      [path for path, starts_S, *_ in self._batch for _ in starts_S],
      [s for _, starts_S, *_ in self._batch for s in starts_S],
      [e for _, _, ends_S, _ in self._batch for e in ends_S],
    ]
    y_NxD = np.concatenate(
      [y for *_, y in self._batch]
      or [np.zeros((0, self._about["size"]), np.float32)]
    ).astype(np.float32)
    columns.append(
      pa.FixedSizeListArray.from_arrays(y_NxD.ravel(), self._about["size"])
    )
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
    """Makes the table of what it was and the parts."""
    self._write_part()
    if self._pending or not os.path.exists(self._table):
      sources = [(f"{self._parts}/{n}.parquet", n) for n in self._pending]
      partial = f"{self._table}.{os.getpid()}.tmp"
      try:
        self._merge(partial, sources)
        os.replace(partial, self._table)
      finally:
        with contextlib.suppress(FileNotFoundError):
          os.unlink(partial)
    _write_list(self._list, self.known.values())
    for name in self._pending:
      self._remove(name)
    with contextlib.suppress(OSError):
      os.rmdir(self._parts)

  def _merge(self, partial, sources):
    """Of a file that is in several, the last one counts."""
    listed = [_read_list(f"{self._parts}/{name}.csv") for _, name in sources]
    later = [{f.path for f in some} for some in listed]
    if os.path.exists(self._table):
      sources = [(self._table, ""), *sources]
      later = [set(), *later]
    schema = self._said(parts=self._pending)
    with pq.ParquetWriter(partial, schema) as writer:
      for i, (path, _) in enumerate(sources):
        for rows in self._kept(path, set().union(*later[i + 1 :])):
          writer.write_table(rows.cast(schema))

  def _kept(self, path, replaced) -> Iterator[pa.Table]:
    """Rows of a table or a part, but those of files that are replaced."""
    try:
      table = pq.ParquetFile(path)
      for group in range(table.num_row_groups):
        rows = table.read_row_group(group).cast(self._schema)
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


def _write_list(path, listed: Iterable[File]):
  text = io.StringIO(newline="")
  rows = csv.writer(text)
  rows.writerow(File._fields)
  rows.writerows(sorted(listed))
  files.write(path, text.getvalue().encode())


def _read_list(path) -> list[File]:
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


def _sha256(path) -> str:
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def utf8(path) -> str:
  """A path as UTF-8, which a name need not be."""
  return os.fsencode(path).decode(errors="backslashreplace")
