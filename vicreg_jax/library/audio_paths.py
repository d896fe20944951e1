"""Which audio files a command names, and their paths as text."""

import codecs
import glob
import itertools
import os
import re
import zlib
from collections.abc import Iterable, Sequence

from vicreg_jax.data import audio, walk


def expand(arguments: Sequence[str]) -> list[str]:
  """The files that files, folders, globs and @LISTS name, each once, in order.

  A folder stands for the audio files below it; see `walk`. Whatever of it
  cannot be read, folders too, is among them, so that it is counted. A list is
  a text file with a name on each line.

  Raises:
    ValueError: one of them is not there, or there is no audio.
  """
  found = {}
  for argument in arguments:
    if argument.startswith("@"):
      names = _lines(argument[1:])
    elif os.path.exists(argument):
      names = _files(argument)
    else:
      matches = sorted(glob.glob(argument, recursive=True))
      if not any(map(os.path.exists, matches)):
        raise ValueError(f"{argument}: there is no such file or folder")
      names = itertools.chain.from_iterable(map(_files, matches))
    found |= dict.fromkeys(map(os.path.normpath, names))
  if not found:
    raise ValueError(
      f"{', '.join(arguments)}: no audio files; they are known by their"
      f" suffixes, {' '.join(sorted(audio.EXTENSIONS))}"
    )
  return list(found)


def _lines(path):
  try:
    with open(path, "rb") as file:
      content = file.read().removeprefix(codecs.BOM_UTF8)
  except OSError as e:
    raise ValueError(f"@{path}: cannot be read ({e.strerror})") from e
  if b"\0" in content:
    raise ValueError(
      f"@{path}: not a list of names (it has zero bytes, as UTF-16 does): save"
      " it as UTF-8, with a name on each line"
    )
  # Not by splitlines: names may hold what else ends a line.
  lines = (os.fsdecode(line.rstrip(b"\r")) for line in content.split(b"\n"))
  return [line for line in lines if line]


def _files(path):
  """The file itself; of a folder, what is below it."""
  if not os.path.isdir(path):
    return [path]
  found = walk.audio_files(path)
  return sorted([*found.paths, *found.left_out])


def share(paths: Iterable[str], index: int, count: int) -> list[str]:
  """The paths of share `index` of `count`; the others do not matter to it."""
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
  """A path as UTF-8, which a name need not be."""
  return os.fsencode(path).decode(errors="backslashreplace")
