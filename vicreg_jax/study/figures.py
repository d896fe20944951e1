"""The thesis's figures, from what many runs have left.

Results are a `tables.Results`. A row of theirs is a dict: "labels", what tells
it from the others ({"method": "VICReg", "epochs": 300}); "scores", {"linear":
{"roc_auc": percent, ...}, "mlp": ...}, or None for a run that failed; and, if
there are, "thesis" (scores as published) and "spread" (standard deviations over
seeds), both in the form of scores. A missing value is a gap.

Every function writes OUT_STEM.png and OUT_STEM.svg, as wide as a page's text,
with `stamp` in small print below, and raises ValueError if it has nothing to
draw. Methods differ by colour and marker, heads by solid and dashed lines.
"""

import functools
import itertools
import math
import textwrap

import numpy as np

from vicreg_jax import files, plots

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
# For all else: Okabe and Ito's other colours.
OTHER_STYLES = (
  ("#009E73", "v", "<"),
  ("#CC79A7", "P", "X"),
  ("#E69F00", "p", "h"),
  ("#56B4E9", "d", "*"),
  ("#000000", ">", "."),
)
MARKERS = "os^Dv<>PX"
SIDES = ("representation", "embedding")
# (metric, panel title) of `collapse`; the metrics are under both sides' names.
COLLAPSE = (
  ("effective_rank", "(a) effective rank (RankMe)"),
  ("std", "(b) mean standard deviation"),
  ("mean_abs_correlation", "(c) mean absolute correlation"),
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


def _for_print(draw):
  """Sets type and lines for print while `draw` draws and saves."""

  @functools.wraps(draw)
  def wrapper(*args, **kwargs):
    import matplotlib

    with matplotlib.rc_context(_RC):
      draw(*args, **kwargs)

  return wrapper


@_for_print
def score_curves(
  results, out_stem, *, x, x_label, group, log_x=False, stamp=""
):
  """Scores over a label: figures 4.1, 4.2 and B.1.

  Args:
    results: see the module; a row for each value of `x` and `group`, and at
      most two heads.
    x: the label on the x axis, whose values are numbers; ticks are at them.
    x_label: the axis's text.
    group: the label that tells lines apart.
    log_x: a logarithmic x axis.
  """
  heads = results.heads
  _check_drawable(
    results.rows, ("scores", "thesis"), ("roc_auc", "pr_auc"), heads
  )
  by_key = _by_labels(results.rows, (group, x))
  styles = _styles([name for name, _ in by_key])
  figure, axes = plots.subplots(ncols=2, figsize=(WIDTH, 3.1), sharex=True)
  for ax, metric in zip(axes, ("roc_auc", "pr_auc")):
    for name, style in styles.items():
      points = sorted(at for other, at in by_key if other == name)
      for source, head in itertools.product(("scores", "thesis"), heads):
        values = [
          _score(by_key[name, at].get(source), head, metric) for at in points
        ]
        if not np.isnan(values).all():
          line = _line(style, head != heads[0])
          if source == "thesis":
            line = _of_thesis(line)
          label = _source_name(f"{name}, {HEAD_NAMES[head]}", source)
          ax.plot(points, values, label=label, **line)
    ax.set_ylabel(f"{plots.SCORES[metric]} (%)")
    ax.set_xlabel(x_label)
  if log_x:
    axes[0].set_xscale("log")
  _ticks_at(axes, sorted({at for _, at in by_key}), log_x)
  _legend_above(figure, axes, ncols=4 if len(styles) > 1 else 2)
  _save(figure, out_stem, stamp)


@_for_print
def heat_maps(results, out_stem, *, x, y, stamp=""):
  """PR-AUC over two labels, normalised within each column: figure B.3.

  The colour of a cell is (value - column minimum) / (column maximum - column
  minimum), its text the PR-AUC in percent. A missing cell is hatched; where a
  column's values are all the same, so that it has no such colours, it is grey.

  Args:
    results: see the module; a row for each cell.
    x, y: labels, such as representation size and batch size, whose values are
      numbers; the largest y is on top.
  """
  _check_drawable(results.rows, ("scores",), ("pr_auc",), HEADS)
  by_key = _by_labels(results.rows, (y, x))
  ys, xs = (sorted(set(values)) for values in zip(*by_key))
  height = 1.7 + 0.25 * len(ys)
  figure, axes = plots.subplots(ncols=2, figsize=(WIDTH, height), sharey=True)
  for ax, head in zip(axes, HEADS):
    scores_YxX = np.array(
      [
        [
          _score(by_key.get((b, a), {}).get("scores"), head, "pr_auc")
          for a in xs
        ]
        for b in ys
      ]
    )
    image = _draw_cells(ax, scores_YxX)
    ax.set_xticks(np.arange(len(xs)) + 0.5, xs)
    ax.set_xlabel(x.replace("_", " "))
    ax.set_title(f"{HEADS[head]} head")
  axes[0].set_yticks(np.arange(len(ys)) + 0.5, ys)
  axes[0].set_ylabel(y.replace("_", " "))
  figure.colorbar(
    image,
    ax=axes,
    location="bottom",
    aspect=45,
    pad=0.1 / height,
    label="PR-AUC normalised in each column: "
    "(value - column minimum) / (column maximum - column minimum)",
  )
  _save(figure, out_stem, stamp)


@_for_print
def score_dots(results, out_stem, *, stamp=""):
  """Scores as dots, a line for each row: tables 4.1 and B.2, several seeds.

  Ours are filled, with the spread as error bars; the thesis's, just below, are
  open. Colours are those of the methods.

  Args:
    results: see the module; the first row on top, a panel for each metric. Rows
      without a score are left out.
  """
  metrics = results.metrics
  rows = [row for row in results.rows if row.get("scores") or row.get("thesis")]
  rows = rows or results.rows
  _check_drawable(rows, ("scores", "thesis"), metrics, results.heads)
  styles = _styles([_method(row) for row in rows])
  kinds = [("scores", {})]
  if any(row.get("thesis") for row in rows):
    kinds.append(("thesis", {"fillstyle": "none"}))
  kinds = [
    (source, head, {"marker": marker, "linestyle": "none"} | fill)
    for source, fill in kinds
    for head, marker in zip(results.heads, "os^D")
  ]
  heights = np.arange(len(kinds)) * 0.18
  figure, axes = plots.subplots(
    ncols=len(metrics),
    figsize=(WIDTH, 1.1 + 0.085 * len(kinds) * len(rows)),
    sharey=True,
    squeeze=False,
  )
  for ax, metric in zip(axes[0], metrics):
    for place, row in enumerate(rows):
      for (source, head, style), height in zip(kinds, heights - heights.mean()):
        spread = _score(row.get("spread"), head, metric)
        ax.errorbar(
          [_score(row.get(source), head, metric)],
          [place + height],
          xerr=[spread] if source == "scores" and spread >= 0 else None,
          elinewidth=1,
          color=styles[_method(row)][0],
          **style,
        )
      if place % 2:
        ax.axhspan(place - 0.5, place + 0.5, color="0.95", zorder=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"{plots.SCORES[metric]} (%)")
    ax.margins(x=0.08)
  names = [", ".join(map(str, row["labels"].values())) for row in rows]
  axes[0, 0].set_yticks(range(len(rows)), names)
  axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
  handles = [
    _handle(_source_name(HEAD_NAMES[head], source), **style)
    for source, head, style in kinds
  ]
  runs = max(row.get("repetitions", 1) for row in rows)
  figure.legend(
    handles=handles,
    loc="outside upper center",
    ncols=4,
    title=f"mean and standard deviation of {runs} runs" if runs > 1 else None,
  )
  _save(figure, out_stem, stamp)


@_for_print
def loss_terms(runs, out_stem, *, stamp=""):
  """VICReg's loss terms over the epochs, a line a run: figure B.2.

  Args:
    runs: {batch size: path of metrics.jsonl, or None for a run that left
      none}, in the order of the legend.
  """
  terms = ("invariance", "variance", "covariance")
  series = {
    label: [_series(lines, f"train/{term}") for term in terms]
    for label, lines in _read_runs(runs).items()
  }
  if not any(len(epochs) for each in series.values() for epochs, _ in each):
    raise ValueError(
      f"None of the runs {list(runs)} has one of the terms {terms} in its "
      "metrics.jsonl: train one by VICReg first."
    )
  figure, axes = plots.subplots(nrows=3, figsize=(WIDTH, 5.2), sharex=True)
  for panel, (ax, term) in enumerate(zip(axes, terms)):
    for place, (label, each) in enumerate(series.items()):
      epochs, values = each[panel]
      ax.plot(
        epochs,
        values,
        label=_name(label, each),
        color=_shade(place, len(series)),
        marker=MARKERS[place % len(MARKERS)],
        markeredgecolor="white",
        markeredgewidth=0.4,
        **_sparse(len(epochs), place) | {"markersize": 5},
      )
    plots.log_if_wide(
      ax, [v for each in series.values() for v in each[panel][1]]
    )
    ax.set_ylabel(term)
  axes[-1].set_xlabel("epoch")
  figure.align_ylabels()
  figure.legend(
    handles=axes[0].get_lines(),
    loc="outside right upper",
    title="batch size",
  )
  _save(figure, out_stem, stamp)


@_for_print
def losses(runs, out_stem, *, smooth_epochs=50, stamp=""):
  """Training and validation loss over the epochs, smoothed: figure A.1.

  Args:
    runs: {label: path of metrics.jsonl, or None}, a panel each.
    smooth_epochs: width of the running mean, see `smooth`.
  """
  prefixes = ("train/", "validation/")
  series = {
    label: [_series(lines, f"{prefix}loss") for prefix in prefixes]
    for label, lines in _read_runs(runs).items()
  }
  if not any(len(epochs) for each in series.values() for epochs, _ in each):
    raise ValueError(
      f"None of the runs {list(runs)} has a loss in its metrics.jsonl: train "
      "one first."
    )
  ncols = min(2, len(series))
  nrows = math.ceil(len(series) / ncols)
  figure, axes = plots.subplots(
    nrows=nrows,
    ncols=ncols,
    figsize=(WIDTH, 0.5 + 2.4 * nrows),
    squeeze=False,
  )
  for ax, (label, each) in zip(axes.flat, series.items()):
    for prefix, (epochs, values) in zip(prefixes, each):
      name, style = plots.SERIES[prefix]
      marker = {"marker": "o" if prefix == "validation/" else "."}
      values = smooth(epochs, values, smooth_epochs)
      ax.plot(
        epochs, values, label=name, **style | marker | _sparse(len(epochs))
      )
    plots.log_if_wide(
      ax, [v for line in ax.get_lines() for v in line.get_ydata()]
    )
    ax.set_title(_name(label, each))
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"loss (mean over {smooth_epochs:g} epochs)")
    if not _has_point(ax):
      ax.set(xticks=[], yticks=[])
  for ax in axes.flat[len(series) :]:
    ax.remove()
  _legend_above(figure, axes.flat[: len(series)], ncols=2)
  _save(figure, out_stem, stamp)


@_for_print
def collapse(runs, out_stem, *, stamp=""):
  """What tells a collapse of information, over training: for section 5.1.

  Of representations and of embeddings: (a) effective rank (RankMe), (b) mean
  standard deviation and (c) mean absolute correlation of the dimensions; (d)
  the probes' ROC-AUC; and the singular values, over the largest of them, of (e)
  representations and (f) embeddings, which end at 1e-8, as float32 does.

  Args:
    runs: {method: {"metrics": path of metrics.jsonl or None, "spectra":
      {epoch: (y_singular_values, z_singular_values)}, "scores": [(epoch,
      scores or None), ...]}}.
  """
  lines = _read_runs({label: run["metrics"] for label, run in runs.items()})
  styles = _styles(runs)
  figure, axes = plots.subplots(nrows=3, ncols=2, figsize=(WIDTH, 7.2))
  for dashed, (side, head) in enumerate(zip(SIDES, HEADS)):
    for label, run in runs.items():
      line = _line(styles[label], dashed)
      for ax, (metric, _) in zip(axes.flat, COLLAPSE):
        epochs, values = _series(lines[label], f"{side}/{metric}")
        ax.plot(epochs, values, **line | _sparse(len(epochs)))
      scores = sorted(run["scores"], key=lambda pair: pair[0])
      values = [_score(each, head, "roc_auc") for _, each in scores]
      axes[1, 1].plot([epoch for epoch, _ in scores], values, **line)
  axes[1, 1].set_title("(d) ROC-AUC of the probes (%)", loc="left")
  for ax, (_, title) in zip(axes.flat, COLLAPSE):
    ax.set_title(title, loc="left")
  for ax in axes[:2].flat:
    ax.set_xlabel("epoch")
    if ax is not axes[0, 0]:
      ax.sharex(axes[0, 0])
  _draw_spectra(axes[2], runs, styles)
  if not any(_has_point(ax) for ax in axes.flat):
    raise ValueError(
      f"None of the runs {list(runs)} has collapse metrics, spectra or scores: "
      "there is nothing to draw."
    )
  handles = [
    _handle(f"{label}: {SIDES[d]}; (d): {HEADS[head]} head", **_line(style, d))
    for label, style in styles.items()
    for d, head in enumerate(HEADS)
  ]
  figure.legend(
    handles=handles, loc="outside upper center", ncols=min(2, len(runs))
  )
  _save(figure, out_stem, stamp)


def smooth(epochs_N, values_N, width):
  """Mean of the values within width / 2 epochs of each, the ends included.

  Epochs ascend and need not be evenly spaced; at both ends the window holds
  what there is. A nan stays one, and is left out of its neighbours' means.
  """
  epochs_N = np.asarray(epochs_N, np.float64)
  values_N = np.asarray(values_N, np.float64)
  # A neighbour exactly half a width away must not hang on rounding.
  half = width / 2 + 1e-6
  first_N = np.searchsorted(epochs_N, epochs_N - half, "left")
  last_N = np.searchsorted(epochs_N, epochs_N + half, "right")
  finite_N = np.isfinite(values_N)
  sums = np.append(0, np.cumsum(np.where(finite_N, values_N, 0)))
  counts = np.append(0, np.cumsum(finite_N))
  counts_N = np.maximum(1, counts[last_N] - counts[first_N])
  return np.where(finite_N, (sums[last_N] - sums[first_N]) / counts_N, np.nan)


def _save(figure, out_stem, stamp):
  if stamp:
    figure.supxlabel(textwrap.fill(stamp, 115), fontsize=7, color="0.3")
  for suffix in (".png", ".svg"):
    plots.save(figure, f"{out_stem}{suffix}")


def _source_name(name, source):
  return f"{name}, thesis" if source == "thesis" else name


def _score(scores, head, metric):
  """A value, or nan if the run failed or has no such head or metric."""
  value = ((scores or {}).get(head) or {}).get(metric)
  return math.nan if value is None else value


def _check_drawable(rows, sources, metrics, heads):
  values = [
    _score(row.get(source), head, metric)
    for row in rows
    for source in sources
    for head in heads
    for metric in metrics
  ]
  if not any(map(math.isfinite, values)):
    raise ValueError(
      f"None of the {len(rows)} rows has a score in {list(metrics)}: there is "
      "nothing to draw. Let at least one run finish its probe."
    )


def _by_labels(rows, names):
  """{values of the labels `names`: row}, in the rows' order."""
  found = {}
  for row in rows:
    missing = [name for name in names if name not in row["labels"]]
    if missing:
      raise ValueError(
        f"The row {row['labels']} has no label {missing[0]!r}: give every row "
        f"the labels {list(names)}."
      )
    key = tuple(row["labels"][name] for name in names)
    if key in found:
      raise ValueError(
        f"The rows {found[key]['labels']} and {row['labels']} are at one place "
        f"of the figure: give one row for each {list(names)}."
      )
    found[key] = row
  return found


def _method(row):
  """The first label that is a method, or the first label."""
  values = list(row["labels"].values())
  return next((v for v in values if v in METHOD_STYLES), values[0])


def _styles(names):
  """{name: colour and marker}, fixed for the methods."""
  others = itertools.cycle(OTHER_STYLES)
  return {
    name: METHOD_STYLES[name] if name in METHOD_STYLES else next(others)
    for name in dict.fromkeys(names)
  }


def _line(style, dashed):
  """Options of a solid or dashed line, see METHOD_STYLES."""
  color, *markers = style
  return {
    "color": color,
    "marker": markers[dashed],
    "linestyle": _DASHES if dashed else "-",
  }


def _of_thesis(line):
  return line | {
    "color": _pale(line["color"], 0.6),
    "linewidth": 0.8,
    "markerfacecolor": "white",
    "zorder": 1.9,  # below ours
  }


def _handle(label, **style):
  from matplotlib.lines import Line2D

  return Line2D([], [], label=label, **{"color": "black"} | style)


def _legend_above(figure, axes, ncols):
  """One legend of all the axes' lines. Above, as the stamp is below."""
  handles = {}
  for ax in axes:
    for handle, label in zip(*ax.get_legend_handles_labels()):
      handles.setdefault(label, handle)
  figure.legend(
    handles.values(), handles.keys(), loc="outside upper center", ncols=ncols
  )


def _ticks_at(axes, values, log_x):
  """Ticks at the values; labels upright if they would touch each other."""
  at = np.log(values) if log_x else np.array(values, float)
  # A panel of the two is some 175 points wide between its outermost points.
  gaps = np.diff(at) / max(at[-1] - at[0], 1e-9) * 175
  widths = np.array([4.6 * len(str(value)) + 4 for value in values])
  touch = (gaps < (widths[1:] + widths[:-1]) / 2).any()
  for ax in axes:
    ax.set_xticks(values, [str(v) for v in values], rotation=90 * touch)
    ax.set_xticks([], minor=True)


def _shade(place, count):
  """A colour of an ordered scale, without its palest."""
  from matplotlib import colormaps

  return colormaps["viridis"](0.88 * place / max(1, count - 1))


def _sparse(count, offset=0):
  """Markers on every point if they are few, else on ten of them."""
  if count <= 50:
    return {"markevery": 1, "markersize": 3.5}
  stride = count // 10
  return {
    "markevery": (offset * stride // 5 % stride, stride),
    "markersize": 3.5,
  }


def _read_runs(runs):
  """{label: [(epoch, line of metrics.jsonl)]}, empty if the path is None."""
  return {
    label: [] if path is None else _with_epochs(path)
    for label, path in runs.items()
  }


def _with_epochs(path):
  """The lines of a run, each with its epoch.

  Only lines of training have one: the others' follows from their step, since
  the two are proportional.
  """
  lines = files.read_metrics(path)
  per_epoch = steps_per_epoch(lines)
  if lines and not per_epoch:
    raise ValueError(
      f"{path} has no line with train/epoch, so its steps cannot be told in "
      "epochs: give the metrics.jsonl of a pretraining."
    )
  return [(line["step"] / per_epoch, line) for line in lines]


def steps_per_epoch(lines) -> int:
  """From the lines of a training's metrics.jsonl; 0 if it has not begun."""
  for line in lines:
    if line.get("train/epoch"):
      return round(line["step"] / line["train/epoch"])
  return 0


def _series(lines, key):
  """Arrays of a metric's epochs and values; a null is nan."""
  points = [
    (epoch, math.nan if line[key] is None else line[key])
    for epoch, line in lines
    if key in line
  ]
  return np.array(points, float).reshape(-1, 2).T


def _draw_cells(ax, scores_YxX):
  """Coloured cells with their scores; the drawn image, of 0 to 1."""
  from matplotlib.patches import Rectangle

  missing_YxX = np.isnan(scores_YxX)
  low_X = np.where(missing_YxX, np.inf, scores_YxX).min(axis=0)
  high_X = np.where(missing_YxX, -np.inf, scores_YxX).max(axis=0)
  span_X = np.where(high_X > low_X, high_X - low_X, np.nan)
  image = ax.pcolormesh(
    np.ma.masked_invalid((scores_YxX - low_X) / span_X),
    cmap="cividis",
    vmin=0,
    vmax=1,
  )
  colors_YxXx4 = image.cmap(image.norm(image.get_array()))
  for (b, a), score in np.ndenumerate(scores_YxX):
    luminance = 1.0
    if math.isnan(score) or math.isnan(span_X[a]):
      hatch = "////" if math.isnan(score) else None
      cell = {"facecolor": "0.88", "edgecolor": "0.6", "linewidth": 0}
      ax.add_patch(Rectangle((a, b), 1, 1, hatch=hatch, **cell))
    else:
      luminance = colors_YxXx4[b, a, :3] @ (0.299, 0.587, 0.114)
    if not math.isnan(score):
      color = "black" if luminance > 0.45 else "white"
      text = {"ha": "center", "va": "center", "fontsize": 7}
      ax.text(a + 0.5, b + 0.5, f"{score:.2f}", color=color, **text)
  ax.grid(False)
  for drawn, count in ((ax.axhline, len(scores_YxX)), (ax.axvline, len(low_X))):
    for place in range(1, count):
      drawn(place, color="white", linewidth=0.8)
  return image


def _draw_spectra(axes, runs, styles):
  """Singular values by rank, paler the earlier; legends of epochs below."""
  epochs = sorted({epoch for run in runs.values() for epoch in run["spectra"]})
  shades = dict(zip(epochs, np.linspace(0.3, 1, len(epochs) + 1)[1:]))
  for side, ax in enumerate(axes):
    for label, run in runs.items():
      line = _line(styles[label], side)
      for epoch in sorted(run["spectra"]):
        values = np.asarray(run["spectra"][epoch][side], float)
        values = values[values > 0]  # a zero has no place on the axis
        # Evenly spaced on a logarithmic axis.
        marked = np.unique(np.geomspace(1, len(values) or 1, 8).astype(int)) - 1
        ax.plot(
          np.arange(1, len(values) + 1),
          values / values.max(initial=0),
          color=_pale(line["color"], shades[epoch]),
          marker=line["marker"],
          markevery=marked.tolist(),
          markersize=3,
          linewidth=1,
        )
    ax.set_title(
      f"({'ef'[side]}) singular values of {SIDES[side]}s", loc="left"
    )
    ax.set_xlabel("rank of the singular value")
    ax.set_ylabel("over the largest")
    if _has_point(ax):
      ax.set_xscale("log")
      ax.set_yscale("log")
      ax.set_ylim(bottom=max(1e-8, ax.get_ylim()[0]))
      ax.legend(
        handles=[
          _handle(f"{epoch:g}", color=_pale("black", shade))
          for epoch, shade in shades.items()
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.28),
        ncols=5,
        title="epoch",
        columnspacing=0.9,
        handlelength=1.2,
        handletextpad=0.4,
      )


def _pale(color, strength):
  """A colour on its way from white (0) to itself (1)."""
  from matplotlib.colors import to_rgb

  return tuple(1 - strength * (1 - c) for c in to_rgb(color))


def _name(label, each):
  """A run's label, told apart where no series of it has a point."""
  found = any(len(epochs) for epochs, _ in each)
  return str(label) if found else f"{label} (no data)"


def _has_point(ax):
  return any(np.isfinite(line.get_ydata()).any() for line in ax.get_lines())
