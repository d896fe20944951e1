"""Embeds collections of files into one table, and goes on where it stopped.

Threads decode ahead of the encoder. Batches are filled with the segments of one
file after another. Finished rows are written in parts beside the output, each
whole or not at all; at the end the parts become the output:

    OUT            Parquet: path, start, end (seconds), embedding (float32 [D]);
                   artist, album, title, genre ("" where unknown), track, year,
                   duration (seconds of the file; null where unknown); and
                   with --describe tempo (beats a minute, or null) and key
    OUT.files.csv  every file: path, bytes, modified, sha256, rows, reason

Only new and changed files are embedded: see `store`.
"""

import collections
import concurrent.futures
import contextlib
import io
import os
import queue
import sys
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from vicreg_jax import files
from vicreg_jax.data import audio, file_tags, walk
from vicreg_jax.library import audio_paths, following
from vicreg_jax.library import describe as describing
from vicreg_jax.library.store import File, Store, list_path, read_list, sha256
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import pooling as pooling_lib

FORMATS = ("parquet", "npz", "npy")
POOLINGS = (*pooling_lib.TIMES, "none")
# Files decoded at a time, and segments that each file keeps ahead.
_DECODERS, _AHEAD = 2 * (os.cpu_count() or 1), 32
_DESCRIBED_SECONDS = 180.0  # from the beginning of a file


class Summary(NamedTuple):
  """Numbers of files of a call."""

  embedded: int  # files, now
  known: int  # files that had been embedded before
  left_out: dict[str, int]  # reason -> files, now or before
  damaged: int  # files that are embedded, but for a lost part
  moved: int = 0  # files whose rows have got a new path
  gone: int = 0  # files that were embedded before, and no longer exist


def embed_files(
  encoder: encoders.Encoder,
  paths: Sequence[str],
  output: str,
  *,
  hop_seconds: float | None = None,
  pooling: str = "mean",
  format: str = "parquet",
  overwrite: bool = False,
  describe: bool = False,
  inputs: Sequence[str] = (),
  roots: Mapping[str, str] | None = None,
  prune: str = "",
) -> Summary:
  """Embeds files into a table, except those that the table has already.

  Args:
    encoder: gives the representations.
    paths: of audio files.
    output: the table; see the module's docstring. Its rows of other files stay.
    hop_seconds: as in `Encoder.embed_segments`.
    pooling: "none": a row a segment; else a row a file, made of its segments:
      see `pooling.of`.
    format: "parquet"; or "npz" (arrays by the columns' names) or "npy" (the
      embeddings alone), made from a table that stays beside the arrays.
    overwrite: begin anew; but see `files.output`.
    describe: also write tempo and key of the files embedded now, from their
      first 3 minutes; see `describe`. 0.5 s of a core a file.
    inputs: files besides `paths` that must not be overwritten.
    roots: {a file, folder or glob: the argument by which it is named}, to look
      for files that are gone; see `following`.
    prune: whether rows of files that are gone are dropped; see `following`.

  Raises:
    ValueError: the table is of another encoder, hop or pooling, is damaged, is
      somebody else's file, is being written by another command, or cannot be
      written; finished parts are kept.
  """
  _check(pooling=pooling, format=format, prune=prune)
  given = output
  table, output = _outputs(output, format, (*paths, *inputs), overwrite)
  about = {
    "encoder": encoder.fingerprint(),
    "size": encoder.size * pooling_lib.TIMES.get(pooling, 1),
    "hop": encoders.hop_samples(hop_seconds, encoder.crop, encoder.sample_rate),
    "pooling": pooling,
  }
  with files.explained(given, "--output"), files.lock(table):
    store = Store(table, about, overwrite, describe)
    followed = following.follow(store, paths, roots or {}, prune)
    todo, known = store.wanted(paths)
    reader = _Reader(todo, encoder, about["hop"], describe)
    with contextlib.closing(reader), _progress(len(paths), known) as progress:
      for file, made in _made(encoder, reader, _Rows(pooling)):
        store.add(file, made)
        progress.update()
    store.finish()
    if format != "parquet":
      _convert(table, output, format)
  return _summary(paths, todo, store, followed)


def _check(**values):
  known = {"pooling": POOLINGS, "format": FORMATS, "prune": following.PRUNE}
  for key, value in values.items():
    if value not in known[key]:
      names = ", ".join(known[key])
      raise ValueError(f"{key} is {value!r}; use one of {names}")


def _summary(paths, todo, store, followed) -> Summary:
  """The summary of `paths`, of which `todo` were embedded now."""
  left_out, damaged = _faults(paths, store.find)
  lost = _faults(todo, store.find)[0]
  embedded = len(todo) - sum(lost.values())
  known = len(paths) - embedded - sum(left_out.values())
  return Summary(embedded, known, left_out, damaged, *followed)


def _progress(total, known):
  return tqdm(
    total=total,
    initial=known,
    desc="embed",
    unit="file",
    mininterval=0.5 if sys.stderr.isatty() else 30,
  )


def _made(encoder, reader, rows) -> Iterator[tuple[File, tuple]]:
  """Files that are read to their end, and their rows; see `_Rows.of`."""
  batches = encoders.batched(reader.segments(), encoders.BATCH)
  for y_BxD in encoder(batches, encoders.BATCH):
    yield from rows.of(y_BxD, reader.notes)
  yield from rows.of((), reader.notes)


def faults(
  paths: Iterable[str], output: str, format: str = "parquet"
) -> tuple[dict[str, int], int]:
  """`left_out` and `damaged` of a `Summary`, by the list of a table."""
  listed = read_list(list_path(_table(output, format)))
  known = {audio_paths.same(file.path): file for file in listed}
  return _faults(paths, lambda path: known.get(audio_paths.same(path)))


def _faults(paths, find):
  left_out, damaged = collections.Counter(), 0
  for file in map(find, paths):
    if file is None:
      left_out["not embedded"] += 1
    elif not file.rows:
      left_out[file.reason] += 1
    elif file.reason:
      damaged += 1
  return dict(left_out), damaged


def _table(output, format):
  output = os.path.realpath(os.path.expanduser(output))
  return output if format == "parquet" else f"{output}.parquet"


def _outputs(output, format, inputs, overwrite) -> tuple[str, str]:
  """Table and output, which may be written. Raises ValueError otherwise."""
  if files.is_bucket(output):
    raise ValueError(f"--output={output}: a table is written to a local disk")
  table = output if format == "parquet" else _table(output, format)
  table = files.output(table, inputs=inputs, overwrite=overwrite)
  files.output(list_path(table), overwrite=overwrite)
  if format == "parquet":
    return table, table
  # Arrays have no metadata: the table beside them tells whose they are.
  ours = os.path.exists(table) and _is_array(output)
  return table, files.output(
    output, inputs=inputs, overwrite=overwrite, ours=ours
  )


def _is_array(path) -> bool:
  """Whether a file is NumPy's, if it can be read."""
  with contextlib.suppress(OSError), open(path, "rb") as f:
    return f.read(6).startswith((b"PK", b"\x93NUMPY"))
  return False


def _convert(table, output, format):
  columns = pq.read_table(table)
  y_NxD = columns["embedding"].combine_chunks().flatten().to_numpy()
  y_NxD = y_NxD.reshape(-1, columns["embedding"].type.list_size)
  content = io.BytesIO()
  if format == "npy":
    np.save(content, y_NxD)
  else:
    facts = {
      name: np.array(column.to_pylist(), str)
      if pa.types.is_string(column.type)
      else column.to_numpy()  # null becomes nan
      for name, column in zip(columns.column_names, columns.columns)
      if name not in ("path", "start", "end", "embedding")
    }
    np.savez(
      content,
      path=np.array(columns["path"].to_pylist(), str),
      start=columns["start"].to_numpy(),
      end=columns["end"].to_numpy(),
      embedding=y_NxD,
      **facts,
    )
    with zipfile.ZipFile(content, "a") as archive:
      archive.comment = files.MARK.encode()
  files.write(output, content.getvalue())


# --- reading -----------------------------------------------------------------


class _End(NamedTuple):
  """Marks the end of a file's segments."""

  file: File
  facts: dict  # of it, by column


class _Reader:
  """The segments of files, one after another, decoded ahead by threads.

  `notes` has start and end, in seconds, of each segment that was handed out,
  and a `File` where a file ends.
  """

  def __init__(self, paths, encoder, hop, describe):
    self._paths = paths
    self._crop, self._rate = encoder.crop, encoder.sample_rate
    self._hop, self._describe = hop, describe
    self._closed = threading.Event()
    self.notes = collections.deque()

  def close(self):
    """Ends the threads, which may wait to hand out segments."""
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
      if isinstance(item, Exception):  # raised in the thread
        raise item
      segment_T, length = item
      seconds = start / self._rate, (start + length) / self._rate
      self.notes.append(seconds)
      start += self._hop
      yield segment_T
    self.notes.append(item)

  def _decode(self, path, queued):
    rows, file, facts = 0, File(audio_paths.utf8(path), 0, 0, "", 0, ""), {}
    try:
      audio.check(path)  # before it is opened: a pipe would wait
      found = os.stat(path)
      file = file._replace(bytes=found.st_size, modified=found.st_mtime_ns)
      file = file._replace(sha256=sha256(path))
      with audio.reading() as notes:
        blocks, first = audio.blocks(path, self._rate), []
        if self._describe:
          blocks = _keeping(blocks, first, self._rate)
        for item in encoders.cut(blocks, self._crop, self._hop):
          self._put(queued, item)
          rows += 1
      file = file._replace(rows=rows, reason="; ".join(notes))
      facts = _tags(path)
      if first:
        facts |= _description(np.concatenate(first), self._rate)
    except audio.AudioError as e:
      unread = walk.suffix(path) in audio.UNREAD
      reason = f"unread suffix {walk.suffix(path)}" if unread else e.reason
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
      self._put(queued, _End(file, facts))

  def _put(self, queued, item):
    while not self._closed.is_set():
      with contextlib.suppress(queue.Full):
        queued.put(item, timeout=0.2)
        return
    raise _Closed


def _tags(path) -> dict:
  """The tags of a file, by column; none if they cannot be read."""
  try:
    tags = file_tags.read(path)._asdict()
  except audio.AudioError:
    return {}
  tags["duration"] = tags.pop("seconds")
  return tags


def _keeping(blocks, kept, rate) -> Iterator[np.ndarray]:
  """The blocks; those to be described are also appended to `kept`."""
  left = round(_DESCRIBED_SECONDS * rate)
  for block_T in blocks:
    if left > 0:
      kept.append(block_T[:left])
      left -= len(block_T)
    yield block_T


def _description(x_T, rate) -> dict:
  tempo = describing.tempo(x_T, rate)
  tempo = None if np.isnan(tempo) else tempo
  return {"tempo": tempo, "key": describing.key(x_T, rate)}


class _Closed(Exception):
  """Nobody takes what a thread has decoded."""


class _Rows:
  """Puts embeddings together by file."""

  def __init__(self, pooling: str):
    self._pooling = pooling
    self._y, self._seconds = [], []

  def of(self, y_BxD, notes) -> Iterator[tuple[File, tuple]]:
    """Files that a batch completes, and their rows.

    The rows are (start [S], end [S], embedding [S, D], {column: of the file});
    a file that was left out has none.
    """
    taken = 0
    while notes and (isinstance(notes[0], _End) or taken < len(y_BxD)):
      note = notes.popleft()
      if isinstance(note, _End):
        yield note.file, (*self._complete(note.file), note.facts)
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
    if self._pooling == "none":
      return starts_S, ends_S, y_SxD
    y_D = pooling_lib.of(y_SxD, self._pooling)
    return starts_S[:1], ends_S[-1:], y_D[None]
