"""Scores predictions of a data set's test clips, writes and prints the scores.

The probes' heads and training with labels share this code. Thesis sections
3.2.3 and 3.3.4: test clips are cut into consecutive segments, whose predictions
are averaged.
"""

import contextlib
import csv
import io
import json
import math
import sys
from collections.abc import Collection
from typing import NamedTuple

import jax
import numpy as np

from vicreg_jax import files, mesh, plots
from vicreg_jax.evaluation import bootstrap, metrics

RESULTS, PER_TAG = "probe.json", "probe_tags.csv"


class Scores(NamedTuple):
  """Scores of one predictor: `results` (percent), and arrays by tag (`tags`).

  `predicted_NxK` are the predictions for each clip, and each tag or class.
  """

  results: dict
  tags: dict[str, np.ndarray]
  predicted_NxK: np.ndarray


def over_segments(
  logits_MxK, clip_M, num_clips: int, *, single: bool
) -> np.ndarray:
  """Probabilities [N, K] of clips from the logits of their M segments.

  Args:
    logits_MxK: before the activation (softmax with `single`, else sigmoid).
    clip_M: the clip of each segment.
    num_clips: N.
    single: each clip has one label.
  """
  activation = jax.nn.softmax if single else jax.nn.sigmoid
  return metrics.mean_over_clip(
    np.asarray(activation(logits_MxK)), clip_M, num_clips
  )


def of_clips(labels_NxK, predicted_NxK, *, single: bool, **notes) -> Scores:
  """Scores of N clips.

  Args:
    labels_NxK: 0 or 1.
    predicted_NxK: the higher, the more likely.
    single: each clip has one label: adds the accuracy.
    notes: further entries of the results, such as `best_epoch`.
  """
  results = metrics.tagging_metrics(labels_NxK, predicted_NxK)
  if single:
    results["accuracy"] = metrics.accuracy(labels_NxK, predicted_NxK)
  tags = metrics.per_tag_metrics(labels_NxK, predicted_NxK)
  return Scores(results | notes, tags, predicted_NxK)


def held_out(labels_NxK, predicted_NxK, *, single: bool) -> dict:
  """Scores on the validation clips, to choose a recipe by.

  A choice by test scores would bias them. Empty if there are too few clips for
  any score.
  """
  try:
    results = of_clips(labels_NxK, predicted_NxK, single=single).results
  except ValueError:
    return {}
  names = ("roc_auc", "pr_auc", "accuracy")
  return {f"valid_{k}": results[k] for k in names if k in results}


def pairs(names: Collection[str]) -> list[tuple[str, str]]:
  """(head of the trained encoder, prefix of another with this head), all pairs.

  `names`: "knn", "mfcc_knn" and so on.
  """
  found = []
  for name in names:
    others = [n for n in names if n.endswith(f"_{name}")]
    if not any(name.endswith(f"_{head}") for head in names):
      found += [(name, n.removesuffix(f"_{name}")) for n in others]
  return found


def add_intervals(
  results: dict,
  found: dict[str, Scores],
  labels_NxK,
  track_N,
  *,
  seed: int,
  single: bool,
):
  """Adds intervals to `results`; see `bootstrap`.

  A predictor gets "interval", {metric: [low, high]}. The trained encoder's also
  get "over_start", "over_mfcc" and so on, their differences to the same head of
  the others in the same draws: {metric: {"difference", "interval"}}.
  "bootstrap" describes the draws. With fewer than `bootstrap.LEAST` tracks,
  "notes" gets a line instead.

  Args:
    results: {name: `Scores.results`}.
    found: {name: scores} of the same predictors.
    labels_NxK, track_N: of the test clips.
    seed: of the draws.
    single: each clip has one label.
  """
  tracks = len(set(track_N))
  if tracks < bootstrap.LEAST:
    results.setdefault("notes", []).append(
      f"no intervals: {tracks} test tracks, and they hold from"
      f" {bootstrap.LEAST} on"
    )
    return
  rare = bootstrap.rarest(labels_NxK, track_N) < bootstrap.LEAST
  effective = bootstrap.effective(track_N)
  weight_BxN = bootstrap.weights(track_N, seed)
  draws = {}
  for name, of in found.items():
    scored = labels_NxK, of.predicted_NxK, weight_BxN
    draws[name] = bootstrap.weighted(*scored, single=single)
  for name, values in draws.items():
    results[name]["interval"] = {
      k: bootstrap.interval(
        value_B, results[name][k], effective, biased=k == "pr_auc"
      )
      for k, value_B in values.items()
    }
    if rare:
      results[name]["interval"]["pr_auc"] = [math.nan, math.nan]
  for name, other in pairs(draws):
    results[name][f"over_{other}"] = _differences(
      results, draws, name, f"{other}_{name}", effective
    )
  results["bootstrap"] = {
    "method": bootstrap.METHOD,
    "draws": len(weight_BxN),
    "tracks": tracks,
    "clips": len(track_N),
  }


def _differences(results, draws, name, other, effective) -> dict:
  """{metric: the difference of two predictors, and its interval}."""
  differences = {}
  for k, value_B in draws[name].items():
    difference = results[name][k] - results[other][k]
    drawn_B = value_B - draws[other][k]
    interval = bootstrap.interval(drawn_B, difference, effective)
    differences[k] = {"difference": difference, "interval": interval}
  return differences


def majority(train_labels_NxK, test_labels_MxK) -> dict:
  """Scores of always answering train's most frequent class."""
  accuracy = metrics.majority_accuracy(train_labels_NxK, test_labels_MxK)
  return {"accuracy": accuracy}


def left_out(prepared) -> dict:
  """The number of clips that were left out of the data set, or {}."""
  if not prepared.skipped:
    return {}
  out = sum(prepared.skipped.values())
  reason, count = max(prepared.skipped.items(), key=lambda row: row[1])
  of = out + sum(prepared.num_clips.values())
  found = {"clips": out, "of": of, "reason": reason, "of_this_reason": count}
  return {"left_out": found}


def labelled(chosen, labels_NxK) -> dict:
  """The number of training clips whose labels were learned, or {}."""
  return {"clips": len(chosen), "of": len(labels_NxK)}


def plain(value):
  """A value as JSON returns it: undefined figures are null, tuples lists."""
  if isinstance(value, dict):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  return None if isinstance(value, float) and math.isnan(value) else value


def write(workdir, results: dict, names, tags: dict[str, dict]):
  """Writes `probe.json`, and scores by tag as CSV.

  Args:
    workdir: to write to.
    results: for `probe.json`.
    names: of the tags.
    tags: {name of the predictor: `Scores.tags`}.

  Raises:
    ValueError: a file cannot be written.
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
  """`probe.json` of a workdir if its inputs are the same; prints so on stderr.

  Args:
    workdir: where `write` may have written.
    made_of: the inputs that decide the results, under their key "of".
  """
  path, results = f"{workdir}/{RESULTS}", {}
  with contextlib.suppress(OSError, ValueError):  # then scores are made anew
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
  """`probe.json` for the terminal, at most 100 columns of names up to 10.

  First the number of clips left out, if any; then a row for each predictor,
  with intervals if there are any; then the differences of the trained encoder;
  then both over random splits.
  """
  rows = [name for name in results if "roc_auc" in _dict(results[name])]
  columns = {
    key: title
    for key, title in plots.SCORES.items()
    if any(key in results[name] for name in rows)
  }
  if "bootstrap" not in results:
    parts = [_grid(results, rows, columns, _figure, 14)]
  else:
    if "accuracy" in columns:  # no room for all
      columns = {k: columns[k] for k in ("roc_auc", "pr_auc", "accuracy")}
    parts = [_grid(results, rows, columns, _with_interval, 20)]
    made = results["bootstrap"]
    parts.append(
      f"(95 % intervals: {made['draws']:,} draws of the {made['tracks']:,}"
      f" tracks of {made['clips']:,} test clips)"
    )
    compared = {}
    for name in rows:
      compared |= _over(name, results[name])
    if compared:
      second = "accuracy" if "accuracy" in columns else "pr_auc"
      some = {k: columns[k] for k in ("roc_auc", second)}
      parts.append(_grid(compared, compared, some, _difference, 38))
  if "left_out" in results:
    out = results["left_out"]
    parts.insert(
      0,
      f"{out['clips']:,} of {out['of']:,} clips of the data set are left out,"
      f" {out['of_this_reason']:,} as {out['reason']}",
    )
  if "splits" in results:
    parts.append(_splits_table(results["splits"], columns))
  parts += [f"({note})" for note in results.get("notes", [])]
  if "majority" in results:
    accuracy = results["majority"]["accuracy"]
    parts.append(f"accuracy of the most frequent class: {accuracy:.2f}")
  if "labelled" in results:
    clips, of = results["labelled"]["clips"], results["labelled"]["of"]
    parts.append(f"labels of {clips:,} of the {of:,} training clips")
  return "\n".join(parts)


def _grid(results, rows, columns, cell, width) -> str:
  """Rows of cells, right-aligned; cell(results of a row, key) is text."""
  first = max(map(len, rows), default=0) + 1
  lines = [
    "".ljust(first) + "".join(f"{title:>{width}}" for title in columns.values())
  ]
  for name in rows:
    cells = (cell(results[name], key) for key in columns)
    lines.append(
      name.replace("_", " ").ljust(first)
      + "".join(f" {text:>{width - 1}}" for text in cells)
    )
  return "\n".join(lines)


def _figure(of, key) -> str:
  return "-" if of.get(key) is None else f"{of[key]:.2f}"


def _with_interval(of, key) -> str:
  low, high = _dict(of.get("interval")).get(key, (None, None))
  between = "" if low is None else f" ({low:.1f}-{high:.1f})"
  return _figure(of, key) + between


def _difference(of, key) -> str:
  difference, (low, high) = of[key]["difference"], of[key]["interval"]
  if difference is None or low is None:
    return "-"
  verdict = "could be chance" if low <= 0 <= high else "beyond chance"
  return f"{difference:+.1f} ({low:.1f} to {high:.1f}): {verdict}"


def _over(name, of) -> dict:
  """{"knn vs mfcc": its differences}"""
  over = "over_"
  return {
    f"{name} vs {key.removeprefix(over)}": value
    for key, value in of.items()
    if key.startswith(over)
  }


def _splits_table(splits, columns) -> str:
  rows = {}
  for name, of in splits.items():
    if name != "count":
      rows |= {name: of} | _over(name, of)
  title = f"mean and deviation over {splits['count']} random splits by tracks:"
  return f"{title}\n{_grid(rows, rows, columns, _spread, 18)}"


def _spread(of, key) -> str:
  return f"{of[key]['mean']:.2f} ± {of[key]['deviation']:.2f}"


def _dict(value):
  return value if isinstance(value, dict) else {}
