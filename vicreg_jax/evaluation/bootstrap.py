"""How far a figure would move with other clips: the bootstrap over tracks.

Clips of one track are alike, so tracks are drawn with replacement, and a track
brings all of its clips. A draw is the weight of each clip, how often it came:
the metrics of a thousand draws are computed at once from their weights.
"""

import numpy as np

from vicreg_jax.evaluation import metrics

RESAMPLES = 1000
_SHARE = 95  # percent of the draws that an interval holds


def weights(track_N, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
  """How often each clip is drawn, `weight_BxN`.

  Args:
    track_N: the track of each clip, by any name.
    seed: of the draws.
    resamples: B.
  """
  names_T, index_N = np.unique(track_N, return_inverse=True)
  rng = np.random.default_rng([seed, 2**31])
  even_T = np.full(len(names_T), 1 / len(names_T))
  draw_BxT = rng.multinomial(len(names_T), even_T, size=resamples)
  return draw_BxT[:, index_N].astype(np.float64)


def weighted(labels_NxK, scores_NxK, weight_BxN, *, single: bool) -> dict:
  """`metrics.tagging_metrics` where clip n counts weight_BxN[b, n] times.

  Args:
    labels_NxK, scores_NxK: as there; one-hot labels with `single`.
    weight_BxN: of each clip, a row for each draw.
    single: "accuracy" is wanted too.

  Returns:
    Arrays of length B, in percent; nan where a draw defines no such figure.
  """
  labels_NxK = np.asarray(labels_NxK).astype(bool)
  scores_NxK = np.asarray(scores_NxK)
  roc_BxK, pr_BxK = metrics.areas(labels_NxK, scores_NxK, weight_BxN)
  # A clip's own figure is the same in every draw.
  roc_1xN, pr_1xN = metrics.areas(labels_NxK.T, scores_NxK.T)
  found = {
    "roc_auc": _mean(roc_BxK, 1),
    "pr_auc": _mean(pr_BxK, 1),
    "roc_auc_clip": _mean(roc_1xN, weight_BxN),
    "pr_auc_clip": _mean(pr_1xN, weight_BxN),
  }
  if single:
    hits_N = scores_NxK.argmax(axis=1) == labels_NxK.argmax(axis=1)
    found["accuracy"] = _mean(hits_N, weight_BxN)
  return {name: 100 * value_B for name, value_B in found.items()}


def unweighted(labels_NxK, scores_NxK, *, single: bool) -> dict[str, float]:
  """`weighted`, with every clip once; nan, no error, for what is undefined."""
  once_1xN = np.ones((1, len(labels_NxK)))
  found = weighted(labels_NxK, scores_NxK, once_1xN, single=single)
  return {name: float(value_B[0]) for name, value_B in found.items()}


def interval(value_B) -> list[float]:
  """[low, high], between which the middle 95 % of the draws lie.

  Both are nan unless every draw has a value: of what is often not defined
  nothing is known.
  """
  tail = (100 - _SHARE) / 2
  return np.percentile(value_B, [tail, 100 - tail]).tolist()


def _mean(value_BxR, weight_BxR):
  """Weighted mean of each row's values that are not nan; nan of none."""
  defined_BxR = ~np.isnan(value_BxR)
  weight_BxR = weight_BxR * defined_BxR
  total_B = (weight_BxR * np.where(defined_BxR, value_BxR, 0)).sum(axis=1)
  return metrics.ratio(total_B, weight_BxR.sum(axis=1))
