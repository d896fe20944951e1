"""Against scikit-learn's pipelines, put together by hand."""

import numpy as np
import pytest
import sklearn.metrics
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vicreg_jax.evaluation import classifiers
from vicreg_jax.evaluation.classifiers import Vectors


def vectors(n, seed, single=False):
  """Vectors of very unequal scales that know a little of their labels."""
  rng = np.random.default_rng(seed)
  weights = np.random.default_rng(9).normal(size=(10, 3))
  y_NxD = rng.normal(size=(n, 10)) + 1
  logits_NxK = y_NxD @ weights + 3 * rng.normal(size=(n, 3))
  labels_NxK = logits_NxK > 1
  if single:
    labels_NxK = np.eye(3)[logits_NxK.argmax(axis=1)]
  scales = np.logspace(-3, 3, 10)
  return Vectors((y_NxD * scales).astype(np.float32), labels_NxK.astype(int))


def logistic(C):
  return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=5000))


def neighbours(k):
  return make_pipeline(
    StandardScaler(),
    KNeighborsClassifier(
      k,
      metric="cosine",
      algorithm="brute",
      weights=lambda distance: np.exp((1 - distance) / 0.07),
    ),
  )


def by_hand(make, value, train, x, single):
  y_NxD = train.y_NxD.astype(np.float64)
  x = x.astype(np.float64)
  if single:
    model = make(value).fit(y_NxD, train.labels_NxK.argmax(axis=1))
    return model.predict_proba(x)
  return np.stack(
    [
      make(value).fit(y_NxD, k).predict_proba(x)[:, 1]
      for k in train.labels_NxK.T
    ],
    axis=1,
  )


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
  "name, make, values",
  [
    ("logistic", logistic, (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)),
    ("knn", neighbours, (100, 50, 20, 10, 5, 3, 1)),
  ],
)
def test_predictions_and_choice_are_scikit_learn_s(name, make, values, single):
  train, valid, test = (
    vectors(n, seed, single) for seed, n in enumerate((120, 60, 40))
  )
  aucs = {
    value: sklearn.metrics.roc_auc_score(
      valid.labels_NxK,
      by_hand(make, value, train, valid.y_NxD, single),
      average="macro",
    )
    for value in values
  }
  found = classifiers.predict(name, train, valid, test.y_NxD, single=single)
  assert found.chosen == max(values, key=aucs.get)
  assert len(set(aucs.values())) > 3  # it matters what is chosen
  for x, got in ((valid, found.valid_NxK), (test, found.test_NxK)):
    expected = by_hand(make, found.chosen, train, x.y_NxD, single)
    np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize("name", classifiers.NAMES)
def test_labels_that_no_training_clip_has_are_never_predicted(name):
  train, valid = vectors(12, 0), vectors(8, 1)
  train.labels_NxK[:] = [0, 1, 1]
  train.labels_NxK[0, 2] = 0
  found = classifiers.predict(name, train, valid, valid.y_NxD, single=False)
  assert (found.test_NxK[:, 0] == 0).all()
  np.testing.assert_allclose(found.test_NxK[:, 1], 1)
  one_class = train._replace(labels_NxK=np.tile([0, 1, 0], (12, 1)))
  found = classifiers.predict(name, one_class, valid, valid.y_NxD, single=True)
  np.testing.assert_allclose(found.test_NxK, np.tile([0, 1, 0], (8, 1)))


@pytest.mark.parametrize("name", classifiers.NAMES)
def test_with_nothing_to_choose_by_it_is_the_smoothest(name):
  train, valid = vectors(12, 0), vectors(8, 1)
  valid.labels_NxK[:] = 1  # no ROC-AUC
  found = classifiers.predict(name, train, valid, valid.y_NxD, single=False)
  assert found.chosen == {"logistic": 1e-4, "knn": 12}[name]


@pytest.mark.parametrize("name", classifiers.NAMES)
def test_of_choices_that_are_as_good_it_is_the_smoothest(name):
  """Classes far apart: by all choices the ROC-AUC is 100."""
  has_N = np.arange(12) % 2
  y_NxD = np.stack([100.0 * has_N, np.arange(12)], axis=1)
  clips = Vectors(y_NxD, np.stack([has_N, 1 - has_N], axis=1))
  found = classifiers.predict(name, clips, clips, y_NxD, single=True)
  assert ((found.valid_NxK > 0.5) == clips.labels_NxK).all()
  assert found.chosen == {"logistic": 1e-4, "knn": 12}[name]
