"""The most probable labels of files, by the heads of a probe."""

import sys

from vicreg_jax import messages
from vicreg_jax.data.audio import AudioError
from vicreg_jax.library import audio_paths
from vicreg_jax.use import encoder as encoders
from vicreg_jax.verbs import EXIT_LEFT_OUT


def run(args) -> int:
  """Prints a line a file."""
  encoder = encoders.load(args.model)
  named = audio_paths.look(args.paths)
  if left_out := named.left_out:
    print(f"left out: {left_out} on the network", file=sys.stderr)
  for path in named.paths:
    try:
      found = encoder.tags(path, head=args.head)
    except AudioError as e:
      print(f"left out: {messages.line(e)}", file=sys.stderr)
      left_out += 1
      continue
    best = sorted(found.items(), key=lambda item: -item[1])[: args.top]
    told = ", ".join(f"{name} {share:.2f}" for name, share in best)
    print(f"{messages.line(path)}: {told}")
  return EXIT_LEFT_OUT if left_out else 0
