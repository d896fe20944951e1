"""The audio files of an official data set: a tree, or inside its archive.

A file's name here is its last folder and itself, "000/000002.mp3". Archives are
read in place and their member names are never used as paths, so that none can
lead outside; members that try are in `unsafe`. Both kinds can be pickled.
"""

import bz2
import contextlib
import copy
import dataclasses
import functools
import io
import lzma
import os
import pathlib
import re
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib

import numpy as np
import tensorflow as tf

from vicreg_jax.data import audio

# A track of five hours has 0.6 GB; more is a zip bomb.
_LARGEST_MEMBER = 1 << 30
# What reading a damaged archive or member raises. RuntimeError: encrypted, or
# (as NotImplementedError) an unknown compression. ValueError: no UTF-8.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)
DAMAGE += (ValueError, struct.error)


@dataclasses.dataclass(frozen=True)
class Tree:
  """Files at `root`/folder/file, which may be missing."""

  root: str
  unsafe = ()

  def __contains__(self, name):
    return os.path.lexists(os.path.join(self.root, name))

  def stamp(self, names) -> list:
    """What changes when one of the files does."""
    stamps = []
    for name in names:
      with contextlib.suppress(OSError):
        status = os.stat(os.path.join(self.root, name))
        stamps.append([name, status.st_size, status.st_mtime_ns])
    return stamps

  def load(self, name, sample_rate) -> np.ndarray:
    return audio.load(os.path.join(self.root, name), sample_rate)


@dataclasses.dataclass(frozen=True)
class Zip:
  """A zip, whole or in parts; `roots` are the folders that hold the folders.

  `paths` may be local or gs://; `state` is the parts' sizes and times.
  """

  paths: tuple[str, ...]
  roots: tuple[str, ...]
  state: tuple

  @classmethod
  def open(cls, paths, roots=("",)) -> "Zip":
    """Opens an archive, or raises ValueError that names it and the remedy."""
    try:
      status = [tf.io.gfile.stat(path) for path in paths]
      state = tuple((s.length, s.mtime_nsec) for s in status)
      archive = cls(tuple(paths), tuple(roots), state)
      _members(archive)
    except (*DAMAGE, tf.errors.OpError) as error:
      raise ValueError(
        f"{', '.join(paths)}: not a whole zip archive ({error}): get it again"
      ) from error
    return archive

  @property
  def unsafe(self):
    return _members(self)[2]

  def __contains__(self, name):
    return name in _members(self)[1]

  def stamp(self, names) -> list:
    """What changes when the archive does."""
    return [list(part) for part in self.state]

  def load(self, name, sample_rate) -> np.ndarray:
    return audio.loads(self.read(name), name, sample_rate)

  def read(self, name) -> bytes:
    """A member's bytes; `AudioError` if there is none, or it is damaged."""
    file, members, _ = _members(self)
    if name not in members:
      raise audio.AudioError(name, "not found")
    size = members[name].file_size
    if size > _LARGEST_MEMBER:
      raise audio.AudioError(name, "too large")
    try:
      with _open_member(file, members[name]) as f:
        content = f.read(size + 1)
      if len(content) != size:
        raise EOFError(f"not {size} bytes, as it says")
    except DAMAGE as error:
      raise audio.AudioError(
        name, "damaged in the archive", str(error)
      ) from None
    return content

  def open_text(self, name):
    """A member as a text file (UTF-8) that is read piece by piece."""
    file, members, _ = _members(self)
    if name not in members:
      raise ValueError(f"{', '.join(self.paths)}: there is no {name} in it")
    try:
      member = _open_member(file, members[name])
    except DAMAGE as error:
      raise ValueError(
        f"{', '.join(self.paths)}: {name} is damaged ({error}): get it again"
      ) from error
    return io.TextIOWrapper(member, "utf-8", newline="")


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
    elif "/".join(parts[:-2]) in archive.roots and parts[-1]:
      members["/".join(parts[-2:])] = member
  return zip_file, members, tuple(unsafe)


def _open_member(file, member):
  """The member as a binary file, of which no read gives more than it asks for.

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
  """A UTF-8 file of lines, local or gs://, with its line ends as they are."""
  if "://" in path:
    return tf.io.gfile.GFile(path)
  return open(path, encoding="utf-8", newline="")


class _Parts(io.RawIOBase):
  """The parts of a split file as the one that they were."""

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

  A tar can only be read from end to end, so its files are laid out once. They
  come into a directory of another name, which is renamed when it is whole.

  Args:
    path: the archive; any compression.
    target: the directory to make.
    pattern: for whole member names, with the groups `folder` and `file`.

  Returns:
    The names that try to leave their directory; nothing is written for them.
  """
  target, unsafe = pathlib.Path(target), []
  try:
    with tempfile.TemporaryDirectory(
      prefix=f".{target.name}-", dir=target.parent
    ) as partial:
      with tarfile.open(path) as tar:
        for member in tar:
          if member.name.startswith("/") or ".." in member.name.split("/"):
            unsafe.append(member.name)
            continue
          match = re.fullmatch(pattern, member.name)
          if not (match and member.isfile()):
            continue
          if member.size > _LARGEST_MEMBER:
            raise tarfile.TarError(f"{member.name} has {member.size} bytes")
          folder = pathlib.Path(partial, "whole", match["folder"])
          folder.mkdir(parents=True, exist_ok=True)
          with open(folder / match["file"], "wb") as out:
            shutil.copyfileobj(tar.extractfile(member), out)
      pathlib.Path(partial, "whole").rename(target)
  # MemoryError: of a header that declares petabytes.
  except (tarfile.TarError, lzma.LZMAError, MemoryError, *DAMAGE) as error:
    text = " ".join(str(error).split())  # tarfile lists what it has tried
    raise ValueError(
      f"{path}: cannot be extracted to {target} ({text}): get it again, free"
      " disk space, or extract it by hand"
    ) from error
  return unsafe
