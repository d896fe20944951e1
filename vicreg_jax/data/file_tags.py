"""What the tags of an audio file say: FFmpeg reads them, by PyAV.

Nothing is decoded: most files take under a millisecond.
"""

import io
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from vicreg_jax.data import audio, ffmpeg

# Blanks, for one line: controls, and Unicode's ends of lines.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")
_NO_UTF8 = re.compile(r"[\ud800-\udfff]")


class FileTags(NamedTuple):
  """Of a file: "" and None are what nobody has told."""

  artist: str = ""
  album: str = ""
  title: str = ""
  track: int | None = None  # its number in the album
  year: int | None = None
  genre: str = ""
  seconds: float | None = None  # as the header says or lets guess


class _File(io.FileIO):
  """Where a damaged file sends the reader may be nowhere: -1 says so.

  What was raised instead, PyAV would print.
  """

  def seek(self, offset, whence=os.SEEK_SET):
    try:
      return super().seek(offset, whence)
    except (OSError, OverflowError):
      return -1


def read(path) -> FileTags:
  """The tags of a file, of its container before those of its sound.

  Values are one line each; bytes that are no UTF-8 become U+FFFD. Without an
  artist there is that of the album. Of "3/12" the track is 3, and of
  "2003-05-01" the year is 2003.

  Raises:
    AudioError: as `audio.load`, if the file is "not found", "not a file" (a
      device, a pipe, a folder: none is opened), "not readable", an "empty file"
      or "not decodable".
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

  # Else WAV files are searched, for a tenth of a second, for what is no PCM.
  try:
    with ffmpeg.opened(file, "surrogateescape", max_probe_packets="1") as (
      container,
      stream,
    ):
      # Ogg has them in its stream.
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
  """What the pattern finds; 0 stands for none."""
  found = re.match(pattern, text)
  return (int(found[1]) or None) if found else None
