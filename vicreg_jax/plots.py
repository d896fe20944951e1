"""Figures of a run, from its files. Matplotlib, without a display.

The functions below the figures also serve `study/figures.py`.
"""

import io
import math

from vicreg_jax import files

# Metric names, without prefix, from the top panel down.
TERMS = (
  "loss",
  "invariance",
  "variance",
  "covariance",
  "redundancy",
  "gaussianity",
  "positive_similarity",
  "negative_similarity",
  "top1",
)
LEARNING_RATE = "learning_rate"
# Titles of the scores, all in percent.
SCORES = {
  "roc_auc": "ROC-AUC",
  "pr_auc": "PR-AUC",
  "roc_auc_clip": "ROC-AUC clip",
  "pr_auc_clip": "PR-AUC clip",
  "accuracy": "accuracy",
}
_MOST_LABELS = 60
# Okabe and Ito's blue and vermilion, for print and the colour-blind.
BLUE, RED = "#0072B2", "#D55E00"
# prefix in metrics.jsonl: label, style.
SERIES = {
  "train/": ("training", {"color": BLUE, "linewidth": 1.0}),
  "validation/": (
    "validation",
    {"color": RED, "linewidth": 1.2, "linestyle": "--", "marker": "o"},
  ),
}


def training_curves(metrics_jsonl_path, out_png):
  """Each loss term over the steps, and the learning rate, a panel each.

  As the thesis's figures A.1 and B.2. An axis is logarithmic if its values are
  positive and span a decade; a null (nan or infinite) is a gap.

  Raises:
    ValueError: the file is missing, faulty or has none of these metrics.
  """
  lines = files.read_metrics(metrics_jsonl_path)
  panels = [
    (term, series)
    for term in (*TERMS, LEARNING_RATE)
    if (series := _by_prefix(lines, term))
  ]
  if not panels:
    raise ValueError(
      f"{metrics_jsonl_path} has no loss to plot: it holds "
      f"{sorted({k for line in lines for k in line})}, of {TERMS} none."
    )
  figure, axes = subplots(
    nrows=len(panels),
    figsize=(6.5, sum(_height(term) for term, _ in panels) + 0.6),
    sharex=True,
    squeeze=False,
    height_ratios=[_height(term) for term, _ in panels],
  )
  for ax, (term, series) in zip(axes[:, 0], panels):
    for label, style, steps, values in series:
      # A point that has no neighbour draws no line: mark the sparse ones.
      size = 3 if len(steps) <= 50 else 0
      ax.plot(steps, values, label=label, markersize=size, **style)
    if term != LEARNING_RATE:  # its axis is linear
      log_if_wide(ax, [v for *_, values in series for v in values])
    ax.set_ylabel(term.replace("_", "\n"))
    ax.grid(alpha=0.3)
  axes[-1, 0].set_xlabel("step")
  figure.align_ylabels()
  handles = {}
  for ax in axes[:, 0]:
    handles |= dict(zip(*reversed(ax.get_legend_handles_labels())))
  if len(handles) > 1:
    axes[0, 0].legend(handles.values(), handles.keys(), frameon=False)
  save(figure, out_png)


def per_tag_auc(rows, out_png):
  """Horizontal bars of ROC-AUC a tag, trained against untrained, best on top.

  Args:
    rows: dicts {"tag": str, "trained": percent, "untrained": percent}. Tags
      whose value is nan are left out, and counted in the title.
    out_png: the figure to write.

  Raises:
    ValueError: if no row has both values.
  """
  defined = [
    row
    for row in rows
    if math.isfinite(row["trained"]) and math.isfinite(row["untrained"])
  ]
  if not defined:
    raise ValueError(
      f"None of the {len(rows)} tags has a ROC-AUC of both encoders: there is "
      "nothing to plot. Evaluate on more clips."
    )
  defined.sort(key=lambda row: row["trained"])
  places = range(len(defined))
  figure, ax = subplots(figsize=(6.5, 1.1 + 0.19 * len(defined)))
  ax.barh(
    [p + 0.2 for p in places],
    [row["trained"] for row in defined],
    height=0.4,
    color=BLUE,
    label="trained encoder",
  )
  ax.barh(
    [p - 0.2 for p in places],
    [row["untrained"] for row in defined],
    height=0.4,
    color="0.72",
    label="untrained encoder",
  )
  ax.axvline(50, color="black", linewidth=0.8, linestyle=":", label="chance")
  ax.set_yticks(list(places), [row["tag"] for row in defined], fontsize=8)
  ax.set_ylim(-0.6, len(defined) - 0.4)
  lowest = min(min(row["trained"], row["untrained"]) for row in defined)
  # Chance is in sight, and bars below it too.
  ax.set_xlim(max(0, min(45, 5 * (lowest // 5))), 100)
  ax.set_xlabel("ROC-AUC (%)")
  ax.grid(axis="x", alpha=0.3)
  ax.set_axisbelow(True)
  left_out = len(rows) - len(defined)
  if left_out:
    ax.set_title(f"tags left out, AUC undefined: {left_out}", fontsize=9)
  figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
  save(figure, out_png)


def clips(seconds, dbfs, labels, label_counts, out_png):
  """Draws a data set: durations, loudness, and clips of each label.

  Args:
    seconds, dbfs: {split: values}, a value a clip: its length, and its RMS in
      dB of full scale.
    labels: names; at most the 60 with most clips are shown.
    label_counts: {split: clips of each label}.
    out_png: the figure to write.
  """
  total = [sum(counts) for counts in zip(*label_counts.values())]
  shown = sorted(range(len(labels)), key=lambda k: total[k])[-_MOST_LABELS:]
  height = 0.8 + 0.19 * len(shown)
  figure, axes = subplots(
    nrows=3 if shown else 2,
    figsize=(6.5, 4.4 + height * bool(shown)),
    height_ratios=[2, 2, height][: 3 if shown else 2],
  )
  styles = dict(zip(seconds, (BLUE, RED, "0.6")))
  for ax, values, unit in (
    (axes[0], seconds, "duration (s)"),
    (axes[1], dbfs, "loudness (dB of full scale, RMS)"),
  ):
    ax.hist(
      list(values.values()),
      bins=40,
      stacked=True,
      color=list(styles.values()),
      label=[f"{split} ({len(v):,})" for split, v in values.items()],
    )
    ax.set_xlabel(unit)
    ax.set_ylabel("clips")
    ax.grid(alpha=0.3)
  figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    frameon=False,
    fontsize=8,
  )
  if shown:
    left = [0] * len(shown)
    for split, color in styles.items():
      counts = [label_counts[split][k] for k in shown]
      axes[2].barh(range(len(shown)), counts, left=left, color=color)
      left = [a + b for a, b in zip(left, counts)]
    axes[2].set_yticks(
      range(len(shown)), [labels[k] for k in shown], fontsize=8
    )
    axes[2].set_ylim(-0.6, len(shown) - 0.4)
    axes[2].set_xlabel("clips with the label")
    axes[2].grid(axis="x", alpha=0.3)
    axes[2].set_axisbelow(True)
  save(figure, out_png)


def _height(term):
  return 0.9 if term == LEARNING_RATE else 1.5


def _by_prefix(lines, term):
  """[(label, style, steps, values)] of the prefixes of a term."""
  found = []
  for prefix, (label, style) in SERIES.items():
    points = [
      (line["step"], math.nan if line[key] is None else line[key])
      for line in lines
      if (key := f"{prefix}{term}") in line
    ]
    if points:
      found.append((label, style, *zip(*points)))
  return found


def log_if_wide(ax, values):
  """Makes the y axis logarithmic if its values are positive over a decade."""
  finite = [v for v in values if math.isfinite(v)]
  if finite and 0 < 10 * min(finite) < max(finite):
    ax.set_yscale("log", subs=range(2, 10))
    ax.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")


def subplots(**options):
  """A figure and its axes, as pyplot's `subplots` of the same options."""
  # Imported here, as only figures need Matplotlib. A Figure without pyplot
  # needs neither global state nor a display.
  from matplotlib.figure import Figure

  size = options.pop("figsize")
  figure = Figure(figsize=size, layout="constrained")
  return figure, figure.subplots(
    gridspec_kw={"height_ratios": options.pop("height_ratios", None)}, **options
  )


def save(figure, path):
  """Writes PATH.png or PATH.svg; the same figure gives the same bytes.

  Raises ValueError if it cannot be written.
  """
  import matplotlib

  options = {"format": "png", "dpi": 200, "metadata": {"Software": files.MARK}}
  if str(path).endswith(".svg"):
    metadata = {"Date": None, "Creator": files.MARK}
    options = {"format": "svg", "metadata": metadata}
  content = io.BytesIO()
  # Without a salt the ids of an SVG are random.
  with matplotlib.rc_context({"svg.hashsalt": "vicreg_jax"}):
    figure.savefig(content, **options)
  with files.explained(path):
    files.write(path, content.getvalue())
