"""Playlists as players write and read them: M3U, M3U8, PLS, plain lists."""

import math
import os
import re
import urllib.parse
from collections.abc import Iterable
from typing import NamedTuple

from vicreg_jax import files

_SUFFIXES = (".m3u", ".m3u8", ".pls")
_PLS_FILE = re.compile(r"file([0-9]{1,9})\s*=(.*)", re.IGNORECASE | re.DOTALL)
# RFC 8089; what stands before the path is a host.
_FILE_URL = re.compile(
  r"file:(?://(?:localhost)?)?(/(?!/).*)", re.I | re.DOTALL
)
_URL = re.compile(r"file:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_OF_WINDOWS = re.compile(r"[a-z]:[\\/]|\\", re.IGNORECASE)  # and absolute


class Entries(NamedTuple):
  """The entries of a playlist."""

  paths: list[str]
  left_out: int  # entries on the network: http://...


def is_called_one(path) -> bool:
  """Whether a file has the suffix of a playlist."""
  return os.path.splitext(path)[1].lower() in _SUFFIXES and os.path.isfile(path)


def read(path) -> Entries:
  """The files that a playlist names, in its order; they need not exist.

  A player's playlist begins with #EXTM3U or [playlist], or has the suffix .m3u,
  .m3u8 or .pls. Its comments are skipped, and its paths are relative to its own
  folder. Paths may be file:// URLs, begin with ~, and have the backslashes of
  Windows; C:\\... stays as it is. An entry can be read in several ways (with
  blanks around it or without, with backslashes or slashes, in UTF-8 or in
  Windows' Latin): the first one that names an existing file counts.

  Any other file is a plain list: one name a line, relative to the current
  directory. Bytes that are not UTF-8 stay, as in file names (surrogateescape).

  Raises:
    ValueError: the file cannot be read, or is no text.
  """
  path = os.fspath(path)
  try:
    with open(path, "rb") as f:
      content = f.read()
  except OSError as e:
    raise ValueError(f"{path}: cannot be read ({e.strerror})") from e
  if b"\0" in content:
    raise ValueError(
      f"{path}: holds NUL bytes, so it is UTF-16 or no list; save it as UTF-8"
    )
  text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
  # `splitlines` would also split at characters that names may have.
  lines = [line for line in re.split(r"[\r\n]+", text) if line]
  head = lines[0].strip().lower() if lines else ""
  suffix = os.path.splitext(path)[1].lower()
  is_m3u = head.startswith("#extm3u")
  if not is_m3u and (head == "[playlist]" or suffix == ".pls"):
    found = filter(None, (_PLS_FILE.fullmatch(line.strip()) for line in lines))
    entries = [m[2] for m in sorted(found, key=lambda m: int(m[1]))]
  elif is_m3u or suffix in _SUFFIXES:
    entries = [line for line in lines if not line.lstrip().startswith("#")]
  else:
    return Entries(lines, 0)
  entries = [entry for entry in entries if entry.strip()]
  folder = os.path.dirname(path)
  # If a link leads to the folder, `..` is beside what the link leads to.
  folders = folder, os.path.realpath(folder)
  paths = [found for e in entries if (found := _path(e, folders)) is not None]
  return Entries(paths, len(entries) - len(paths))


def _path(entry, folders):
  """The path that an entry stands for; None if none of this machine."""
  stripped = entry.strip(" \t")
  if _URL.match(stripped):
    url = _FILE_URL.fullmatch(stripped)
    if not url:
      return None
    path = os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(url[1])))
    if "\0" in path:
      return None
    return path[1:] if _OF_WINDOWS.match(path[1:]) else path
  if _OF_WINDOWS.match(stripped):
    return stripped
  slashes = os.path.expanduser(stripped).replace("\\", "/")
  older = os.fsencode(slashes).decode("cp1252", "replace")
  readings = (
    os.path.normpath(os.path.join(folder, reading))
    for folder in folders
    for reading in (entry, stripped, slashes, older)
  )
  likely = os.path.normpath(os.path.join(folders[0], slashes))
  return next(filter(os.path.exists, readings), likely)


class Entry(NamedTuple):
  """A file, and the text that a player shows before it has read the tags."""

  path: str
  seconds: float | None = None
  artist: str = ""
  title: str = ""


class Playlist(NamedTuple):
  """The content of a playlist file."""

  content: bytes
  left_out: list[str]  # paths with line breaks, which no playlist can name


def m3u8(path, entries: Iterable[Entry], *, relative: bool = True) -> Playlist:
  """An M3U8 playlist, in UTF-8, which `read` and players read.

  Args:
    path: where it is to be written.
    entries: its files in their order, named from the current directory.
    relative: paths are relative to the playlist's folder, and both can move
      together; else paths are absolute.
  """
  # By their real folders, for a link has other folders above it.
  folder = os.path.realpath(os.path.dirname(os.fspath(path)))
  lines, left_out = ["#EXTM3U", f"# {files.MARK}"], []
  for entry in entries:
    if re.search(r"[\r\n]", entry.path):
      left_out.append(entry.path)
      continue
    lines += _shown(entry)
    if not relative:
      lines.append(os.path.abspath(entry.path))
      continue
    inner, name = os.path.split(entry.path)
    name = os.path.relpath(os.path.join(os.path.realpath(inner), name), folder)
    # What would be a comment, a home, a URL, or without a blank.
    plain = not re.match(r"[#~\s\\]|[a-z][a-z0-9+.-]*:", name, re.IGNORECASE)
    lines.append(name if plain else f"./{name}")
  content = "".join(f"{line}\n" for line in lines)
  return Playlist(content.encode("utf-8", "surrogateescape"), left_out)


def _shown(entry):
  """The line before a path, if there is anything to tell."""
  names = (" ".join(name.split()) for name in (entry.artist, entry.title))
  name = " - ".join(filter(None, names))
  known = entry.seconds is not None and math.isfinite(entry.seconds)
  if known or name:
    name = name or os.path.splitext(os.path.basename(entry.path))[0]
    yield f"#EXTINF:{round(entry.seconds) if known else -1},{name}"
