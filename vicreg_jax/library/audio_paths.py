"""Which audio files a command names, and their paths as text."""

import glob
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vicreg_jax.data import audio, walk
from vicreg_jax.library import playlists

_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")  # by `utf8`


class Named(NamedTuple):
  """The files that arguments name.

  Attributes:
    paths: of files, each once, in order.
    roots: {a file, folder or glob: the argument by which it is named}.
    lists: files with names in them.
    left_out: entries of lists on the network.
  """

  paths: list[str]
  roots: dict[str, str]
  lists: list[str]
  left_out: int


def look(arguments: Sequence[str], *, gone_too: bool = False) -> Named:
  """Finds the files that files, folders, globs and lists name.

  A folder stands for the audio files below it; see `walk`. Files and folders
  that cannot be read are among them, and are counted later. A list is a
  playlist, known by its suffix, or any text file as @LIST; see `playlists`. Its
  entries may be folders and globs.

  Args:
    gone_too: arguments need not exist.

  Raises:
    ValueError: an argument does not exist, or there is no audio.
  """
  roots, lists, left_out, found = {}, [], 0, {}
  for argument in arguments:
    names, of_lists = [], [argument[1:]]
    if not argument.startswith("@"):
      matches = _matches(argument)
      if not gone_too and not any(map(os.path.exists, matches)):
        raise ValueError(f"{argument}: there is no such file or folder")
      of_lists = [path for path in matches if playlists.is_called_one(path)]
      names = [path for path in matches if path not in of_lists]
      roots[argument] = argument
    for path in of_lists:
      entries = playlists.read(path)
      left_out += entries.left_out
      roots |= dict.fromkeys(entries.paths, argument)
      for entry in entries.paths:
        names += _matches(entry) or [entry]
    lists += of_lists
    paths = (path for name in names for path in _files(name))
    for path in map(os.path.normpath, paths):
      found.setdefault(os.path.abspath(path), path)
  if not found and not gone_too:
    network = f" ({left_out} entries are on the network)" * bool(left_out)
    raise ValueError(
      f"{', '.join(arguments)}: no audio files{network}; they are known by"
      f" their suffixes, {' '.join(sorted(audio.EXTENSIONS))}"
    )
  return Named(list(found.values()), roots, lists, left_out)


def _matches(name) -> list[str]:
  """The file or folder, or those that a glob finds."""
  if os.path.exists(name):
    return [name]
  return sorted(glob.glob(name, recursive=True))


def _files(path):
  """The file itself, or the audio files below a folder."""
  if not os.path.isdir(path):
    return [path]
  found = walk.audio_files(path)
  return sorted([*found.paths, *found.left_out])


def share(paths: Iterable[str], index: int, count: int) -> list[str]:
  """The paths of share `index` of `count`, whatever other paths there are."""
  return [p for p in paths if zlib.crc32(os.fsencode(p)) % count == index]


def on_disk(path: str) -> str:
  """The file of a table's path, in which \\xNN is a byte that is no UTF-8."""
  if "\\x" not in path or os.path.exists(path):
    return path
  meant = re.sub(
    rb"\\x([0-9a-f]{2})",
    lambda match: bytes.fromhex(match[1].decode()),
    os.fsencode(path),
  )
  return os.fsdecode(meant) if os.path.exists(meant) else path


def utf8(path) -> str:
  """A path as UTF-8; bytes that are not UTF-8 become \\xNN."""
  return os.fsencode(path).decode(errors="backslashreplace")


def same(path: str, here: str = "") -> str:
  """One spelling for all spellings of a path.

  `here`: the current directory, for callers with many paths.
  """
  path = os.path.join(here or os.getcwd(), path)
  return utf8(os.path.normpath(path))


def is_gone(path: str) -> bool:
  """Whether nothing is at a path (of a table, too); False if nobody can see."""
  escaped = _ESCAPED.sub(
    lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path)
  )
  for name in {path, os.fsdecode(escaped)}:
    try:
      audio.check(name)
      return False
    except audio.AudioError as error:
      if error.reason != "not found":
        return False
  return True
