"""Finds the audio files below a folder, by their suffixes.

Hidden files, such as the `._song.mp3` that macOS leaves beside a song, are
ignored. Links are followed, and no folder is read twice, so loops of links end.
"""

import collections
import os
from collections.abc import Callable
from typing import NamedTuple

from vicreg_jax.data import audio


class Found(NamedTuple):
  """The files below a folder.

  Attributes:
    paths: of audio files, sorted; they may be unreadable.
    left_out: {path: reason} of unreadable folders, pipes, broken links and
      formats without decoder, which are or may hold music.
    others: {suffix: number of files} of files that are no audio.
  """

  paths: list[str]
  left_out: dict[str, str]
  others: collections.Counter[str]


def audio_files(folder: str) -> Found:
  """Lists a folder and those below it; no file is opened."""
  found = Found([], {}, collections.Counter())
  seen = set()
  # A folder has a link's path only if it has no other below here.
  folders, links = [folder], collections.deque()
  while folders or links:
    here = folders.pop() if folders else links.popleft()
    try:
      status = os.stat(here)
      if (status.st_dev, status.st_ino) in seen:
        continue
      seen.add((status.st_dev, status.st_ino))
      with os.scandir(here) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
      found.left_out[here] = audio.FOLDER_NOT_READABLE
      continue
    for entry in listed:
      if entry.name.startswith("."):
        continue
      if not _is(entry.is_dir):
        _add_file(entry, found)
      elif entry.is_symlink():
        links.append(entry.path)
      else:
        folders.append(entry.path)
  found.paths.sort()
  return found


def suffix(path) -> str:
  """The suffix of a path, in small letters."""
  return os.path.splitext(path)[1].lower()


def _is(kind: Callable[[], bool]) -> bool:
  """Whether an entry is of a kind; some links raise an error when asked."""
  try:
    return kind()
  except OSError:
    return False


def _add_file(entry, found):
  end = suffix(entry.name)
  if end in audio.UNREAD:
    found.left_out[entry.path] = f"unread suffix {end}"
  elif end not in audio.EXTENSIONS:
    found.others[end or "without suffix"] += 1
  elif not entry.is_symlink() and _is(entry.is_file):
    found.paths.append(entry.path)  # the folder's list suffices
  else:
    try:
      audio.check(entry.path)
      found.paths.append(entry.path)
    except audio.AudioError as error:
      found.left_out[entry.path] = error.reason
