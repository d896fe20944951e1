"""Classifiers of vectors that need no training loop: regression, neighbours.

Dimensions are standardised by the training clips. The validation clips choose
the hyperparameter, by the ROC-AUC over tags or classes: the accuracy on some
forty clips would be the same for many choices.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from vicreg_jax.evaluation import bootstrap

# From the smoothest on: of equal choices the first is taken.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C: a small one is strong
NEIGHBOURS = (100, 50, 20, 10, 5, 3, 1)
K = 10  # if no k is chosen
TEMPERATURE = 0.07  # of neighbours' weights (Wu et al. 2018, section 3.4)
CHOSEN = {"logistic": "C", "knn": "k"}  # names of the hyperparameters
NAMES = tuple(CHOSEN)


class Vectors(NamedTuple):
  """Vectors of clips, and their labels, 0 or 1."""

  y_NxD: np.ndarray
  labels_NxK: np.ndarray


class Predictions(NamedTuple):
  """Scores of the classes for two splits, and the choice."""

  valid_NxK: np.ndarray
  test_NxK: np.ndarray
  chosen: float


def predict(
  name: str, train: Vectors, valid: Vectors, test_y_NxD, *, single: bool
) -> Predictions:
  """Trains on `train`, chooses on `valid`, and predicts both other splits.

  Args:
    name: "logistic", regularised logistic regression, one for each tag unless
      `single`; or "knn", the share of a class among the nearest neighbours by
      cosine, each weighted by exp(cosine / TEMPERATURE).
    train, valid: to learn from, and to choose C or k by.
    test_y_NxD: vectors to predict.
    single: each clip has one label.
  """
  x_NxD, *others = _standardised(train.y_NxD, valid.y_NxD, test_y_NxD)
  candidates = {"logistic": _logistic, "knn": _knn}[name]
  best, highest = None, -np.inf
  # Several processes would take several times as long for such small problems.
  with threadpoolctl.threadpool_limits(1):
    for chosen, (valid_NxK, test_NxK) in candidates(
      x_NxD, train.labels_NxK, others, single
    ):
      found = bootstrap.unweighted(valid.labels_NxK, valid_NxK, single=single)
      auc = found["roc_auc"]
      if best is None or auc > highest:
        best = Predictions(valid_NxK, test_NxK, chosen)
        highest = -np.inf if np.isnan(auc) else auc
  return best


def knn(train: Vectors, y_MxD: np.ndarray, k: int = K) -> np.ndarray:
  """Scores [M, classes] of vectors by "knn" with this k."""
  x_NxD, x_MxD = _standardised(train.y_NxD, y_MxD)
  k = min(k, len(x_NxD))
  search = NearestNeighbors(n_neighbors=k, metric="cosine").fit(x_NxD)
  return _shares(train.labels_NxK, *search.kneighbors(x_MxD), k)


def _standardised(*y) -> list[np.ndarray]:
  """Standardises all arrays by mean and deviation of the first."""
  y = [np.asarray(vectors, np.float64) for vectors in y]
  scaler = StandardScaler().fit(y[0])
  return [scaler.transform(vectors) for vectors in y]


def _logistic(x_NxD, labels_NxK, others, single) -> Iterator:
  for C in STRENGTHS:
    if single:
      classes_N = labels_NxK.argmax(axis=1)
      count = labels_NxK.shape[1]
      yield C, _probabilities(C, x_NxD, classes_N, others, count)
    else:
      by_tag = (
        [p_Nx2[:, 1] for p_Nx2 in _probabilities(C, x_NxD, has_N, others, 2)]
        for has_N in labels_NxK.T
      )
      yield C, [np.stack(tags, axis=1) for tags in zip(*by_tag)]


def _probabilities(C, x_NxD, class_N, others, count) -> list[np.ndarray]:
  """Probabilities of `count` classes for each of `others`.

  They are 0 for classes without clips.
  """
  seen = np.unique(class_N)
  found = [np.zeros((len(x), count)) for x in others]
  model = LogisticRegression(C=C, max_iter=1000)
  if len(seen) > 1:
    model.fit(x_NxD, class_N)
  for p_NxK, x in zip(found, others, strict=True):
    p_NxK[:, seen] = model.predict_proba(x) if len(seen) > 1 else 1
  return found


def _knn(x_NxD, labels_NxK, others, single) -> Iterator:
  del single  # shares of classes, or of tags, alike
  ks = sorted({min(k, len(x_NxD)) for k in NEIGHBOURS}, reverse=True)
  search = NearestNeighbors(n_neighbors=ks[0], metric="cosine").fit(x_NxD)
  nearest = [search.kneighbors(x) for x in others]
  for k in ks:
    yield k, [_shares(labels_NxK, *near, k) for near in nearest]


def _shares(labels_NxK, distance_MxN, index_MxN, k):
  """Weighted shares of each label among the k nearest.

  Shares are rounded: two labels that all k neighbours have are then a tie.
  """
  weight_MxN = np.exp(-distance_MxN[:, :k] / TEMPERATURE)
  weight_MxN /= weight_MxN.sum(axis=1, keepdims=True)
  near_MxNxK = labels_NxK[index_MxN[:, :k]]
  return np.einsum("mn,mnk->mk", weight_MxN, near_MxNxK).round(6)
