"""The nearest tracks, or passages, of tables to a file."""

import json
import os

import numpy as np

from vicreg_jax import messages
from vicreg_jax.data.tracks import tracks_of
from vicreg_jax.library import audio_paths, neighbours
from vicreg_jax.library import index as indexes
from vicreg_jax.library.made_by import check_passages, encoder_of
from vicreg_jax.library.tables import Rows, Tables, means, same


def run(args) -> int:
  """Prints the nearest tracks, or passages, of tables to a file."""
  tables, passages = Tables(args.embeddings), args.by == "segments"
  if args.at is not None and not passages:
    raise ValueError(f"--at={args.at:g} is a passage: add --by=segments")
  check_passages(tables, args.by)
  name, query = _query(args, tables)
  if args.at is not None:
    query = _passage(query, args.at)
  elif not passages:
    query = next(means([query]))
  own = _pieces(name, tables) if args.other_tracks else {name}
  hits = _hits(args, tables, query, own.__contains__)
  if not hits:
    raise ValueError(
      f"{args.path}: there is nothing else in {', '.join(args.embeddings)}"
    )
  _show(hits, query, passages, args.json)
  return 0


def _hits(args, tables, query, is_own) -> list[neighbours.Hit]:
  """Of the index, or of the tables."""
  if args.index:
    index = indexes.of_tables(args.index, tables, args.by, args.scale)
    return index.search(query.y_NxD, is_own, args.top)
  scaling = neighbours.scaling_of(tables, args.scale)
  pieces = tables.segments() if args.by == "segments" else tables.tracks()
  return neighbours.search(query.y_NxD, pieces, scaling, is_own, args.top)


def _query(args, tables) -> tuple[str, Rows]:
  """The path that is asked for, and its rows: of the tables, or embedded."""
  name = audio_paths.utf8(args.path)
  if rows := tables.of(name):
    return rows.paths[0], rows
  if not os.path.exists(args.path):
    raise ValueError(
      f"{args.path}: neither a path in {', '.join(args.embeddings)} nor a file;"
      " paths are as they were given to `embed`"
    )
  encoder = encoder_of(tables, args.model)
  hop = tables.about.get("hop")
  y_SxD, starts_S, ends_S, _ = encoder.embed_segments(
    args.path, hop_seconds=hop and hop / encoder.sample_rate
  )
  return name, Rows([name] * len(y_SxD), starts_S, ends_S, y_SxD)


def _passage(rows: Rows, second: float) -> Rows:
  """The row whose middle is nearest to a second. Raises if it has none."""
  if not rows.start_N.min() <= second <= rows.end_N.max():
    raise ValueError(
      f"--at={second:g}: {rows.paths[0]} is embedded from"
      f" {rows.start_N.min():g} to {rows.end_N.max():g} seconds"
    )
  i = int(np.abs((rows.start_N + rows.end_N) / 2 - second).argmin())
  return rows.take([i])


def _pieces(name, tables) -> set[str]:
  """The paths that are named as pieces of the same track, as in a data set."""
  here, names = os.getcwd(), [name, *tables.names()]
  key_of = {path: same(path, here) for path in names}
  track_of = tracks_of(key_of.values())
  own = track_of[key_of[name]]
  return {path for path, key in key_of.items() if track_of[key] == own}


def _show(hits, query: Rows, passages: bool, as_json: bool):
  """Prints a table, or JSON: a list of objects."""
  if as_json:
    found = []
    for hit in hits:
      found.append(hit._asdict())
      i = found[-1].pop("query")
      if passages:
        found[-1]["query_start"] = float(query.start_N[i])
        found[-1]["query_end"] = float(query.end_N[i])
    print(json.dumps(found, indent=1))
    return
  times = f"  {'passage':17}  {'like':17}" if passages else ""
  print(f"similarity{times}  path")
  for path, start, end, similarity, i in hits:
    if passages:
      like = _clock(query.start_N[i], query.end_N[i])
      times = f"  {_clock(start, end):17}  {like:17}"
    print(f"{similarity:10.3f}{times}  {messages.line(path)}")


def _clock(start, end) -> str:
  minutes = (f"{s // 60:.0f}:{s % 60:04.1f}" for s in (start, end))
  return " - ".join(minutes)
