import itertools
import json
import os
import pathlib
import signal
import time

import jax
import numpy as np
import pytest
import runs
import sklearn.metrics
import sklearn.neighbors
import sklearn.preprocessing
import warm
from conftest import shrink
from runs import assert_same, lines_of, stopped_at

from vicreg_jax import config as configs
from vicreg_jax import config_limits, mesh
from vicreg_jax.data import datasets, input_pipeline
from vicreg_jax.evaluation import random_splits
from vicreg_jax.jobs import pretrain
from vicreg_jax.training import loop, steps
from vicreg_jax.use import encoder as encoders

HERE = pathlib.Path(__file__).parent


def header_of(config, prepared):
  clips = input_pipeline.num_train_clips(prepared, config)
  return loop.header(config, prepared, configs.durations(config, clips))


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
  """A run of five steps: (state, workdir)."""
  workdir = tmp_path_factory.mktemp("unbroken")
  config = shrink(configs.base_pretrain(), data_dir)
  config.checkpoint.every_epochs = 1.0
  return pretrain.run(config, str(workdir)), workdir


def test_a_run_leaves_what_it_should(unbroken):
  state, workdir = unbroken
  rows = lines_of(workdir)
  train = [r for r in rows if "train/loss" in r]
  assert [r["step"] for r in train] == [1, 2, 3, 4, 5]
  terms = ("invariance", "variance", "covariance", "learning_rate")
  norms = ("grad_norm", "param_norm", "epoch")
  for row in train:
    for key in (*terms, *norms):
      assert np.isfinite(row[f"train/{key}"])
    weighted = (
      25 * row["train/invariance"]
      + 25 * row["train/variance"]
      + row["train/covariance"]
    )
    assert row["train/loss"] == pytest.approx(weighted, rel=1e-5)
  # An epoch is three steps; the end is evaluated too.
  assert [r["step"] for r in rows if "validation/loss" in r] == [3, 5]
  saved = json.loads((workdir / "config.json").read_text())
  assert saved["batch_size"] == 8
  assert sorted(os.listdir(workdir / "checkpoints")) == ["3", "5"]
  assert list((workdir / "tb").iterdir())
  assert os.path.getsize(loop.figure(str(workdir))) > 10_000
  assert int(state.step) == 5


def test_continuing_equals_an_unbroken_run(small, unbroken, tmp_path):
  expected, workdir = unbroken
  small.checkpoint.every_epochs = 1.0
  # A crash after step 4, of which the checkpoint of step 3 survives.
  with stopped_at(4):
    pretrain.run(small, str(tmp_path))
  assert lines_of(tmp_path)[-1]["step"] == 4
  state = pretrain.run(small, str(tmp_path))
  assert_same(state, expected)
  assert lines_of(tmp_path) == lines_of(workdir)
  # Once more: there is nothing left to do, and nothing is changed.
  assert_same(pretrain.run(small, str(tmp_path)), expected)
  assert lines_of(tmp_path) == lines_of(workdir)


def refuse(*args, **kwargs):
  raise AssertionError("there was nothing to do")


def test_harmless_changes_are_let_through(small, unbroken):
  small.log_every_steps = 7
  small.checkpoint.every_epochs = 2.0
  prepared = datasets.prepare(small.data)
  loop._check_same(small, header_of(small, prepared), str(unbroken[1]))


def test_the_length_may_change_if_the_schedule_does_not_need_it(
  small, unbroken, tmp_path
):
  prepared = datasets.prepare(small.data)
  small.steps = 9
  with pytest.raises(ValueError, match=r"\(steps: 5 -> 9\)"):
    loop._check_same(small, header_of(small, prepared), str(unbroken[1]))
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  small.optim.schedule = "constant"
  header = header_of(small, prepared)
  (tmp_path / "config.json").write_text(json.dumps(header))
  small.steps, small.epochs = 0, 30
  small.data.path = "/elsewhere"
  loop._check_same(small, header_of(small, prepared), str(tmp_path))


@pytest.mark.parametrize(
  "key, value",
  [
    ("model.width", 0.5),
    ("optim.momentum", 0.8),
    ("augment.noise.p", 0.1),
    ("loss.sim_coeff", 1.0),
    ("batch_size", 4),
    ("dtype", "bfloat16"),
    ("shuffle_buffer", 9),
    ("train_splits", ("train", "test")),
  ],
)
def test_each_part_of_another_config_is_named(small, unbroken, key, value):
  before = small.to_dict()
  *path, last = key.split(".")
  node = small
  for part in path:
    node, before = node[part], before[part]
  node[last] = value
  with pytest.raises(ValueError) as caught:
    pretrain.run(small, str(unbroken[1]))
  sides = (json.loads(json.dumps(v)) for v in (before[last], value))
  assert f"({key}: {next(sides)} -> {next(sides)})" in str(caught.value)


def test_other_data_are_refused(small, unbroken):
  small.data.sizes = (25, 9, 10)
  with pytest.raises(ValueError, match=r"data.sizes: .*; prepared: synthetic/"):
    pretrain.run(small, str(unbroken[1]))


def on_eight_devices(data_dir, other, workdir):
  """Trains; saves its encoder's parameters, and those of the other run."""
  assert len(jax.devices()) == 8
  config = shrink(configs.base_pretrain(), data_dir)
  state = pretrain.run(config, workdir)
  theirs = encoders.load(other)
  for name, params in (
    ("ours", state.params["encoder"]),
    ("theirs", theirs._variables["params"]),
  ):
    np.savez(f"{workdir}/{name}", *jax.tree.leaves(params))
  config.batch_size = 12
  with pytest.raises(ValueError, match=r"batch_size is 12, .* 8"):
    pretrain.run(config, f"{workdir}/other")


@pytest.mark.slow
def test_eight_devices_equal_one(data_dir, unbroken, tmp_path):
  """The loss and BatchNorm are over the global batch, whoever holds it."""
  run = on_eight_devices, data_dir, str(unbroken[1]), str(tmp_path)
  warm.on_eight_devices(tmp_path, *run)
  one, eight = lines_of(unbroken[1]), lines_of(tmp_path)
  assert len(one) == len(eight)
  for a, b in zip(one, eight):
    # Rounding grows from step to step where embeddings hardly differ; losses
    # of shards would be off by 0.1. One step is compared in test_sharding.py.
    assert a == pytest.approx(b, rel=1e-2)
  # Either's encoder is restored by the other, bit for bit.
  mine = encoders.load(str(tmp_path), devices=mesh.make_mesh())._variables[
    "params"
  ]
  for name, params in (
    ("ours", mine),
    ("theirs", unbroken[0].params["encoder"]),
  ):
    saved = np.load(tmp_path / f"{name}.npz")
    for leaf, array in zip(
      jax.tree.leaves(params), saved.values(), strict=True
    ):
      np.testing.assert_array_equal(leaf, array)


def test_a_disk_that_fills_stops_the_run_which_then_continues(
  small, unbroken, tmp_path
):
  small.checkpoint.every_epochs = 1.0
  with runs.small_disk(tmp_path / "disk") as (fill, free):
    with runs.at_step(4, fill), pytest.raises(ValueError, match=runs.FULL):
      pretrain.run(small, str(tmp_path / "disk"))
    free()
    state = pretrain.run(small, str(tmp_path / "disk"))
    assert_same(state, unbroken[0])
    assert lines_of(tmp_path / "disk") == lines_of(unbroken[1])


def test_a_nan_is_named_at_once_and_not_saved(
  small, unbroken, tmp_path, monkeypatch
):
  small.checkpoint.every_epochs = 1 / 3  # every step
  small.log_every_steps = 100
  views = input_pipeline.train_views

  def with_a_nan(*args, **kwargs):
    for step, batch in enumerate(views(*args, **kwargs), 1):
      yield np.where(step == 4, np.nan, 1).astype(np.float32) * batch

  monkeypatch.setattr(input_pipeline, "train_views", with_a_nan)
  with pytest.raises(ValueError, match=r"^step 4: .*'invariance': nan"):
    pretrain.run(small, str(tmp_path))
  names = sorted(os.listdir(tmp_path / "checkpoints"))
  assert names == ["1", "2", "3"]
  monkeypatch.undo()
  assert_same(pretrain.run(small, str(tmp_path)), unbroken[0])


def test_a_clock_that_runs_backwards_changes_nothing(
  small, unbroken, tmp_path, monkeypatch
):
  clock = iter(range(2_000_000_000, 0, -3600))
  monkeypatch.setattr("time.time", lambda: float(next(clock)))
  monkeypatch.setattr("time.time_ns", lambda: next(clock) * 10**9)
  small.checkpoint.every_epochs = 1 / 3
  small.checkpoint.keep = 2
  small.steps = 5
  with stopped_at(4):
    pretrain.run(small, str(tmp_path))
  assert_same(pretrain.run(small, str(tmp_path)), unbroken[0])
  assert lines_of(tmp_path) == lines_of(unbroken[1])
  assert sorted(os.listdir(tmp_path / "checkpoints")) == ["4", "5"]


def test_the_next_batch_is_on_its_way_before_a_step_is_waited_for(
  small, tmp_path, monkeypatch
):
  """So transfers overlap with computing, and a next step is always queued."""
  small.steps = 7
  small.eval_every_epochs = small.checkpoint.every_epochs = 0.0
  events = []

  class Watched:
    def __init__(self, value, step):
      self._value, self._step = value, step

    def __float__(self):
      events.append(("wait", self._step))
      return float(self._value)

  jit_train_step = pretrain.steps.jit_train_step

  def watched_steps(*args):
    compiled, numbers = jit_train_step(*args), itertools.count(1)

    def step(state, views):
      number = next(numbers)
      events.append(("step", number))
      state, scalars = compiled(state, views)
      return state, {k: Watched(v, number) for k, v in scalars.items()}

    return step

  global_batch, placed = pretrain.mesh.global_batch, itertools.count(1)

  def watched_batch(*args):
    events.append(("place", next(placed)))
    return global_batch(*args)

  monkeypatch.setattr(pretrain.steps, "jit_train_step", watched_steps)
  monkeypatch.setattr(pretrain.mesh, "global_batch", watched_batch)
  pretrain.run(small, str(tmp_path))
  for step in range(1, 7):
    waited = events.index(("wait", step))
    assert events.index(("place", step + 1)) < waited
    assert events.index(("step", step + 1)) < waited
    # Not further ahead either: what is queued takes memory.
    assert step == 6 or events.index(("place", step + 2)) > waited


def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path):
  small.optim.name = "adam"
  small.optim.learning_rate = 1e30
  small.optim.per_256 = False
  small.optim.warmup_epochs = 0.0
  with pytest.raises(ValueError, match=r"step \d+: .*config.init_from="):
    pretrain.run(small, str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_so(small, data_dir, tmp_path, number):
  (tmp_path / "long.py").write_text(f"""
from conftest import shrink
from vicreg_jax import config
def get_config():
  c = shrink(config.base_pretrain(), {data_dir!r})
  c.steps = 100_000
  c.eval_every_epochs = 0.0
  c.checkpoint.every_epochs = 0.0
  return c
""")
  process = warm.command(
    f"--config={tmp_path}/long.py",
    f"--workdir={tmp_path}",
    out=tmp_path / "out",
    err=tmp_path / "err",
  )
  metrics = tmp_path / "metrics.jsonl"
  deadline = time.monotonic() + warm.PATIENCE
  while not (metrics.exists() and metrics.stat().st_size > 1000):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.1)
  with pytest.raises(ValueError, match=f"in use by .* process {process.pid}:"):
    pretrain.run(small, str(tmp_path))
  process.send_signal(number)
  code, _, errors = process.wait()
  assert code == 75, errors
  (step,) = os.listdir(tmp_path / "checkpoints")
  assert f"saved step {step} of 100000" in errors
  assert lines_of(tmp_path)[-1]["step"] == int(step)


def diagnosed(small, **valid):
  small.eval_every_epochs = 0.0
  small.diagnostics.update(every_epochs=1.0, clips=6)
  small.valid_data.update(**valid)
  return small


def test_diagnostics_are_of_the_held_out_clips(small, prepared, tmp_path):
  """Against representations computed here from the checkpoint."""
  small = diagnosed(small)
  state = pretrain.run(small, str(tmp_path))
  rows = [r for r in lines_of(tmp_path) if "embedding/std" in r]
  assert [r["step"] for r in rows] == [3, 5]  # each epoch, and the end
  assert not any("validation/loss" in r for r in rows)

  views = next(iter(input_pipeline.ValidViews(prepared, small, "valid", 8)))
  encoder = steps.make_encoder(small.model, "float32")
  projector = steps.make_projector(small.model, "float32")

  def variables(part):
    both = {"params": state.params, "batch_stats": state.batch_stats}
    return {k: v[part] for k, v in both.items()}

  y_NxD = encoder.apply(variables("encoder"), views[:6, 0])
  z_NxE = projector.apply(variables("projector"), y_NxD)
  arrays = np.load(tmp_path / "diagnostics" / "5.npz")
  for name, x in (("representation", y_NxD), ("embedding", z_NxE)):
    x = np.asarray(x, np.float64)
    singular = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(
      arrays[f"{name}_singular"], singular, atol=1e-5 * singular[0]
    )
    np.testing.assert_allclose(
      arrays[f"{name}_std"], x.std(0, ddof=1), rtol=1e-3, atol=1e-6
    )
    mean = x.std(0, ddof=1).mean()
    assert rows[-1][f"{name}/std"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.slow
def test_clips_to_validate_on_may_be_of_another_set(small, tmp_path):
  small.train_splits = ("train", "valid", "test")
  with pytest.raises(ValueError, match="valid_data"):
    config_limits.validate(diagnosed(small))
  small = diagnosed(small, name="synthetic", seed=1)
  config_limits.validate(small)
  other = pretrain.valid_data(small)
  assert (other.name, other.seed, other.crop) == ("synthetic", 1, 243)
  small.steps = 2
  small.eval_every_epochs = 1.0
  pretrain.run(small, str(tmp_path / "other"))
  own = diagnosed(small, name="", seed=0)
  own.eval_every_epochs = 1.0
  own.train_splits = ("train", "valid", "test")
  pretrain.run(own, str(tmp_path / "own"))
  other, own = (lines_of(tmp_path / name) for name in ("other", "own"))
  assert [r for r in other if "train/loss" in r] == [
    r for r in own if "train/loss" in r
  ]
  key = "validation/loss"
  assert other[-1][key] != own[-1][key]  # other clips


def test_marked_epochs_are_saved_and_stay(small, tmp_path):
  small.steps = 9  # three epochs
  small.checkpoint.update(every_epochs=0.4, keep=1, keep_at_epochs=(1, 7 / 3))
  pretrain.run(small, str(tmp_path))
  kept = sorted(os.listdir(tmp_path / "checkpoints"))
  assert kept == ["3", "7", "9"]
  # Also where the run is opened again.
  pretrain.run(small, str(tmp_path))
  assert sorted(os.listdir(tmp_path / "checkpoints")) == kept
  devices = mesh.make_mesh()
  assert encoders.load(str(tmp_path), devices=devices, epoch=1.0).step == 3
  assert encoders.load(str(tmp_path), devices=devices).step == 9
  with pytest.raises(ValueError, match=r"step=6: .* has \[3, 7, 9\]"):
    encoders.load(str(tmp_path), devices=devices, epoch=2.0)
  small.checkpoint.keep_at_epochs = (1, 4)
  with pytest.raises(ValueError, match=r"keep_at_epochs is \(1, 4\).*after 3"):
    pretrain.run(small, str(tmp_path))


@pytest.mark.slow
def test_a_shorter_run_leaves_what_a_longer_one_keeps(small, tmp_path):
  """A constant rate: the run of three epochs is a part of that of five."""
  small.optim.schedule = "constant"
  small.checkpoint.update(every_epochs=0.3, keep=1, keep_at_epochs=(1, 2, 3, 5))
  small.steps, small.epochs = 0, 5
  with stopped_at(11):
    pretrain.run(small, str(tmp_path))
  kept = sorted(os.listdir(tmp_path / "checkpoints"), key=int)
  assert kept[:3] == ["3", "6", "9"]
  small.epochs, small.checkpoint.keep_at_epochs = 1, (1,)
  pretrain.run(small, str(tmp_path))
  assert sorted(os.listdir(tmp_path / "checkpoints"), key=int) == kept
  small.epochs, small.checkpoint.keep_at_epochs = 5, (1, 2, 3, 5)
  state = pretrain.run(small, str(tmp_path))
  assert int(state.step) == 15
  left = sorted(os.listdir(tmp_path / "checkpoints"), key=int)
  assert left == ["3", "6", "9", "15"]


@pytest.fixture
def like_the_small_run(small_run, data_dir):
  """A config whose encoder is the small run's, to begin with."""
  config = shrink(configs.base_pretrain(), data_dir)
  config.eval_every_epochs = 0.0
  config.steps = 1
  config.optim.learning_rate = 1e-30  # so that a step changes nothing
  config.init_from = small_run
  return config


def test_a_run_may_begin_with_another_encoder(like_the_small_run, tmp_path):
  """With its weights, which a step of no rate leaves as they were."""
  config = like_the_small_run
  state = pretrain.run(config, str(tmp_path / "run"))
  want = encoders.load(config.init_from)
  assert_same(state.params["encoder"], want.variables["params"])
  config.seed = 5
  other = pretrain.run(config, str(tmp_path / "other"))
  assert_same(other.params["encoder"], want.variables["params"])
  a, b = (s.params["projector"]["dense0"]["kernel"] for s in (state, other))
  assert not np.array_equal(a, b)  # which begins anew


def test_an_encoder_to_begin_with_has_to_be_alike(like_the_small_run, tmp_path):
  config = like_the_small_run
  config.model.width = 0.125
  with pytest.raises(ValueError, match=r"model.width is 0.0625 .* 0.125"):
    pretrain.run(config, str(tmp_path))
  config.init_from = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="nowhere"):
    pretrain.run(config, str(tmp_path))


@pytest.fixture
def by_knn(small):
  """Three epochs, each of which is looked at."""
  small.data.crop, small.model.blocks = 27, 2
  small.steps, small.log_every_steps = 9, 100
  small.checkpoint.update(every_epochs=1.0, keep=1, best_by="knn")
  config_limits.validate(small)
  return small


def test_knn_is_that_of_scikit_learn(by_knn, tmp_path):
  """On the means of eight segments a clip, which are spread over it."""
  prepared = datasets.prepare(by_knn.data)
  durations = configs.durations(by_knn, 24)
  tx = steps.make_optimizer(by_knn, durations)
  devices = mesh.make_mesh()
  state = loop.state_at(lambda: steps.init_state(by_knn, tx), devices)
  evaluate = pretrain._Evaluation(
    by_knn, prepared, durations, devices, str(tmp_path)
  )
  encode = jax.jit(steps.make_encoder(by_knn.model, "float32").apply)
  variables = {
    "params": state.params["encoder"],
    "batch_stats": state.batch_stats["encoder"],
  }
  y, labels = {}, {}
  for split in ("train", "valid"):
    labels[split] = input_pipeline.labels(prepared, split).labels_NxK
    y[split] = []
    for pcm in input_pipeline.samples(prepared, split):
      x_T = np.frombuffer(pcm, "<i2").astype(np.float32) / 32767
      count = len(x_T) // 27
      x_SxT = x_T[: count * 27].reshape(count, 27)
      x_SxT = x_SxT[[i * count // 8 for i in range(8)]]
      y[split].append(np.asarray(encode(variables, x_SxT)).mean(0))
  scaler = sklearn.preprocessing.StandardScaler().fit(y["train"])
  x, x_valid = (scaler.transform(y[split]) for split in y)
  nearest = sklearn.neighbors.KNeighborsClassifier(
    10, metric="cosine", weights=lambda d: np.exp(-d / 0.07)
  )
  auc = []
  for train_N, valid_N in zip(labels["train"].T, labels["valid"].T):
    if 0 < valid_N.mean() < 1:
      found_N = np.zeros(len(valid_N))
      if train_N.any():
        found_N = nearest.fit(x, train_N).predict_proba(x_valid)[:, 1].round(6)
      auc.append(100 * sklearn.metrics.roc_auc_score(valid_N, found_N))
  found = evaluate(state, 0)["validation/knn"]
  assert found == pytest.approx(np.mean(auc), abs=0.1)
  assert found != pytest.approx(50, abs=0.5)


def pretend(monkeypatch, *knn):
  """What the evaluations of `by_knn` find, whatever the encoder."""
  values = dict(zip((0, 3, 6, 9), knn))
  monkeypatch.setattr(
    pretrain._Evaluation,
    "__call__",
    lambda self, state, step: {"validation/knn": values[step]},
  )


@pytest.mark.slow
def test_the_best_by_knn_counts(by_knn, tmp_path, monkeypatch):
  """Also where the run is resumed, and where it is complete."""
  pretend(monkeypatch, 60.0, 70.0, 65.0, 70.0)
  whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
  state = pretrain.run(by_knn, whole)
  assert int(state.step) == 3
  assert sorted(os.listdir(f"{whole}/checkpoints")) == ["3", "9"]
  loaded = encoders.load(whole)
  assert loaded.step == 3
  assert_same(loaded.variables["params"], state.params["encoder"])
  assert encoders.load(whole, step=9).step == 9
  for crash in (1, 7):  # step 0 alone is saved; the best is not the newest
    with stopped_at(crash):
      pretrain.run(by_knn, broken)
    assert encoders.load(broken).step == {1: 0, 7: 3}[crash]
  assert_same(pretrain.run(by_knn, broken), state)
  assert lines_of(broken) == lines_of(whole)
  assert sorted(os.listdir(f"{broken}/checkpoints")) == ["3", "9"]
  monkeypatch.setattr(steps, "train_step", refuse)
  assert_same(pretrain.run(by_knn, broken), state)
  by_knn.checkpoint.best_by = ""
  with pytest.raises(ValueError, match=r"checkpoint.best_by: knn -> "):
    pretrain.run(by_knn, whole)
  (tmp_path / "whole" / "metrics.jsonl").unlink()
  with pytest.raises(ValueError, match="no validation/knn"):
    encoders.load(whole)


def test_what_a_run_began_with_may_be_the_best(
  like_the_small_run, tmp_path, monkeypatch, capsys
):
  config = like_the_small_run
  config.steps, config.eval_every_epochs = 3, 1.0
  config.optim.learning_rate = 0.2
  config.checkpoint.best_by = "knn"
  config.probe_after = True
  config.probe.update(heads=("knn",), untrained=False, mfcc=False, splits=2)
  pretend(monkeypatch, 60.0, 50.0)
  workdir = str(tmp_path)
  pretrain.main(config, workdir)
  said = capsys.readouterr().out
  assert "best by knn: step 0, which is how it began" in said
  began = encoders.load(config.init_from)
  assert encoders.load(workdir).fingerprint() == began.fingerprint()
  assert encoders.load(workdir, step=3).fingerprint() != began.fingerprint()
  # A row of its own, and the difference, which is none here.
  results = json.loads((tmp_path / "probe.json").read_text())
  assert results["start_knn"]["roc_auc"] == results["knn"]["roc_auc"]
  over = results["knn"]["over_start"]["roc_auc"]
  assert over == {"difference": 0.0, "interval": [0.0, 0.0]}
  assert "start knn" in said and "knn vs start" in said
  # Labels have chosen: the splits test what had no part in that.
  assert results["notes"] == [random_splits.FIXED] and results["splits"]["knn"]
  assert said.count("(test tracks of the fixed test split: ") == 1


@pytest.mark.parametrize("by", ["knn", ""])
def test_too_few_tracks_for_the_probes_splits_are_said_before_the_training(
  like_the_small_run, tmp_path, by
):
  config = like_the_small_run
  config.probe_after = True
  config.data.sizes = (6, 2, 2) if by else (2, 1, 1)
  config.checkpoint.best_by = by
  config.probe.update(heads=("knn",), splits=20)
  with pytest.raises(ValueError, match="are too few to be split"):
    pretrain.run(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("by", ["", "loss"])
def test_the_best_is_not_told_by_losses_of_other_clips(small, tmp_path, by):
  small.checkpoint.best_by = by
  small.eval_every_epochs = 1.0
  (tmp_path / "checkpoints" / "1").mkdir(parents=True)
  header = small.to_dict()
  (tmp_path / "config.json").write_text(json.dumps(header))
  small.valid_data.name, small.valid_data.seed = "synthetic", 3
  now = small, small.to_dict(), str(tmp_path)
  if by:
    with pytest.raises(ValueError, match=r"valid_data.name:  -> synthetic"):
      loop._check_same(*now)
  else:
    loop._check_same(*now)


def test_a_best_that_cannot_be_found_is_refused(by_knn, tmp_path):
  def error(**changes):
    config = by_knn.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError) as caught:
      config_limits.validate(config)
      pretrain.run(config, str(tmp_path))
    return str(caught.value)

  assert "use one of '', loss, knn" in error(**{"checkpoint.best_by": "auc"})
  assert "eval_every_epochs is 0" in error(eval_every_epochs=0.0)
  other = {"valid_data.name": "synthetic", "valid_data.seed": 3}
  assert "valid_data.name is 'synthetic'" in error(**other)
  few = {"data.sizes": (24, 1, 10), "checkpoint.best_by": "loss"}
  assert "there are 1 clips to validate on" in error(**few)
