"""FMA: clips of 30 s with a genre, CC-licensed (Defferrard et al., 2017).

`data.subset` is "small" (8,000 clips, 8 genres), "medium" (25,000, 16 genres:
the thesis's, and it contains "small"), "large" (106,574, about half without a
genre) or "full" (their tracks, untrimmed). `data.path` holds the clips and the
metadata as they were published, `fma_medium.zip` and `fma_metadata.zip`, which
are read in place; or extracted, `fma_medium/000/000002.mp3` and
`fma_metadata/tracks.csv`. If both exist the archive counts, as it is known to
be whole. The clips of a larger subset serve, too, except those of "full".

The official split is kept. Clips of "small" and "medium" have one top genre
each. Those of "large" and "full" are labelled as published: by the top genre of
each of their genres, which are several for half of them. `data.genres="single"`
keeps the clips that have one top genre, and labels by it. A clip's `track` is
its artist.
"""

import csv
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from vicreg_jax.data.datasets import archives, base, official, reports
from vicreg_jax.data.prepared import Prepared

_URL = "https://os.unil.cloud.switch.ch/fma/"
SHA1 = {  # of the published archives
  "fma_metadata.zip": "f0df49ffe5f2a6008d7dc83c6915b31835dfe733",
  "fma_small.zip": "ade154f733639d52e35e32f5593efe5be76c6d70",
  "fma_medium.zip": "c67b69ea232021025fca9231fc1c7c1a063ab50b",
  "fma_large.zip": "497109f4dd721066b5ce5e5f250ec604dc78939e",
  "fma_full.zip": "0f0ace23fbe9ba30ecb7e95f763e435ea802b8ab",
}
SUBSETS = ("small", "medium", "large")  # each in the next; "full" is no subset
_ONE_GENRE = ("small", "medium")  # of which every clip has one top genre
# Published empty or seconds long (the FMA's wiki and its issue 8), as they were
# cut where their tracks have ended; known, so that other faults stand out.
KNOWN_FAULTS = frozenset(
  (1486, 5574, 65753, 80391, 99134, 108925, 133297)  # empty
  + (98558, 98559, 98560)  # empty
  + (98565, 98566, 98567, 98568, 98569)  # short
  + (98571, 105247, 126981, 127336, 143992)  # empty, in "large" alone
)
_SPLITS = {"training": "train", "validation": "valid", "test": "test"}
_COLUMNS = (("set", "split"), ("set", "subset"), ("track", "genre_top"))
_COLUMNS += (("track", "genres"), ("artist", "id"))
_GENRES = re.compile(r"\[([0-9]{1,9}(, [0-9]{1,9})*)?\]")
_METADATA = "fma_metadata.zip"
_TRACKS, _TREE = "fma_metadata/tracks.csv", "fma_metadata/genres.csv"
_LONGEST_CELL = 1 << 24  # characters


class Fma(official.OfficialBuilder, skip_registration=True):
  """The builder of `data.name="fma"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  @classmethod
  def variant(cls, data) -> str:
    several = data.subset not in _ONE_GENRE
    return f"{data.subset}-{data.genres}" if several else data.subset

  @classmethod
  def get(cls, data) -> Prepared:
    prepared = super().get(data)
    if prepared.tracks in (0, sum(prepared.num_clips.values())):
      logging.warning(
        "%s was prepared by an earlier version, which knew no artists: random"
        " splits (probe.splits) and shares of labels mix them. Delete that"
        " directory to have it prepared anew",
        prepared.path,
      )
    return prepared

  @classmethod
  def source(cls, data) -> base.Source:
    root = official.local_directory(data.path)
    files = _files(root, data.subset)
    tracks = read_tracks(root, data.subset)
    one = data.subset in _ONE_GENRE
    if one or data.genres == "single":
      genres_of = {track.id: {track.genre_top} - {""} for track in tracks}
    else:
      genres_of = _top_genres(tracks, read_genres(root))
    genres = tuple(sorted(set().union(*genres_of.values())))
    skipped = {name: "unsafe name in the archive" for name in files.unsafe}
    rows = []
    for track in tracks:
      # As published: six digits, the first three are the folder.
      name = f"{track.id:06d}.mp3"
      name = f"{name[:3]}/{name}"
      if track.id in KNOWN_FAULTS and data.subset != "full":
        skipped[name] = reports.KNOWN_FAULT
      elif not one and data.genres == "single" and not genres_of[track.id]:
        skipped[name] = "no single top genre"
      else:
        artist = f"artist {track.artist}"
        rows.append((track.split, name, artist, genres_of[track.id]))
    stamps = files.stamp(name for _, name, *_ in rows)
    before = [files.former(stamps), [track[:3] for track in tracks]]
    single = all(genres_of.values()) if one else data.genres == "single"
    return base.Source(
      name=cls.variant(data),
      identity=[
        stamps,
        [[t.id, t.split, t.artist, sorted(genres_of[t.id])] for t in tracks],
      ],
      former=[before] if one else [],  # the others were labelled wrongly
      splits=official.clips(rows, files, genres, data),
      labels=genres,
      label_kind="single" if single else "multi",
      skipped=skipped,
      contents=official.contents(stamps),
    )


class Track(NamedTuple):
  """A row of `tracks.csv`."""

  id: int
  split: str
  genre_top: str  # "" where the genres have several top genres, or are none
  genres: str  # as its artist gave them, such as "[21, 66]"
  artist: int


def read_tracks(root: str, subset: str) -> list[Track]:
  """The tracks of a subset, in the order of the file.

  `tracks.csv` has three header rows: groups, names, and the index's name.
  """
  with _metadata(root, _TRACKS) as lines:
    tracks = _tracks(lines, _up_to(subset))
    if not tracks:
      raise ValueError(f"no track is in the subset {subset!r}")
  return tracks


def read_genres(root: str) -> dict[int, str]:
  """{genre: the title of its top genre} of the tree of genres."""
  with _metadata(root, _TREE) as lines:
    header = next(lines, [])
    if missing := {"genre_id", "title", "top_level"} - set(header):
      raise ValueError(f"no column {', '.join(sorted(missing))}")
    title_of, top_of = {}, {}
    for row in lines:
      if len(row) != len(header):
        raise ValueError(f"{len(row)} cells for {len(header)} columns")
      cells = dict(zip(header, row, strict=True))
      title_of[int(cells["genre_id"])] = cells["title"]
      top_of[int(cells["genre_id"])] = int(cells["top_level"])
    if lost := set(top_of.values()) - set(title_of):
      raise ValueError(f"the top genre {min(lost)} is not listed")
  return {genre: title_of[top] for genre, top in top_of.items()}


def _top_genres(tracks, top_of: Mapping[int, str]) -> dict[int, set[str]]:
  """{track: the top genres of all its genres}"""
  found = {}
  for track in tracks:
    genres = [int(genre) for genre in re.findall("[0-9]+", track.genres)]
    if lost := [genre for genre in genres if genre not in top_of]:
      raise ValueError(
        f"{_TRACKS}: track {track.id} has genre {lost[0]}, which {_TREE} does"
        f" not list: get {_METADATA} again"
      )
    found[track.id] = {top_of[genre] for genre in genres}
  return found


def _metadata(root, name):
  """A table of the metadata, from its archive, or as it was extracted."""
  path = os.path.join(root, _METADATA)
  if tf.io.gfile.exists(path):
    archive = archives.Zip.open([path])
    return archives.table(
      f"{path} ({name})", _METADATA, lambda _: archive.open_text(name)
    )
  path = os.path.join(root, name)
  if not tf.io.gfile.exists(path):
    raise _missing(root, _METADATA, name)
  return archives.table(path, _METADATA)


def _up_to(subset):
  if subset == "full":  # no row says so: all are in it
    return SUBSETS
  return SUBSETS[: SUBSETS.index(subset) + 1]


def _tracks(lines, subsets):
  # Biographies are cells too, and longer than the csv module expects.
  csv.field_size_limit(_LONGEST_CELL)
  header = list(zip(next(lines, []), next(lines, [])))
  index_name = (next(lines, []) or [""])[0]
  missing = [".".join(c) for c in _COLUMNS if c not in header]
  if index_name != "track_id" or missing:
    raise ValueError(f"no column {', '.join(missing) or 'track_id'}")
  columns = [header.index(column) for column in _COLUMNS]
  tracks, ids = [], set()
  for row in lines:
    if len(row) != len(header):
      raise ValueError(f"{len(row)} cells for {len(header)} columns")
    split, subset, genre_top, genres, artist = (row[c] for c in columns)
    if split not in _SPLITS or subset not in SUBSETS or not row[0].isdigit():
      raise ValueError(
        f"{row[0]!r} is not a track id, {split!r} not one of "
        f"{', '.join(_SPLITS)}, or {subset!r} not one of {', '.join(SUBSETS)}"
      )
    if not (_GENRES.fullmatch(genres) and artist.isdigit()):
      raise ValueError(
        f"{genres!r} are no genres such as [21, 66], or {artist!r} no artist"
      )
    track_id = int(row[0])
    if track_id in ids:
      raise ValueError(f"track {track_id} is there twice")
    ids.add(track_id)
    if subset in subsets:
      track = Track(track_id, _SPLITS[split], genre_top, genres, int(artist))
      tracks.append(track)
  return tracks


def _files(root, subset):
  # Untrimmed tracks are no clips of 30 s.
  larger = ("full",) if subset == "full" else SUBSETS[SUBSETS.index(subset) :]
  for name in larger:
    path = os.path.join(root, f"fma_{name}.zip")
    if tf.io.gfile.exists(path):
      return archives.Zip.open([path])
    if os.path.isdir(os.path.join(root, f"fma_{name}")):
      return official.tree(os.path.join(root, f"fma_{name}"))
  raise _missing(root, f"fma_{subset}.zip", f"fma_{subset}/")


def _missing(root, archive, extracted):
  return official.missing(
    root,
    (archive, extracted),
    f"put one of them there, as by curl -C - -O {_URL}{archive} (SHA-1"
    f" {SHA1[archive]})",
  )
