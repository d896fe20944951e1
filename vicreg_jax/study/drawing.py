"""Styles, lines and legends of the thesis's figures.

Every figure is as wide as a page's text, and is saved as PNG and as SVG.
Methods differ by colour and marker, heads by solid and dashed lines.
"""

import functools
import itertools
import math
import textwrap

from vicreg_jax import plots

WIDTH = 6.5  # inches
HEADS = {"linear": "linear", "mlp": "two-layer"}  # of the thesis's probes
HEAD_NAMES = HEADS | {
  "logistic": "logistic",
  "knn": "neighbours",
  "splits/logistic": "logistic, random splits",
  "splits/knn": "neighbours, random splits",
}
# Colour, marker of a solid line and of a dashed one.
METHOD_STYLES = {
  "CLMR": (plots.RED, "o", "^"),
  "VICReg": (plots.BLUE, "s", "D"),
}
# For other names: Okabe and Ito's other colours.
OTHER_STYLES = (
  ("#009E73", "v", "<"),
  ("#CC79A7", "P", "X"),
  ("#E69F00", "p", "h"),
  ("#56B4E9", "d", "*"),
  ("#000000", ">", "."),
)
_DASHES = (0, (4, 1.6))
_RC = {
  "axes.axisbelow": True,
  "axes.grid": True,
  "axes.linewidth": 0.7,
  "axes.titlesize": 8,
  "errorbar.capsize": 2,
  "font.size": 8,
  "grid.alpha": 0.3,
  "hatch.linewidth": 0.5,
  "legend.columnspacing": 1.4,
  "legend.fontsize": 7.5,
  "legend.frameon": False,
  "legend.handlelength": 2.6,
  "lines.linewidth": 1.3,
  "lines.markersize": 4.5,
  "xtick.labelsize": 7.5,
  "ytick.labelsize": 7.5,
}


def for_print(draw):
  """Sets type and lines for print while `draw` draws and saves."""

  @functools.wraps(draw)
  def wrapper(*args, **kwargs):
    import matplotlib

    with matplotlib.rc_context(_RC):
      draw(*args, **kwargs)

  return wrapper


def subplots(height, **options):
  """A figure as wide as a page's text, `height` inches high, and its axes."""
  return plots.subplots(figsize=(WIDTH, height), **options)


def save(figure, out_stem, stamp):
  if stamp:
    figure.supxlabel(textwrap.fill(stamp, 115), fontsize=7, color="0.3")
  for suffix in (".png", ".svg"):
    plots.save(figure, f"{out_stem}{suffix}")


def score(scores, head, metric):
  """A value, or nan if the run failed or has no such head or metric."""
  value = ((scores or {}).get(head) or {}).get(metric)
  return math.nan if value is None else value


def styles(names):
  """{name: colour and marker}, fixed for the methods."""
  others = itertools.cycle(OTHER_STYLES)
  return {
    name: METHOD_STYLES[name] if name in METHOD_STYLES else next(others)
    for name in dict.fromkeys(names)
  }


def line(style, dashed):
  """Options of a solid or dashed line, see METHOD_STYLES."""
  color, *markers = style
  return {
    "color": color,
    "marker": markers[dashed],
    "linestyle": _DASHES if dashed else "-",
  }


def handle(label, **style):
  from matplotlib.lines import Line2D

  return Line2D([], [], label=label, **{"color": "black"} | style)


def legend_above(figure, axes, ncols):
  """One legend of all axes' lines, above them, as the stamp is below."""
  handles = {}
  for ax in axes:
    for handle, label in zip(*ax.get_legend_handles_labels()):
      handles.setdefault(label, handle)
  figure.legend(
    handles.values(), handles.keys(), loc="outside upper center", ncols=ncols
  )


def pale(color, strength):
  """A colour between white (strength 0) and itself (1)."""
  from matplotlib.colors import to_rgb

  return tuple(1 - strength * (1 - c) for c in to_rgb(color))
