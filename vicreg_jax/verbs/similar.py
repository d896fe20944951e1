"""The tracks, or passages, of tables that are nearest to some songs."""

import json
import sys

from vicreg_jax import messages
from vicreg_jax.library import songs
from vicreg_jax.library.tables import Tables, Tags, split
from vicreg_jax.verbs import playlist


def run(args) -> int:
  """Searches, prints the hits, and writes --m3u if it is given."""
  names, paths = split([args.embeddings, *args.paths])
  if not paths:
    raise ValueError(f"{', '.join(names)}: name a song, too, after the tables")
  if args.m3u:
    target = playlist.output(args, [*names, *paths, *args.unlike])
  tables = Tables(names)
  limits = songs.Limits(args.per_artist, args.per_album, args.tempo)
  found = songs.similar(
    tables,
    paths,
    unlike=args.unlike,
    model=args.model,
    by=args.by,
    at=args.at,
    top=args.top,
    scale=args.scale,
    other_tracks=args.other_tracks,
    limits=limits,
  )
  if not found.hits:
    within = " within these limits" if any(limits) else ""
    raise ValueError(
      f"{', '.join(paths)}: there is nothing else in {', '.join(names)}{within}"
    )
  _show(found, args.by == "segments", args.json)
  if found.copies:
    print(f"copies, not shown: {found.copies}", file=sys.stderr)
  if args.m3u:
    playlist.save(args, target, tables, [hit.path for hit in found.hits])
  return 0


def _show(found: songs.Found, passages: bool, as_json: bool):
  """Prints a table, or JSON: a list of objects."""
  hits, query, told, _ = found
  if as_json:
    shown = []
    for hit in hits:
      shown.append(
        {
          "path": hit.path,
          "start": hit.start,
          "end": hit.end,
          "similarity": hit.similarity,
        }
      )
      if passages:
        shown[-1]["query_start"] = float(query.start_N[hit.query])
        shown[-1]["query_end"] = float(query.end_N[hit.query])
      if hit.path in told:
        shown[-1] |= told[hit.path]._asdict()
    print(json.dumps(shown, indent=1))
    return
  times = f"  {'passage':17}  {'like':17}" if passages else ""
  names = [_name(told.get(hit.path, Tags())) for hit in hits]
  width = max(map(len, names))
  song = f"  {'song':{width}}" if width else ""
  print(f"similarity{times}{song}  path")
  for hit, name in zip(hits, names):
    if passages:
      i = hit.query
      like = _clock(query.start_N[i], query.end_N[i])
      times = f"  {_clock(hit.start, hit.end):17}  {like:17}"
    song = f"  {name:{width}}" if width else ""
    print(f"{hit.similarity:10.3f}{times}{song}  {messages.line(hit.path)}")


def _name(tags: Tags) -> str:
  """Artist and title, if they are known."""
  names = filter(None, (tags.artist, tags.title))
  return messages.line(" \N{EN DASH} ".join(names))


def _clock(start, end) -> str:
  minutes = (f"{s // 60:.0f}:{s % 60:04.1f}" for s in (start, end))
  return " - ".join(minutes)
