"""Metrics of predictions, and measures of collapse. NumPy, on the host.

Labels are 0 or 1, for N clips and K tags (or one-hot classes). Metrics are in
percent, as in the thesis's tables.
"""

from typing import NamedTuple

import numpy as np

_BLOCK = 1024  # rows of a correlation matrix at a time
_WEIGHTS = 1 << 17  # of `areas` at a time, which a cache holds


def tagging_metrics(labels_NxK, scores_NxK):
  """ROC-AUC and PR-AUC, macro over tags and mean over clips, in percent.

  PR-AUC is average precision, sum over thresholds of (R_n - R_{n-1}) P_n,
  without interpolation. Tags and clips without both classes have no such
  figures: they are left out and counted.

  Returns:
    "roc_auc", "pr_auc" (over tags), "roc_auc_clip", "pr_auc_clip" (over clips;
    nan if every clip is left out), "tags_left_out", "clips_left_out".

  Raises:
    ValueError: on bad labels or scores, or if every tag is left out.
  """
  labels_NxK, scores_NxK = _check(labels_NxK, scores_NxK)
  (roc_K,), (pr_K,) = areas(labels_NxK, scores_NxK)
  (roc_N,), (pr_N,) = areas(labels_NxK.T, scores_NxK.T)
  tags_K, clips_N = ~np.isnan(roc_K), ~np.isnan(roc_N)
  if not tags_K.any():
    raise ValueError(
      f"None of the {len(tags_K)} tags has both a clip with it and one without "
      f"among the {len(clips_N)} clips: no AUC is defined. Evaluate on more "
      "clips, or check the labels of the split."
    )

  def mean(values, kept):
    return float(100 * values[kept].mean()) if kept.any() else float("nan")

  return {
    "roc_auc": mean(roc_K, tags_K),
    "pr_auc": mean(pr_K, tags_K),
    "roc_auc_clip": mean(roc_N, clips_N),
    "pr_auc_clip": mean(pr_N, clips_N),
    "tags_left_out": int((~tags_K).sum()),
    "clips_left_out": int((~clips_N).sum()),
  }


def per_tag_metrics(labels_NxK, scores_NxK):
  """Arrays of length K: "roc_auc", "pr_auc" (percent or nan), "positives"."""
  labels_NxK, scores_NxK = _check(labels_NxK, scores_NxK)
  (roc_K,), (pr_K,) = areas(labels_NxK, scores_NxK)
  return {
    "roc_auc": 100 * roc_K,
    "pr_auc": 100 * pr_K,
    "positives": labels_NxK.sum(axis=0, dtype=np.int64),
  }


def accuracy(labels_NxK, scores_NxK):
  """Percent of clips whose highest score is on their one class."""
  labels_NxK, scores_NxK = _check(labels_NxK, scores_NxK)
  _check_one_hot(labels_NxK)
  hits_N = scores_NxK.argmax(axis=1) == labels_NxK.argmax(axis=1)
  return float(100 * hits_N.mean())


def majority_accuracy(train_labels_NxK, test_labels_MxK):
  """Accuracy, in percent, of always answering train's most frequent class."""
  train_labels_NxK, _ = _check(train_labels_NxK, train_labels_NxK)
  test_labels_MxK, _ = _check(test_labels_MxK, test_labels_MxK)
  _check_one_hot(train_labels_NxK)
  _check_one_hot(test_labels_MxK)
  if train_labels_NxK.shape[1] != test_labels_MxK.shape[1]:
    raise ValueError(
      f"Train has {train_labels_NxK.shape[1]} classes and test "
      f"{test_labels_MxK.shape[1]}: give both the same classes."
    )
  majority = train_labels_NxK.sum(axis=0).argmax()
  return float(100 * test_labels_MxK[:, majority].mean())


def mean_over_clip(scores_MxK, clip_index_M, num_clips):
  """Mean of each clip's segment predictions, every clip exactly once.

  Args:
    scores_MxK: predictions of M segments, in any order.
    clip_index_M: the clip of each segment, in [0, num_clips).
    num_clips: N.

  Returns:
    scores_NxK, float64.

  Raises:
    ValueError: on an index out of range, or a clip without a segment.
  """
  index_M = np.asarray(clip_index_M)
  scores_MxK = np.asarray(scores_MxK, np.float64)
  outside = np.unique(index_M[(index_M < 0) | (index_M >= num_clips)])
  if outside.size:
    raise ValueError(
      f"Segments name clips {outside[:5].tolist()}, outside the {num_clips} "
      "clips of the split: clip_index must be in [0, num_clips)."
    )
  count_N = np.bincount(index_M, minlength=num_clips)
  missing = np.flatnonzero(count_N == 0)
  if missing.size:
    raise ValueError(
      f"{missing.size} of {num_clips} clips have no segment, the first "
      f"{missing[:5].tolist()}: every clip must be predicted at least once. "
      "Clips shorter than one segment must be left out or padded beforehand."
    )
  sum_NxK = np.zeros((num_clips, scores_MxK.shape[1]))
  np.add.at(sum_NxK, index_M, scores_MxK)
  return sum_NxK / count_N[:, None]


def pooled_over_clip(y_MxD, clip_M, num_clips: int, pooling: str) -> np.ndarray:
  """`pooling.of` of each clip's segments: [N, D] or [N, 2 D]."""
  mean_NxD = mean_over_clip(y_MxD, clip_M, num_clips)
  if pooling == "mean":
    return mean_NxD
  square_MxD = (y_MxD - mean_NxD[clip_M]) ** 2
  std_NxD = np.sqrt(mean_over_clip(square_MxD, clip_M, num_clips))
  return np.concatenate([mean_NxD, std_NxD], axis=1)


class Collapse(NamedTuple):
  """Measures of collapsed dimensions.

  `scalars`: "effective_rank", "std" (mean over dimensions), "std_min" (of the
  dimension that varies least), "mean_abs_correlation". `arrays`:
  "singular" [min(N, D)], the largest first, and "std" [D].
  """

  scalars: dict[str, float]
  arrays: dict[str, np.ndarray]


def collapse(z_NxD) -> Collapse:
  """Spectrum, spread and redundancy of the representations of N clips."""
  singular = singular_values(z_NxD)
  std_D = np.asarray(z_NxD, np.float64).std(axis=0, ddof=1)  # unbiased
  scalars = {
    "effective_rank": _effective_rank(singular),
    "std": float(std_D.mean()),
    "std_min": float(std_D.min()),
    "mean_abs_correlation": mean_abs_correlation(z_NxD),
  }
  arrays = {"singular": singular.astype(np.float32), "std": std_D}
  return Collapse(scalars, arrays)


def singular_values(z_NxD) -> np.ndarray:
  """Singular values [min(N, D)] of z, not centred, the largest first; float64.

  Roots of the eigenvalues of the smaller Gram matrix, which takes a tenth of
  the time of a decomposition of z. Values below 1e-7 of the largest, where
  float32 has no digits, are 0.
  """
  z_NxD = np.asarray(z_NxD, np.float64)
  tall = z_NxD.shape[0] > z_NxD.shape[1]
  gram = z_NxD.T @ z_NxD if tall else z_NxD @ z_NxD.T
  singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))
  return np.where(singular > 1e-7 * singular[:1], singular, 0)


def effective_rank(z_NxD):
  """RankMe: exp of the entropy of the singular values, between 1 and min(N, D).

  The embeddings are not centred (Garrido et al. 2023, eq. 1); zeros give 0.
  """
  return _effective_rank(singular_values(z_NxD))


def _effective_rank(singular):
  singular = singular[singular > 0]
  if singular.size == 0:
    return 0.0
  p = singular / singular.sum()
  return float(np.exp(-(p * np.log(p)).sum()))


def mean_abs_correlation(z_NxD):
  """Mean |correlation| over pairs of different dimensions, 0 to 1.

  Constant dimensions have no correlation and are left out; nan if fewer than
  two vary.
  """
  z_NxD = np.asarray(z_NxD, np.float64)
  z_NxD = z_NxD[:, np.ptp(z_NxD, axis=0) > 0]
  d = z_NxD.shape[1]
  if d < 2:
    return float("nan")
  z_NxD = z_NxD - z_NxD.mean(axis=0)
  unit_NxD = z_NxD / np.linalg.norm(z_NxD, axis=0)
  total = sum(  # by blocks, as the whole matrix may take gigabytes
    np.abs(unit_NxD[:, i : i + _BLOCK].T @ unit_NxD).sum()
    for i in range(0, d, _BLOCK)
  )
  return float((total - d) / (d * (d - 1)))


def _check(labels_NxK, scores_NxK):
  labels_NxK, scores_NxK = np.asarray(labels_NxK), np.asarray(scores_NxK)
  if labels_NxK.ndim != 2 or labels_NxK.shape != scores_NxK.shape:
    raise ValueError(
      "Labels and scores must both be (clips, tags), not "
      f"{labels_NxK.shape} and {scores_NxK.shape}."
    )
  if labels_NxK.shape[0] == 0:
    raise ValueError("There are no clips to evaluate: the split is empty.")
  if not np.isin(labels_NxK, (0, 1)).all():
    raise ValueError(
      "Labels must be 0 or 1, not "
      f"{np.setdiff1d(labels_NxK, (0, 1))[:5].tolist()}."
    )
  bad_N = ~np.isfinite(scores_NxK).all(axis=1)
  if bad_N.any():
    raise ValueError(
      f"{bad_N.sum()} of {len(bad_N)} clips have a score that is nan or "
      f"infinite, the first at row {bad_N.argmax()}: the model has diverged or "
      "its input is faulty."
    )
  return labels_NxK.astype(bool), scores_NxK


def _check_one_hot(labels_NxK):
  wrong_N = labels_NxK.sum(axis=1) != 1
  if wrong_N.any():
    raise ValueError(
      f"{wrong_N.sum()} of {len(wrong_N)} clips do not have exactly one class, "
      f"the first at row {wrong_N.argmax()}: accuracy is for one-hot labels; "
      "use tagging_metrics."
    )


def areas(labels_NxK, scores_NxK, weight_BxN=None):
  """ROC-AUC and average precision of each column, in [0, 1]; nan if one-class.

  Args:
    labels_NxK: bool.
    scores_NxK: the higher, the more likely.
    weight_BxN: how often each row counts in each of B draws; None: once.

  Returns:
    Two arrays [B, K].
  """
  scores_NxK = np.asarray(scores_NxK, np.float64)
  if weight_BxN is None:
    weight_BxN = np.ones((1, len(labels_NxK)))
  draws = max(1, _WEIGHTS // len(labels_NxK))
  blocks = [weight_BxN[i : i + draws] for i in range(0, len(weight_BxN), draws)]
  areas_Kx2xB = [
    np.concatenate([_areas(labels_N, scores_N, w) for w in blocks], axis=1)
    for labels_N, scores_N in zip(labels_NxK.T, scores_NxK.T, strict=True)
  ]
  roc_BxK, pr_BxK = np.transpose(areas_Kx2xB, (1, 2, 0))
  return roc_BxK, pr_BxK


def _areas(labels_N, scores_N, weight_BxN):
  """ROC-AUC and average precision of each draw, in [0, 1], or nan."""
  order_N = np.argsort(-scores_N, kind="stable")
  scores_N, labels_N = scores_N[order_N], labels_N[order_N]
  weight_BxN = weight_BxN[:, order_N]
  # The last clip of each run of equal scores: a threshold takes all of them.
  ends_G = np.flatnonzero(np.append(scores_N[1:] != scores_N[:-1], True))
  hits_BxG = np.cumsum(weight_BxN * labels_N, axis=1)[:, ends_G]
  misses_BxG = np.cumsum(weight_BxN * ~labels_N, axis=1)[:, ends_G]
  new_hits_BxG = np.diff(hits_BxG, axis=1, prepend=0)
  new_misses_BxG = np.diff(misses_BxG, axis=1, prepend=0)
  # Pairs in order; pairs with equal scores count half.
  pairs_B = (new_misses_BxG * (hits_BxG - new_hits_BxG / 2)).sum(axis=1)
  taken_BxG = hits_BxG + misses_BxG
  precision_BxG = hits_BxG / np.where(taken_BxG > 0, taken_BxG, 1)
  precision_B = (new_hits_BxG * precision_BxG).sum(axis=1)
  hits_B, misses_B = hits_BxG[:, -1], misses_BxG[:, -1]
  both_B = (hits_B > 0) & (misses_B > 0)
  return (
    ratio(pairs_B, hits_B * misses_B),
    np.where(both_B, ratio(precision_B, hits_B), np.nan),
  )


def ratio(a_B, b_B):
  """a / b of arrays; nan where b is 0."""
  return np.divide(a_B, b_B, out=np.full(b_B.shape, np.nan), where=b_B > 0)
