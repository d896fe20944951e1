"""What the verbs of `python -m vicreg_jax` do; each returns an exit code."""

import collections
import functools
import json
import os
import sys

from vicreg_jax import cli, files
from vicreg_jax.data import beam_options
from vicreg_jax.data.audio import AudioError
from vicreg_jax.use import adopt, corpus
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import export as exports

EXIT_LEFT_OUT = 3  # complete, but for files that were left out


def embed(args) -> int:
  """Files to vectors, as one table, or as one for each share of them."""
  if args.beam:
    left_out = _on_beam(args)
  else:
    left_out = _embed(args, args.shard)
  for reason, count in sorted(left_out.items()):
    print(f"left out: {count} {reason}")
  return EXIT_LEFT_OUT if left_out else 0


def _embed(args, shard) -> dict[str, int]:
  """One table; returns how many files were left out, by their reasons."""
  paths, output = _share(args, shard)
  summary = corpus.embed(
    encoders.load(args.model),
    paths,
    output,
    hop_seconds=args.hop,
    pooling=args.pooling,
    format=args.format,
    overwrite=args.overwrite,
  )
  print(f"{output}: {summary.embedded} files embedded, {summary.known} known")
  return summary.left_out


def _share(args, shard) -> tuple[list[str], str]:
  """Files and table of a shard, (index, count); of all where it is None."""
  paths = corpus.expand(args.paths)
  if not shard:
    return paths, args.output
  index, count = shard
  stem, suffix = os.path.splitext(args.output)
  output = f"{stem}-{index:05}-of-{count:05}{suffix}"
  return corpus.share(paths, index, count), output


def _on_beam(args) -> dict[str, int]:
  """`_embed` of each share, on Apache Beam.

  The unit of work is a share, not a file: what a worker that died has done is
  kept, and a second call goes on, as it does without Beam.
  """
  options = beam_options.parse(args.beam, "--beam")
  import apache_beam as beam

  shards = [(index, args.shards) for index in range(args.shards)]
  try:
    with beam.Pipeline(options=options) as pipeline:
      _ = (
        pipeline
        | beam.Create(shards)
        | beam.Reshuffle()  # else they are one worker's
        | "embed" >> beam.Map(functools.partial(_embed, args))
      )
  except Exception as e:  # a worker's, with its traceback in the text
    raise ValueError(f"--beam={args.beam}: {cli.line(e)}") from e
  left_out = collections.Counter()
  for shard in shards:
    paths, output = _share(args, shard)
    left_out.update(corpus.left_out(paths, output, args.format))
  print(f"{args.shards} tables, {output} the last of them")
  return left_out


def tag(args) -> int:
  """Prints the most probable labels of files."""
  encoder, left_out = encoders.load(args.model), 0
  for path in corpus.expand(args.paths):
    try:
      found = encoder.tags(path, head=args.head)
    except AudioError as e:
      print(f"left out: {cli.line(e)}", file=sys.stderr)
      left_out += 1
      continue
    best = sorted(found.items(), key=lambda item: -item[1])[: args.top]
    told = ", ".join(f"{name} {share:.2f}" for name, share in best)
    print(f"{cli.line(path)}: {told}")
  return EXIT_LEFT_OUT if left_out else 0


def export(args) -> int:
  """Writes an encoder for other programs."""
  encoder = encoders.load(args.model)
  card = _card(args, encoder)
  names = exports.write(
    encoder.variables, card, args.output, args.format, encoder.heads
  )
  print(f"{args.output}: {', '.join(names)}")
  return 0


def _card(args, encoder) -> dict:
  """With the scores of a probe, where one lies beside the model."""
  path, scores = f"{args.model}/probe.json", None
  if files.exists(path):
    scores = json.loads(files.read(path))
  return exports.make_card(
    encoder.config.to_dict(),
    name=os.path.basename(os.path.normpath(args.model)),
    licence=args.license,
    training=exports.training_of(encoder.config, encoder.step)
    if encoder.step
    else None,
    tags=encoder.heads and encoder.heads.labels,
    scores=scores,
  )


def import_(args) -> int:
  """Makes a workdir of foreign weights."""
  print(f"{args.workdir}: {adopt.adopt(args.file, args.workdir)}")
  return 0
