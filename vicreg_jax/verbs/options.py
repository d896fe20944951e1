"""The options of the verbs of `python -m vicreg_jax`.

They are apart from the verbs' code: `--help` need not wait for JAX. The default
`run` names the module of this room whose `run(args)` does the verb.
"""

import argparse

from vicreg_jax import __version__

_PATHS = "files, folders, globs, playlists, @LIST"


def _shard(text):
  index, slash, count = text.partition("/")
  if not (slash and index.isdecimal() and count.isdecimal()) or (
    int(index) >= int(count)
  ):
    raise argparse.ArgumentTypeError(f"{text!r}: give I/N, from 0/N to N-1/N")
  return int(index), int(count)


def _prune(text):
  if text not in ("", "gone", "all"):
    raise argparse.ArgumentTypeError(
      f"{text!r}: say --prune after the paths, or --prune=all"
    )
  return text


def _count(text):
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1 on")
  return int(text)


def _percent(text):
  try:
    value = float(text.removesuffix("%"))
  except ValueError:
    value = -1.0
  if not 0 <= value < 100:
    raise argparse.ArgumentTypeError(f"{text!r}: give percent, from 0 to 99")
  return value


def parser(description: str) -> argparse.ArgumentParser:
  """The parser of all verbs."""
  top = argparse.ArgumentParser(
    prog="vicreg-jax",
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  top.add_argument(
    "--version", action="version", version=f"vicreg-jax {__version__}"
  )
  top.add_argument("--debug", action="store_true", help="show tracebacks")
  verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
  _jobs(verbs)
  _embed(verbs)
  _tag(verbs)
  _similar(verbs)
  _playlist(verbs)
  _map(verbs)
  _export(verbs)
  return top


def parse(description: str, argv=None) -> argparse.Namespace:
  """The arguments of a verb; `flags` are those of `main`, if it is a config.

  Ends the command if the arguments are wrong.
  """
  top = parser(description)
  args, rest = top.parse_known_args(argv)
  wrong = [
    flag
    for flag in rest
    if args.run != "main" or not flag.startswith("--config.") or "=" not in flag
  ]
  if wrong:
    also = "; keys are set by --config.key=value" if args.run == "main" else ""
    top.error(f"unrecognized arguments: {' '.join(wrong)}{also}")
  if args.run == "main":
    args.flags = [f"--config={args.verb}", *_flags(args), *rest]
  return args


def _flags(args):
  """The flags of `main` for the arguments of a verb that is a config."""
  if args.debug:
    yield "--debug"
  if args.workdir:
    yield f"--workdir={args.workdir}"
  if args.checkpoint:
    yield f"--config.checkpoint={args.checkpoint}"
  if args.path:
    yield "--config.data.name=folder"
    yield f"--config.data.path={args.path}"


def _jobs(verbs):
  """Adds the verbs that are configs of the package."""
  quickstart = verbs.add_parser(
    "quickstart", help="see it work: trains on synthetic music, and probes"
  )
  folder = verbs.add_parser(
    "folder", help="adapts the starter encoder to your music, and probes"
  )
  folder.add_argument("path", metavar="DIR", help="its sub-folders are classes")
  probe = verbs.add_parser("probe", help="how well a model knows your labels")
  probe.add_argument("checkpoint", metavar="MODEL")
  prepare = verbs.add_parser("prepare", help="decodes music once, for all runs")
  for verb in (probe, prepare):
    verb.add_argument(
      "path",
      metavar="DIR",
      nargs="?",
      help="its sub-folders are labels; or files of --config.data.name=gtzan",
    )
  for verb in (quickstart, folder, probe, prepare):
    verb.add_argument("--workdir", help="for the results; else runs/VERB")
    verb.epilog = "--config.key=value sets any key of the config."
    verb.set_defaults(run="main", checkpoint="", path="")


def _embed(verbs):
  embed = verbs.add_parser("embed", help="files to vectors, as one table")
  embed.add_argument("model")
  embed.add_argument("paths", nargs="+", help=_PATHS)
  embed.add_argument("--output", required=True, help="the table to write")
  embed.add_argument(
    "--hop",
    type=float,
    help="seconds from one segment's start to the next; else a segment's"
    " length. 30 is one segment each 30 s, for long mixes",
  )
  embed.add_argument(
    "--pooling",
    choices=("mean", "mean_std", "none"),
    default="mean",
    help="a row a file: the mean over its segments, or the mean and then the"
    " standard deviation; none: a row a segment",
  )
  embed.add_argument(
    "--format",
    choices=("parquet", "npz", "npy"),
    default="parquet",
    help="a table, or arrays made from one",
  )
  embed.add_argument(
    "--describe",
    action="store_true",
    help="also write tempo and key of the files embedded now, from their first"
    " 3 minutes; 0.5 s of a core each",
  )
  embed.add_argument(
    "--prune",
    type=_prune,
    nargs="?",
    const="gone",
    default="",
    metavar="all",
    help="drop the rows of files that are gone from the given folders; if an"
    " argument has lost all its files, only with --prune=all",
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
  _overwrite(embed, "begin anew")
  embed.set_defaults(run="embed")


def _tag(verbs):
  tag = verbs.add_parser("tag", help="labels of files, by a probe's heads")
  tag.add_argument("model", help="a probed model, or the probe's workdir")
  tag.add_argument("paths", nargs="+", help=_PATHS)
  tag.add_argument("--top", type=_count, default=5, help="how many labels")
  tag.add_argument("--head", default="", help="linear, mlp, ...")
  tag.set_defaults(run="tag")


def _similar(verbs):
  similar = verbs.add_parser("similar", help="the nearest tracks of a table")
  _songs(
    similar,
    "songs: of the table, or other audio files; a folder, @LIST or playlist is"
    " its files. The query of several is the mean of their unit vectors",
  )
  similar.add_argument(
    "--not",
    dest="unlike",
    action="append",
    default=[],
    metavar="PATH",
    help="away from this song: its unit vector is subtracted, or the mean of"
    " several",
  )
  similar.add_argument("--top", type=_count, default=10, help="how many")
  similar.add_argument(
    "--by",
    choices=("tracks", "segments"),
    default="tracks",
    help="whole tracks; or passages, of a table with --pooling=none",
  )
  similar.add_argument(
    "--at", type=float, metavar="SECONDS", help="like the song's passage there"
  )
  similar.add_argument(
    "--other-tracks",
    action="store_true",
    help="no pieces of the same track, such as SONG-0-30.ogg and"
    " SONG-30-60.ogg",
  )
  similar.add_argument(
    "--per-artist",
    type=_count,
    metavar="N",
    help="at most N songs of an artist",
  )
  similar.add_argument(
    "--per-album", type=_count, metavar="N", help="at most N songs of an album"
  )
  similar.add_argument(
    "--tempo",
    type=_percent,
    metavar="PERCENT",
    help="at most PERCENT faster or slower than one of the songs",
  )
  _scale(similar)
  similar.add_argument("--json", action="store_true", help="print JSON")
  similar.add_argument("--m3u", metavar="FILE", help="a playlist to write, too")
  _m3u(similar)
  similar.set_defaults(run="similar")


def _playlist(verbs):
  playlist = verbs.add_parser(
    "playlist", help="a way from song to song, or a smooth order"
  )
  _songs(
    playlist,
    "two songs: a way from one to the other; else songs, folders, @LISTs or"
    " playlists: all their files, each close to the one before",
  )
  playlist.add_argument(
    "--m3u", metavar="FILE", required=True, help="the playlist to write"
  )
  playlist.add_argument(
    "--length", type=_count, metavar="N", help="songs of a way; else 20"
  )
  _scale(playlist)
  _m3u(playlist)
  playlist.set_defaults(run="playlist")


def _songs(verb, text):
  verb.add_argument("embeddings", help="a table of `embed`, or more: *.parquet")
  verb.add_argument("paths", nargs="+", metavar="path", help=text)
  verb.add_argument(
    "--model",
    help="the model of the tables, to embed other files; else starter",
  )


def _m3u(verb):
  verb.add_argument(
    "--absolute",
    action="store_true",
    help="absolute paths in the playlist; else relative to its folder",
  )
  _overwrite(verb, "also a playlist that this program did not write")


def _map(verbs):
  draw = verbs.add_parser("map", help="a page on which tracks lie and play")
  draw.add_argument("embeddings", nargs="+", help="tables of `embed`")
  draw.add_argument("--output", default="map.html", help="the page to write")
  draw.add_argument("--png", help="a picture to write, too")
  draw.add_argument(
    "--serve",
    type=int,
    nargs="?",
    const=8000,
    metavar="PORT",
    help="the page and its audio, at http://localhost:PORT",
  )
  draw.add_argument(
    "--audio-root",
    default="",
    help="the folder that the paths are relative to, or that the music lies in",
  )
  draw.add_argument(
    "--by",
    choices=("tracks", "segments"),
    default="tracks",
    help="a point is a track; or a passage, of a table with --pooling=none",
  )
  draw.add_argument(
    "--projection",
    choices=("umap", "tsne", "pca"),
    default="",
    help="UMAP of up to 50,000 points where it is installed, or t-SNE of up to"
    " 5,000; else PCA",
  )
  draw.add_argument(
    "--most", type=_count, default=100_000, help="most points; else a sample"
  )
  draw.add_argument(
    "--table", default="", help="CSV or Parquet with `path`, for more colours"
  )
  draw.add_argument("--model", help="a probed model, for --color=tag")
  draw.add_argument(
    "--color",
    default="folder",
    help="folder, cluster, artist, album, genre, year, key, tempo, tag or a"
    " column",
  )
  _scale(draw)
  _overwrite(draw, "also files that this program did not write")
  draw.set_defaults(run="map")


def _scale(verb):
  verb.add_argument(
    "--scale",
    choices=("none", "standardise", "whiten"),
    default="none",
    help="before vectors are compared: divide each number by its deviation;"
    " whiten: directions that numbers share count less, too",
  )


def _overwrite(verb, text):
  verb.add_argument("--overwrite", action="store_true", help=text)


def _export(verbs):
  export = verbs.add_parser("export", help="weights for other programs")
  export.add_argument("model")
  export.add_argument("--output", required=True, help="a directory")
  export.add_argument(
    "--format", choices=("safetensors", "onnx"), default="safetensors"
  )
  export.add_argument(
    "--license", required=True, help="for users of the weights: MIT, ..."
  )
  export.set_defaults(run="export")
  imported = verbs.add_parser("import", help="CLMR's weights as a workdir")
  imported.add_argument("file")
  imported.add_argument("--workdir", required=True, help="a new directory")
  imported.set_defaults(run="import_weights")
