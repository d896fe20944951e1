"""Which clips are pieces of one track, as their names tell."""

import posixpath
import re

# name-0-30: seconds 0 to 30 of `name`. A year before it, or a zero in front of
# a number, makes it a date or a track's number.
_CUT = re.compile(r"(?!\d{4}-)(.+)-(0|[1-9]\d*)-([1-9]\d*)", re.DOTALL)


def track_of(clip_id: str) -> str:
  """The track that a clip is named as cut from: its id without suffix."""
  folder, name = posixpath.split(posixpath.splitext(clip_id)[0])
  cut = _CUT.fullmatch(name)
  if cut and int(cut[2]) < int(cut[3]):
    name = cut[1]
  return posixpath.join(folder, name)
