"""Orders of songs against all orders, and against SciPy's distances."""

import itertools

import numpy as np
import pytest
from scipy.spatial import distance

from vicreg_jax.library import route


def vectors(seed, count, size=8):
  """Unequal lengths: they do not count."""
  rng = np.random.default_rng(seed)
  y_NxD = rng.normal(size=(count, size)) * rng.uniform(0.1, 9, (count, 1))
  return y_NxD.astype(np.float32)


def distances(y_NxD):
  return distance.squareform(distance.pdist(y_NxD.astype(float), "cosine"))


def sums(distance_NxN, orders):
  orders = np.asarray(orders)
  return distance_NxN[orders[..., :-1], orders[..., 1:]].sum(axis=-1)


def greedy(distance_NxN, start):
  order = [start]
  while len(order) < len(distance_NxN):
    rest = set(range(len(distance_NxN))) - set(order)
    order.append(min(rest, key=lambda n: distance_NxN[order[-1], n]))
  return order


ORDERS = np.array(list(itertools.permutations(range(7))))


def test_an_order_is_about_the_best():
  over = []
  for seed in range(30):
    y_NxD = vectors(seed, 7, 3 + seed % 9)
    distance_NxN = distances(y_NxD)
    order = route.smooth(y_NxD)
    assert sorted(order) == list(range(7))
    found, best = sums(distance_NxN, order), sums(distance_NxN, ORDERS).min()
    over.append(found / best - 1)
  assert min(over) > -1e-5 and np.mean(over) < 0.03 and max(over) < 0.3
  assert np.mean(np.array(over) < 1e-4) > 0.5


def test_a_way_is_about_the_best_with_its_ends():
  over = []
  for seed in range(30):
    y_NxD = vectors(seed, 7, 3 + seed % 9)
    distance_NxN = distances(y_NxD)
    order = route.between(y_NxD, 4, 2, 7)
    assert sorted(order) == list(range(7))
    assert (order[0], order[-1]) == (4, 2)
    ways = ORDERS[(ORDERS[:, 0] == 4) & (ORDERS[:, -1] == 2)]
    best = sums(distance_NxN, ways).min()
    over.append(sums(distance_NxN, order) / best - 1)
  assert min(over) > -1e-5 and np.mean(over) < 0.04 and max(over) < 0.4
  assert np.mean(np.array(over) < 1e-4) > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_no_turn_makes_it_shorter_and_greed_does_not(seed):
  y_NxD = vectors(seed, 25)
  distance_NxN = distances(y_NxD)
  order = route.smooth(y_NxD)
  found = sums(distance_NxN, order)
  for i, j in itertools.combinations(range(26), 2):
    turned = np.r_[order[:i], order[i:j][::-1], order[j:]]
    assert found <= sums(distance_NxN, turned) + 1e-4
  unit_NxD = y_NxD / np.linalg.norm(y_NxD, axis=1, keepdims=True)
  start = (unit_NxD @ unit_NxD.mean(axis=0)).argmin()
  by_greed = sums(distance_NxN, greedy(distance_NxN, start))
  assert found < by_greed
  assert route.length(y_NxD, order) == pytest.approx(found, rel=1e-5)


def test_songs_on_a_half_circle_are_taken_as_they_lie():
  angle_N = np.linspace(0, 3, 40)
  y_Nx2 = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
  mixed = np.random.default_rng(0).permutation(40)
  steps = np.diff(mixed[route.smooth(y_Nx2[mixed])])
  assert set(steps) in ({1}, {-1})
  there = list(mixed)
  order = route.between(y_Nx2[mixed], there.index(30), there.index(10), 11)
  # Points of the chord stand closer about its ends than songs do.
  found = mixed[order]
  assert (np.diff(found) < 0).all() and found[0] == 30 and found[-1] == 10
  assert np.diff(found).min() >= -4


def test_a_way_takes_what_lies_near_it():
  y_NxD = np.eye(6, dtype=np.float32)
  y_NxD[2] = [3, 1, 0, 0, 0, 0]
  y_NxD[3] = [1, 1, 0.1, 0, 0, 0]
  y_NxD[4] = [0.1, 0.3, 0, 0, 0, 0]
  assert route.between(y_NxD, 0, 1, 5).tolist() == [0, 2, 3, 4, 1]
  assert route.between(y_NxD, 1, 0, 3).tolist() == [1, 3, 0]
  assert route.between(y_NxD, 1, 0, 2).tolist() == [1, 0]


def test_songs_that_are_the_same_stand_together():
  y_NxD = np.repeat(vectors(0, 5), 4, axis=0)
  kind_N = np.repeat(np.arange(5), 4)
  mixed = np.random.default_rng(0).permutation(20)
  order = route.smooth(y_NxD[mixed])
  assert sorted(order) == list(range(20))
  assert np.count_nonzero(np.diff(kind_N[mixed][order])) == 4
  way = route.between(y_NxD, 0, 1, 20)  # which are the same
  assert sorted(way) == list(range(20)) and (way[0], way[-1]) == (0, 1)
  assert sorted(route.smooth(np.ones((9, 3)))) == list(range(9))
  assert sorted(route.smooth(np.zeros((9, 3)))) == list(range(9))


def test_opposite_songs_have_a_way():
  y_NxD = np.r_[vectors(0, 1), -vectors(0, 1), vectors(1, 9)]
  order = route.between(y_NxD, 0, 1, 11)
  assert sorted(order) == list(range(11)) and (order[0], order[-1]) == (0, 1)


def test_few_songs():
  assert route.smooth(vectors(0, 1)).tolist() == [0]
  assert sorted(route.smooth(vectors(0, 2))) == [0, 1]
  assert route.between(vectors(0, 2), 1, 0, 2).tolist() == [1, 0]


@pytest.mark.parametrize(
  "given, word",
  [
    ((0, 1, 8), "2 to 7 songs here, and not of 8"),
    ((0, 1, 1), "not of 1"),
    ((3, 3, 4), "to another.* 3 and 3"),
    ((0, 7, 4), "7 songs to another.* 0 and 7"),
    ((-1, 2, 4), "-1 and 2"),
  ],
)
def test_no_way(given, word):
  with pytest.raises(ValueError, match=word):
    route.between(vectors(0, 7), *given)


def test_no_order(monkeypatch):
  with pytest.raises(ValueError, match="here are 0"):
    route.smooth(np.zeros((0, 3)))
  with pytest.raises(ValueError, match="one of 1 songs"):
    route.between(vectors(0, 1), 0, 0, 1)
  monkeypatch.setattr(route, "MOST", 5)
  with pytest.raises(ValueError, match="1 to 5 songs, and here are 6"):
    route.smooth(vectors(0, 6))
  with pytest.raises(ValueError, match="2 to 5 songs"):
    route.between(vectors(0, 9), 0, 1, 6)
  y_NxD = vectors(0, 5)
  y_NxD[3, 1] = np.nan
  with pytest.raises(ValueError, match="song 3 is not finite"):
    route.smooth(y_NxD)
