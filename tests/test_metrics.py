"""Metrics against their definitions, and diagnostics on known spectra."""

import numpy as np
import pytest

from vicreg_jax.evaluation import metrics


def make(n, k, levels=None, seed=0):
  """Labels of unequal frequency and scores that know a little of them."""
  rng = np.random.default_rng(seed)
  labels_NxK = rng.uniform(size=(n, k)) < np.linspace(0.02, 0.5, k)
  scores_NxK = rng.normal(size=(n, k)) + labels_NxK
  if levels:  # few distinct scores: many ties
    scores_NxK = np.round(scores_NxK * levels) / levels
  return labels_NxK.astype(np.int8), scores_NxK.astype(np.float32)


def areas(labels_RxC, scores_RxC):
  """[(roc_auc, pr_auc)] of the rows that have both classes, by definition.

  The share of (positive, negative) pairs in order, ties counting half; and the
  mean over positives of the precision at their own score.
  """
  rows = []
  for y, s in zip(labels_RxC.astype(bool), scores_RxC):
    if 0 < y.sum() < len(y):
      gap = s[y][:, None] - s[~y]
      precision = [y[s >= at].mean() for at in s[y]]
      rows.append(
        ((gap > 0).mean() + (gap == 0).mean() / 2, np.mean(precision))
      )
  return np.array(rows)


@pytest.mark.parametrize("levels", [None, 2, 1])
def test_tagging_metrics_match_their_definitions(levels):
  labels_NxK, scores_NxK = make(300, 12, levels)
  labels_NxK[:, 3] = 0
  labels_NxK[:, 7] = 1
  labels_NxK[5] = 0
  labels_NxK[9] = 1  # tag 3 has now one positive, tag 7 one negative
  labels_NxK[9, 3] = 0
  got = metrics.tagging_metrics(labels_NxK, scores_NxK)
  by_tag = areas(labels_NxK.T, scores_NxK.T)
  by_clip = areas(labels_NxK, scores_NxK)
  assert got["tags_left_out"] == 12 - len(by_tag) == 1
  assert got["clips_left_out"] == 300 - len(by_clip)
  np.testing.assert_allclose(
    [got["roc_auc"], got["pr_auc"]], 100 * by_tag.mean(axis=0), rtol=1e-12
  )
  np.testing.assert_allclose(
    [got["roc_auc_clip"], got["pr_auc_clip"]],
    100 * by_clip.mean(axis=0),
    rtol=1e-12,
  )


def test_one_tag_has_no_clip_figure():
  got = metrics.tagging_metrics([[1], [0], [0]], [[0.9], [0.2], [0.1]])
  assert got["roc_auc"] == got["pr_auc"] == 100
  assert np.isnan(got["roc_auc_clip"]) and np.isnan(got["pr_auc_clip"])
  assert got["clips_left_out"] == 3


def test_accuracy_and_majority():
  labels_NxK = np.eye(3)[[0, 0, 1, 2]]
  scores_NxK = [[5, 1, 1], [0, 1, 0], [0, 9, 0], [0.1, 0.2, 0.3]]
  assert metrics.accuracy(labels_NxK, scores_NxK) == 75
  train_MxK = np.eye(3)[[1, 2, 2, 0, 2]]
  assert metrics.majority_accuracy(train_MxK, labels_NxK) == 25
  assert metrics.majority_accuracy(labels_NxK, train_MxK) == 20


def test_mean_over_clip_counts_each_clip_once():
  # Clip 1 has one segment, clip 0 three, out of order.
  scores_MxK = np.array([[1, 0], [2, 3], [4, 6], [6, 0]], np.float32)
  got = metrics.mean_over_clip(scores_MxK, [0, 0, 1, 0], 2)
  np.testing.assert_allclose(got, [[3, 1], [4, 6]])


def test_mean_over_clip_refuses_gaps():
  scores_MxK = np.ones((3, 2))
  with pytest.raises(ValueError, match=r"2 of 4 clips have no segment.*1, 3"):
    metrics.mean_over_clip(scores_MxK, [0, 2, 2], 4)
  with pytest.raises(ValueError, match=r"1 of 3 clips have no segment.*\[1\]"):
    metrics.mean_over_clip(scores_MxK[:2], [0, 2], 3)
  with pytest.raises(ValueError, match=r"clips \[-1, 3\], outside the 3"):
    metrics.mean_over_clip(scores_MxK, [-1, 1, 3], 3)


def test_bad_inputs_are_refused():
  labels_NxK, scores_NxK = make(20, 4)
  with pytest.raises(ValueError, match=r"None of the 4 tags"):
    metrics.tagging_metrics(np.zeros((20, 4)), scores_NxK)
  with pytest.raises(ValueError, match=r"\(20, 4\) and \(20, 3\)"):
    metrics.tagging_metrics(labels_NxK, scores_NxK[:, :3])
  with pytest.raises(ValueError, match=r"0 or 1, not \[2\]"):
    metrics.tagging_metrics(labels_NxK * 2, scores_NxK)
  with pytest.raises(ValueError, match="split is empty"):
    metrics.tagging_metrics(np.zeros((0, 4)), np.zeros((0, 4)))
  scores_NxK[6, 1] = np.nan
  with pytest.raises(ValueError, match=r"1 of 20 clips.*row 6"):
    metrics.per_tag_metrics(labels_NxK, scores_NxK)
  with pytest.raises(ValueError, match=r"1 of 2 clips.*row 1.*one-hot"):
    metrics.accuracy([[1, 0], [1, 1]], np.zeros((2, 2)))
  with pytest.raises(ValueError, match="3 classes and test 2"):
    metrics.majority_accuracy(np.eye(3), np.eye(2))


def known_spectrum(singular, n=60, d=20):
  rng = np.random.default_rng(7)
  u_NxN = np.linalg.qr(rng.normal(size=(n, n)))[0]
  v_DxD = np.linalg.qr(rng.normal(size=(d, d)))[0]
  k = len(singular)
  return (u_NxN[:, :k] * singular) @ v_DxD[:, :k].T


def test_effective_rank_of_known_spectra():
  for k in (1, 4, 20):  # k equal singular values: rank k
    z_NxD = known_spectrum(np.full(k, 3.0))
    assert metrics.effective_rank(z_NxD) == pytest.approx(k, rel=1e-6)
  # Shares 1/2, 1/4, 1/4: entropy 1.5 log 2.
  z_NxD = known_spectrum(np.array([4.0, 2.0, 2.0]))
  assert metrics.effective_rank(z_NxD) == pytest.approx(2**1.5, rel=1e-6)
  assert metrics.effective_rank(np.full((9, 5), 0.3)) == pytest.approx(1)
  assert metrics.effective_rank(np.zeros((9, 5))) == 0


def test_the_spectrum_is_that_of_a_decomposition():
  """Against LAPACK's SVD, of wide and tall matrices, of full rank and not."""
  rng = np.random.default_rng(3)
  for n, d, rank in ((30, 70, 30), (70, 30, 30), (40, 60, 7), (60, 40, 1)):
    z_NxD = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + 0.5
    rank = min(rank + 1, n, d)  # the mean adds one
    want = np.linalg.svd(z_NxD, compute_uv=False)
    got = metrics.singular_values(z_NxD)
    assert got.shape == (min(n, d),)
    np.testing.assert_allclose(got[:rank], want[:rank], rtol=1e-7)
    np.testing.assert_array_equal(got[rank:], 0)


def test_a_collapse_is_told_by_its_figures():
  """Eight dimensions that are copies of two, and one that is constant."""
  rng = np.random.default_rng(4)
  a_Nx2 = rng.normal(size=(3_000, 2)) * [1.0, 3.0]
  z_NxD = np.concatenate([a_Nx2, -a_Nx2, 2 * a_Nx2, a_Nx2], axis=1)
  found = metrics.collapse(np.pad(z_NxD, ((0, 0), (0, 1))))
  np.testing.assert_array_equal(found.arrays["singular"][2:], 0)
  # Singular values of about sqrt(7 N) and 3 sqrt(7 N): shares 1/4 and 3/4.
  p = np.array([0.25, 0.75])
  rank = np.exp(-(p * np.log(p)).sum())
  assert found.scalars["effective_rank"] == pytest.approx(rank, rel=0.02)
  assert found.scalars["std_min"] == 0
  std_D = np.abs(np.array([1, 3, -1, -3, 2, 6, 1, 3, 0]))
  np.testing.assert_allclose(found.arrays["std"], std_D, rtol=0.05)
  assert found.scalars["std"] == pytest.approx(std_D.mean(), rel=0.05)
  # Each of the eight has three others with correlation 1 and four with 0.
  correlation = found.scalars["mean_abs_correlation"]
  assert correlation == pytest.approx(3 / 7, abs=0.03)


def test_std_and_correlation():
  rng = np.random.default_rng(1)
  a_N = rng.normal(size=4_000)
  b_N = rng.normal(size=4_000)
  # Columns a, -2a, b, constant: pairs 1, 0, 0 of the three that vary.
  z_NxD = np.stack([a_N, -2 * a_N, b_N, np.full(4_000, 5.0)], axis=1)
  got = metrics.mean_abs_correlation(z_NxD)
  want = (1 + 2 * abs(np.corrcoef(a_N, b_N)[0, 1])) / 3
  assert got == pytest.approx(want, rel=1e-9)
  assert got == pytest.approx(1 / 3, abs=0.03)
  assert np.isnan(metrics.mean_abs_correlation(np.ones((9, 5))))
  # More dimensions than a block holds, of few clips.
  z_NxD = rng.normal(size=(12, 1_500)) + 3
  correlation_DxD = np.corrcoef(z_NxD, rowvar=False)
  want = np.abs(correlation_DxD[~np.eye(1_500, dtype=bool)]).mean()
  assert metrics.mean_abs_correlation(z_NxD) == pytest.approx(want, rel=1e-9)
  # Standard deviations (unbiased) of 0, 2 and of 0, 4: sqrt(2), 2 sqrt(2).
  std = metrics.collapse([[0, 4], [2, 0]]).scalars
  assert std["std"] == pytest.approx(1.5 * 2**0.5)
  assert std["std_min"] == pytest.approx(2**0.5)
  assert metrics.collapse(np.full((4, 3), 7.0)).scalars["std"] == 0
