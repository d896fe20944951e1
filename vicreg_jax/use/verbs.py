"""What the verbs of `python -m vicreg_jax` do; each returns an exit code."""

import collections
import functools
import json
import os
import sys

import numpy as np

from vicreg_jax import cli, files
from vicreg_jax.data import beam_options
from vicreg_jax.data.audio import AudioError
from vicreg_jax.data.track_names import track_of
from vicreg_jax.use import adopt, corpus, neighbours, serve
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import export as exports
from vicreg_jax.use import index as indexes
from vicreg_jax.use.tables import Rows, Tables, means

EXIT_LEFT_OUT = 3  # complete, but for files that were left out


def embed(args) -> int:
  """Files to vectors, as one table, or as one for each share of them."""
  left_out, damaged = _on_beam(args) if args.beam else _embed(args, args.shard)
  for reason, count in sorted(left_out.items()):
    print(f"left out: {count} {reason}")
  if damaged:
    print(f"damaged: {damaged}, embedded as far as they can be read")
  return EXIT_LEFT_OUT if left_out else 0


def _embed(args, shard) -> tuple[dict[str, int], int]:
  """One table; returns how many files were left out, by reason, or damaged."""
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
  print(f"{output}: {summary.embedded} files are new, {summary.known} known")
  return summary.left_out, summary.damaged


def _share(args, shard) -> tuple[list[str], str]:
  """Files and table of a shard, (index, count); of all where it is None."""
  paths = corpus.expand(args.paths)
  if not shard:
    return paths, args.output
  index, count = shard
  stem, suffix = os.path.splitext(args.output)
  output = f"{stem}-{index:05}-of-{count:05}{suffix}"
  return corpus.share(paths, index, count), output


def _on_beam(args) -> tuple[dict[str, int], int]:
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
  left_out, damaged = collections.Counter(), 0
  for shard in shards:
    paths, output = _share(args, shard)
    found = corpus.faults(paths, output, args.format)
    left_out.update(found[0])
    damaged += found[1]
  print(f"{args.shards} tables, {output} the last of them")
  return left_out, damaged


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


def similar(args) -> int:
  """Prints the nearest tracks, or passages, of tables to a file."""
  tables, passages = Tables(args.embeddings), args.by == "segments"
  if args.at is not None and not passages:
    raise ValueError(f"--at={args.at:g} is a passage: add --by=segments")
  _check_passages(args, tables)
  name, query = _query(args, tables)
  if args.at is not None:
    query = _passage(query, args.at)
  elif not passages:
    query = next(means([query]))
  hits = _hits(args, tables, query, _is_own(name, args.other_tracks))
  if not hits:
    raise ValueError(
      f"{args.path}: there is nothing else in {', '.join(args.embeddings)}"
    )
  _show(hits, query, passages, args.json)
  return 0


def _hits(args, tables, query, is_own) -> list[neighbours.Hit]:
  """Of the index, or of the tables."""
  if args.index:
    index = indexes.of_tables(args.index, tables, args.by, args.scale)
    return index.search(query.y_NxD, is_own, args.top)
  scaling = neighbours.fit(
    (rows.y_NxD for rows in tables.segments()), tables.size, args.scale
  )
  pieces = tables.segments() if args.by == "segments" else tables.tracks()
  return neighbours.search(query.y_NxD, pieces, scaling, is_own, args.top)


def _check_passages(args, tables):
  if args.by == "segments" and tables.about.get("pooling") == "mean":
    raise ValueError(
      f"--by=segments: {args.embeddings[0]} has one row a file; embed it with"
      " --pooling=none"
    )


def _model_of(args, tables) -> encoders.Encoder:
  """The encoder that tables were made by. Raises if it is not theirs."""
  encoder = encoders.load(args.model or encoders.STARTER)
  weights = encoder.fingerprint()
  if tables.about.get("encoder", weights) != weights:
    raise ValueError(
      f"{args.embeddings[0]} was not made by"
      f" {args.model or 'the starter encoder'}: name the MODEL that it was made"
      " by, --model=MODEL"
    )
  if encoder.size != tables.size:
    raise ValueError(
      f"{args.embeddings[0]} has embeddings of {tables.size} numbers, and the"
      f" encoder of {encoder.size}: name the MODEL that it was made by,"
      " --model=MODEL"
    )
  return encoder


def _query(args, tables) -> tuple[str, Rows]:
  """The path that is asked for, and its rows: of the tables, or embedded."""
  for path in (args.path, os.path.normpath(args.path)):
    name = corpus.utf8(path)
    if rows := tables.of(name):
      return name, rows
  if not os.path.exists(args.path):
    raise ValueError(
      f"{args.path}: neither a path in {', '.join(args.embeddings)} nor a file;"
      " paths are as they were given to `embed`"
    )
  encoder = _model_of(args, tables)
  hop = tables.about.get("hop")
  y_SxD, starts_S, ends_S, _ = encoder.embed_segments(
    args.path, hop_seconds=hop and hop / encoder.sample_rate
  )
  return name, Rows([name] * len(y_SxD), starts_S, ends_S, y_SxD)


def _passage(rows: Rows, second: float) -> Rows:
  """The row whose middle is nearest to a second. Raises if it has none."""
  if not rows.start_N.min() <= second <= rows.end_N.max():
    raise ValueError(
      f"--at={second:g}: {rows.paths[0]} is embedded from"
      f" {rows.start_N.min():g} to {rows.end_N.max():g} seconds"
    )
  i = int(np.abs((rows.start_N + rows.end_N) / 2 - second).argmin())
  return rows.take([i])


def _is_own(name, other_tracks):
  """Whether a path is the one asked for, or a piece of the same track."""
  if not other_tracks:
    return name.__eq__
  return lambda path: track_of(path) == track_of(name)


def _show(hits, query: Rows, passages: bool, as_json: bool):
  """Prints a table, or JSON: a list of objects."""
  if as_json:
    found = []
    for hit in hits:
      found.append(hit._asdict())
      i = found[-1].pop("query")
      if passages:
        found[-1]["query_start"] = float(query.start_N[i])
        found[-1]["query_end"] = float(query.end_N[i])
    print(json.dumps(found, indent=1))
    return
  times = f"  {'passage':17}  {'like':17}" if passages else ""
  print(f"similarity{times}  path")
  for path, start, end, similarity, i in hits:
    if passages:
      like = _clock(query.start_N[i], query.end_N[i])
      times = f"  {_clock(start, end):17}  {like:17}"
    print(f"{similarity:10.3f}{times}  {cli.line(path)}")


def _clock(start, end) -> str:
  minutes = (f"{s // 60:.0f}:{s % 60:04.1f}" for s in (start, end))
  return " - ".join(minutes)


def map_(args) -> int:
  """Writes a page on which the tracks of tables lie, and serves it."""
  # Here: scikit-learn takes a second to import.
  from vicreg_jax.use import map_files, points

  tables = Tables(args.embeddings)
  _check_passages(args, tables)
  heads = None
  if args.model:
    heads = _model_of(args, tables).heads
    if heads is None:
      raise ValueError(f"--model={args.model} has no heads: probe it first")
  if args.serve is not None:  # a layout takes minutes
    serve.server(b"", [], args.serve).server_close()
  made = points.make(
    tables,
    by=args.by,
    scale=args.scale,
    projection=args.projection,
    most=args.most,
    table=args.table,
    heads=heads,
    color=args.color,
  )
  audio = map_files.audio_of(made.rows.paths, args.audio_root)
  html = map_files.page(made, audio, os.path.dirname(args.output), args.color)
  with files.explained(args.output, "--output"):
    files.write(args.output, html.encode())
  print(f"{args.output}: {map_files.note(made)}, {len(html) / 1e6:.1f} MB")
  if args.png:
    map_files.picture(made, args.png, args.color)
    print(args.png)
  if missing := audio.missing():
    print(
      f"not there, so that they cannot be played: {len(missing)} files, such as"
      f" {cli.line(missing[0])} (--audio-root says where they are)",
      file=sys.stderr,
    )
  if args.serve is not None:
    _serve(map_files.served(html), audio.files, args.serve)
  return 0


def _serve(html, audio, port):
  """Until it is interrupted."""
  with serve.server(html.encode(), audio, port) as server:
    where = f"http://localhost:{server.server_port}/"
    print(f"{where} (Ctrl-C ends it)", flush=True)
    try:
      server.serve_forever()
    except KeyboardInterrupt:
      print()


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
