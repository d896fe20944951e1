"""MTG-Jamendo: 55,000 whole tracks with tags (Bogdanov et al., 2019).

`data.path` holds `data/` of the repository MTG/mtg-jamendo-dataset, and the
tracks as its script unpacks them: the folders `00` to `99`, there or below
`audio/` or `audio-low/`. A track is `00/1376800.mp3`, or `00/1376800.low.mp3`
in the smaller edition; where both are there, the first.

`data.tags` is the set of tags, with its tracks: "top50" (54,380), "genre",
"instrument", "moodtheme", or "all" of them. `data.split_number`, 0 to 4, is the
official split. No artist is in two of its parts. A clip's `track` is its
artist.
"""

import os
import re

import tensorflow as tf
import tensorflow_datasets as tfds

from vicreg_jax.data.datasets import archives, base, official

TAGS = {  # data.tags: how the files of its splits begin
  "top50": "autotagging_top50tags",
  "genre": "autotagging_genre",
  "instrument": "autotagging_instrument",
  "moodtheme": "autotagging_moodtheme",
  "all": "autotagging",
}
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
_PATH, _ARTIST = re.compile(r"\d\d/\d+\.mp3"), re.compile(r"artist_\d+")
_FOLDERS = ("", "audio", "audio-low")


class MtgJamendo(official.OfficialBuilder, skip_registration=True):
  """The builder of `data.name="mtg_jamendo"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  @classmethod
  def variant(cls, data) -> str:
    return f"{data.tags}-split-{data.split_number}"

  @classmethod
  def source(cls, data) -> base.Source:
    root = official.local_directory(data.path)
    rows = read_splits(root, data.tags, data.split_number)
    files = _files(root)
    tags = tuple(sorted({tag for *_, tags in rows for tag in tags}))
    found = []
    for split, path, artist, of_track in rows:
      low = path.replace(".mp3", ".low.mp3")
      name = low if path not in files and low in files else path
      found.append((split, name, artist, of_track))
    stamps = files.stamp(name for _, name, *_ in found)
    return base.Source(
      name=cls.variant(data),
      identity=[stamps, rows],
      splits=official.clips(found, files, tags, data),
      labels=tags,
      label_kind="multi",
      contents=official.contents(stamps),
      kept_at=cls.kept_at(data),
    )


def read_splits(
  root: str, tags: str, number: int
) -> list[tuple[str, str, str, list[str]]]:
  """(split, path, artist, tags) of the tracks of an official split."""
  rows, lines_of = [], {}
  for split, name in _SPLITS.items():
    path = os.path.join(
      root, "data", "splits", f"split-{number}", f"{TAGS[tags]}-{name}.tsv"
    )
    if not tf.io.gfile.exists(path):
      raise official.missing(
        root,
        (os.path.relpath(path, root),),
        "put there the folder data/ of the repository MTG/mtg-jamendo-dataset",
      )
    again = "the published file"
    with archives.table(path, again, delimiter="\t") as lines:
      for track, artist, of_track in _tracks(lines):
        if track in lines_of:
          raise ValueError(f"{track} is in {lines_of[track]}, too")
        lines_of[track] = f"{path} line {lines.line_num}"
        rows.append((split, track, artist, of_track))
  return rows


def _tracks(lines):
  if next(lines, []) != _HEADER:
    raise ValueError(f"the columns are not {', '.join(_HEADER)}")
  for row in lines:
    # A tag a cell, as many as there are.
    _, artist, _, path, _, *tags = row + [""] * (len(_HEADER) - len(row))
    if not (_PATH.fullmatch(path) and _ARTIST.fullmatch(artist) and all(tags)):
      raise ValueError(
        f"{path!r} is no path such as 00/1376800.mp3, {artist!r} no artist, or"
        " it has no tags"
      )
    yield path, artist, tags


def _files(root):
  for folder in _FOLDERS:
    place = os.path.join(root, folder)
    if any(os.path.isdir(os.path.join(place, f"{i:02d}")) for i in range(100)):
      return archives.Tree(place)
  raise official.missing(
    root, ("00", "audio/00", "audio-low/00"), "unpack the tracks there"
  )
