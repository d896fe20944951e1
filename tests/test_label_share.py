"""Shares of the labels: whole tracks, of every class, one within another."""

import itertools

import numpy as np
import pytest

from vicreg_jax.evaluation import label_share

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
# Tracks of each class, of one to three clips each.
TRACKS = {0: 100, 1: 40, 2: 3}


def clips(single=True):
  """(track of each clip, labels), in an order without classes."""
  rng = np.random.default_rng(0)
  rows = [
    (f"{k}/{i}", k)
    for k, count in TRACKS.items()
    for i in range(count)
    for _ in range(rng.integers(1, 4))
  ]
  rows = [rows[i] for i in rng.permutation(len(rows))]
  labels_NxK = np.eye(3, dtype=np.uint8)[[k for _, k in rows]]
  if not single:
    labels_NxK = rng.integers(0, 2, labels_NxK.shape, dtype=np.uint8)
  return np.array([track for track, _ in rows]), labels_NxK


def share(fraction, salt="0", single=True):
  return label_share.of_clips(
    *clips(single), fraction, salt=salt, single=single
  )


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_track_is_in_the_share_or_not(fraction, single):
  track_N, _ = clips()
  chosen = share(fraction, single=single)
  rest = np.delete(np.arange(len(track_N)), chosen)
  assert not set(track_N[chosen]) & set(track_N[rest])
  assert (np.diff(chosen) > 0).all()
  count = len(set(track_N[chosen]))
  if not single:
    assert count == max(1, round(fraction * 143))


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_each_class_has_its_part_and_at_least_a_track(fraction):
  track_N, labels_NxK = clips()
  chosen = share(fraction)
  for k, count in TRACKS.items():
    of_class = chosen[labels_NxK[chosen, k] > 0]
    expected = max(1, round(fraction * count))
    assert len(set(track_N[of_class])) == expected


@pytest.mark.parametrize("single", [False, True])
def test_shares_lie_within_each_other_and_are_drawn_by_the_seed(single):
  shares = [share(fraction, single=single) for fraction in FRACTIONS]
  for small, large in itertools.pairwise(shares):
    assert set(small) < set(large)
  np.testing.assert_array_equal(share(0.25, single=single), shares[3])
  # A quarter of a quarter is what two draws would share.
  other = share(0.25, "1", single)
  both = len(set(other) & set(shares[3])) / len(other)
  assert 0.05 < both < 0.5


def test_a_share_is_not_the_first_clips():
  """All parts of the data set are drawn from: here with 60 tracks in order."""
  tracks = [f"{i:02}" for i in range(60)]
  labels_NxK = np.ones((60, 1), np.uint8)
  chosen = label_share.of_clips(tracks, labels_NxK, 0.5, salt="0", single=False)
  assert 8 < (chosen < 30).sum() < 22
