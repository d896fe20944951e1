"""Reads the tags of audio files, by FFmpeg (PyAV).

No sound is decoded: most files take under a millisecond.
"""

import io
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from vicreg_jax.data import audio, ffmpeg

# Become blanks, to keep one line: controls, and Unicode's line ends.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")
_NO_UTF8 = re.compile(r"[\ud800-\udfff]")


class FileTags(NamedTuple):
  """The tags of a file; "" and None are unknown."""

  artist: str = ""
  album: str = ""
  title: str = ""
  track: int | None = None  # its number in the album
  year: int | None = None
  genre: str = ""
  seconds: float | None = None  # by the header, or a guess from it


class _File(io.FileIO):
  """A file whose `seek` returns -1 for bad positions, as in damaged files.

  PyAV would print an error that `seek` raises.
  """

  def seek(self, offset, whence=os.SEEK_SET):
    try:
      return super().seek(offset, whence)
    except (OSError, OverflowError):
      return -1


def read(path) -> FileTags:
  """The tags of a file; the container's come before the stream's.

  Values are one line each; bytes that are not UTF-8 become U+FFFD. The album's
  artist replaces a missing artist. "3/12" is track 3, "2003-05-01" year 2003.

  Raises:
    AudioError: as by `audio.load`: "not found", "not a file" (a device, a pipe
      or a folder, which is not opened), "not readable", "empty file" or "not
      decodable".
  """
  path = os.fspath(path)
  audio.check(path)
  try:
    with _File(path) as file:
      if not os.fstat(file.fileno()).st_size:
        raise audio.AudioError(path, "empty file")
      return _read(file, path)
  except OSError as error:
    detail = error.strerror or str(error)
    raise audio.AudioError(path, "not readable", detail) from None


def _read(file, path):
  import av  # a tenth of a second

  # Else FFmpeg searches WAV files, for a tenth of a second, for other codecs.
  try:
    with ffmpeg.opened(file, "surrogateescape", max_probe_packets="1") as (
      container,
      stream,
    ):
      # Ogg has its tags in the stream.
      tags = _cleaned(stream.metadata) | _cleaned(container.metadata)
      seconds = None
      if (container.duration or 0) > 0:
        seconds = container.duration / av.time_base
      elif (stream.duration or 0) > 0:
        seconds = float(stream.duration * stream.time_base)
  except ffmpeg.Undecodable as error:
    raise audio.AudioError(path, "not decodable", str(error)) from None
  return _told(tags)._replace(seconds=seconds)


def _cleaned(metadata: Mapping[str, str]) -> dict[str, str]:
  """{key in small letters: a line of text that is not empty}"""
  found = {}
  for key, value in metadata.items():
    value = _NO_UTF8.sub("\ufffd", _CONTROLS.sub(" ", value))
    if value := " ".join(value.split()):
      found.setdefault(key.lower(), value)
  return found


def _told(tags) -> FileTags:
  def first(*keys):
    return next((tags[key] for key in keys if key in tags), "")

  return FileTags(
    artist=first("artist", "album_artist", "albumartist", "album artist"),
    album=first("album"),
    title=first("title"),
    track=_number(r"([0-9]{1,4})(?![0-9])", first("track", "tracknumber")),
    year=_number(r".*?([0-9]{4})", first("date", "year")),
    genre=first("genre"),
  )


def _number(pattern, text) -> int | None:
  """The number that the pattern finds; None for 0."""
  found = re.match(pattern, text)
  return (int(found[1]) or None) if found else None
