"""Writes an encoder for other programs."""

import contextlib
import json
import os

from vicreg_jax import files, messages
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import export as exports


def run(args) -> int:
  """Writes the encoder, and prints the files."""
  encoder = encoders.load(args.model)
  with contextlib.suppress(OSError):  # one of them is new, or a name
    if os.path.samefile(args.model, args.output):
      raise ValueError(
        f"--output={args.output} is the model itself: give another directory"
      )
  card = _card(args, encoder)
  names = exports.write(
    encoder.variables, card, args.output, args.format, encoder.heads
  )
  print(f"{args.output}: {', '.join(names)}")
  return 0


def _card(args, encoder) -> dict:
  """The facts about the weights for a card; an export's are in its card."""
  known = encoder.card
  if known is None:
    # An imported encoder has made no steps of ours.
    trained = encoder.step and not encoder.config.get("imported")
    known = {
      "scores": _scores(args.model, encoder),
      "tags": encoder.heads and encoder.heads.labels,
      "training": exports.training_of(encoder.config, encoder.step)
      if trained
      else None,
    }
  return exports.make_card(
    encoder.config.to_dict(),
    name=os.path.basename(os.path.normpath(args.model)),
    licence=args.license,
    **{key: known.get(key) for key in ("training", "tags", "scores")},
  )


def _scores(workdir, encoder) -> dict | None:
  """The scores in a model's workdir, if they are of its weights."""
  path = f"{workdir}/probe.json"
  if not files.exists(path):
    return None
  try:
    scores = json.loads(files.read(path))
    weights = scores.get("of", {}).get("weights")
    # A training with labels has scores there, too.
    same = weights == encoder.fingerprint() or (
      encoder.config.job == "supervised"
      and encoder.heads is not None
      and encoder.heads.step == scores["step"]
    )
  except (OSError, ValueError, AttributeError, KeyError) as e:
    raise ValueError(
      f"{path}: damaged ({messages.line(e)}): probe again, or delete it"
    ) from e
  return scores if same else None
