"""What the verbs of `python -m vicreg_jax` do; each returns an exit code."""

import json
import os
import sys

from vicreg_jax import cli, files
from vicreg_jax.data.audio import AudioError
from vicreg_jax.use import adopt, corpus
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import export as exports

EXIT_LEFT_OUT = 3  # complete, but for files that were left out


def embed(args) -> int:
  """Files to vectors, as one table."""
  paths, output = corpus.expand(args.paths), args.output
  if args.shard:
    index, count = args.shard
    paths = corpus.share(paths, index, count)
    stem, suffix = os.path.splitext(output)
    output = f"{stem}-{index:05}-of-{count:05}{suffix}"
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
  for reason, count in sorted(summary.left_out.items()):
    print(f"left out: {count} {reason}")
  return EXIT_LEFT_OUT if summary.left_out else 0


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
