"""Writes an encoder for other programs."""

import json
import os

from vicreg_jax import files
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import export as exports


def run(args) -> int:
  """Writes it, and prints what."""
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
