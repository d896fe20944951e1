"""A page on which the tracks of tables lie and play."""

import os
import sys

from vicreg_jax import files, messages
from vicreg_jax.library import layout, page, serve
from vicreg_jax.library.made_by import check_passages, encoder_of
from vicreg_jax.library.tables import Tables


def run(args) -> int:
  """Writes the page, and serves it."""
  inputs = [*args.embeddings, *filter(None, (args.table, args.model))]
  output = files.output(args.output, inputs=inputs, overwrite=args.overwrite)
  if args.png:
    png = files.output(
      args.png, "--png", inputs=[*inputs, output], overwrite=args.overwrite
    )
  tables = Tables(args.embeddings)
  check_passages(tables, args.by)
  heads = None
  if args.model:
    heads = encoder_of(tables, args.model).heads
    if heads is None:
      raise ValueError(f"--model={args.model} has no heads: probe it first")
    if args.by == "tracks" and tables.about.get("pooling") != "none":
      print(
        f"tags are of the mean vector of a track, as {args.embeddings[0]} has"
        " no segments: those of `tag` take one of --pooling=none",
        file=sys.stderr,
      )
  if args.serve is not None:  # a layout takes minutes
    serve.server(b"", [], args.serve).server_close()
  made = layout.make(
    tables,
    by=args.by,
    scale=args.scale,
    projection=args.projection,
    most=args.most,
    table=args.table,
    heads=heads,
    color=args.color,
  )
  audio = page.audio_of(made.rows.paths, args.audio_root)
  html = page.page(made, audio, os.path.dirname(args.output), args.color)
  with files.explained(args.output, "--output"):
    files.write(output, html.encode())
  print(f"{args.output}: {page.note(made)}, {len(html) / 1e6:.2g} MB")
  if args.png:
    page.picture(made, png, args.color)
    print(args.png)
  if missing := audio.missing():
    print(
      f"not there, so that they cannot be played: {len(missing)} files, such as"
      f" {messages.line(missing[0])} (--audio-root says where they are)",
      file=sys.stderr,
    )
  if args.serve is not None:
    html = page.served(html, os.path.dirname(args.output))
    _serve(html, audio.files, args.serve)
  return 0


def _serve(html, audio, port):
  """Serves until interrupted."""
  with serve.server(html.encode(), audio, port) as server:
    where = f"http://localhost:{server.server_port}/"
    print(f"{where} (Ctrl-C ends it)", flush=True)
    try:
      server.serve_forever()
    except KeyboardInterrupt:
      print()
