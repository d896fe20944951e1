"""The thesis's figures of scores, from the results of many runs.

Results are a `tables.Results`. A row is a dict: "labels", which tell rows apart
({"method": "VICReg", "epochs": 300}); "scores", {"linear": {"roc_auc": percent,
...}, "mlp": ...}, or None for a run that failed; and perhaps "thesis"
(published scores) and "spread" (standard deviations over seeds), both in the
form of scores. A missing value is a gap.

Every function writes OUT_STEM.png and OUT_STEM.svg with `stamp` in small print
below, and raises ValueError if it has nothing to draw.
"""

import itertools
import math

import numpy as np

from vicreg_jax import plots
from vicreg_jax.study import drawing


@drawing.for_print
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
  styles = drawing.styles([name for name, _ in by_key])
  figure, axes = drawing.subplots(3.1, ncols=2, sharex=True)
  for ax, metric in zip(axes, ("roc_auc", "pr_auc")):
    for name, style in styles.items():
      points = sorted(at for other, at in by_key if other == name)
      for source, head in itertools.product(("scores", "thesis"), heads):
        values = [
          drawing.score(by_key[name, at].get(source), head, metric)
          for at in points
        ]
        if not np.isnan(values).all():
          line = drawing.line(style, head != heads[0])
          if source == "thesis":
            line = _of_thesis(line)
          label = _source_name(f"{name}, {drawing.HEAD_NAMES[head]}", source)
          ax.plot(points, values, label=label, **line)
    ax.set_ylabel(f"{plots.SCORES[metric]} (%)")
    ax.set_xlabel(x_label)
  if log_x:
    axes[0].set_xscale("log")
  _ticks_at(axes, sorted({at for _, at in by_key}), log_x)
  drawing.legend_above(figure, axes, ncols=4 if len(styles) > 1 else 2)
  drawing.save(figure, out_stem, stamp)


@drawing.for_print
def heat_maps(results, out_stem, *, x, y, stamp=""):
  """PR-AUC over two labels, normalised within each column: figure B.3.

  The colour of a cell is (value - column minimum) / (column maximum - column
  minimum), its text the PR-AUC in percent. A missing cell is hatched; where a
  column's values are all the same, it is grey.

  Args:
    results: see the module; a row for each cell.
    x, y: labels, such as representation size and batch size, whose values are
      numbers; the largest y is on top.
  """
  _check_drawable(results.rows, ("scores",), ("pr_auc",), drawing.HEADS)
  by_key = _by_labels(results.rows, (y, x))
  ys, xs = (sorted(set(values)) for values in zip(*by_key))
  height = 1.7 + 0.25 * len(ys)
  figure, axes = drawing.subplots(height, ncols=2, sharey=True)
  for ax, head in zip(axes, drawing.HEADS):
    scores_YxX = np.array(
      [
        [
          drawing.score(by_key.get((b, a), {}).get("scores"), head, "pr_auc")
          for a in xs
        ]
        for b in ys
      ]
    )
    image = _draw_cells(ax, scores_YxX)
    ax.set_xticks(np.arange(len(xs)) + 0.5, xs)
    ax.set_xlabel(x.replace("_", " "))
    ax.set_title(f"{drawing.HEADS[head]} head")
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
  drawing.save(figure, out_stem, stamp)


@drawing.for_print
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
  kinds = [("scores", {})]
  if any(row.get("thesis") for row in rows):
    kinds.append(("thesis", {"fillstyle": "none"}))
  kinds = [
    (source, head, {"marker": marker, "linestyle": "none"} | fill)
    for source, fill in kinds
    for head, marker in zip(results.heads, "os^D")
  ]
  heights = np.arange(len(kinds)) * 0.18
  height = 1.1 + 0.085 * len(kinds) * len(rows)
  figure, axes = drawing.subplots(
    height, ncols=len(metrics), sharey=True, squeeze=False
  )
  for ax, metric in zip(axes[0], metrics):
    _draw_dots(ax, rows, metric, list(zip(kinds, heights - heights.mean())))
  names = [", ".join(map(str, row["labels"].values())) for row in rows]
  axes[0, 0].set_yticks(range(len(rows)), names)
  axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
  handles = [
    drawing.handle(_source_name(drawing.HEAD_NAMES[head], source), **style)
    for source, head, style in kinds
  ]
  runs = max(row.get("repetitions", 1) for row in rows)
  figure.legend(
    handles=handles,
    loc="outside upper center",
    ncols=4,
    title=f"mean and standard deviation of {runs} runs" if runs > 1 else None,
  )
  drawing.save(figure, out_stem, stamp)


def _draw_dots(ax, rows, metric, kinds):
  """Draws a panel; `kinds` are (source, head, style) and place in a row."""
  styles = drawing.styles([_method(row) for row in rows])
  for place, row in enumerate(rows):
    for (source, head, style), height in kinds:
      spread = drawing.score(row.get("spread"), head, metric)
      ax.errorbar(
        [drawing.score(row.get(source), head, metric)],
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


def _source_name(name, source):
  return f"{name}, thesis" if source == "thesis" else name


def _check_drawable(rows, sources, metrics, heads):
  values = [
    drawing.score(row.get(source), head, metric)
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
  return next((v for v in values if v in drawing.METHOD_STYLES), values[0])


def _of_thesis(line):
  return line | {
    "color": drawing.pale(line["color"], 0.6),
    "linewidth": 0.8,
    "markerfacecolor": "white",
    "zorder": 1.9,  # below ours
  }


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
