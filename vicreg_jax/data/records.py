"""Reads and checks parts of clips, by an index of the prepared records.

Training and probes take a tenth of a clip at a time (`crops.py`). TFRecord has
one checksum for a record: to check a part, the whole clip would have to be
read. The index has the place of each clip's samples and a CRC-32 of every 16 kB
of them. It is made on first use, from records whose own checksums are right,
and kept beside the records.

Records in a bucket are copied to this machine first: a bucket delivers clips
more slowly than a training takes them.
"""

import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf import message
from tqdm import tqdm

import vicreg_jax
from vicreg_jax import files
from vicreg_jax.data.prepared import Prepared, reading

BLOCK = 1 << 14  # bytes to a checksum
SAMPLE = 2  # bytes: 16-bit PCM
# A record lies between its length, with a checksum, and its own checksum.
_BEFORE, _AFTER = 12, 4
_AT_ONCE = 8  # records that are read from a file, in the scan of it
_AT_ONCE_BYTES = 1 << 28  # of records, in the scan of all files
_COPIES = 16  # files at a time; one stream does not fill a network
_CHUNK = 1 << 24


class Files(NamedTuple):
  """Record files, and the remedy if one cannot be read."""

  directory: str
  counts: dict[str, int]  # name -> records
  remedy: str

  @classmethod
  def of(cls, prepared: Prepared, splits: Sequence[str]) -> "Files":
    """The files of a data set's splits."""
    counts = {}
    for split in splits:
      info = prepared.builder.info.splits[split]
      names = (path.name for path in info.filepaths)
      counts |= zip(names, info.shard_lengths, strict=True)
    remedy = (
      f"put a copy of it in its place, or delete the directory {prepared.path}"
      " to have the data prepared anew"
    )
    return cls(prepared.path, counts, remedy)

  @property
  def paths(self) -> list[str]:
    """The files with their directory, in order."""
    return [f"{self.directory}/{name}" for name in self.counts]

  @contextlib.contextmanager
  def explained(self):
    """Turns errors of reading into a ValueError with file and remedy."""
    try:
      yield
    except GeneratorExit:  # perhaps at exit, when modules are gone
      raise
    except (OSError, tf.errors.OpError) as e:
      what = self._damaged() or f"{self.directory} ({_text(e)})"
      raise ValueError(
        f"{what} cannot be read: {self.remedy}; then run the same command to"
        " continue"
      ) from e

  def _damaged(self) -> str:
    """The first damaged file, and its fault."""
    for file, count in zip(self.paths, self.counts.values(), strict=True):
      try:
        found = sum(1 for _ in _records(file))
      except tf.errors.NotFoundError:
        return f"{file} (missing)"
      except tf.errors.DataLossError:
        return f"{file} (damaged)"
      except tf.errors.OpError as e:
        return f"{file} ({_text(e)})"
      if found != count:
        return f"{file} ({found} of {count} records)"
    return ""


def _records(file) -> tf.data.Dataset:
  return tf.data.TFRecordDataset(file).with_options(reading())


def _text(error) -> str:
  return " ".join(str(getattr(error, "message", error)).split())


class Index(NamedTuple):
  """Where the samples of each clip (N) lie, in the order of the files.

  A block is BLOCK bytes of a clip's samples, or the shorter rest. A clip's
  checksums (CRC-32) follow each other in `crc_M`, from `block_N` on.
  """

  id_N: np.ndarray  # bytes
  labels_NxK: np.ndarray  # uint8
  start_N: np.ndarray  # int64: bytes before them in the file
  size_N: np.ndarray  # int64: bytes
  block_N: np.ndarray  # int64
  crc_M: np.ndarray  # uint32

  @classmethod
  def join(cls, parts: Sequence["Index"]) -> "Index":
    """The index of several parts' files, one after another."""
    ends = itertools.accumulate(len(part.crc_M) for part in parts)
    parts = [
      part._replace(block_N=part.block_N + end - len(part.crc_M))
      for part, end in zip(parts, ends, strict=True)
    ]
    return cls(*map(np.concatenate, zip(*parts, strict=True)))


class Clips:
  """The clips of some splits of a data set, on this machine's disk."""

  def __init__(self, prepared: Prepared, splits: Sequence[str]):
    """Copies and indexes the records, if this was not done before.

    Raises:
      ValueError: a file is missing or damaged, or there is no room for copies.
    """
    splits = [s for s in splits if s in prepared.num_clips]
    self.files = Files.of(prepared, splits)
    if files.is_bucket(prepared.path):
      self.files = _copied(self.files)
    with self.files.explained():
      parts = []
      for split in splits:  # each split has its own index
        counts = Files.of(prepared, [split]).counts
        mine = self.files._replace(counts=counts)
        parts.append(_index(mine, split))
      self._files = [(path, os.path.getsize(path)) for path in self.files.paths]
    self.index = Index.join(parts)
    counts = list(self.files.counts.values())
    self._file_N = np.repeat(np.arange(len(counts)), counts)

  def read(self, clip_N, start_NxV, crop: int):
    """Blocks of clips that hold crops from each start (in samples).

    Returns (int16 [N, V, M], skip int64 [N, V]): a crop is M's samples from
    `skip` on, without a copy. Raises OSError if samples cannot be read, or
    differ from their checksum.
    """
    blocks = -(-SAMPLE * crop // BLOCK) + 1  # wherever a crop starts
    shape = [*start_NxV.shape, blocks * BLOCK]
    content_NxVxB = np.empty(shape, np.uint8)
    skip_NxV = SAMPLE * start_NxV % BLOCK // SAMPLE
    for clip, start_V, content_VxB in zip(
      clip_N.tolist(), start_NxV.tolist(), content_NxVxB, strict=True
    ):
      path, size = self._files[self._file_N[clip]]
      # Opened anew, to see a replaced file.
      with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != size or not all(
          self._read_blocks(file, clip, start, crop, content_B)
          for start, content_B in zip(start_V, content_VxB, strict=True)
        ):
          raise OSError(f"{path} is not what was indexed")
    return content_NxVxB.view("<i2"), skip_NxV

  def part(self, clip: int, start: int, stop: int) -> np.ndarray:
    """Some samples of a clip: int16 [stop - start].

    Raises:
      ValueError: they cannot be read, or differ from their checksum.
    """
    with self.files.explained():
      content_NxVxB, skip_NxV = self.read(
        np.array([clip]), np.array([[start]]), stop - start
      )
    skip = int(skip_NxV[0, 0])
    return content_NxVxB[0, 0, skip : skip + stop - start]

  def _read_blocks(self, file, clip, start, crop, content_B) -> bool:
    """Reads whole blocks, which have checksums."""
    index = self.index
    first = SAMPLE * start // BLOCK
    end = -(-SAMPLE * (start + crop) // BLOCK)
    low, high = first * BLOCK, min(end * BLOCK, int(index.size_N[clip]))
    content = memoryview(content_B)[: high - low]
    file.seek(int(index.start_N[clip]) + low)
    size = 0
    while count := file.readinto(content[size:]):
      size += count
    block = index.block_N[clip]
    crcs = index.crc_M[block + first : block + end].tolist()
    return size == high - low and _crcs(content) == crcs


def _crcs(content: memoryview) -> list[int]:
  return [
    zlib.crc32(content[i : i + BLOCK]) for i in range(0, len(content), BLOCK)
  ]


def _index(place: Files, split) -> Index:
  """The index of a split's files: the stored one, if it fits the files."""
  stats = map(os.stat, place.paths)
  arrays = files.kept_npz(
    f"{place.directory}/index-{split}.npz",
    [[BLOCK, 0]] + [[s.st_size, s.st_mtime_ns] for s in stats],
    lambda: _scan(place, split)._asdict(),
  )
  return Index(*(arrays[name] for name in Index._fields))


def _scan(place, split) -> Index:
  counts = list(place.counts.values())
  sizes = [
    os.path.getsize(path) // max(count, 1)
    for path, count in zip(place.paths, counts, strict=True)
  ]
  threads = max(1, min(os.cpu_count(), _AT_ONCE_BYTES // max(1, *sizes)))
  with (
    concurrent.futures.ThreadPoolExecutor(threads) as pool,
    _progress(sum(counts), f"index {split}", unit="clip") as progress,
  ):
    scan = functools.partial(_scan_file, progress=progress)
    return Index.join(list(pool.map(scan, place.paths, counts, sizes)))


def _scan_file(file: str, count: int, size: int, progress: tqdm) -> Index:
  """The index of a file with `count` records, of `size` bytes on average."""
  # Parsing records one by one in TensorFlow would take ten times as long.
  at_once = max(1, min(_AT_ONCE, _AT_ONCE_BYTES // (8 * max(1, size))))
  batches = _records(file).batch(at_once).as_numpy_iterator()
  ids, labels, starts, sizes, blocks, crcs = [], [], [], [], [0], []
  at = 0
  for record in itertools.chain.from_iterable(batches):
    clip_id, (start, end), of_clip = _parse(file, record)
    starts.append(at + _BEFORE + start)
    at += _BEFORE + len(record) + _AFTER
    ids.append(clip_id)
    labels.append(of_clip)
    sizes.append(end - start)
    crcs += _crcs(memoryview(record)[start:end])
    blocks.append(len(crcs))
    progress.update()
  if len(ids) != count:
    raise OSError(f"{file} has {len(ids)} of {count} records")
  return Index(
    np.array(ids),
    np.stack(labels),
    np.array(starts),
    np.array(sizes),
    np.array(blocks[:-1]),
    np.array(crcs, np.uint32),
  )


def _parse(file, record: bytes):
  """(id, start and end of the samples, labels) of a clip as TFDS writes it.

  The record is a `tf.train.Example`. Protobuf would copy its samples twice,
  gigabytes for hours of sound.
  """
  place_of = {}  # of each feature
  try:
    for features in _fields(record, 0, len(record)):
      for entry in _fields(record, *features):
        key, value = _fields(record, *entry)
        place_of[record[slice(*key)]] = value
    (values,) = _fields(record, *place_of[b"samples"])
    (samples,) = _fields(record, *values)
    clip_id, labels = (
      tf.train.Feature.FromString(record[slice(*place_of[key])])
      for key in (b"id", b"labels")
    )
    (clip_id,) = clip_id.bytes_list.value
  except (
    IndexError, KeyError, TypeError, ValueError, message.DecodeError
  ) as e:  # fmt: skip
    raise OSError(f"{file} has a record that is no clip") from e
  return clip_id, samples, np.array(labels.int64_list.value, np.uint8)


def _fields(record: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
  """Start and end of the fields of a protobuf message, which have a length.

  Raises ValueError or IndexError for other bytes.
  """
  while at < end:
    tag, at = _varint(record, at)
    size, at = _varint(record, at)
    if tag & 7 != 2 or at + size > end:
      raise ValueError("no field with a length")
    yield at, at + size
    at += size


def _varint(record: bytes, at: int) -> tuple[int, int]:
  """A number of seven bits a byte, the lowest first, and its end."""
  value = shift = 0
  while True:
    value |= (record[at] & 0x7F) << shift
    shift, at = shift + 7, at + 1
    if record[at - 1] < 0x80:
      return value, at


def _copied(remote: Files) -> Files:
  """Copies of a bucket's files on this machine; older copies stay."""
  digest = hashlib.sha256(remote.directory.encode()).hexdigest()[:16]
  directory = vicreg_jax.cache_directory(f"data/{digest}")
  local = Files(
    directory,
    remote.counts,
    "it is a copy of what is in a bucket: delete it to have it copied again",
  )
  try:
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/lock", "ab") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)  # one process copies for all
      _copy_missing(remote, local)
  except OSError as e:
    raise ValueError(
      f"{remote.directory} cannot be copied to {directory} ({e}): make room"
      " there, or have XDG_CACHE_HOME name a directory on a larger disk"
    ) from e
  except tf.errors.OpError as e:
    raise ValueError(
      f"{remote.directory} cannot be read ({_text(e)}): see that this machine"
      " may read the bucket, then run the same command to continue"
    ) from e
  return local


def _copy_missing(remote, local):
  missing = []
  for source, path in zip(remote.paths, local.paths, strict=True):
    stat = tf.io.gfile.stat(source)
    if not _is_copy(path, stat):
      missing.append((source, path, stat))
  if not missing:
    return
  for pattern in ("index-*.npz", "*.tmp"):  # of others; of killed runs
    for old in pathlib.Path(local.directory).glob(pattern):
      old.unlink()
  size = sum(stat.length for *_, stat in missing)
  free = shutil.disk_usage(local.directory).free
  if size > free:
    raise OSError(f"{size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free")
  with (
    _progress(
      size, f"copy {remote.directory}", unit="B", unit_scale=True
    ) as progress,
    concurrent.futures.ThreadPoolExecutor(_COPIES) as pool,
  ):
    copy = functools.partial(_copy, progress=progress)
    list(pool.map(copy, *zip(*missing, strict=True)))


def _is_copy(path, of) -> bool:
  try:
    stat = os.stat(path)
  except FileNotFoundError:
    return False
  # Some disks keep times to two seconds.
  age = abs(stat.st_mtime_ns - of.mtime_nsec)
  return stat.st_size == of.length and age <= 2e9


def _copy(source, path, stat, progress):
  """Copies a file, whole or not at all, with the time of its source."""
  partial = f"{path}.tmp"
  try:
    with tf.io.gfile.GFile(source, "rb") as read, open(partial, "wb") as write:
      while content := read.read(_CHUNK):
        write.write(content)
        progress.update(len(content))
    os.utime(partial, ns=(stat.mtime_nsec, stat.mtime_nsec))
    os.replace(partial, path)
  finally:
    pathlib.Path(partial).unlink(missing_ok=True)


def _progress(total, name, **options):
  # Quick work needs no bar.
  return tqdm(total=total, desc=name, disable=None, delay=2, **options)
