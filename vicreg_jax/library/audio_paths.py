"""Which audio files a command names, and their paths as text."""

import glob
import os
import zlib
from collections.abc import Iterable, Sequence

from vicreg_jax.data import audio


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


def suffix(path) -> str:
  """The suffix of a path, in small letters."""
  return os.path.splitext(path)[1].lower()


def _below(folder):
  for directory, _, names in os.walk(folder):
    for name in names:
      if suffix(name) in audio.EXTENSIONS | audio.UNREAD:
        yield os.path.join(directory, name)


def share(paths: Iterable[str], index: int, count: int) -> list[str]:
  """The paths of share `index` of `count`; the others do not matter to it."""
  return [p for p in paths if zlib.crc32(os.fsencode(p)) % count == index]


def utf8(path) -> str:
  """A path as UTF-8, which a name need not be."""
  return os.fsencode(path).decode(errors="backslashreplace")
