"""Laws that hold for every input, on inputs that hypothesis looks for."""

import jax
import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vicreg_jax import config as configs
from vicreg_jax import config_limits
from vicreg_jax.data import tracks
from vicreg_jax.data.prepared import SPLITS
from vicreg_jax.model import losses

settings.register_profile(
  "ours", derandomize=True, deadline=None, database=None, max_examples=60
)
settings.load_profile("ours")

# Few shapes, so that little is compiled; n below, equal to and above d.
SHAPES = ((2, 3), (4, 4), (5, 2), (3, 9))


@st.composite
def views(draw):
  """Two embeddings [B, D], float32 on a grid, so that few are alike."""
  n, d = draw(st.sampled_from(SHAPES))
  entry = st.integers(-1000, 1000).map(lambda i: i / 200)
  arrays = hnp.arrays(np.float32, (n, d), elements=entry, fill=st.nothing())
  return draw(arrays), draw(arrays)


# --- losses ---

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
