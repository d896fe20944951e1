"""Groups clips into tracks, and splits tracks.

Clips of one track are alike, so a track is never in two splits. Folders, GTZAN,
random splits of probes and shares of labels all split by `ordered`.
"""

import collections
import hashlib
import posixpath
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "valid", "test")
# name-0-30, name_000-030: seconds 0 to 30 of `name`. A year in front makes it a
# date.
_CUT = re.compile(r"(?!\d{4}-)(.+)[ _-](\d+)-(\d+)", re.DOTALL)
# name_seg0, "name (part 1)", "name, Pt. 1". Numbers alone tell too little:
# blues.00000.
_PIECE = re.compile(
  r"((.+?)[ _.,(\[-]+(?:seg|segment|chunk|slice|part|pt)[ _.-]*)\d+[)\]]?",
  re.DOTALL | re.IGNORECASE,
)
_LEAST_CUT = 3  # seconds of a cut that does not begin at 0
_WORKS = 1000  # larger numbers are years, or of works
_TEST_SHARE, _VALID_SHARE = 0.2, 0.1  # of the tracks


class _Cut(NamedTuple):
  """The parts of a name such as name-30-60."""

  track: str
  start: int  # seconds
  end: int
  is_date: bool  # or the numbers of a disc and of a track: name-03-14


def track_of(clip_id: str) -> str:
  """The track in a clip's name, such as that of name-30-60, or its stem."""
  folder, name = posixpath.split(posixpath.splitext(clip_id)[0])
  cut = _cut(name)
  named = cut.track if cut and not cut.is_date else name
  return posixpath.join(folder, named)


def tracks_of(
  clip_ids: Collection[str], pattern: str = ""
) -> Mapping[str, str]:
  """{id: track} of clips, by their names.

  Args:
    clip_ids: paths with slashes.
    pattern: a regular expression for a whole id without its suffix, whose one
      group is the track; a clip without a match is a track. "": by all names in
      a folder, as `name-30-60` may also be a title.

  Raises ValueError if the pattern is invalid, or matches nothing.
  """
  stems = {id_: posixpath.splitext(id_)[0] for id_ in clip_ids}
  if pattern:
    return _by_pattern(stems, pattern)
  families = collections.defaultdict(list)  # {(track, kind): ids}
  cuts = collections.defaultdict(list)
  for id_, stem in stems.items():
    folder, name = posixpath.split(stem)
    if cut := _cut(name):
      family = posixpath.join(folder, cut.track), "cut"
      cuts[family].append(cut)
    elif piece := _PIECE.fullmatch(name):
      family = posixpath.join(folder, piece[2]), piece[1]
    else:
      continue
    families[family].append(id_)
  tracks, whole = dict(stems), set(stems.values())
  for (track, kind), ids in families.items():
    if kind == "cut":
      related = _are_cuts(cuts[track, kind])
    else:
      related = len(ids) > 1 or track in whole
    if related:
      tracks |= dict.fromkeys(ids, track)
  return tracks


def _cut(name) -> _Cut | None:
  """The cut in a name such as name-30-60; leading zeros are on both numbers."""
  found = _CUT.fullmatch(name)
  # So many digits are no seconds, and int would refuse 5,000 of them.
  if not found or max(len(found[2]), len(found[3])) >= 10:
    return None
  start, end = int(found[2]), int(found[3])
  filled = (found[2], found[3]) != (str(start), str(end))
  if start >= end or (filled and len(found[2]) != len(found[3])):
    return None
  return _Cut(found[1], start, end, filled and len(found[2]) == 2 and start > 0)


def _are_cuts(cuts):
  """Whether the numbers of one name are seconds: BWV-1001-1006 is a title."""
  if any(cut.start == 0 for cut in cuts):
    return True
  if any(cut.is_date for cut in cuts):
    return False
  starts, ends = {cut.start for cut in cuts}, {cut.end for cut in cuts}
  lengths = [cut.end - cut.start for cut in cuts]
  if min(starts) >= _WORKS or min(lengths) < _LEAST_CUT:
    return False
  steps = zip((cut.start for cut in cuts), lengths, strict=True)
  return bool(starts & ends) or all(s % length == 0 for s, length in steps)


def compile_pattern(pattern: str) -> re.Pattern:
  """Compiles `data.track_pattern`; raises ValueError if it is invalid."""
  try:
    compiled = re.compile(pattern, re.DOTALL)
  except (re.error, OverflowError, RecursionError) as error:
    raise ValueError(
      f"data.track_pattern is {pattern!r}, no regular expression ({error});"
      r" give one such as '(.+)_\d+'"
    ) from None
  if compiled.groups != 1:
    raise ValueError(
      f"data.track_pattern is {pattern!r}, with {compiled.groups} groups; the"
      r" track is its one group, as in '(.+)_\d+'; others begin with '(?:'"
    )
  return compiled


def _by_pattern(stems, pattern):
  compiled = compile_pattern(pattern)
  tracks, matched = dict(stems), False
  for id_, stem in stems.items():
    found = compiled.fullmatch(stem)
    if found and found[1]:
      tracks[id_], matched = found[1], True
  if stems and not matched:
    raise ValueError(
      f"data.track_pattern is {pattern!r}, which none of the {len(stems)} files"
      f" matches: it has to match all of {min(stems.values())!r}, for example"
    )
  return tracks


def ordered(tracks: Iterable[str], salt: str = "") -> list[str]:
  """The tracks in an order that depends only on their names and the salt."""

  def key(track):
    text = f"{salt} {track}" if salt else track
    return hashlib.sha256(text.encode()).digest()

  return sorted(tracks, key=key)


def split(class_of: Mapping[str, Hashable], salt: str = "") -> dict[str, str]:
  """{track: "train", "valid" or "test"}, class by class.

  The order of the tracks' hashes decides. A threshold on the hash could leave a
  small class without test clips. A track's split depends only on the names in
  its class, and a new track moves at most one across each boundary.

  Args:
    class_of: {track: its class}; one class for all if there are no classes. Of
      each class the first 20 % are for testing, the next 10 % for validation,
      at least one track each if there are three.
    salt: names the split; another salt gives another split.
  """
  split_of = {}
  for members in by_class(class_of).values():
    order = ordered(members, salt)
    num_test = num_valid = 0
    if len(order) >= 3:
      num_test = max(1, round(_TEST_SHARE * len(order)))
      num_valid = max(1, round(_VALID_SHARE * len(order)))
    num_train = len(order) - num_test - num_valid
    splits = ["test"] * num_test + ["valid"] * num_valid + ["train"] * num_train
    split_of |= zip(order, splits, strict=True)
  return split_of


def by_class(class_of: Mapping[str, Hashable]) -> dict[Hashable, list[str]]:
  """{class: its tracks}"""
  tracks_of = collections.defaultdict(list)
  for track, class_ in class_of.items():
    tracks_of[class_].append(track)
  return dict(tracks_of)


def classes(
  track_N: Sequence[str], labels_NxK: np.ndarray, *, single: bool
) -> dict[str, int]:
  """{track: the class of its first clip}; 0 unless labels are single."""
  found = {}
  for track, labels_K in zip(track_N, labels_NxK, strict=True):
    found.setdefault(track, int(labels_K.argmax()) if single else 0)
  return found
