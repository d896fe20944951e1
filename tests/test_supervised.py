"""Training with labels: the step, the stream, resuming, and what is scored."""

import functools
import json
import os
import pathlib
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
import warm
from conftest import shrink
from music import write_sines
from runs import assert_same, at_step, auc_of_tags, lines_of, stopped_at

from vicreg_jax import config as configs
from vicreg_jax import main, mesh
from vicreg_jax.data import datasets, input_pipeline
from vicreg_jax.evaluation import label_share
from vicreg_jax.jobs import embed, supervised
from vicreg_jax.model import samplecnn
from vicreg_jax.training import best_checkpoint as best_lib
from vicreg_jax.training import checkpoint, loop, steps
from vicreg_jax.use import encoder as encoders

RATE = 22_050
B, T = 8, 27


def config_of(data_dir):
  config = shrink(configs.base_supervised(), data_dir)
  config.seed = 1  # with which the first epoch is the best
  config.data.update(crop=T, clip_seconds=0.05)
  config.model.blocks = 2
  config.encode_batch_size = 64
  config.checkpoint.update(every_epochs=1.0, keep=1)
  config.steps = 60
  config.stop_patience = 2
  return config


@pytest.fixture
def labelled(data_dir):
  """A config that stops early; change it as you like."""
  return config_of(data_dir)


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
  """(results, workdir) of a run of three epochs, of which the first is best."""
  workdir = str(tmp_path_factory.mktemp("unbroken"))
  return supervised.run(config_of(data_dir), workdir), workdir


def saved(config, prepared, workdir, step):
  tx = steps.make_optimizer(config, configs.durations(config, 24))
  shapes = jax.eval_shape(
    lambda: steps.init_supervised(config, tx, len(prepared.labels))
  )
  whole = mesh.replicated(mesh.make_mesh())
  like = checkpoint.abstract(shapes, whole)
  with checkpoint.Checkpoints(workdir, keep=9) as checkpoints:
    return checkpoints.restore(step, like)


# --- the step ---


def tiny():
  config = configs.base_supervised()
  config.data.crop = T
  config.model.update(
    blocks=2, width=0.0625, representation_size=12, dropout=0.0
  )
  config.dtype = "float32"
  config.batch_size = B
  config.optim.learning_rate = 1e-3
  return config


def batch_of(seed, single, classes=5):
  rng = np.random.default_rng(seed)
  x_BxT = rng.normal(size=(B, T)).astype(np.float32)
  # Clips of unlike loudness: a device's share has other statistics.
  x_BxT *= np.linspace(0.2, 3, B, dtype=np.float32)[:, None]
  labels_BxK = rng.integers(0, 2, size=(B, classes)).astype(np.uint8)
  if single:
    labels_BxK = np.eye(classes, dtype=np.uint8)[rng.integers(0, classes, B)]
  return x_BxT, labels_BxK


def trainer(config, single, classes=5):
  tx = steps.make_optimizer(config, configs.durations(config, 80))
  state = jax.jit(lambda: steps.init_supervised(config, tx, classes))()
  devices = mesh.make_mesh()
  return state, steps.jit_supervised_step(config, tx, single, devices)


def twin_of(state):
  """The state's encoder and head in PyTorch."""
  torch = pytest.importorskip("torch")
  from vicreg_jax.benchmarks.support import torch_twin

  encoder = torch_twin.SampleCNN(8, [8, 8], 12, 1)
  torch_twin.copy_encoder(
    {
      "params": state.params["encoder"],
      "batch_stats": state.batch_stats["encoder"],
    },
    encoder,
  )
  head = torch.nn.Linear(12, 5)
  out = state.params["head"]["out"]
  with torch.no_grad():
    head.weight.copy_(torch.tensor(np.array(out["kernel"]).T))
    head.bias.copy_(torch.tensor(np.array(out["bias"])))
  return encoder, head


def torch_loss(logits, labels_BxK, single):
  torch = pytest.importorskip("torch")
  target = torch.tensor(labels_BxK).float()
  if single:
    return torch.nn.functional.cross_entropy(logits, target.argmax(1))
  return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)


@pytest.mark.parametrize("single", [False, True])
def test_five_steps_equal_pytorch(single):
  torch = pytest.importorskip("torch")
  state, step = trainer(tiny(), single)
  encoder, head = twin_of(state)
  optimizer = torch.optim.Adam(
    [*encoder.parameters(), *head.parameters()], 1e-3, weight_decay=1e-6
  )
  for i in range(5):
    x_BxT, labels_BxK = batch_of(i, single)
    state, scalars = step(state, (x_BxT, labels_BxK))
    loss = torch_loss(head(encoder(torch.tensor(x_BxT))), labels_BxK, single)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    # A step of Adam turns a gradient's rounding error into up to the rate.
    np.testing.assert_allclose(
      scalars["loss"], loss.item(), rtol=1e-4 if i == 0 else 2e-3
    )
  np.testing.assert_allclose(
    state.params["head"]["out"]["kernel"],
    head.weight.detach().numpy().T,
    atol=1e-3,
  )


def test_fine_tuning_equals_pytorch():
  torch = pytest.importorskip("torch")
  config = tiny()
  config.optim.encoder_scale = 0.25
  config.epochs, config.freeze_epochs = 5, 2.0
  d = configs.durations(config, B)  # a step an epoch
  tx = steps.make_optimizer(config, d)
  state = jax.jit(lambda: steps.init_supervised(config, tx, 5))()
  step = steps.jit_supervised_step(
    config, tx, False, mesh.make_mesh(), frozen=d.frozen
  )
  first = jax.device_get(state)
  encoder, head = twin_of(state)
  of_head = torch.optim.Adam(head.parameters(), 1e-3, weight_decay=1e-6)
  of_encoder = torch.optim.Adam(
    encoder.parameters(), 0.25e-3, weight_decay=1e-6
  )
  for i in range(5):
    encoder.train(i >= 2)
    x_BxT, labels_BxK = batch_of(i, False)
    state, scalars = step(state, (x_BxT, labels_BxK))
    loss = torch_loss(head(encoder(torch.tensor(x_BxT))), labels_BxK, False)
    of_head.zero_grad()
    of_encoder.zero_grad()
    loss.backward()
    of_head.step()
    if i >= 2:
      of_encoder.step()
    np.testing.assert_allclose(
      scalars["loss"], loss.item(), rtol=1e-4 if i <= 2 else 2e-3
    )
    same = jax.tree.map(
      lambda a, b: bool((a == b).all()),
      (first.params["encoder"], first.batch_stats["encoder"]),
      (state.params["encoder"], state.batch_stats["encoder"]),
    )
    assert all(jax.tree.leaves(same)) == (i < 2)
  # Three steps of Adam at a quarter of the rate.
  moved = state.params["encoder"]["block0_conv"]["kernel"]
  moved = np.abs(moved - first.params["encoder"]["block0_conv"]["kernel"])
  assert 0.5e-3 < moved.max() < 0.8e-3
  np.testing.assert_allclose(
    state.params["head"]["out"]["kernel"],
    head.weight.detach().numpy().T,
    atol=1e-3,
  )


def test_the_schedule_of_a_frozen_encoder_ends_with_the_run():
  """Adam's steps on a constant gradient are the rates, here a whole cosine."""
  config = tiny()
  config.epochs, config.freeze_epochs = 5, 2.0
  config.optim.update(
    name="adam", schedule="cosine", warmup_epochs=0.0, weight_decay=0.0
  )
  durations = configs.durations(config, 4 * B)
  assert (durations.frozen, durations.total) == (8, 20)
  tx = steps.make_optimizer(config, durations)
  ones = {"encoder": np.ones(1, np.float32), "head": np.ones(1, np.float32)}
  state, rates = tx.init(ones), {"encoder": [], "head": []}
  update = jax.jit(tx.update)
  for _ in range(20):
    updates, state = update(ones, state, ones)
    for part, of_part in rates.items():
      of_part.append(-float(updates[part][0]))
  peak, last = rates["head"][0], config.optim.final_fraction
  for part, first, scale in (
    ("head", 0, 1.0),
    ("encoder", 8, config.optim.encoder_scale),
  ):
    done = np.arange(20 - first) / (20 - first)
    cosine = last + (1 - last) * (1 + np.cos(np.pi * done)) / 2
    np.testing.assert_allclose(
      rates[part][first:], scale * peak * cosine, rtol=1e-4
    )


def test_the_encoder_is_not_frozen_to_the_end():
  config = tiny()
  config.epochs, config.freeze_epochs = 5, 5.0
  with pytest.raises(ValueError, match=r"freeze_epochs is 5, .* 5"):
    configs.durations(config, B)


def test_dropout_leaves_the_expectation_and_nothing_in_evaluation():
  D = 4000
  head = samplecnn.Head(D, dropout=0.25)
  params = {"out": {"kernel": jnp.eye(D), "bias": jnp.zeros(D)}}
  y_BxD = jnp.full((2, D), 3.0)
  key = jax.random.key(0)
  s = head.apply({"params": params}, y_BxD, train=True, rngs={"dropout": key})
  assert set(np.unique(s)) == {0.0, 4.0}
  # Five standard deviations of a mean of 8,000 values.
  assert np.mean(s) == pytest.approx(3, abs=5 * 4 * np.sqrt(0.25 * 0.75 / 8000))
  assert (s[0] != s[1]).any()
  np.testing.assert_array_equal(head.apply({"params": params}, y_BxD), y_BxD)


def test_what_is_dropped_depends_on_seed_and_step_alone():
  config = tiny()
  config.model.dropout = 0.5
  state, step = trainer(config, False)
  weights = jax.device_get(state)

  def loss_at(number, step=step):
    state = weights.replace(step=np.int32(number))
    return float(step(state, batch_of(0, False))[1]["loss"])

  assert loss_at(7) == loss_at(7) != loss_at(8)
  config.seed = 1
  _, other = trainer(config, False)
  assert loss_at(8, other) != loss_at(8)


def test_a_run_of_before_fine_tuning_goes_on(labelled, unbroken, tmp_path):
  results, workdir = unbroken
  shutil.copytree(workdir, tmp_path / "old")
  path = tmp_path / "old/config.json"
  config = json.loads(path.read_text())
  del config["freeze_epochs"], config["optim"]["encoder_scale"]
  del config["train_fraction"]
  path.write_text(json.dumps(config))
  assert supervised.run(labelled, str(tmp_path / "old")) == results
  labelled.optim.encoder_scale = 0.5
  with pytest.raises(ValueError, match=r"encoder_scale: 1\.0 -> 0\.5"):
    supervised.run(labelled, str(tmp_path / "old"))


# --- the stream ---


def epochs_of(config, prepared, number, chosen=None):
  """The stream's first epochs: [(crops, labels)]."""
  stream = input_pipeline.labelled_crops(prepared, config, chosen=chosen)
  clips = 24 if chosen is None else len(chosen)
  for _ in range(number):
    batches = [next(stream) for _ in range(clips // config.batch_size)]
    yield tuple(np.concatenate(rows) for rows in zip(*batches))


@pytest.mark.parametrize("chosen", [None, np.arange(1, 24, 3)])
def test_every_clip_comes_once_an_epoch_with_its_own_labels(labelled, chosen):
  labelled.shuffle_buffer = 7  # a window smaller than the set
  prepared = datasets.prepare(labelled.data)
  expected_labels = input_pipeline.labels(prepared, "train").labels_NxK
  orders = []
  epochs = epochs_of(labelled, prepared, 2, chosen)
  for epoch, (x_NxT, labels_NxK) in enumerate(epochs):
    crops_NxT = np.concatenate(
      list(
        input_pipeline.probe_crops(
          prepared, "train", crop=T, seed=1, epoch=epoch, batch_size=24
        )
      )
    )
    same = (x_NxT[:, None] == crops_NxT).all(-1)
    order = same.argmax(1)
    np.testing.assert_array_equal(same.sum(1), 1)
    assert sorted(order) == list(range(24) if chosen is None else chosen)
    np.testing.assert_array_equal(labels_NxK, expected_labels[order])
    orders.append(order.tolist())
  assert orders[0] != orders[1]
  assert len(np.unique(expected_labels, axis=0)) > 4


@pytest.mark.parametrize("chosen", [None, np.arange(1, 24, 3)])
def test_the_stream_may_be_entered_anywhere_and_shared_by_hosts(
  labelled, chosen
):
  prepared = datasets.prepare(labelled.data)
  stream = input_pipeline.labelled_crops(prepared, labelled, chosen=chosen)
  expected = [next(stream) for _ in range(7)][5:]
  hosts = [
    input_pipeline.labelled_crops(
      prepared,
      labelled,
      chosen=chosen,
      start_step=5,
      share=input_pipeline.Share(h, 2),
    )
    for h in range(2)
  ]
  for batch in expected:
    parts = [next(host) for host in hosts]
    np.testing.assert_array_equal(
      np.concatenate([p.x_BxT for p in parts]), batch.x_BxT
    )
    np.testing.assert_array_equal(
      np.concatenate([p.labels_BxK for p in parts]), batch.labels_BxK
    )


def test_a_share_of_the_clips_is_trained_on(labelled, tmp_path, monkeypatch):
  labelled.train_fraction = 0.35
  labelled.steps = 0
  labelled.epochs = 2
  prepared = datasets.prepare(labelled.data)
  chosen = label_share.of_training(prepared, 0.35, labelled.seed)
  stream, asked = input_pipeline.labelled_crops, []

  def crops(*args, **options):
    asked.append(options["chosen"])
    return stream(*args, **options)

  monkeypatch.setattr(input_pipeline, "labelled_crops", crops)
  results = supervised.run(labelled, str(tmp_path / "run"))
  np.testing.assert_array_equal(asked, [chosen])
  assert results["labelled"] == {"clips": 8, "of": 24}
  assert max(line["step"] for line in lines_of(str(tmp_path / "run"))) == 2
  labelled.train_fraction = 0.25
  with pytest.raises(ValueError, match=r"train_fraction: 0\.35 -> 0\.25"):
    labelled.batch_size = 4
    supervised.run(labelled, str(tmp_path / "run"))
  labelled.batch_size = 8
  with pytest.raises(ValueError, match=r"batch_size is 8, .* has 6 clips"):
    supervised.run(labelled, str(tmp_path / "other"))


def three_steps():
  """Losses of steps with dropout, on all devices."""
  config = tiny()
  config.model.dropout = 0.5
  state, step = trainer(config, False)
  found = []
  for i in range(3):
    state, scalars = step(state, batch_of(i, False))
    found.append(float(scalars["loss"]))
  return found


def elsewhere(data_dir, out):
  """Saves the steps of eight devices, and the stream on one core."""
  assert len(jax.devices()) == 8
  losses = three_steps()
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before tf.data
  config = config_of(data_dir)
  ((x, labels),) = epochs_of(config, datasets.prepare(config.data), 1)
  np.savez(out, x=x, labels=labels, losses=losses)


@pytest.mark.slow
def test_one_core_and_eight_devices_make_no_difference(
  labelled, data_dir, tmp_path
):
  """The stream to the bit, and steps but for the order of sums."""
  out = tmp_path / "other.npz"
  warm.on_eight_devices(tmp_path, elsewhere, data_dir, out)
  other = np.load(out)
  ((x, labels),) = epochs_of(labelled, datasets.prepare(labelled.data), 1)
  assert x.tobytes() == other["x"].tobytes()
  assert labels.tobytes() == other["labels"].tobytes()
  np.testing.assert_allclose(three_steps(), other["losses"], rtol=1e-4)


# --- runs ---


def test_a_run_ends_when_nothing_gets_better(unbroken):
  results, workdir = unbroken
  rows = lines_of(workdir)
  loss_of = {
    r["step"]: r["validation/loss"] for r in rows if "validation/loss" in r
  }
  assert list(loss_of) == [3, 6, 9]  # an epoch is three steps
  assert min(loss_of, key=loss_of.get) == 3
  assert [r["step"] for r in rows if "train/loss" in r] == [*range(1, 10)]
  assert results["step"] == 3
  assert results["supervised"]["best_epoch"] == 1
  # The best one stays, beside the newest.
  assert sorted(os.listdir(f"{workdir}/checkpoints")) == ["3", "9"]
  assert os.path.getsize(loop.figure(workdir)) > 10_000


def test_the_best_weights_are_scored_and_each_clip_counts_once(
  labelled, unbroken
):
  """Results and validation loss against NumPy and scikit-learn."""
  results, workdir = unbroken
  prepared = datasets.prepare(labelled.data)

  def scores_of(step, split):
    """(mean sigmoid by clip, mean loss by clip), in float64."""
    state = saved(labelled, prepared, workdir, step)
    encoder = encoders.load(workdir, step=step)
    out = state.params["head"]["out"]
    clips = [
      np.frombuffer(e["samples"], "<i2").astype(np.float32) / 2**15
      for e in prepared.dataset(split).as_numpy_iterator()
    ]
    y_NxK = input_pipeline.labels(prepared, split).labels_NxK
    p_NxK, loss_N = [], []
    for clip, y_K in zip(clips, y_NxK, strict=True):
      x_SxT = clip[: len(clip) // T * T].reshape(-1, T)
      (y_SxD,) = encoder([x_SxT])
      s = np.asarray(y_SxD, np.float64) @ np.asarray(out["kernel"], np.float64)
      p = 1 / (1 + np.exp(-(s + np.asarray(out["bias"]))))
      p_NxK.append(p.mean(0))
      loss_N.append(-(y_K * np.log(p) + (1 - y_K) * np.log1p(-p)).mean())
    auc = sklearn.metrics.roc_auc_score(y_NxK, p_NxK, average="macro")
    return 100 * auc, np.mean(loss_N)

  assert results["supervised"]["tags_left_out"] == 0
  best, last = scores_of(3, "test")[0], scores_of(9, "test")[0]
  assert results["supervised"]["roc_auc"] == pytest.approx(best, abs=0.01)
  assert abs(best - last) > 0.05
  (logged,) = [
    r["validation/loss"]
    for r in lines_of(workdir)
    if r["step"] == 9 and "validation/loss" in r
  ]
  assert logged == pytest.approx(scores_of(9, "valid")[1], rel=1e-5)


def test_a_long_clip_weighs_no_more_in_the_validation_loss(labelled):
  """Nine clips, of which the first has as many segments as all others."""
  prepared = datasets.prepare(labelled.data)
  y_NxK = input_pipeline.labels(prepared, "valid").labels_NxK
  rng = np.random.default_rng(0)
  clip_M = rng.permutation([0] * 8 + [*range(1, 9)])
  logits_MxK = rng.normal(size=(16, y_NxK.shape[1])).astype(np.float32)
  logits_MxK[clip_M == 0] += 5
  evaluate = supervised.validation(
    lambda state, split: (logits_MxK, clip_M), prepared
  )
  p = 1 / (1 + np.exp(-logits_MxK.astype(np.float64)))
  y = y_NxK[clip_M]
  loss_M = -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean(1)
  expected = np.mean([loss_M[clip_M == n].mean() for n in range(9)])
  found = evaluate(None, 3)["validation/loss"]
  assert found == pytest.approx(expected, rel=1e-5)
  assert abs(found - loss_M.mean()) > 0.1


def test_a_finished_run_is_scored_again_only_by_other_weights(
  labelled, unbroken, tmp_path, monkeypatch, capsys
):
  results, _ = unbroken
  workdir = shutil.copytree(unbroken[1], str(tmp_path / "run"))

  class Called(Exception):
    pass

  def call(*args, **kwargs):
    raise Called

  monkeypatch.setattr(input_pipeline, "labelled_crops", call)
  monkeypatch.setattr(supervised.representations, "segments", call)
  assert supervised.run(labelled, workdir) == results
  errors = capsys.readouterr().err
  assert f"{workdir}: complete, 9 steps" in errors
  assert "probe.json: made of the same" in errors
  path = pathlib.Path(workdir, "probe.json")
  other = results | {"of": results["of"] | {"weights": "0"}}
  path.write_text(json.dumps(other))
  with pytest.raises(Called):
    supervised.run(labelled, workdir)
  pathlib.Path(workdir, "metrics.jsonl").unlink()
  labelled.steps = 9  # else it would go on, to the end
  with pytest.raises(ValueError, match=r"metrics\.jsonl"):
    supervised.run(labelled, workdir)


@pytest.mark.parametrize(
  "step, how",
  [pytest.param(8, "crash", marks=pytest.mark.slow), (6, "signal")],
)
def test_a_resumed_run_equals_an_unbroken_one(
  labelled, unbroken, tmp_path, step, how
):
  workdir = str(tmp_path)
  if how == "crash":
    with stopped_at(step):
      supervised.run(labelled, workdir)
  else:
    kill = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
    with at_step(step, kill), pytest.raises(KeyboardInterrupt):
      supervised.run(labelled, workdir)
  # A signal is obeyed a step later.
  newest = {"crash": ["3", "6"], "signal": ["3", "7"]}[how]
  assert sorted(os.listdir(f"{workdir}/checkpoints")) == newest
  results, expected_dir = unbroken
  for _ in range(1 + (how == "crash")):  # then there is nothing left to train
    assert supervised.run(labelled, workdir) == results
    assert lines_of(workdir) == lines_of(expected_dir)
    assert sorted(os.listdir(f"{workdir}/checkpoints")) == ["3", "9"]
    prepared = datasets.prepare(labelled.data)
    for at in (3, 9):
      assert_same(
        saved(labelled, prepared, workdir, at),
        saved(labelled, prepared, expected_dir, at),
      )
    for name in ("probe.json", "probe_tags.csv"):
      contents = {
        pathlib.Path(run, name).read_text() for run in (workdir, expected_dir)
      }
      assert len(contents) == 1


def test_tags_are_those_of_the_best_weights(labelled, unbroken):
  results, workdir = unbroken
  prepared = datasets.prepare(labelled.data)
  encoder = encoders.load(workdir)
  assert encoder.step == results["step"] != 9
  auc = auc_of_tags(encoder, prepared)
  assert auc == pytest.approx(results[supervised.NAME]["roc_auc"])


def test_the_encoder_can_be_taken_from_the_run(labelled, unbroken, data_dir):
  workdir = unbroken[1]
  prepared = datasets.prepare(labelled.data)
  encoder = encoders.load(workdir, step=9)
  state = saved(labelled, prepared, workdir, 9)
  assert encoder.step == 9
  assert_same(encoder._variables["params"], state.params["encoder"])
  config = shrink(configs.base_embed(), data_dir)
  config.checkpoint = workdir
  with pytest.raises(ValueError, match=workdir):
    embed.run(config, workdir)


def test_a_best_checkpoint_that_is_lost_is_named(labelled, tmp_path, unbroken):
  prepared = datasets.prepare(labelled.data)
  with pytest.raises(ValueError, match="step 6"):
    saved(labelled, prepared, unbroken[1], 6)


def of_folder(config, path):
  config.data.name = "folder"
  config.data.path = str(path)
  return config


@pytest.mark.slow
def test_two_classes_that_differ_are_learned(labelled, tmp_path, capsys):
  """100-200 Hz against 4-8 kHz."""
  for split, count in (("train", 8), ("valid", 4), ("test", 5)):
    for kind, low in (("low", 100), ("high", 4000)):
      write_sines(tmp_path / "music" / split / kind, count, low)
  config = of_folder(labelled, tmp_path / "music")
  config.steps, config.stop_patience = 16, 0
  config.checkpoint.every_epochs = 0.0
  config.optim.learning_rate = 1e-2
  main.run(config, str(tmp_path / "run"))
  results = json.loads((tmp_path / "run" / "probe.json").read_text())
  assert results["supervised"]["accuracy"] == 100
  assert results["supervised"]["roc_auc"] == 100
  assert results["majority"]["accuracy"] == 50
  out = capsys.readouterr().out
  assert "100.00" in out and "loss_terms.png" in out


# --- errors ---


def error_of(config, workdir):
  with pytest.raises(ValueError) as caught:
    main.run(config, str(workdir))
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_data_without_labels_or_splits_are_refused(labelled, tmp_path):
  write_sines(tmp_path / "plain", 14, 100)
  message = error_of(of_folder(labelled, tmp_path / "plain"), tmp_path / "w")
  assert "has no labels" in message and "--config.data.csv" in message
  assert "probe_after" not in message
  for kind in ("low", "high"):
    write_sines(tmp_path / "split" / "train" / kind, 5, 100)
    write_sines(tmp_path / "split" / "test" / kind, 1, 100)
  message = error_of(of_folder(labelled, tmp_path / "split"), tmp_path / "w")
  assert "has no valid clips: training with labels needs train" in message
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  "losses_of, best, records, ended",
  [
    ([3, 2, 4, 1, 5, 5], 40, {10, 20, 40}, True),
    ([3, 2, 4, 1, 5], 40, {10, 20, 40}, False),
    ([2, 2, 2], 10, {10}, True),
    ([], None, set(), False),
  ],
)
def test_the_best_step_is_that_of_metrics(
  tmp_path, losses_of, best, records, ended
):
  lines = [
    json.dumps({"step": 10 * i, "validation/loss": x})
    for i, x in enumerate(losses_of, 1)
  ]
  torn = '{"step": 70, "validation/l'
  (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, torn]))
  found = best_lib.Best(tmp_path, "loss", 20)
  assert (found.step(), found.record_steps()) == (best, records)
  assert found.exhausted() == ended
  assert not best_lib.Best(tmp_path, "loss").exhausted()
  assert best_lib.Best(tmp_path, "loss", 20, 20).step() in (None, 10, 20)
  if losses_of:
    assert found.add(80, 0.5) and not found.exhausted()
