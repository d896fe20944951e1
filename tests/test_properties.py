"""Laws that hold for every input, on inputs that hypothesis looks for."""

import math
import re
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vicreg_jax import config as configs
from vicreg_jax import config_limits
from vicreg_jax.data import crops, seeds, tracks
from vicreg_jax.data.prepared import SPLITS
from vicreg_jax.data.tracks import track_of
from vicreg_jax.evaluation import metrics
from vicreg_jax.model import losses
from vicreg_jax.training import steps

settings.register_profile(
  "ours", derandomize=True, deadline=None, database=None, max_examples=60
)
settings.load_profile("ours")

# Few shapes, so that little is compiled; n below, equal to and above d.
SHAPES = ((2, 3), (4, 4), (5, 2), (3, 9))


@st.composite
def views(draw, magnitude=5.0):
  """Two embeddings [B, D], float32 on a grid, so that few are alike."""
  n, d = draw(st.sampled_from(SHAPES))
  entry = st.integers(-1000, 1000).map(lambda i: i * magnitude / 1000)
  arrays = hnp.arrays(np.float32, (n, d), elements=entry, fill=st.nothing())
  return draw(arrays), draw(arrays)


# --- VICReg ---


@jax.jit
def vicreg(z1_BxD, z2_BxD):
  return losses.vicreg_loss(z1_BxD, z2_BxD)


def vicreg_numpy(z1_BxD, z2_BxD, gamma=1.0, eps=1e-4):
  """The terms in float64, the covariance from the D x D matrix itself."""
  z1_BxD, z2_BxD = np.float64(z1_BxD), np.float64(z2_BxD)
  hinge = covariance = 0.0
  for z_BxD in (z1_BxD, z2_BxD):
    d = z_BxD.shape[1]
    deviation_D = np.sqrt(z_BxD.var(axis=0, ddof=1) + eps)
    hinge += np.maximum(0, gamma - deviation_D).mean() / 2
    cov_DxD = np.cov(z_BxD, rowvar=False)
    covariance += (cov_DxD[~np.eye(d, dtype=bool)] ** 2).sum() / d
  invariance = ((z1_BxD - z2_BxD) ** 2).mean()
  return dict(invariance=invariance, variance=hinge, covariance=covariance)


def scale_of(z1_BxD, z2_BxD):
  """What the terms round against: D times the largest variance, squared."""
  most = max(np.ptp(z1_BxD), np.ptp(z2_BxD), 1e-3)
  d = z1_BxD.shape[1]
  return dict(invariance=most**2, variance=1.0, covariance=d * most**4)


def assert_terms(got, want, scale, tolerance=3e-6):
  for key, value in want.items():
    bound = tolerance * scale[key] + 1e-5 * abs(float(value))
    assert abs(float(got[key]) - float(value)) <= bound, key


@given(views())
def test_vicreg_is_the_float64_reference_and_not_negative(pair):
  loss, got = vicreg(*pair)
  want = vicreg_numpy(*pair)
  assert_terms(got, want, scale_of(*pair))
  assert float(got["invariance"]) >= 0 and float(got["variance"]) >= 0
  # Gram: a difference of sums, so rounding may step below zero.
  assert float(got["covariance"]) >= -3e-6 * scale_of(*pair)["covariance"]
  total = 25 * got["invariance"] + 25 * got["variance"] + got["covariance"]
  assert float(loss) == pytest.approx(float(total), rel=1e-5, abs=1e-4)


@given(views(), st.randoms(use_true_random=False))
def test_vicreg_ignores_the_order_of_clips_dimensions_and_views(pair, random):
  z1_BxD, z2_BxD = pair
  n, d = z1_BxD.shape
  rows, columns = random.sample(range(n), n), random.sample(range(d), d)
  _, want = vicreg(z1_BxD, z2_BxD)
  scale = scale_of(*pair)
  assert_terms(vicreg(z1_BxD[rows], z2_BxD[rows])[1], want, scale)
  assert_terms(vicreg(z1_BxD[:, columns], z2_BxD[:, columns])[1], want, scale)
  assert_terms(vicreg(z2_BxD, z1_BxD)[1], want, scale)


@given(views(), st.integers(-40, 40), st.integers(-40, 40))
def test_vicreg_ignores_translations_and_signs(pair, first, second):
  z1_BxD, z2_BxD = pair
  want = vicreg_numpy(z1_BxD, z2_BxD)
  shift_D = np.linspace(first, second, z1_BxD.shape[1], dtype=np.float32)
  moved = z1_BxD + shift_D, z2_BxD + shift_D
  # The shifted sum is rounded: 40 beside a grid of 0.005.
  scale = scale_of(*pair)
  assert_terms(vicreg(*moved)[1], want, scale, 1e-4)
  # Each view by itself, where only variance and covariance look.
  apart = vicreg(z1_BxD + shift_D, z2_BxD - shift_D)[1]
  del want["invariance"]
  assert_terms(apart, want, scale, 1e-4)
  # A flip of the sign of a dimension, in both views.
  sign_D = np.where(np.arange(z1_BxD.shape[1]) % 2, 1, -1).astype(np.float32)
  flipped = vicreg(z1_BxD * sign_D, z2_BxD * sign_D)[1]
  assert_terms(flipped, vicreg_numpy(*pair), scale)


@given(views(), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_vicreg_scales_by_powers(pair, factor):
  _, one = vicreg(*pair)
  _, other = vicreg(*(z * np.float32(factor) for z in pair))
  # A power of two: only exponents change, and so every bit is known.
  assert float(other["invariance"]) == float(one["invariance"]) * factor**2
  assert float(other["covariance"]) == float(one["covariance"]) * factor**4
  if factor > 1:
    assert float(other["variance"]) <= float(one["variance"])


@given(views())
def test_gram_and_covariance_matrix_agree(pair):
  z_BxD, _ = pair
  n, d = z_BxD.shape
  assume(n < d)
  repeated = np.tile(z_BxD, (d, 1))
  # Repeated d times the batch is the longer side, and the other form is used;
  # the sums of squares grow d-fold, what they are divided by from n to d n.
  _, got = vicreg(z_BxD, z_BxD)
  _, other = vicreg(repeated, repeated)
  ratio = ((d * n - 1) / (d * (n - 1))) ** 2
  bound = 1e-5 * scale_of(*pair)["covariance"]
  assert abs(got["covariance"] - other["covariance"] * ratio) <= bound


# --- NT-Xent ---


@jax.jit
def nt_xent(z1_BxD, z2_BxD):
  return losses.nt_xent_loss(z1_BxD, z2_BxD)


def nt_xent_numpy(z1_BxD, z2_BxD, temperature=0.5):
  z_AxD = np.concatenate([z1_BxD, z2_BxD]).astype(np.float64)
  norm_Ax1 = np.linalg.norm(z_AxD, axis=1, keepdims=True)
  z_AxD = np.where(norm_Ax1 > 0, z_AxD / np.where(norm_Ax1, norm_Ax1, 1), 0)
  cosine_AxA = z_AxD @ z_AxD.T
  n, total = len(z1_BxD), 0.0
  for i in range(2 * n):
    others = [cosine_AxA[i, j] for j in range(2 * n) if j != i]
    denominator = np.logaddexp.reduce(np.array(others) / temperature)
    total += denominator - cosine_AxA[i, (i + n) % (2 * n)] / temperature
  return total / (2 * n)


@given(views(), st.randoms(use_true_random=False))
def test_nt_xent_reference_symmetry_order_and_bounds(pair, random):
  z1_BxD, z2_BxD = pair
  n = len(z1_BxD)
  loss, terms = nt_xent(z1_BxD, z2_BxD)
  loss = float(loss)
  assert loss == pytest.approx(nt_xent_numpy(*pair), abs=1e-5)
  assert float(nt_xent(z2_BxD, z1_BxD)[0]) == pytest.approx(loss, abs=1e-5)
  rows = random.sample(range(n), n)
  again = nt_xent(z1_BxD[rows], z2_BxD[rows])[0]
  assert float(again) == pytest.approx(loss, abs=1e-5)
  # Cosines lie in [-1, 1] and tau is 0.5, so exponents differ by at most 4.
  least = math.log1p((2 * n - 2) * math.exp(-4))
  most = math.log1p((2 * n - 2) * math.exp(4))
  assert least - 1e-5 <= loss <= most + 1e-5
  assert -1.00001 <= float(terms["positive_similarity"]) <= 1.00001
  assert 0 <= float(terms["top1"]) <= 1


@given(views(), hnp.arrays(np.int32, 18, elements=st.integers(-3, 3)))
def test_nt_xent_ignores_the_length_of_each_embedding(pair, powers):
  z1_BxD, z2_BxD = pair
  n = len(z1_BxD)
  lengths_A = 2.0 ** powers[: 2 * n].astype(np.float32)
  scaled = (z1_BxD * lengths_A[:n, None], z2_BxD * lengths_A[n:, None])
  assert float(nt_xent(*scaled)[0]) == pytest.approx(
    float(nt_xent(*pair)[0]), abs=1e-5
  )


GRADIENTS = {
  name: jax.jit(jax.value_and_grad(lambda a, b, f=f: f(a, b)[0], (0, 1)))
  for name, f in (
    ("vicreg", losses.vicreg_loss), ("nt_xent", losses.nt_xent_loss)
  )
}  # fmt: skip


@given(
  views(),
  st.sampled_from(["as drawn", "zero", "constant", "one row", "equal views"]),
  st.sampled_from([1.0, 1e-30, 1e-12, 1e4, 1e8]),
  st.sampled_from(sorted(GRADIENTS)),
)
def test_gradients_are_finite(pair, kind, factor, name):
  z1_BxD, z2_BxD = (z * np.float32(factor) for z in pair)
  if kind == "zero":
    z1_BxD = np.zeros_like(z1_BxD)
  elif kind == "constant":
    z1_BxD = np.full_like(z1_BxD, factor)
  elif kind == "one row":
    z1_BxD[1:] = 0
  elif kind == "equal views":
    z2_BxD = z1_BxD
  loss, grads = GRADIENTS[name](z1_BxD, z2_BxD)
  assert np.isfinite(loss)
  assert all(np.isfinite(g).all() for g in grads)


# --- metrics ---


@st.composite
def ranking(draw):
  """Labels [N] of both classes and scores [N] with many ties."""
  n = draw(st.integers(2, 12))
  labels_N = draw(hnp.arrays(np.int8, n, elements=st.integers(0, 1)))
  assume(0 < labels_N.sum() < n)
  scores_N = draw(hnp.arrays(np.float64, n, elements=st.integers(-4, 4)))
  return labels_N, scores_N


def areas(labels_N, scores_N):
  got = metrics.per_tag_metrics(labels_N[:, None], scores_N[:, None])
  return float(got["roc_auc"][0]), float(got["pr_auc"][0])


@given(ranking())
def test_roc_auc_counts_pairs(case):
  labels_N, scores_N = case
  wins = [
    (a > b) + (a == b) / 2
    for a in scores_N[labels_N == 1]
    for b in scores_N[labels_N == 0]
  ]
  roc, pr = areas(*case)
  assert roc == pytest.approx(100 * np.mean(wins))
  # The mean over positives of the precision at their score.
  precisions = [labels_N[scores_N >= s].mean() for s in scores_N[labels_N == 1]]
  assert pr == pytest.approx(100 * np.mean(precisions))


@given(ranking())
def test_areas_under_order_complement_and_bounds(case):
  labels_N, scores_N = case
  roc, pr = areas(*case)
  for rising in (lambda s: 3 * s - 7, np.exp, np.arctan, lambda s: s**3):
    assert areas(labels_N, rising(scores_N)) == pytest.approx((roc, pr))
  assert areas(1 - labels_N, scores_N)[0] == pytest.approx(100 - roc)
  assert areas(labels_N, -scores_N)[0] == pytest.approx(100 - roc)
  order = np.random.default_rng(0).permutation(len(labels_N))
  assert areas(labels_N[order], scores_N[order]) == pytest.approx((roc, pr))
  # The least average precision ranks all positives last.
  positives = int(labels_N.sum())
  n = len(labels_N)
  worst = np.mean([k / (n - positives + k) for k in range(1, positives + 1)])
  assert 100 * worst - 1e-9 <= pr <= 100 + 1e-9
  assert 0 <= roc <= 100


@given(ranking(), st.integers(1, 4))
def test_means_over_segments_keep_every_clip(case, segments):
  labels_N, scores_N = case
  n = len(labels_N)
  index_M = np.tile(np.arange(n), segments)
  noise_M = np.random.default_rng(n).normal(size=n * segments)
  scores_Mx1 = (np.tile(scores_N, segments) + noise_M)[:, None]
  got_Nx1 = metrics.mean_over_clip(scores_Mx1, index_M, n)
  want_N = [scores_Mx1[index_M == i].mean() for i in range(n)]
  np.testing.assert_allclose(got_Nx1[:, 0], want_N, rtol=1e-12, atol=1e-12)


@given(
  hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.integers(-100, 100).map(lambda i: i / 8),
  ),
  st.sampled_from([-4.0, 0.5, 8.0]),
)
def test_effective_rank_is_between_one_and_the_smaller_side(z_NxD, factor):
  rank = metrics.effective_rank(z_NxD)
  if not z_NxD.any():
    assert rank == 0
    return
  assert 1 - 1e-9 <= rank <= min(z_NxD.shape) + 1e-9
  assert rank <= max(np.linalg.matrix_rank(z_NxD), 1) + 1e-5
  assert metrics.effective_rank(z_NxD * factor) == pytest.approx(rank)
  assert metrics.effective_rank(z_NxD.T) == pytest.approx(rank)


# --- splits ---

NAMES = st.text(
  st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=9
)


@given(st.sets(NAMES, max_size=40))
def test_splits_are_disjoint_complete_and_none_is_empty(names):
  split_of = tracks.split(dict.fromkeys(names))
  assert split_of.keys() == names
  counts = {s: list(split_of.values()).count(s) for s in SPLITS}
  assert sum(counts.values()) == len(names)
  if len(names) >= 3:
    assert min(counts.values()) >= 1
    assert abs(counts["test"] - 0.2 * len(names)) <= 1
    assert abs(counts["valid"] - 0.1 * len(names)) <= 1
  else:
    assert counts["train"] == len(names)
  assert tracks.split(dict.fromkeys(sorted(names))) == split_of
  assert tracks.split(dict.fromkeys(sorted(names)[::-1])) == split_of


@given(st.sets(NAMES, min_size=3, max_size=30), NAMES)
def test_another_track_moves_at_most_one_over_each_boundary(names, new):
  before = tracks.split(dict.fromkeys(names))
  after = tracks.split(dict.fromkeys(names | {new}))
  assert sum(before[t] != after[t] for t in names) <= 2


@given(
  NAMES.filter(lambda n: "." not in n),
  st.integers(0, 500),
  st.integers(1, 500),
  st.sampled_from(["", "a/", "a/b.c/"]),
)
def test_cuts_of_a_track_stay_together(name, start, length, folder):
  assume(not re.match(r"\d{4}-", f"{name}-"))  # a date, see tracks
  cut = f"{folder}{name}-{start}-{start + length}.ogg"
  later = f"{folder}{name}-{start + length}-{start + 2 * length}.ogg"
  assert track_of(cut) == track_of(later)
  assert track_of(cut).startswith(folder)


# --- configs ---

BASES = {
  f.__name__: f
  for f in (
    configs.base_pretrain, configs.base_clmr, configs.base_probe,
    configs.base_embed, configs.base_prepare, configs.base_supervised,
  )
}  # fmt: skip


def complete(name):
  """A base config to which nothing is lacking, as plain dicts."""
  tree = BASES[name]().to_dict()
  if name in ("base_probe", "base_embed"):
    tree["checkpoint"] = "runs/x"
  return tree


def paths(tree, prefix=()):
  for key, value in tree.items():
    yield (*prefix, key)
    if isinstance(value, dict):
      yield from paths(value, (*prefix, key))


KEYS = [(name, path) for name in BASES for path in paths(complete(name))]
VALUES = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(),
  st.sampled_from([0, 1, -1, 2**31, 2**63, 10**400]),
  st.floats(),
  st.text(max_size=5),
  st.binary(max_size=3),
  st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=3))),
  st.tuples(st.floats(), st.floats()),
  st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
  st.sampled_from(["train", ("train",), ("train", "train"), ("valid",)]),
  st.dictionaries(
    st.sampled_from(["p", "name", "x"]), st.integers(), max_size=2
  ),
)


@pytest.mark.parametrize("name", BASES)
def test_a_complete_config_is_valid(name):
  config_limits.validate(ml_collections.ConfigDict(complete(name)))


@settings(max_examples=400)
@given(st.sampled_from(KEYS), VALUES)
def test_a_changed_key_is_valid_or_named(where, value):
  name, path = where
  tree = complete(name)
  node = tree
  for key in path[:-1]:
    node = node[key]
  node[path[-1]] = value
  try:
    config_limits.validate(ml_collections.ConfigDict(tree))
  except ValueError as error:
    assert ".".join(path) in str(error)


@given(st.sampled_from(KEYS), st.sampled_from(["", "_", "x", "s"]))
def test_a_missing_or_misspelt_key_is_named(where, suffix):
  name, path = where
  tree = complete(name)
  node = tree
  for key in path[:-1]:
    node = node[key]
  value = node.pop(path[-1])
  if suffix:
    node[path[-1] + suffix] = value
  with pytest.raises(ValueError) as caught:
    config_limits.validate(ml_collections.ConfigDict(tree))
  assert path[-1] in str(caught.value)


@given(
  st.integers(1, 100_000), st.integers(2, 4096), st.integers(1, 9999),
  st.floats(0, 100), st.floats(0, 100), st.floats(0, 100), st.integers(0, 9),
)  # fmt: skip
def test_durations_fit_into_the_run(
  clips, batch, epochs, warmup, evaluate, save, steps
):
  config = configs.base_pretrain()
  config.batch_size, config.epochs, config.steps = batch, epochs, steps
  config.optim.warmup_epochs = warmup
  config.eval_every_epochs = evaluate
  config.checkpoint.every_epochs = save
  if clips < batch:
    with pytest.raises(ValueError, match="batch_size is"):
      configs.durations(config, clips)
    return
  if steps == 0:
    config.epochs = 2**31
    with pytest.raises(ValueError, match="epochs is"):
      configs.durations(config, clips)
    config.epochs = epochs
  d = configs.durations(config, clips)
  assert d.per_epoch * batch <= clips < (d.per_epoch + 1) * batch
  assert d.total == (steps or epochs * d.per_epoch)
  assert 0 <= d.warmup < d.total and d.checkpoint_every >= 1
  assert (d.eval_every >= 1) == (evaluate > 0)


@given(
  st.integers(1, 400), st.integers(0, 400), st.floats(0, 1),
  st.floats(1e-4, 10), st.integers(2, 4096), st.booleans(),
)  # fmt: skip
def test_schedule_rises_then_falls_without_a_jump(
  total, warmup, final, rate, batch, scale
):
  warmup = min(warmup, total - 1)
  config = configs.base_pretrain()
  config.batch_size = batch
  config.optim.update(learning_rate=rate, final_fraction=final, per_256=scale)
  durations = types.SimpleNamespace(warmup=warmup, total=total)
  schedule = steps.make_schedule(config, durations)
  # Always of one length, so that it is compiled once.
  rates = np.asarray(schedule(jnp.arange(401)), np.float64)[: total + 1]
  peak = rate * (batch / 256 if scale else 1)
  rounding = 1e-6 * peak
  assert (rates >= -rounding).all() and (rates <= peak + rounding).all()
  assert rates[warmup] == pytest.approx(peak, rel=1e-5)
  assert rates[total] == pytest.approx(final * peak, abs=3 * rounding)
  change = np.diff(rates)
  assert (change[:warmup] > 0).all()
  assert (change[warmup:] <= rounding).all()
  # No step is steeper than the line, or than pi / 2 of the cosine's mean slope.
  if warmup:
    assert change[:warmup].max() <= peak / warmup + rounding
  steepest = math.pi / 2 * peak * (1 - final) / (total - warmup)
  assert change[warmup:].min() >= -steepest - rounding


# --- samples ---


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 2**62))
@settings(max_examples=40)
def test_crops_start_inside_the_clip(crop, more, example):
  seed = seeds.example_seed(0, 0, example, 1)
  start = int(crops.random_start(crop + more, crop, seed))
  assert 0 <= start <= more
  assert start == int(crops.random_start(crop + more, crop, seed))
