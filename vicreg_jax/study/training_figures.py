"""Figures of trainings: A.1, B.2, and collapse (section 5.1).

Runs are given by the paths of their metrics.jsonl; None for a run that left
none. Every function writes OUT_STEM.png and OUT_STEM.svg with `stamp` in small
print below, and raises ValueError if it has nothing to draw.
"""

import math

import numpy as np

from vicreg_jax import files, plots
from vicreg_jax.study import drawing

MARKERS = "os^Dv<>PX"
SIDES = ("representation", "embedding")
# (metric, panel title) of `collapse`; the metrics are under both sides' names.
COLLAPSE = (
  ("effective_rank", "(a) effective rank (RankMe)"),
  ("std", "(b) mean standard deviation"),
  ("mean_abs_correlation", "(c) mean absolute correlation"),
)


@drawing.for_print
def loss_terms(runs, out_stem, *, stamp=""):
  """VICReg's loss terms over the epochs, a line a run: figure B.2.

  Args:
    runs: {batch size: metrics.jsonl}, in the order of the legend.
  """
  terms = ("invariance", "variance", "covariance")
  series = _read_series(runs, [f"train/{term}" for term in terms])
  figure, axes = drawing.subplots(5.2, nrows=3, sharex=True)
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
  drawing.save(figure, out_stem, stamp)


@drawing.for_print
def losses(runs, out_stem, *, smooth_epochs=50, stamp=""):
  """Training and validation loss over the epochs, smoothed: figure A.1.

  Args:
    runs: {label: metrics.jsonl}, a panel each.
    smooth_epochs: width of the running mean, see `smooth`.
  """
  prefixes = ("train/", "validation/")
  series = _read_series(runs, [f"{prefix}loss" for prefix in prefixes])
  ncols = min(2, len(series))
  nrows = math.ceil(len(series) / ncols)
  figure, axes = drawing.subplots(
    0.5 + 2.4 * nrows, nrows=nrows, ncols=ncols, squeeze=False
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
  drawing.legend_above(figure, axes.flat[: len(series)], ncols=2)
  drawing.save(figure, out_stem, stamp)


@drawing.for_print
def collapse(runs, out_stem, *, stamp=""):
  """Measures of a collapse of information over training, for section 5.1.

  Of representations and of embeddings: (a) effective rank (RankMe), (b) mean
  standard deviation and (c) mean absolute correlation of the dimensions; (d)
  the probes' ROC-AUC; and the singular values, over the largest of them, of (e)
  representations and (f) embeddings, which end at 1e-8, as float32 does.

  Args:
    runs: {method: {"metrics": metrics.jsonl, "spectra":
      {epoch: (y_singular_values, z_singular_values)}, "scores": [(epoch,
      scores or None), ...]}}.
  """
  lines = _read_runs({label: run["metrics"] for label, run in runs.items()})
  styles = drawing.styles(runs)
  figure, axes = drawing.subplots(7.2, nrows=3, ncols=2)
  for dashed, (side, head) in enumerate(zip(SIDES, drawing.HEADS)):
    for label, run in runs.items():
      line = drawing.line(styles[label], dashed)
      for ax, (metric, _) in zip(axes.flat, COLLAPSE):
        epochs, values = _series(lines[label], f"{side}/{metric}")
        ax.plot(epochs, values, **line | _sparse(len(epochs)))
      scores = sorted(run["scores"], key=lambda pair: pair[0])
      values = [drawing.score(each, head, "roc_auc") for _, each in scores]
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
    drawing.handle(
      f"{label}: {SIDES[d]}; (d): {drawing.HEADS[head]} head",
      **drawing.line(style, d),
    )
    for label, style in styles.items()
    for d, head in enumerate(drawing.HEADS)
  ]
  figure.legend(
    handles=handles, loc="outside upper center", ncols=min(2, len(runs))
  )
  drawing.save(figure, out_stem, stamp)


def smooth(epochs_N, values_N, width):
  """Mean of the values within width / 2 epochs of each, the ends included.

  Epochs ascend and need not be evenly spaced; at both ends the window is
  shorter. A nan stays nan, and is left out of its neighbours' means.
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

  Only lines of training have one; for others the epoch follows from the step,
  which is proportional.
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


def _read_series(runs, keys):
  """{label: [epochs and values of each key]}; refuses runs without a value."""
  series = {
    label: [_series(lines, key) for key in keys]
    for label, lines in _read_runs(runs).items()
  }
  if not any(len(epochs) for each in series.values() for epochs, _ in each):
    raise ValueError(
      f"None of the runs {list(runs)} has one of {keys} in its metrics.jsonl: "
      "train one first."
    )
  return series


def _series(lines, key):
  """Arrays of a metric's epochs and values; a null is nan."""
  points = [
    (epoch, math.nan if line[key] is None else line[key])
    for epoch, line in lines
    if key in line
  ]
  return np.array(points, float).reshape(-1, 2).T


def _draw_spectra(axes, runs, styles):
  """Singular values by rank, paler the earlier; legends of epochs below."""
  epochs = sorted({epoch for run in runs.values() for epoch in run["spectra"]})
  shades = dict(zip(epochs, np.linspace(0.3, 1, len(epochs) + 1)[1:]))
  for side, ax in enumerate(axes):
    for label, run in runs.items():
      line = drawing.line(styles[label], side)
      for epoch in sorted(run["spectra"]):
        values = np.asarray(run["spectra"][epoch][side], float)
        values = values[values > 0]  # a zero has no place on the axis
        # Evenly spaced on a logarithmic axis.
        marked = np.unique(np.geomspace(1, len(values) or 1, 8).astype(int)) - 1
        ax.plot(
          np.arange(1, len(values) + 1),
          values / values.max(initial=0),
          color=drawing.pale(line["color"], shades[epoch]),
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
          drawing.handle(f"{epoch:g}", color=drawing.pale("black", shade))
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


def _name(label, each):
  """A run's label, marked if none of its series has a point."""
  found = any(len(epochs) for epochs, _ in each)
  return str(label) if found else f"{label} (no data)"


def _has_point(ax):
  return any(np.isfinite(line.get_ydata()).any() for line in ax.get_lines())
