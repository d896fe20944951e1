"""Writes a playlist: from one song to another, or in a smooth order."""

import sys

from vicreg_jax import files
from vicreg_jax.library import songs
from vicreg_jax.library.tables import Tables, split


def run(args) -> int:
  """Writes the playlist."""
  names, paths = split([args.embeddings, *args.paths])
  target = output(args, [*names, *paths])
  tables = Tables(names)
  is_way = len(paths) == 2 and all(
    tables.of(path) or songs.is_one(path) for path in paths
  )
  how = {"model": args.model, "scale": args.scale}
  if is_way:
    found = songs.way(tables, *paths, count=args.length, **how)
  elif args.length is not None:
    raise ValueError(
      f"--length={args.length} is of the way from one song to another: name"
      " two songs, or leave --length out"
    )
  elif not paths:
    raise ValueError(f"{', '.join(names)}: name songs, too, after the tables")
  else:
    found = songs.order(tables, paths, **how)
  save(args, target, tables, found)
  return 0


def output(args, inputs) -> str:
  """The path of --m3u, which `files.output` has allowed."""
  inputs = [*inputs, *(p[1:] for p in inputs if p.startswith("@"))]
  if args.model:
    inputs.append(args.model)
  return files.output(
    args.m3u, "--m3u", inputs=inputs, overwrite=args.overwrite
  )


def save(args, target, tables, paths):
  """Writes --m3u, and prints how many songs it has."""
  with files.explained(args.m3u, "--m3u"):
    count = songs.save(target, tables, paths, relative=not args.absolute)
  # Standard output may hold the answer of `similar`.
  print(f"{args.m3u}: {count} songs", file=sys.stderr)
