"""Which audio files lie below a folder: for whatever reads a folder.

Files are known by their suffixes. Hidden names, such as the `._song.mp3` that
macOS leaves beside a song, are no music. Links are followed, and no folder is
read twice, so that a loop of links ends.
"""

import collections
import os
from collections.abc import Callable
from typing import NamedTuple

from vicreg_jax.data import audio


class Found(NamedTuple):
  """What lies below a folder.

  Attributes:
    paths: of audio files, sorted. Whether they can be read is not known.
    left_out: {path: reason} of what is music, or may hold some, and cannot be
      read: folders, pipes, links that lead nowhere, formats without decoder.
    others: {suffix: number of files} of what is no audio.
  """

  paths: list[str]
  left_out: dict[str, str]
  others: collections.Counter[str]


def audio_files(folder: str) -> Found:
  """Looks through a folder and those below it; nothing is opened."""
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
    found.paths.append(entry.path)  # known from the folder, without a look
  else:
    try:
      audio.check(entry.path)
      found.paths.append(entry.path)
    except audio.AudioError as error:
      found.left_out[entry.path] = error.reason
