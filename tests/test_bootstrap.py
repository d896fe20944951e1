"""Intervals against drawn samples that are scored one by one."""

import numpy as np
import pytest
import scipy.stats
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
  assert np.isnan(bootstrap.interval(found["roc_auc"], 100.0, 8)).all()


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
    low, high = bootstrap.interval(values["accuracy"], 100 * hit_N.mean(), 30)
    inside += low <= 100 * true <= high
  return inside / count


def test_intervals_hold_the_truth_in_95_percent():
  """Of tracks; of clips as if they were independent far more seldom."""
  assert 0.9 <= coverage(3) <= 0.98
  assert coverage(1) < 0.8


@pytest.mark.parametrize("tracks", [8, 12, 43])
def test_an_interval_of_a_mean_is_student_s(tracks):
  """Of draws that are as means of that many tracks are when they are drawn."""
  rng = np.random.default_rng(0)
  values_T = rng.normal(50, 4, tracks)
  shares = (np.arange(100_000) + 0.5) / 100_000
  spread = values_T.std() / np.sqrt(tracks)
  value_B = scipy.stats.norm.ppf(shares, values_T.mean(), spread)
  expected = scipy.stats.t.interval(
    0.95, tracks - 1, values_T.mean(), scipy.stats.sem(values_T)
  )
  found = bootstrap.interval(value_B, values_T.mean(), tracks)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_unequal_tracks_count_as_fewer():
  assert bootstrap.effective(list("aabbccdd")) == 4
  # A weighted mean of independent values, one a track.
  weight_T = np.array([5, 1, 1, 2])
  values_BxT = np.random.default_rng(0).normal(size=(100_000, 4))
  spread = (values_BxT @ (weight_T / 9)).var()
  found = bootstrap.effective(np.repeat(list("abcd"), weight_T))
  assert found == pytest.approx(1 / spread, rel=0.02)


def test_the_rarest_tag_is_counted_by_tracks():
  labels_NxK = np.array([[1, 0, 0], [1, 0, 1], [1, 0, 1], [0, 0, 1]])
  assert bootstrap.rarest(labels_NxK, list("abbb")) == 1
  assert bootstrap.rarest(labels_NxK, list("aabc")) == 2


def test_a_bias_of_the_draws_is_taken_off_or_too_large():
  value_B = np.random.default_rng(0).normal(50, 2, 10_000)
  value_B -= value_B.mean() - 50
  low, high = bootstrap.interval(value_B, 50, 50)
  found = bootstrap.interval(value_B + 1, 50, 50, biased=True)
  np.testing.assert_allclose(found, [low - 1, high - 1])
  found = bootstrap.interval(value_B + 1, 50, 50)
  np.testing.assert_allclose(found, [low + 1, high + 1])
  assert np.isnan(bootstrap.interval(value_B + 1.5, 50, 50)).all()
  # It would not hold the score itself.
  value_B = np.append(np.full(9_900, 51.0), np.full(100, 49.0))
  assert np.isnan(bootstrap.interval(value_B, 48.9, 50)).all()
  # Some draws may have no value, as a class of few tracks vanishes.
  value_B = np.append(
    np.random.default_rng(0).normal(50, 2, 950), [np.nan] * 50
  )
  assert np.isfinite(bootstrap.interval(value_B, 50, 50)).all()
  assert np.isnan(bootstrap.interval(value_B[1:], 50, 50)).all()


def predictors(tracks, seed):
  """Tracks, labels, and scores of two predictors, one as good as the other.

  Tracks of one to eight clips, of two classes; clips and tracks are hard for
  both, or for one.
  """
  rng = np.random.default_rng([seed, tracks])
  track_N = np.repeat(np.arange(tracks), rng.integers(1, 9, tracks))
  labels_NxK = np.eye(2)[track_N % 2]
  both, *own = (
    of_tracks * rng.normal(size=(tracks, 2))[track_N]
    + of_clips * rng.normal(size=labels_NxK.shape)
    for of_tracks, of_clips in ((0.35, 0.35), (0.8, 0.6), (0.8, 0.6))
  )
  return track_N, labels_NxK, [labels_NxK + both + noise for noise in own]


def draws(scores_NxK, labels_NxK, weight_BxN, areas):
  """{metric: percent of each draw}, with ROC-AUC if `areas` are wanted."""
  if areas:
    return bootstrap.weighted(labels_NxK, scores_NxK, weight_BxN, single=True)
  hits_N = scores_NxK.argmax(axis=1) == labels_NxK.argmax(axis=1)
  return {"accuracy": 100 * (weight_BxN @ hits_N) / weight_BxN.sum(axis=1)}


def false_verdicts(tracks, repetitions, areas=False):
  """{metric: how often, in percent, one of two such is said to be better}."""
  wrong = dict.fromkeys(("accuracy", "roc_auc") if areas else ("accuracy",), 0)
  for seed in range(repetitions):
    track_N, labels_NxK, scores = predictors(tracks, seed)
    weight_BxN = bootstrap.weights(track_N, seed)
    weight_BxN = np.append(weight_BxN, np.ones((1, len(track_N))), axis=0)
    a, b = (draws(x, labels_NxK, weight_BxN, areas) for x in scores)
    for metric in wrong:
      *value_B, value = a[metric] - b[metric]
      low, high = bootstrap.interval(
        value_B, value, bootstrap.effective(track_N)
      )
      wrong[metric] += low > 0 or high < 0
  return {metric: 100 * count / repetitions for metric, count in wrong.items()}


@pytest.mark.slow
@pytest.mark.parametrize("tracks", [bootstrap.LEAST, 12, 20, 43])
def test_verdicts_are_wrong_in_5_percent(tracks):
  """4 to 6, and the deviation of so many repetitions on either side."""
  for metric, percent in false_verdicts(tracks, 2000, areas=True).items():
    assert 3.5 <= percent <= 6.5, metric
