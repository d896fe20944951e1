"""How predictions of a data set's test clips are scored, written and shown.

The same for all that predicts labels: the probes' heads, and training with
labels. Thesis sections 3.2.3 and 3.3.4: test clips are cut into consecutive
segments whose predictions are averaged.
"""

import contextlib
import csv
import io
import json
import math
import sys
from typing import NamedTuple

import jax
import numpy as np

from vicreg_jax import files, mesh, plots
from vicreg_jax.model import metrics

RESULTS, PER_TAG = "probe.json", "probe_tags.csv"


class Scores(NamedTuple):
  """Of one predictor: `results` (percent), and arrays by tag (`tags`)."""

  results: dict
  tags: dict[str, np.ndarray]


def of_segments(
  logits_MxK, clip_M, labels_NxK, *, single: bool, best_epoch: int
) -> Scores:
  """Scores of N clips by the logits of their M segments.

  Args:
    logits_MxK: before the activation (softmax with `single`, else sigmoid).
    clip_M: the clip of each segment.
    labels_NxK: 0 or 1.
    single: each clip has one label, so that there is an accuracy.
    best_epoch: whose weights predict.
  """
  activation = jax.nn.softmax if single else jax.nn.sigmoid
  scores_NxK = metrics.mean_over_clip(
    np.asarray(activation(logits_MxK)), clip_M, len(labels_NxK)
  )
  results = metrics.tagging_metrics(labels_NxK, scores_NxK)
  if single:
    results["accuracy"] = metrics.accuracy(labels_NxK, scores_NxK)
  results["best_epoch"] = best_epoch
  return Scores(results, metrics.per_tag_metrics(labels_NxK, scores_NxK))


def held_out(*of_valid, **options) -> dict:
  """Scores on the clips to validate on, to choose a recipe by; not the test's.

  Whoever chooses by the test scores has none left that are unbiased. Takes what
  `of_segments` takes; empty if there are too few clips for any score.
  """
  try:
    results = of_segments(*of_valid, **options).results
  except ValueError:
    return {}
  names = ("roc_auc", "pr_auc", "accuracy")
  return {f"valid_{k}": results[k] for k in names if k in results}


def majority(train_labels_NxK, test_labels_MxK) -> dict:
  """Scores of always answering train's most frequent class."""
  accuracy = metrics.majority_accuracy(train_labels_NxK, test_labels_MxK)
  return {"accuracy": accuracy}


def plain(value):
  """JSON has no nan: a figure that is not defined is null."""
  if isinstance(value, dict):
    return {k: plain(v) for k, v in value.items()}
  return None if isinstance(value, float) and math.isnan(value) else value


def write(workdir, results: dict, names, tags: dict[str, dict]):
  """Writes `probe.json`, and scores by tag as CSV.

  Args:
    workdir: where to.
    results: for `probe.json`.
    names: of the tags.
    tags: what `Scores.tags` holds, by the name of the predictor.

  Raises:
    ValueError: they cannot be written.
  """
  rows_of_tags, heads = io.StringIO(newline=""), list(tags)
  figures = ("roc_auc", "pr_auc")
  rows = csv.writer(rows_of_tags)
  rows.writerow(
    ["tag", "positives", *(f"{h}_{s}" for h in heads for s in figures)]
  )
  for k, name in enumerate(names):
    cells = (tags[h][s][k] for h in heads for s in figures)
    rows.writerow(
      [name, int(tags[heads[0]]["positives"][k])]
      + [f"{cell:.4f}" for cell in cells]
    )
  text = json.dumps(results, indent=2) + "\n"
  for name, content in ((PER_TAG, rows_of_tags.getvalue()), (RESULTS, text)):
    with files.explained(f"{workdir}/{name}"):
      files.write(f"{workdir}/{name}", content.encode())


def reuse(workdir, made_of: dict) -> dict | None:
  """`probe.json` of a workdir, if it was made of the same; says so on stderr.

  Args:
    workdir: where `write` may have written.
    made_of: what decides the results, for JSON; they have it under "of".
  """
  path, results = f"{workdir}/{RESULTS}", {}
  with contextlib.suppress(OSError, ValueError):  # then it is made anew
    if files.exists(f"{workdir}/{PER_TAG}"):
      results = json.loads(files.read(path))
  found = results.get("of") if isinstance(results, dict) else None
  same = found == json.loads(json.dumps(made_of))
  if not mesh.gather(same).all():  # on all hosts or on none
    return None
  if mesh.is_first_host():
    print(f"{path}: made of the same, and not again", file=sys.stderr)
  return results


def table(results: dict) -> str:
  """`probe.json` for the terminal, a row for each predictor."""
  rows = [name for name in results if "roc_auc" in (_dict(results[name]))]
  columns = {
    key: title
    for key, title in plots.SCORES.items()
    if any(key in results[name] for name in rows)
  }
  width = max(map(len, rows), default=0) + 2
  lines = [
    "".ljust(width) + "".join(f"{title:>14}" for title in columns.values())
  ]
  for name in rows:
    cells = (results[name].get(key) for key in columns)
    lines.append(
      name.replace("_", " ").ljust(width)
      + "".join(f"{'-' if c is None else format(c, '.2f'):>14}" for c in cells)
    )
  if "majority" in results:
    accuracy = results["majority"]["accuracy"]
    lines.append(f"accuracy of the most frequent class: {accuracy:.2f}")
  return "\n".join(lines)


def _dict(value):
  return value if isinstance(value, dict) else {}
