"""Probes of whole clips by `classifiers`, on one split of them or on many.

A clip's vector is the mean over its consecutive segments, or its MFCCs. Few
clips decide little, so the same may be repeated on random splits of all of
them, in which no track is in two parts.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vicreg_jax.data import tracks
from vicreg_jax.data.prepared import SPLITS
from vicreg_jax.evaluation import bootstrap, classifiers, label_share, scores
from vicreg_jax.evaluation.classifiers import Vectors


class Clips(NamedTuple):
  """Labelled clips: `labels_NxK`, and the track of each."""

  labels_NxK: np.ndarray
  track_N: np.ndarray


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


def random_split(clips: Clips, salt: str, *, single: bool) -> np.ndarray:
  """The split of each clip: shares as of a folder, clips of a track together.

  Where clips have a single label, the tracks of each class are shared out.

  Args:
    clips: all labelled clips.
    salt: names the split; of another one it is another split.
    single: each clip has one label.
  """
  classes = tracks.classes(clips.track_N, clips.labels_NxK, single=single)
  split_of = tracks.split(classes, salt)
  return np.array([split_of[track] for track in clips.track_N])


def over_splits(
  vectors: Mapping[str, np.ndarray],
  clips: Clips,
  heads: Sequence[str],
  *,
  count: int,
  seed: int,
  single: bool,
  label_fraction: float = 1.0,
) -> dict:
  """Scores over `count` random splits of all labelled clips.

  Args:
    vectors: {prefix of an encoder: y_NxD of all clips}.
    clips: the same clips.
    heads: of `classifiers.NAMES`.
    count: how many splits, 2 or more.
    seed: of the splits.
    single: each clip has one label.
    label_fraction: how many of each split's training tracks are learned from.

  Returns:
    {"count": count, name: {metric: {"mean", "deviation"}}}; those of the
    trained encoder have "over_start", "over_untrained" and "over_mfcc" too,
    with mean and deviation of the differences within a split.

  Raises:
    ValueError: there are too few tracks to split, or to score.
  """
  rows = []
  for i in range(count):
    at = _positions(clips, f"{seed} {i}", label_fraction, single)
    labels = {s: clips.labels_NxK[index] for s, index in at.items()}
    if not all(map(len, at.values())):
      raise ValueError(_too_few(count, clips))
    rows.append(
      {
        prefix + head: _metrics(
          head, {s: y_NxD[at[s]] for s in SPLITS}, labels, single
        )
        for prefix, y_NxD in vectors.items()
        for head in heads
      }
    )
  figures = [v for row in rows for of in row.values() for v in of.values()]
  if np.isnan(figures).any():
    raise ValueError(_too_few(count, clips))
  found = {"count": count}
  for name in rows[0]:
    found[name] = _summary([row[name] for row in rows])
  for head in heads:
    for other in scores.OTHERS:
      if f"{other}_{head}" in rows[0]:
        found[head][f"over_{other}"] = _summary(
          [
            {k: v - row[f"{other}_{head}"][k] for k, v in row[head].items()}
            for row in rows
          ]
        )
  return found


def _positions(clips, salt, label_fraction, single) -> dict[str, np.ndarray]:
  """Of a random split's clips; of those to train on, the labelled share."""
  split_N = random_split(clips, salt, single=single)
  at = {s: np.flatnonzero(split_N == s) for s in SPLITS}
  train = at["train"]
  share = label_share.of_clips(
    [clips.track_N[n] for n in train],
    clips.labels_NxK[train],
    label_fraction,
    salt=salt,
    single=single,
  )
  return at | {"train": train[share]}


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


def _too_few(count, clips):
  return (
    f"probe.splits is {count}, and {len(set(clips.track_N))} tracks of"
    f" {len(clips.track_N)} labelled clips are too few to be split and scored:"
    " set probe.splits=1, or add tracks"
  )
