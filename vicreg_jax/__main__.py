"""Uses an encoder: `python -m vicreg_jax VERB MODEL ...`.

    python -m vicreg_jax embed MODEL music/ --output=music.parquet
    python -m vicreg_jax tag MODEL song.mp3
    python -m vicreg_jax export MODEL --format=onnx --output=DIR --license=MIT
    python -m vicreg_jax import clmr_checkpoint_10000.zip --workdir=DIR

MODEL is "starter", a training's workdir, a folder that `export` has written, or
a file of CLMR's weights. `VERB --help` says more. Exit codes: 0 complete, 1 an
error, in one line, 3 complete but for files that were left out, 75 interrupted:
the same command continues.
"""

import argparse
import signal
import sys

from vicreg_jax import cli


def _shard(text):
  index, count = map(int, text.split("/"))
  if not 0 <= index < count:
    raise ValueError
  return index, count


def _count(text):
  count = int(text)
  if count < 1:
    raise ValueError
  return count


def parser() -> argparse.ArgumentParser:
  """Of all verbs."""
  top = argparse.ArgumentParser(
    prog="vicreg-jax",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  top.add_argument("--debug", action="store_true", help="show tracebacks")
  verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
  embed = verbs.add_parser("embed", help="files to vectors, as one table")
  embed.add_argument("model")
  embed.add_argument("paths", nargs="+", help="files, folders, globs, @LIST")
  embed.add_argument("--output", required=True, help="the table to write")
  embed.add_argument("--hop", type=float, help="seconds between segments")
  embed.add_argument(
    "--pooling",
    choices=("mean", "none"),
    default="mean",
    help="a row a file, the mean over its segments; or a row a segment",
  )
  embed.add_argument(
    "--format",
    choices=("parquet", "npz", "npy"),
    default="parquet",
    help="a table, or arrays made from one",
  )
  several = embed.add_mutually_exclusive_group()
  several.add_argument("--shard", type=_shard, help="I/N: this machine's share")
  several.add_argument(
    "--beam",
    metavar="OPTIONS",
    default="",
    help="runner=FlinkRunner,...: all shares, on Apache Beam; the workers see"
    " model, files and output under the same paths",
  )
  embed.add_argument("--shards", type=_count, default=8, help="N of --beam")
  embed.add_argument("--overwrite", action="store_true", help="begin anew")
  embed.set_defaults(run="embed")
  tag = verbs.add_parser("tag", help="labels of files, by a probe's heads")
  tag.add_argument("model", help="that has been probed, or the probe's workdir")
  tag.add_argument("paths", nargs="+", help="files, folders, globs, @LIST")
  tag.add_argument("--top", type=int, default=5, help="so many labels")
  tag.add_argument("--head", default="", help="linear, mlp, ...")
  tag.set_defaults(run="tag")
  export = verbs.add_parser("export", help="weights for other programs")
  export.add_argument("model")
  export.add_argument("--output", required=True, help="a directory")
  export.add_argument(
    "--format", choices=("safetensors", "onnx"), default="safetensors"
  )
  export.add_argument(
    "--license", required=True, help="for its users: MIT, ..."
  )
  export.set_defaults(run="export")
  adopt = verbs.add_parser("import", help="CLMR's weights as a workdir")
  adopt.add_argument("file")
  adopt.add_argument("--workdir", required=True, help="a new directory")
  adopt.set_defaults(run="import_")
  return top


def main(argv=None):
  args = parser().parse_args(argv)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    from vicreg_jax.use import verbs  # JAX takes a second to import

    sys.exit(getattr(verbs, args.run)(args))
  except ValueError as e:
    if args.debug or not cli.ours(e):
      raise
    sys.exit(f"error: {cli.line(e)}")
  except KeyboardInterrupt:
    print("interrupted; run the same command to continue", file=sys.stderr)
    sys.exit(cli.EXIT_INTERRUPTED)


if __name__ == "__main__":
  main()
