"""Writes a map of music: as a page that plays, and as a picture.

The page is one file and needs no network. File names enter the page as JSON,
and its script shows them as text, never as markup. Its content security policy
lets no other script run.
"""

import base64
import hashlib
import importlib.resources
import json
import os
import urllib.parse
from typing import NamedTuple

import numpy as np

from vicreg_jax import plots
from vicreg_jax.library import colourings, layout
from vicreg_jax.library.audio_paths import on_disk
from vicreg_jax.library.layout import Points
from vicreg_jax.library.tables import Tags

# On white and on black, after Okabe and Ito, for the colour-blind, too.
COLOURS = (
  ("#0072b2", "#56b4e9"),
  ("#d55e00", "#ff8c42"),
  ("#009e73", "#2fd6a3"),
  ("#b5489a", "#e58fc6"),
  ("#b8860b", "#f0d442"),
  ("#5b4fc4", "#a79bff"),
  ("#6b4226", "#c99a74"),
  ("#2f93c4", "#bfe6ff"),
)
# For numbers, from low to high, after matplotlib's viridis.
RANGES = (
  ("#440154", "#8d5bb8"),
  ("#42377f", "#6f8fd8"),
  ("#2f6690", "#2fb5af"),
  ("#1d8a86", "#3ccf98"),
  ("#2f9a4f", "#7be07f"),
  ("#a8870a", "#fde725"),
)
GREY = ("#85878b", "#787b80")  # for all other labels
_SCRIPTS = ("names", "picture", "player", "panel")
_FINE = 65_535  # steps of a place


class Audio(NamedTuple):
  """The audio files of points."""

  names: list[str]  # of each point's file, below the folder
  folder: str
  files: list[str]  # of each point; a name may hold bytes that are no UTF-8

  def missing(self) -> list[str]:
    """Files that do not exist."""
    return [f for f in dict.fromkeys(self.files) if not os.path.isfile(f)]


def audio_of(paths: list[str], root: str = "") -> Audio:
  """The files of paths.

  Args:
    paths: as in a table.
    root: the folder that relative paths begin at, or that all files lie below
      now; "" is the current directory.
  """
  common = colourings.common_folder(paths)
  names = colourings.below(common, paths)
  folder = os.path.join(root, common)
  if root and not os.path.exists(on_disk(os.path.join(folder, names[0]))):
    folder = root
  return Audio(
    names, folder, [on_disk(os.path.join(folder, name)) for name in names]
  )


def page(made: Points, audio: Audio, where: str, colouring: str) -> str:
  """The page, as HTML that links the audio relative to the directory `where`.

  `colouring`: the first one to show.
  """
  prefix = os.path.relpath(audio.folder or ".", where or ".")
  data = {
    "names": audio.names,
    "root": "" if prefix == "." else _url(prefix) + "/",
    "links": {
      i: _url(os.path.relpath(file, where or "."))
      for i, (name, file) in enumerate(zip(audio.names, audio.files))
      if file != os.path.join(audio.folder, name)
    },
    "served": "",
    "tags": _texts(made),
    "tracks": _packed(made.track_N, np.int32),
    "passages": len(set(audio.names)) < len(audio.names),
    "places": _packed(made.xy_Nx2 * _FINE, np.uint16),
    "starts": _packed(made.rows.start_N, np.float32),
    "neighbours": _packed(made.neighbours_Nx10, np.int32),
    "cosines": _packed(np.maximum(made.cosine_Nx10, -1) * _FINE // 2, np.int16),
    "shown": layout.SHOWN,
    "colourings": [
      {
        "name": name,
        "labels": labels,
        "codes": _packed(code_N, np.uint16),
        "ordered": ordered,
        "coloured": coloured,
      }
      for name, (labels, code_N, ordered, coloured) in made.colourings.items()
    ],
    "colouring": colouring,
    "palette": COLOURS,
    "ranges": RANGES,
    "grey": GREY,
    "note": note(made),
  }
  return _filled(data)


def _texts(made) -> dict[str, list[str]]:
  """The tags that the page shows, a text for each point."""
  told = [made.tags.get(path, Tags()) for path in made.rows.paths]
  texts = {
    name: [getattr(tags, name) for tags in told]
    for name in ("artist", "title", "album")
  }
  return {name: values for name, values in texts.items() if any(values)}


def note(made: Points) -> str:
  """What the points are, in a line."""
  count = len(made.rows.paths)
  sample = f", a sample of {made.total:,}" if made.total > count else ""
  return f"{count:,} points{sample}, laid out by {made.projection}"


def served(html: str, where: str) -> str:
  """The page for `serve.server`: it asks for audio by number.

  `where`: the directory that exported playlists are relative to.
  """
  folder = f"file://{_url(os.path.abspath(where))}/"
  return html.replace('"served": ""', f'"served": "{folder}"', 1)


def _packed(array, kind) -> str:
  little = np.dtype(kind).newbyteorder("<")
  return base64.b64encode(np.asarray(array).astype(little).tobytes()).decode()


def _url(path) -> str:
  """A relative path as a URL, by its bytes."""
  return urllib.parse.quote(os.fsencode(path))


def _filled(data) -> str:
  here = importlib.resources.files("vicreg_jax.library")
  script = "\n".join(
    here.joinpath(f"map_page.{name}.js").read_text(encoding="utf-8")
    for name in _SCRIPTS
  )
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  # ASCII in which no tag can begin or end.
  text = json.dumps(data)
  for sign in "<>&":
    text = text.replace(sign, f"\\u{ord(sign):04x}")
  html = here.joinpath("map_page.html").read_text(encoding="utf-8")
  html = html.replace("{{hash}}", f"sha256-{digest}")
  before, after = html.split("{{data}}")
  return before + text + after.replace("{{script}}", script)


def picture(made: Points, path: str, colouring: str):
  """Writes a map for print: PNG, or SVG by the suffix."""
  labels, code_N, ordered, coloured = made.colourings[colouring]
  if rest := ", ".join(labels[coloured:]):
    rest = rest if len(labels) == coloured + 1 else colourings.OTHERS
    labels = [*labels[:coloured], rest]
    code_N = np.minimum(code_N, coloured)
  # As high as the places and the legend need.
  height = np.clip(5 * np.ptp(made.xy_Nx2[:, 1]), 0.26 * len(labels) + 0.8, 6)
  figure, ax = plots.subplots(figsize=(6.5, float(height)))
  size = float(np.clip(5_000 / len(code_N), 0.5, 25))
  for code, label in enumerate(labels):
    xy_Mx2 = made.xy_Nx2[code_N == code]
    palette = RANGES if ordered else COLOURS
    grey = code >= coloured
    color = GREY[0] if grey else palette[code % len(palette)][0]
    ring = not (grey or ordered) and code >= len(COLOURS)
    ax.scatter(
      *xy_Mx2.T,
      s=size,
      label=label.replace("$", r"\$"),
      facecolors="none" if ring else color,
      edgecolors=color,
      linewidths=0.8,
      zorder=1 if grey else 2,
    )
  ax.set_aspect("equal")
  ax.set_axis_off()
  figure.legend(
    loc="outside right upper",
    frameon=False,
    fontsize=8,
    title=colouring.replace("$", r"\$"),
    markerscale=float(np.sqrt(30 / size)),
  )
  plots.save(figure, path)
