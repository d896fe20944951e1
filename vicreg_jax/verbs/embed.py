"""Embeds files into one table, or into a table for each share of them."""

import collections
import functools
import os

from vicreg_jax import messages
from vicreg_jax.data import on_beam
from vicreg_jax.library import audio_paths, embedding
from vicreg_jax.use import encoder as encoders
from vicreg_jax.verbs import EXIT_LEFT_OUT


def run(args) -> int:
  """Embeds files, and prints how many were left out."""
  left_out, damaged = _on_beam(args) if args.beam else _embed(args, args.shard)
  for reason, count in sorted(left_out.items()):
    print(f"left out: {count} {reason}")
  if damaged:
    print(f"damaged: {damaged}, embedded as far as they can be read")
  return EXIT_LEFT_OUT if left_out else 0


def _embed(args, shard) -> tuple[dict[str, int], int]:
  """Writes a table; returns files left out by reason, and damaged files."""
  named = _named(args)
  paths, output = _share(args, shard, named.paths)
  summary = embedding.embed_files(
    encoders.load(args.model),
    paths,
    output,
    hop_seconds=args.hop,
    pooling=args.pooling,
    format=args.format,
    overwrite=args.overwrite,
    describe=args.describe,
    inputs=[args.model, *named.lists],
    roots=named.roots,
    prune=args.prune,
  )
  left_out = _with_network(summary.left_out, named)
  told = f"{summary.embedded} files embedded, {summary.known} known"
  if summary.moved:
    told += f" ({summary.moved} moved)"
  if left_out:
    told += f", {sum(left_out.values())} left out"
  print(f"{output}: {told}")
  if summary.gone:
    done = "dropped" if args.prune else "kept; --prune drops them"
    print(f"gone: {summary.gone} files of the table, whose rows are {done}")
  return left_out, summary.damaged


def _named(args) -> audio_paths.Named:
  # A table that is begun anew has no files that can be gone.
  gone_too = bool(args.prune) and not args.overwrite
  return audio_paths.look(args.paths, gone_too=gone_too)


def _with_network(left_out, named) -> dict[str, int]:
  """`left_out` with the entries of lists that are on the network."""
  if named.left_out:
    return {**left_out, "on the network": named.left_out}
  return left_out


def _share(args, shard, paths) -> tuple[list[str], str]:
  """Files and table of a shard, (index, count), or of all if it is None."""
  if not shard:
    return paths, args.output
  index, count = shard
  stem, suffix = os.path.splitext(args.output)
  output = f"{stem}-{index:05}-of-{count:05}{suffix}"
  return audio_paths.share(paths, index, count), output


def _on_beam(args) -> tuple[dict[str, int], int]:
  """`_embed` of each share, on Apache Beam.

  The unit of work is a share, not a file: parts by a worker that died are kept,
  and a second call resumes, as without Beam.
  """
  options = on_beam.options(args.beam, "--beam")
  import apache_beam as beam

  shards = [(index, args.shards) for index in range(args.shards)]
  try:
    with beam.Pipeline(options=options) as pipeline:
      _ = (
        pipeline
        | beam.Create(shards)
        | beam.Reshuffle()  # else one worker gets all shares
        | "embed" >> beam.Map(functools.partial(_embed, args))
      )
  except Exception as e:  # a worker's, with its traceback in the text
    raise ValueError(f"--beam={args.beam}: {messages.line(e)}") from e
  named = _named(args)
  left_out, damaged = collections.Counter(), 0
  for shard in shards:
    paths, output = _share(args, shard, named.paths)
    found = embedding.faults(paths, output, args.format)
    left_out.update(found[0])
    damaged += found[1]
  print(f"{args.shards} tables, {output} the last of them")
  return _with_network(left_out, named), damaged
