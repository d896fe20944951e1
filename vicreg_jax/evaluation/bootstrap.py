"""Intervals of scores, by the bootstrap over tracks.

Clips of one track are alike, so tracks are drawn with replacement, and a track
brings all of its clips. A draw is a weight for each clip, the number of times
that it was drawn. The metrics of a thousand draws are computed at once.

Draws of few tracks spread too little. So intervals are wider than the middle
95 % of the draws, by Student's t for a mean of as many tracks (the "expanded"
percentiles of Hesterberg 2015, arXiv:1411.5279); unequal tracks count as fewer.
Average precision of rare tags has a bias: it is higher in draws than for the
clips, and by as much higher for the clips than for many clips. So its draws are
moved by twice the bias; in differences the bias cancels.
"""

import numpy as np
import scipy.special

from vicreg_jax.evaluation import metrics

METHOD = "expanded percentiles of draws of tracks; pr_auc less twice its bias"
RESAMPLES = 1000
# The least number of tracks, as verdicts on fewer are wrong too often; and of
# tracks of each tag, as the average precision of fewer has too large a bias.
LEAST = 8
_TAIL = 0.025  # on either side of an interval
_MOST_BIAS = 0.3  # of half an interval
_MOST_UNDEFINED = 0.05  # of the draws


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
    labels_NxK, scores_NxK: as in `tagging_metrics`; one-hot with `single`.
    weight_BxN: of each clip, a row for each draw.
    single: adds "accuracy".

  Returns:
    Arrays of length B, in percent; nan where a draw leaves a figure undefined.
  """
  labels_NxK = np.asarray(labels_NxK).astype(bool)
  scores_NxK = np.asarray(scores_NxK)
  roc_BxK, pr_BxK = metrics.areas(labels_NxK, scores_NxK, weight_BxN)
  # A clip's figure is the same in every draw.
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
  """`weighted`, with every clip once; undefined figures are nan, no error."""
  once_1xN = np.ones((1, len(labels_NxK)))
  found = weighted(labels_NxK, scores_NxK, once_1xN, single=single)
  return {name: float(value_B[0]) for name, value_B in found.items()}


def effective(track_N) -> float:
  """The number of equal tracks whose mean would spread as much (Kish)."""
  _, clips_T = np.unique(track_N, return_counts=True)
  return clips_T.sum() ** 2 / (clips_T**2).sum()


def rarest(labels_NxK, track_N) -> int:
  """The number of tracks of the rarest tag that any track has."""
  _, index_N = np.unique(track_N, return_inverse=True)
  has_TxK = np.zeros((index_N.max() + 1, np.shape(labels_NxK)[1]), bool)
  np.logical_or.at(has_TxK, index_N, np.asarray(labels_NxK).astype(bool))
  tracks_K = has_TxK.sum(axis=0)
  return int(tracks_K[tracks_K > 0].min())


def interval(
  value_B, value: float, tracks: float, *, biased: bool = False
) -> list[float]:
  """[low, high], a 95 % interval.

  Both are nan if many draws have no value, the bias is a large part of the
  interval, or the interval would not contain the value.

  Args:
    value_B: of the draws.
    value: of the clips.
    tracks: number of tracks, as `effective` counts them.
    biased: draws are moved by twice their bias.
  """
  value_B = np.asarray(value_B)
  undefined_B = np.isnan(value_B)
  if np.isnan(value) or undefined_B.mean() > _MOST_UNDEFINED:
    return [np.nan, np.nan]
  value_B = value_B[~undefined_B]
  freedom = tracks - 1
  out = scipy.special.stdtrit(freedom, _TAIL) * np.sqrt(tracks / freedom)
  tail = 100 * scipy.special.ndtr(out)
  bias = value_B.mean() - value
  low, high = np.percentile(value_B, [tail, 100 - tail]) - 2 * bias * biased
  known = low <= value <= high and abs(bias) <= _MOST_BIAS * (high - low) / 2
  return [float(low), float(high)] if known else [np.nan, np.nan]


def _mean(value_BxR, weight_BxR):
  """Weighted mean of each row's values that are not nan, or nan."""
  defined_BxR = ~np.isnan(value_BxR)
  weight_BxR = weight_BxR * defined_BxR
  total_B = (weight_BxR * np.where(defined_BxR, value_BxR, 0)).sum(axis=1)
  return metrics.ratio(total_B, weight_BxR.sum(axis=1))
