"""Intervals against drawn samples that are scored one by one."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from vicreg_jax.evaluation import bootstrap, metrics


def problem(n, k, levels=0, seed=0):
  rng = np.random.default_rng(seed)
  labels_NxK = rng.uniform(size=(n, k)) < np.linspace(0.1, 0.5, k)
  scores_NxK = rng.normal(size=(n, k)) + labels_NxK
  if levels:  # few distinct scores: many ties
    scores_NxK = np.round(scores_NxK * levels) / levels
  return labels_NxK.astype(np.uint8), scores_NxK


def by_sklearn(labels_RxC, scores_RxC):
  """Mean ROC-AUC and average precision of the rows with both classes."""
  rows = [
    (roc_auc_score(y, s), average_precision_score(y, s))
    for y, s in zip(labels_RxC, scores_RxC)
    if 0 < y.sum() < len(y)
  ]
  return 100 * np.mean(rows, axis=0), len(rows)


@pytest.mark.parametrize("levels", [0, 1])
def test_a_draw_is_scored_as_its_clips_are(levels, monkeypatch):
  """Each row of weights against scikit-learn on the repeated clips."""
  monkeypatch.setattr(metrics, "_WEIGHTS", 100)  # 40 clips: two draws at a time
  labels_NxK, scores_NxK = problem(40, 5, levels)
  labels_NxK[:, 1] = 0
  labels_NxK[:2, 1] = 1  # in some draws there is none
  weight_BxN = bootstrap.weights(np.arange(40) // 3, 0, 7)
  found = bootstrap.weighted(labels_NxK, scores_NxK, weight_BxN, single=False)
  left_out = 0
  for b, weight_N in enumerate(weight_BxN.astype(int)):
    drawn = np.repeat(np.arange(40), weight_N)
    labels, scores = labels_NxK[drawn], scores_NxK[drawn]
    (roc, pr), tags = by_sklearn(labels.T, scores.T)
    (roc_clip, pr_clip), _ = by_sklearn(labels, scores)
    got = [values[b] for values in found.values()]
    assert got == pytest.approx([roc, pr, roc_clip, pr_clip], rel=1e-12)
    left_out += 5 - tags
  assert left_out


def test_accuracy_is_that_of_the_drawn_clips():
  rng = np.random.default_rng(0)
  labels_NxK = np.eye(3)[rng.integers(3, size=30)]
  scores_NxK = labels_NxK + rng.normal(size=(30, 3))
  weight_BxN = bootstrap.weights(np.arange(30) // 2, 1, 10)
  found = bootstrap.weighted(labels_NxK, scores_NxK, weight_BxN, single=True)
  for b, weight_N in enumerate(weight_BxN.astype(int)):
    drawn = np.repeat(np.arange(30), weight_N)
    expected = metrics.accuracy(labels_NxK[drawn], scores_NxK[drawn])
    assert found["accuracy"][b] == pytest.approx(expected)
  once = bootstrap.unweighted(labels_NxK, scores_NxK, single=True)
  expected = metrics.tagging_metrics(labels_NxK, scores_NxK)
  expected["accuracy"] = metrics.accuracy(labels_NxK, scores_NxK)
  assert once == pytest.approx({name: expected[name] for name in once})


def test_what_is_not_defined_is_nan():
  labels_NxK = np.array([[1], [0]])
  draws = np.array([[1.0, 1.0], [2.0, 0.0]])
  found = bootstrap.weighted(
    labels_NxK, np.array([[0.3], [0.1]]), draws, single=False
  )
  np.testing.assert_array_equal(found["roc_auc"], [100, np.nan])
  np.testing.assert_array_equal(found["pr_auc"], [100, np.nan])
  assert np.isnan(found["roc_auc_clip"]).all()
  assert np.isnan(bootstrap.interval(found["roc_auc"])).all()


def test_tracks_are_drawn_and_bring_all_of_their_clips():
  track_N = np.array(list("cababcaddd"))
  weight_BxN = bootstrap.weights(track_N, 0, 4000)
  for name in "abcd":
    of_track = weight_BxN[:, track_N == name]
    assert (of_track == of_track[:, :1]).all()
  once_BxT = weight_BxN[:, [np.argmax(track_N == name) for name in "abcd"]]
  assert (once_BxT.sum(axis=1) == 4).all()
  np.testing.assert_allclose(once_BxT.mean(axis=0), 1, atol=0.05)
  # Drawn with replacement: a track is missing in (3/4)^4 of the draws.
  missing = (once_BxT == 0).mean()
  assert missing == pytest.approx(0.75**4, abs=0.02)
  again = bootstrap.weights(track_N, 0, 4000)
  np.testing.assert_array_equal(weight_BxN, again)
  assert (bootstrap.weights(track_N, 1, 4000) != weight_BxN).any()


def coverage(clips_of_a_name):
  """Share of simulated test sets whose interval holds the true accuracy.

  30 tracks of 3 clips; all clips of a track are hit or none is.
  """
  rng = np.random.default_rng(0)
  true, inside, count = 0.7, 0, 100
  name_N = np.arange(90) // clips_of_a_name
  for seed in range(count):
    hit_N = np.repeat(rng.uniform(size=30) < true, 3)
    labels_NxK = np.tile([1, 0], (90, 1))
    scores_NxK = np.stack([hit_N, ~hit_N], axis=1).astype(float)
    weight_BxN = bootstrap.weights(name_N, seed, 200)
    values = bootstrap.weighted(labels_NxK, scores_NxK, weight_BxN, single=True)
    low, high = bootstrap.interval(values["accuracy"])
    inside += low <= 100 * true <= high
  return inside / count


def test_intervals_hold_the_truth_in_95_percent():
  """Of tracks; of clips as if they were independent far more seldom."""
  assert 0.9 <= coverage(3) <= 0.98
  assert coverage(1) < 0.8


def test_an_interval_is_the_middle_95_percent():
  assert bootstrap.interval(np.arange(1001.0)) == [25, 975]
