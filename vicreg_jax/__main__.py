"""Makes and uses encoders: `vicreg-jax VERB ...`, or as below.

    python -m vicreg_jax quickstart
    python -m vicreg_jax folder music/ --workdir=runs/mine
    python -m vicreg_jax probe MODEL music/
    python -m vicreg_jax prepare music/
    python -m vicreg_jax embed MODEL music/ --output=music.parquet
    python -m vicreg_jax similar music.parquet song.mp3
    python -m vicreg_jax playlist music.parquet a.mp3 b.mp3 --m3u=way.m3u8
    python -m vicreg_jax map music.parquet --output=map.html
    python -m vicreg_jax tag MODEL song.mp3
    python -m vicreg_jax export MODEL --format=onnx --output=DIR --license=MIT
    python -m vicreg_jax import clmr_checkpoint_10000.zip --workdir=DIR

MODEL is "starter", a training's workdir, a folder that `export` has written, or
a file of CLMR's weights. The first four verbs are configs, which
`vicreg_jax.main` runs. `VERB --help` lists options. Exit codes: 0 complete, 1
an error, in one line, 3 complete, but files were left out, 69 no device to
compute on, 75 interrupted: the same command continues.
"""

import importlib
import signal
import sys

from vicreg_jax import messages
from vicreg_jax.verbs import options


def main(argv=None):
  args = options.parse(__doc__, argv)
  if args.run == "main":
    from vicreg_jax import main as door  # TensorFlow takes seconds to import

    door.start(args.flags)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    # Only now: JAX takes a second to import.
    verb = importlib.import_module(f"vicreg_jax.verbs.{args.run}")
    sys.exit(verb.run(args))
  except ValueError as e:
    if args.debug or not messages.ours(e):
      raise
    messages.end(e)
  except KeyboardInterrupt:
    print("interrupted; run the same command to continue", file=sys.stderr)
    sys.exit(messages.EXIT_INTERRUPTED)


if __name__ == "__main__":
  main()
