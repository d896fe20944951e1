"""Probes of whole clips by `classifiers`, on one split or on many.

A clip's vector is pooled over its consecutive segments, or has its MFCCs, or
was made elsewhere (`other_vectors`). As few clips decide little, a probe may be
repeated on random splits of all clips (`random_splits`).
"""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from vicreg_jax.data.prepared import SPLITS
from vicreg_jax.evaluation import bootstrap, classifiers, random_splits, scores
from vicreg_jax.evaluation.classifiers import Vectors


def score(
  head: str, y: Mapping[str, np.ndarray], labels: Mapping, *, single: bool
) -> scores.Scores:
  """Scores on the test clips; `y` and `labels` have arrays by split."""
  train, valid = (Vectors(y[s], labels[s]) for s in ("train", "valid"))
  found = classifiers.predict(head, train, valid, y["test"], single=single)
  notes = {classifiers.CHOSEN[head]: found.chosen}
  test = scores.of_clips(labels["test"], found.test_NxK, single=single, **notes)
  held_out = scores.held_out(valid.labels_NxK, found.valid_NxK, single=single)
  return test._replace(results=test.results | held_out)


def over_splits(
  vectors: Mapping[str, np.ndarray],
  splits: random_splits.Splits,
  heads: Sequence[str],
  *,
  single: bool,
) -> dict:
  """Scores over random splits of all labelled clips.

  Args:
    vectors: {prefix of an encoder: y_NxD of all clips}.
    splits: of the same clips.
    heads: of `classifiers.NAMES`.
    single: each clip has one label.

  Returns:
    {"count": of the splits, name: {metric: {"mean", "deviation"}}}. Names of
    the trained encoder also have "over_start", "over_mfcc" and so on: mean and
    deviation of the differences within a split.
  """
  rows = []
  for at in splits.positions:
    labels = {s: splits.clips.labels_NxK[index] for s, index in at.items()}
    rows.append(
      {
        prefix + head: _metrics(
          head, {s: y_NxD[at[s]] for s in SPLITS}, labels, single
        )
        for prefix, y_NxD in vectors.items()
        for head in heads
      }
    )
  found = {"count": len(splits.positions)}
  for name in rows[0]:
    found[name] = _summary([row[name] for row in rows])
  for head, other in scores.pairs(rows[0]):
    found[head][f"over_{other}"] = _summary(
      [
        {k: v - row[f"{other}_{head}"][k] for k, v in row[head].items()}
        for row in rows
      ]
    )
  return found


def _metrics(head, y, labels, single) -> dict[str, float]:
  train, valid = (Vectors(y[s], labels[s]) for s in ("train", "valid"))
  found = classifiers.predict(head, train, valid, y["test"], single=single)
  return bootstrap.unweighted(labels["test"], found.test_NxK, single=single)


def _summary(rows) -> dict:
  return {
    key: {
      "mean": statistics.fmean(row[key] for row in rows),
      "deviation": statistics.stdev(row[key] for row in rows),
    }
    for key in rows[0]
  }
