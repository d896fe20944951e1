"""The audio files of an official data set: a tree, or inside its archive.

A file's name here is its last folder and its own name, "000/000002.mp3"; its
suffix may be in capitals. Archives are read in place. Member names are never
used as paths, so none can lead outside; members that try are in `unsafe`. Both
kinds can be pickled.
"""

import bz2
import contextlib
import copy
import csv
import dataclasses
import functools
import glob
import io
import lzma
import os
import pathlib
import posixpath
import re
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib

import numpy as np
import tensorflow as tf

from vicreg_jax import files
from vicreg_jax.data import audio

# A track of five hours has 0.6 GB; more is a zip bomb.
_LARGEST_MEMBER = 1 << 30
# Errors of damaged archives and members. RuntimeError: encrypted, or (as
# NotImplementedError) an unknown compression. ValueError: not UTF-8.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)
DAMAGE += (ValueError, struct.error)
_ENCRYPTED = 1  # a member's flag
_OF_MACS = "__MACOSX"  # a folder of what Macs add to the files


@dataclasses.dataclass(frozen=True)
class Tree:
  """Files at `root`/folder/file, which may be missing."""

  root: str
  unsafe = ()

  def __contains__(self, name):
    return any(map(os.path.lexists, self._paths(name)))

  def stamp(self, names) -> list:
    """A value that changes when one of the files does."""
    stamps = []
    for name in names:
      for path in self._paths(name):
        with contextlib.suppress(OSError):
          status = os.stat(path)
          stamps.append([name, status.st_size, status.st_mtime_ns])
          break
    return stamps

  def former(self, stamp) -> list:
    """The stamp of an earlier version."""
    return stamp

  def load(self, name, sample_rate) -> np.ndarray:
    path, capitals = self._paths(name)
    there = os.path.lexists(path) or not os.path.lexists(capitals)
    return audio.load(path if there else capitals, sample_rate)

  def _paths(self, name):
    stem, suffix = os.path.splitext(os.path.join(self.root, name))
    return stem + suffix, stem + suffix.upper()


@dataclasses.dataclass(frozen=True)
class Zip:
  """A zip, whole or in parts, whatever folders are above the last one.

  `paths` may be local or gs://; `state` is the parts' sizes and times.
  """

  paths: tuple[str, ...]
  state: tuple

  @classmethod
  def open(cls, paths) -> "Zip":
    """Opens an archive, or raises ValueError that names it and the remedy."""
    where = ", ".join(paths)
    try:
      status = [tf.io.gfile.stat(path) for path in paths]
      state = tuple((s.length, s.mtime_nsec) for s in status)
      archive = cls(tuple(paths), state)
      members = _members(archive)[1].values()
    except (*DAMAGE, tf.errors.OpError) as error:
      raise ValueError(
        f"{where}: not a whole zip archive ({error}): get it again"
      ) from error
    if members and all(m.flag_bits & _ENCRYPTED for m in members):
      raise ValueError(
        f"{where}: encrypted: extract the archive by hand, with its password,"
        " and move it elsewhere"
      )
    return archive

  @property
  def unsafe(self):
    return _members(self)[2]

  def __contains__(self, name):
    return _key(name) in _members(self)[1]

  def stamp(self, names) -> list:
    """A value that changes when the content of one of the members does."""
    found = [(name, self._member(name)) for name in names]
    return [[name, m.file_size, m.CRC] for name, m in found if m]

  def former(self, stamp) -> list:
    """The stamp of an earlier version."""
    return [list(part) for part in self.state]

  def load(self, name, sample_rate) -> np.ndarray:
    return audio.loads(self.read(name), name, sample_rate)

  def read(self, name) -> bytes:
    """A member's bytes; `AudioError` if there is none, or it is damaged."""
    member = self._member(name)
    if member is None:
      raise audio.AudioError(name, "not found")
    size = member.file_size
    if size > _LARGEST_MEMBER:
      raise audio.AudioError(name, "too large")
    try:
      with _open_member(_members(self)[0], member) as f:
        content = f.read(size + 1)
      if len(content) != size:
        raise EOFError(f"not {size} bytes, as it says")
    except DAMAGE as error:
      raise audio.AudioError(
        name, "damaged in the archive", str(error)
      ) from None
    return content

  def open_text(self, name):
    """A member as a text file (UTF-8) that is read piece by piece.

    Raises one of DAMAGE; a `table` explains them.
    """
    member = self._member(name)
    if member is None:
      raise ValueError("there is no such file in it")
    opened = _open_member(_members(self)[0], member)
    return io.TextIOWrapper(opened, "utf-8", newline="")

  def _member(self, name):
    return _members(self)[1].get(_key(name))


@functools.lru_cache(8)
def _members(archive):
  """(ZipFile, {name: member}, unsafe names), once a process."""
  if len(archive.paths) > 1:
    file = io.BufferedReader(_Parts(archive), 1 << 16)
  else:
    file = _open(archive.paths[0])
  zip_file = zipfile.ZipFile(file)
  members, unsafe = {}, []
  for member in zip_file.infolist():
    parts = member.filename.split("/")
    if member.filename.startswith("/") or ".." in parts:
      unsafe.append(member.filename)
    elif parts[-1] and parts[0] != _OF_MACS:
      members[_key("/".join(parts[-2:]))] = member
  return zip_file, members, tuple(unsafe)


def _key(name):
  stem, suffix = posixpath.splitext(name)
  return stem + suffix.lower()


def _open_member(file, member):
  """The member as a binary file; no read returns more than was asked for.

  zipfile decompresses bzip2 without a bound, and a bomb that declares a small
  size would fill the memory. So bzip2 members (which have checksums of their
  own) are opened as if they were stored, and decompressed by the bz2 module.
  """
  if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    return file.open(member)
  if member.compress_type != zipfile.ZIP_BZIP2:
    raise NotImplementedError(f"compression {member.compress_type}")
  stored = copy.copy(member)
  stored.compress_type = zipfile.ZIP_STORED
  stored.file_size = member.compress_size
  del stored.CRC  # it is that of the decompressed bytes
  return bz2.BZ2File(file.open(stored))


def _open(path):
  return tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb")


def open_text(path):
  """A UTF-8 file of lines, local or gs://, with its line ends as they are.

  Raises OSError or OpError; a `table` explains them.
  """
  if "://" in path:
    return tf.io.gfile.GFile(path)
  return open(path, encoding="utf-8", newline="")


@contextlib.contextmanager
def table(path, again, open_file=open_text, **dialect):
  """The rows of a published table; its faults name file, line and remedy.

  So do the ValueErrors that are raised within.

  Args:
    path: of the file, and what `open_file` opens.
    again: what is to be downloaded again.
    dialect: of `csv.reader`.
  """
  rows = None
  try:
    with open_file(path) as file:
      rows = csv.reader(_whole_lines(file), **dialect)
      yield rows
  except (csv.Error, tf.errors.OpError, *DAMAGE) as error:
    line = f" line {rows.line_num}" if rows else ""
    text = " ".join(str(error).split())
    remedy = f"get {again} again"
    if isinstance(error, (OSError, tf.errors.OpError)):
      remedy = f"make the file readable, or {remedy}"
    raise ValueError(f"{path}{line}: {text}: {remedy}") from None


def _whole_lines(lines):
  line = "\n"
  for line in lines:
    yield line
  if not line.endswith("\n"):
    raise ValueError("the file ends within a line")


class _Parts(io.RawIOBase):
  """The parts of a split file as one file."""

  def __init__(self, archive):
    self._files = [_open(path) for path in archive.paths]
    self._ends = np.cumsum([size for size, _ in archive.state]).tolist()
    self._position = 0

  def readable(self):
    return True

  def seekable(self):
    return True

  def tell(self):
    return self._position

  def seek(self, offset, whence=os.SEEK_SET):
    origin = {
      os.SEEK_SET: 0,
      os.SEEK_CUR: self._position,
      os.SEEK_END: self._ends[-1],
    }[whence]
    if origin + offset < 0:
      raise OSError(f"negative position {origin + offset}")
    self._position = origin + offset
    return self._position

  def readinto(self, buffer):
    if self._position >= self._ends[-1]:
      return 0
    part = next(i for i, end in enumerate(self._ends) if self._position < end)
    start = self._ends[part - 1] if part else 0
    self._files[part].seek(self._position - start)
    left = self._ends[part] - self._position
    content = self._files[part].read(min(len(buffer), left))
    buffer[: len(content)] = content
    self._position += len(content)
    return len(content)


def extract_tar(path, target, pattern) -> list[str]:
  """Extracts the plain files of a tar that match, to folder/file in `target`.

  A tar can only be read from end to end, so its files are extracted once, into
  a directory of another name, which is renamed when it is whole.

  Args:
    path: the archive; any compression.
    target: the directory to make; it may be there, but empty.
    pattern: for whole member names, with the groups `folder` and `file`.

  Returns:
    The names that try to leave their directory; nothing is written for them.

  Raises:
    ValueError: the archive is damaged, or none of its files match; there is no
      room; or another command is extracting it.
  """
  target = pathlib.Path(target)
  with (
    files.explained(target, "data.path"),
    files.lock(target, "data.path"),
  ):
    if target.is_dir() and any(target.iterdir()):
      return []  # another command was sooner
    for left in target.parent.glob(f".{glob.escape(target.name)}-*"):
      shutil.rmtree(left, ignore_errors=True)  # by a killed one
    try:
      with tempfile.TemporaryDirectory(
        prefix=f".{target.name}-", dir=target.parent
      ) as partial:
        whole = pathlib.Path(partial, "whole")
        unsafe = _lay_out(path, whole, pattern)
        whole.rename(target)
    # MemoryError: of a header that declares petabytes.
    except (tarfile.TarError, lzma.LZMAError, MemoryError, *DAMAGE) as error:
      text = " ".join(str(error).split())  # tarfile lists what it has tried
      raise ValueError(
        f"{path}: cannot be extracted to {target} ({text}): get it again, free"
        " disk space, or extract it by hand"
      ) from error
  return unsafe


def _lay_out(path, whole, pattern):
  unsafe, other = [], ""
  with tarfile.open(path) as tar:
    for member in tar:
      if member.name.startswith("/") or ".." in member.name.split("/"):
        unsafe.append(member.name)
        continue
      match = re.fullmatch(pattern, member.name)
      if not (match and member.isfile()):
        other = other or member.name * member.isfile()
        continue
      if member.size > _LARGEST_MEMBER:
        raise tarfile.TarError(f"{member.name} has {member.size} bytes")
      file = whole / match["folder"] / match["file"]
      file.parent.mkdir(parents=True, exist_ok=True)
      with open(file, "wb") as out:
        shutil.copyfileobj(tar.extractfile(member), out)
      # As tar does, so that what is extracted again has the same stamp.
      with contextlib.suppress(OSError, OverflowError, ValueError):
        os.utime(file, (member.mtime, member.mtime))
  if not whole.exists():
    raise tarfile.TarError(
      f"no file in it belongs to this data set; the first is {other!r}"
    )
  return unsafe
