"""Searches tables for similar songs, and makes playlists.

    tables = Tables(["music.parquet"])
    found = songs.similar(tables, ["a.mp3", "b.mp3"], unlike=["c.mp3"])
    paths = songs.way(tables, "a.mp3", "b.mp3", count=20)
    songs.save("way.m3u8", tables, paths)

A song is a track of the tables, or another file, which is embedded first.
"""

import collections
import os
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vicreg_jax import files, messages
from vicreg_jax.data.audio import AudioError
from vicreg_jax.data.tracks import tracks_of
from vicreg_jax.library import audio_paths, neighbours, playlists, route
from vicreg_jax.library.made_by import check_passages, encoder_of
from vicreg_jax.library.neighbours import Hit
from vicreg_jax.library.tables import Rows, Tables, Tags, joined, means, same
from vicreg_jax.use import pooling

# Copies, in another format or of another rate: the least cosine, and by how
# much durations may differ.
_COPY, _COPY_SECONDS = 0.9999, 1.0


class Found(NamedTuple):
  """Songs or passages that are similar to some songs."""

  hits: list[Hit]  # the most similar first
  query: Rows  # of the songs asked for; `Hit.query` is the number of a row
  tags: dict[str, Tags]  # of the hits, by their paths
  copies: int  # songs that are left out as copies of hits


class Limits(NamedTuple):
  """Limits on hits. None: no limit."""

  per_artist: int | None = None  # at most so many songs; unknown ones all count
  per_album: int | None = None  # so called in one folder
  tempo: float | None = None  # percent faster or slower than a seed, at most


_NONE = Limits()


def read(
  tables: Tables, arguments: Sequence[str], model: str | None = None
) -> list[Rows]:
  """The rows of each named song, under one path.

  Args:
    tables: whose rows are taken; other files are embedded.
    arguments: paths of the tables, other files, folders, globs, @LISTs and
      playlists. Files of folders and lists without audio are left out, and
      reported.
    model: embeds other files; see `made_by.encoder_of`.

  Raises:
    ValueError: an argument is neither in the tables nor a file with audio, or
      no song is left.
  """
  known = tables.of_each(arguments)
  names = {}
  for argument in arguments:
    named = [argument] if argument in known else _files(argument, tables)
    names |= dict.fromkeys(named)
  known |= tables.of_each([name for name in names if name not in known])
  found, left_out, encoder = {}, collections.Counter(), None
  for name in names:
    rows = known.get(name)
    if rows is None:
      encoder = encoder or encoder_of(tables, model)
      try:
        rows = _embedded(name, tables, encoder)
      except AudioError as e:
        if name in arguments:
          raise
        left_out[e.reason] += 1
        example = messages.line(name)
        continue
    found.setdefault(same(rows.paths[0]), rows)
  for reason, count in left_out.items():
    print(f"left out: {count} {reason}", file=sys.stderr)
  if not found:
    raise ValueError(
      f"{', '.join(arguments)}: gives no audio ({example}: {reason}): name"
      " other files"
    )
  return list(found.values())


def _files(argument, tables) -> list[str]:
  """The files that an argument outside the tables stands for."""
  if os.path.exists(argument) or any(c in argument for c in "@*?["):
    named = audio_paths.look([argument])
    if named.left_out:
      print(f"left out: {named.left_out} on the network", file=sys.stderr)
    return named.paths
  raise ValueError(
    f"{argument}: neither a path in {', '.join(tables.paths)} nor a file;"
    " paths are as they were given to `embed`"
  )


def is_one(path: str) -> bool:
  """Whether a file is one song rather than a list of songs."""
  return os.path.isfile(path) and not playlists.is_called_one(path)


def _embedded(path, tables, encoder) -> Rows:
  hop = tables.about.get("hop")
  y_SxD, starts_S, ends_S, _ = encoder.embed_segments(
    path, hop_seconds=hop and hop / encoder.sample_rate
  )
  name, how = audio_paths.utf8(path), tables.about.get("pooling")
  if how in pooling.TIMES:  # one row, as those of the tables
    y_1xD = pooling.of(y_SxD, how)[None]
    return Rows([name], starts_S[:1], ends_S[-1:], y_1xD)
  return Rows([name] * len(y_SxD), starts_S, ends_S, y_SxD)


def similar(
  tables: Tables,
  like: Sequence[str],
  *,
  unlike: Sequence[str] = (),
  model: str | None = None,
  by: str = "tracks",
  at: float | None = None,
  top: int = 10,
  scale: str = "none",
  other_tracks: bool = False,
  limits: Limits = _NONE,
) -> Found:
  """The songs, or passages, of tables that are most like some songs.

  Args:
    tables: the tables to search.
    like: songs, as in `read`. The query of several songs is the mean of their
      unit vectors. These songs are not among the hits, but copies of them are.
    unlike: songs; the mean of their unit vectors is subtracted.
    model: embeds songs that are not in the tables.
    by: "tracks"; or "segments": passages, like any passage of one song.
    at: with "segments": like the passage at this second.
    top: how many hits at most.
    scale: of `neighbours.SCALES`, applied before vectors become unit vectors.
    other_tracks: leaves out pieces of the same track, as in a data set.
    limits: on tracks; with limits, copies of hits are left out, too: equal
      vectors, or a cosine above 0.9999 and durations within a second.

  Raises:
    ValueError: a song cannot be read, or the options contradict each other.
  """
  _check(tables, by, at, limits)
  passages = by == "segments"
  seeds = read(tables, like, model)
  others = read(tables, unlike, model) if unlike else []
  query = _passages(seeds, others, at) if passages else _tracks(seeds)
  names = {rows.paths[0] for rows in (*seeds, *others)}
  is_own = (_pieces(names, tables) if other_tracks else names).__contains__
  scaling = neighbours.scaling_of(tables, scale)

  def search(scaled_QxD, count):
    pieces = tables.segments() if passages else tables.tracks()
    return neighbours.search(scaled_QxD, pieces, scaling, is_own, count)

  unit_QxD = np.asarray(scaling.unit(query.y_NxD))
  if passages:
    hits = search(unit_QxD, top)
    return Found(hits, query, tables.tags({hit.path for hit in hits}), 0)
  far = scaling.unit(_tracks(others).y_NxD) if others else ()
  blend_1xD = neighbours.blend(unit_QxD, far)
  choice, wanted = _Choice(tables, limits, query.paths, top), top
  while True:
    hits = search(blend_1xD, wanted)
    kept, tags, copies = choice.of(hits)
    if len(kept) >= top or len(hits) < wanted:
      return Found(kept, query, tags, copies)
    wanted *= 4  # most of them were left out


def _tracks(songs: Iterable[Rows]) -> Rows:
  """A row a song, the mean of its own."""
  return joined(*(next(means([rows])) for rows in songs))


def _passages(seeds, others, second: float | None) -> Rows:
  """The rows of the one song, or its row whose middle is nearest to a second.

  Raises ValueError if there are several songs, or no row at that second.
  """
  if others or len(seeds) > 1:
    raise ValueError(
      "--by=segments is for one song, without --not: passages have no mean"
    )
  (rows,) = seeds
  if second is None:
    return rows
  if not rows.start_N.min() <= second <= rows.end_N.max():
    raise ValueError(
      f"--at={second:g}: {rows.paths[0]} is embedded from"
      f" {rows.start_N.min():g} to {rows.end_N.max():g} seconds"
    )
  i = int(np.abs((rows.start_N + rows.end_N) / 2 - second).argmin())
  return rows.take([i])


def _pieces(names: set[str], tables: Tables) -> set[str]:
  """The paths that are named as pieces of the same tracks, as in a data set."""
  here = os.getcwd()
  key_of = {path: same(path, here) for path in (*names, *tables.names())}
  track_of = tracks_of(key_of.values())
  own = {track_of[key_of[name]] for name in names}
  return {path for path, key in key_of.items() if track_of[key] in own}


class _Choice:
  """Leaves copies out of hits, and hits beyond the limits."""

  def __init__(self, tables, limits, seeds, top):
    """`seeds`: paths of the songs that are asked for."""
    self._tables, self._limits, self._top = tables, limits, top
    told = tables.tags(set(seeds)).values() if limits.tempo is not None else ()
    self._tempi = [tags.tempo for tags in told if tags.tempo]
    if limits.tempo is not None and not self._tempi:
      raise ValueError(
        f"--tempo={limits.tempo:g}: the tempo of {seeds[0]} is unknown: name a"
        " song of the tables that has one"
      )

  def of(self, hits: list[Hit]) -> tuple[list[Hit], dict[str, Tags], int]:
    """The hits that count, the tags of all hits, and the number of copies."""
    told = self._tables.tags({hit.path for hit in hits})
    kept, copies = [], 0
    counts, seen = collections.Counter(), _Seen(len(hits), self._tables.size)
    for hit in hits:
      tags = told.get(hit.path, Tags())
      if len(kept) == self._top:
        break
      groups = self._groups(hit, tags)
      if not self._in_tempo(tags) or any(
        counts[group] >= most for group, most in groups.items()
      ):
        continue
      if seen.has(hit.unit_D, tags.duration or hit.end):
        copies += 1
        continue
      kept.append(hit)
      counts.update(groups.keys())
    return kept, told, copies

  def _in_tempo(self, tags) -> bool:
    most = self._limits.tempo
    return most is None or any(
      tags.tempo and abs(tags.tempo / tempo - 1) <= most / 100 + 1e-9
      for tempo in self._tempi
    )

  def _groups(self, hit, tags) -> dict[tuple, int]:
    """{group of songs: how many of it are let in}"""
    groups = {}
    if self._limits.per_artist is not None and tags.artist:
      groups["artist", tags.artist.casefold()] = self._limits.per_artist
    if self._limits.per_album is not None and tags.album:
      album = "album", tags.album.casefold(), os.path.dirname(hit.path)
      groups[album] = self._limits.per_album
    return groups


class _Seen:
  """Songs that others are compared with, to find copies."""

  def __init__(self, most: int, size: int):
    """`most`: how many songs there will be at most, of vectors [size]."""
    self._unit_NxD = np.empty((most, size), np.float32)
    self._seconds_N, self._count = np.empty(most), 0

  def has(self, unit_D: np.ndarray, seconds: float) -> bool:
    """Whether a copy of this song was seen; else adds the song."""
    n = self._count
    unit_NxD = self._unit_NxD[:n]
    # Vectors without a length have no cosine.
    near_N = (
      unit_NxD @ unit_D > _COPY if unit_D.any() else ~unit_NxD.any(axis=1)
    )
    near = np.flatnonzero(near_N)
    close_M = np.abs(self._seconds_N[near] - seconds) <= _COPY_SECONDS
    equal_M = np.abs(unit_NxD[near] - unit_D).max(axis=1, initial=0) <= 1e-6
    if (close_M | equal_M).any():
      return True
    self._unit_NxD[n], self._seconds_N[n], self._count = unit_D, seconds, n + 1
    return False


def _check(tables, by, at, limits):
  """Raises ValueError if options contradict each other or the tables."""
  if at is not None and by != "segments":
    raise ValueError(f"--at={at:g} is a passage: add --by=segments")
  check_passages(tables, by)
  columns = {"per_artist": "artist", "per_album": "album", "tempo": "tempo"}
  for name, column in columns.items():
    flag = f"--{name.replace('_', '-')}"
    if getattr(limits, name) is None:
      continue
    if by == "segments":
      raise ValueError(f"{flag} is of tracks: leave --by=segments out")
    if not tables.have(column):
      raise ValueError(
        f"{flag}: {tables.paths[0]} has no column {column}: embed its files"
        f" again, or leave {flag} out"
      )


def way(
  tables: Tables,
  first: str,
  last: str,
  *,
  count: int | None = None,
  model: str | None = None,
  scale: str = "none",
) -> list[str]:
  """Paths that lead from one song to another, both among them.

  See `route.between`. Copies, as in `similar`, count once.

  Args:
    tables: the songs to choose from.
    first: a path of the tables, or of an audio file.
    last: another one.
    count: of songs; None: 20, or all if there are fewer.
    model: embeds songs that are not in the tables.
    scale: of `neighbours.SCALES`.

  Raises:
    ValueError: the two songs are one, or there are fewer songs than `count`.
  """
  ends = read(tables, [first, last], model)
  if len(ends) != 2:
    raise ValueError(
      f"{first} and {last}: a way leads from one song to another: name two"
    )
  songs = joined(*tables.tracks())
  new = [rows for rows in ends if rows.paths[0] not in set(songs.paths)]
  if new:
    songs = joined(songs, _tracks(new))
  unit_NxD = np.asarray(neighbours.scaling_of(tables, scale).unit(songs.y_NxD))
  left = np.arange(len(songs.paths))
  at = [songs.paths.index(rows.paths[0]) for rows in ends]
  while True:
    start, end = (int(np.searchsorted(left, i)) for i in at)
    num = min(20, len(left)) if count is None else count
    chosen = left[route.between(unit_NxD[left], start, end, num)]
    told = tables.tags([songs.paths[i] for i in chosen])
    copies, seen = [], _Seen(len(chosen), tables.size)
    for i in (*at, *(i for i in chosen if i not in at)):
      tags = told.get(songs.paths[i], Tags())
      if seen.has(unit_NxD[i], tags.duration or songs.end_N[i]):
        copies.append(i)
    copies = np.setdiff1d(copies, at)
    if not copies.size:
      return [songs.paths[i] for i in chosen]
    left = np.setdiff1d(left, copies)


def order(
  tables: Tables,
  arguments: Sequence[str],
  *,
  model: str | None = None,
  scale: str = "none",
) -> list[str]:
  """The named songs (see `read`) in an order of small steps.

  See `route.smooth`; `scale` is of `neighbours.SCALES`, fitted to all tables.
  """
  songs = _tracks(read(tables, arguments, model))
  unit_NxD = neighbours.scaling_of(tables, scale).unit(songs.y_NxD)
  return [songs.paths[i] for i in route.smooth(np.asarray(unit_NxD))]


def save(
  path, tables: Tables, paths: Iterable[str], *, relative: bool = True
) -> int:
  """Writes songs as an M3U8 playlist; see `playlists.m3u8`.

  Args:
    path: of the playlist, which `files.output` has allowed.
    tables: with artist, title and duration, if known.
    paths: of songs; each song is written once.
    relative: to the playlist's folder; else absolute.

  Returns the number of songs. Songs that do not exist, or whose names cannot be
  written, are reported. Raises OSError if the playlist cannot be written.
  """
  paths = list(dict.fromkeys(paths))
  told, there = tables.tags(paths), [audio_paths.on_disk(p) for p in paths]
  entries = []
  for name, file in zip(paths, there):
    tags = told.get(name, Tags())
    entry = playlists.Entry(file, tags.duration, tags.artist, tags.title)
    entries.append(entry)
  made = playlists.m3u8(path, entries, relative=relative)
  files.write(path, made.content)
  missing = [file for file in there if not os.path.isfile(file)]
  for what, names in (
    ("left out, as their names have line breaks", made.left_out),
    ("not there, though in the playlist", missing),
  ):
    if names:
      print(
        f"{what}: {len(names)} files, such as {messages.line(names[0])}",
        file=sys.stderr,
      )
  return len(paths) - len(made.left_out)
