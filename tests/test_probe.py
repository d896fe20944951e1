import csv
import json
import os
import pathlib
import shutil
import types
from unittest import mock

import jax
import jax.numpy as jnp
import music
import numpy as np
import pytest
import scipy.stats
import sklearn.linear_model
import sklearn.metrics
from conftest import shrink
from runs import auc_of_tags

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.data import input_pipeline, mfcc
from vicreg_jax.data.datasets import gtzan
from vicreg_jax.evaluation import (
  bootstrap,
  classifiers,
  clip_probes,
  label_share,
  metrics,
  random_splits,
  representations,
  scores,
  trained_heads,
)
from vicreg_jax.jobs import embed, pretrain, probe
from vicreg_jax.model import optim, samplecnn
from vicreg_jax.training import steps
from vicreg_jax.use import encoder as encoders

HEADS = ("linear", "mlp", "untrained_linear", "untrained_mlp")


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
  workdir = str(tmp_path_factory.mktemp("trained"))
  config = shrink(configs.base_pretrain(), data_dir)
  config.eval_every_epochs = 0.0
  pretrain.run(config, workdir)
  return workdir


@pytest.fixture(scope="module", autouse=True)
def few_strengths():
  """Of regression; test_classifiers.py has all."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(classifiers, "STRENGTHS", classifiers.STRENGTHS[1:5:2])
    yield


@pytest.fixture
def probing(data_dir, trained):
  return probe_of(trained, data_dir)


def probe_of(trained, data_dir):
  config = shrink(configs.base_probe(), data_dir)
  config.checkpoint = trained
  return config


@pytest.fixture(scope="module")
def probed(data_dir, trained, tmp_path_factory):
  """The workdir of a probe by the thesis's heads, and its results."""
  workdir = tmp_path_factory.mktemp("probed")
  return workdir, probe.run(probe_of(trained, data_dir), str(workdir))


def validation_loss(encoder, head, prepared):
  """By NumPy, over the segments of each clip to validate on, and over clips."""
  labels_NxK = input_pipeline.labels(prepared, "valid").labels_NxK
  losses = []
  for example, labels_K in zip(prepared.dataset("valid"), labels_NxK):
    x = np.frombuffer(example["samples"].numpy(), "<i2").astype(np.float32)
    y_SxD = encoder.embed_segments(x / 32767, 22_050).embeddings
    shares = [encoder.heads.probabilities(y_D[None], head) for y_D in y_SxD]
    shares = np.array(shares, np.float64)
    losses.append(np.log(np.where(labels_K, shares, 1 - shares)).mean())
  return -np.mean(losses)


def test_tags_are_what_was_scored(probed, prepared):
  workdir, results = probed
  encoder = encoders.load(str(workdir))
  for head in ("linear", "mlp"):
    auc = auc_of_tags(encoder, prepared, head)
    assert auc == pytest.approx(results[head]["roc_auc"])
  assert next(iter(encoder.heads.params)) == min(
    ("linear", "mlp"), key=lambda head: validation_loss(encoder, head, prepared)
  )
  with pytest.raises(ValueError, match="no head 'x'; use one of"):
    encoder.tags(np.zeros(500), 22_050, "x")


def test_probing_writes_all_heads(probing, probed, tmp_path):
  workdir, results = probed
  assert json.loads((workdir / "probe.json").read_text()) == results
  assert set(HEADS) < set(results) and results["step"] == 5
  for head in HEADS:
    assert 0 <= results[head]["roc_auc"] <= 100
    assert "accuracy" not in results[head]  # several tags may hold
  rows = list(csv.DictReader((workdir / "probe_tags.csv").open()))
  assert len(rows) == 16
  for head in HEADS:
    values = [float(r[f"{head}_roc_auc"]) for r in rows]
    assert np.nanmean(values) == pytest.approx(
      results[head]["roc_auc"], abs=1e-3
    )
  assert os.path.getsize(probe.figure(str(workdir))) > 10_000
  table = scores.table(results)
  assert f"{results['linear']['pr_auc']:.2f}" in table
  # The same again, to the bit.
  again = probe.run(probing, str(tmp_path))
  assert again == results


def test_single_labels_have_accuracy(trained, data_dir, tmp_path):
  rng = np.random.default_rng(0)
  for kind, low in (("low", 100), ("high", 4000)):
    for i in range(12):
      split = ("train", "train", "valid", "test")[i % 4]
      x_T = music.sine(low * rng.uniform(1, 2), 22_050, seconds=0.2722)[:6000]
      music.write(tmp_path / "music" / split / kind / f"{i}.wav", x_T, 22_050)
  config = configs.base_probe()
  config.checkpoint = trained
  config.data.name = "folder"
  config.data.path = str(tmp_path / "music")
  config.data.dir = data_dir
  config.probe.max_epochs = 60
  config.probe.distinct_crops = 4
  config.probe.stop_patience = 0
  config.probe.batch_size = 8
  config.probe.learning_rate = 0.03
  config.probe.encode_batch_size = 8
  results = probe.run(config, str(tmp_path))
  # 100-200 Hz against 4-8 kHz: any encoder tells them apart.
  assert results["linear"]["accuracy"] == 100
  assert results["untrained_mlp"]["accuracy"] == 100
  assert results["majority"]["accuracy"] == 50
  assert "50.00" in scores.table(results)
  # The heads that it has saved give each test clip what was scored.
  encoder = encoders.load(str(tmp_path))
  names, shares = [], []
  for path in sorted((tmp_path / "music" / "test").rglob("*.wav")):
    found = encoder.tags(path, head="linear")
    assert list(found) == ["high", "low"]
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    names.append(path.parent.name == "low")
    shares.append(found["low"])
  auc = 100 * sklearn.metrics.roc_auc_score(names, shares)
  assert auc == pytest.approx(results["linear"]["roc_auc"])


class FakeEncoder:
  """Representations that are known, and the same every epoch."""

  def __init__(self, y_NxD):
    self.y_NxD = y_NxD
    self.size = y_NxD.shape[1]
    self.epochs = []

  def crops(self, prepared, split, *, seed, epoch, batch_size, chosen):
    """Stands for `representations.crops`."""
    self.epochs.append(epoch)
    return self.y_NxD


def linear_problem(n, seed=0):
  rng = np.random.default_rng(seed)
  weights = np.random.default_rng(9).normal(size=(6, 3))
  y_NxD = rng.normal(size=(n, 6)).astype(np.float32)
  noise = rng.logistic(size=(n, 3))
  return y_NxD, (y_NxD @ weights + noise > 0).astype(np.uint8)


def fit(config, seed=0, encoder=None):
  y_NxD, labels_NxK = linear_problem(200)
  valid_y, valid_labels = linear_problem(100, 1)
  valid = trained_heads._Split(valid_y, np.arange(100), valid_labels)
  encoder = encoder or FakeEncoder(y_NxD)
  with mock.patch.object(representations, "crops", FakeEncoder.crops):
    return trained_heads._train(
      config, encoder, None, labels_NxK, valid, False, ""
    )


def test_the_linear_head_is_logistic_regression(probing):
  """It finds what scikit-learn finds on the same representations."""
  probing.probe.max_epochs = 200
  probing.probe.learning_rate = 0.02
  probing.probe.stop_patience = 0
  head = fit(probing)["linear"]
  test_y, test_labels = linear_problem(500, 2)
  ours = np.asarray(head.module.apply({"params": head.best_params}, test_y))
  y_NxD, labels_NxK = linear_problem(200)
  for k in range(3):
    reference = sklearn.linear_model.LogisticRegression(C=1e4)
    reference.fit(y_NxD, labels_NxK[:, k])
    theirs = reference.decision_function(test_y)
    assert np.corrcoef(ours[:, k], theirs)[0, 1] > 0.98
    auc = [
      sklearn.metrics.roc_auc_score(test_labels[:, k], s)
      for s in (ours[:, k], theirs)
    ]
    assert auc[0] == pytest.approx(auc[1], abs=0.02)


def test_one_epoch_of_a_head_equals_pytorch(probing):
  torch = pytest.importorskip("torch")
  y_NxD, labels_NxK = linear_problem(20)
  tx = optim.adam(1.0, weight_decay=1e-2)
  train_epoch, loss_of = trained_heads._make_steps(tx, False)
  module = samplecnn.Head(3, 5)
  params = module.init(jax.random.key(0), y_NxD)["params"]
  hidden, out = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)
  with torch.no_grad():
    for layer, name in ((hidden, "hidden"), (out, "out")):
      layer.weight.copy_(torch.tensor(np.array(params[name]["kernel"]).T))
      layer.bias.copy_(torch.tensor(np.array(params[name]["bias"])))
  order_SxB, mask_SxB = trained_heads._order(0, 0, 20, 8)
  assert mask_SxB.sum() == 20 and order_SxB.shape == (3, 8)
  params, _ = train_epoch(
    module,
    params,
    tx.init(params),
    1e-2,
    y_NxD[order_SxB],
    labels_NxK[order_SxB],
    mask_SxB,
  )
  optimizer = torch.optim.Adam(
    [*hidden.parameters(), *out.parameters()], 1e-2, weight_decay=1e-2
  )
  x, y = torch.tensor(y_NxD), torch.tensor(labels_NxK).float()
  bce = torch.nn.functional.binary_cross_entropy_with_logits

  def forward(x):
    return out(torch.relu(hidden(x)))

  for rows, mask in zip(order_SxB, mask_SxB, strict=True):
    rows = rows[mask > 0]
    optimizer.zero_grad()
    bce(forward(x[rows]), y[rows]).backward()
    optimizer.step()
  np.testing.assert_allclose(
    module.apply({"params": params}, y_NxD),
    forward(x).detach(),
    rtol=1e-4,
    atol=1e-5,
  )
  np.testing.assert_allclose(
    loss_of(module, params, y_NxD, labels_NxK, np.full(20, 1 / 20)),
    bce(forward(x), y).item(),
    rtol=1e-4,
  )


def test_scores_to_choose_by_are_those_of_the_validation_clips(probing):
  """With the splits exchanged they are the scores of the test clips."""
  problems = {"valid": linear_problem(100, 1), "test": linear_problem(90, 2)}
  train_y, train_labels = linear_problem(200)
  probing.probe.max_epochs = 1  # whose weights count, whatever is validated

  def scored(names):
    of_split = {s: problems[name] for s, name in names.items()}
    segments = {s: (y, np.arange(len(y))) for s, (y, _) in of_split.items()}
    labels = {s: rows for s, (_, rows) in of_split.items()}
    labels = labels | {"train": train_labels}
    prepared = types.SimpleNamespace(label_kind="multi")
    with mock.patch.object(representations, "crops", FakeEncoder.crops):
      found, _ = trained_heads.score(
        probing, FakeEncoder(train_y), prepared, labels, segments, ""
      )
      return found

  straight = scored({"valid": "valid", "test": "test"})
  exchanged = scored({"valid": "test", "test": "valid"})
  for head in ("linear", "mlp"):
    for score in ("roc_auc", "pr_auc"):
      held_out = straight[head].results[f"valid_{score}"]
      assert held_out == exchanged[head].results[score]
      assert held_out != straight[head].results[score]


def test_the_best_validation_weights_are_kept(probing):
  probing.probe.learning_rate = 0.5  # overshoots
  probing.probe.max_epochs = 30
  probing.probe.plateau_patience = 100
  head = fit(probing)["mlp"]
  valid_y, valid_labels = linear_problem(100, 1)
  _, loss_of = trained_heads._make_steps(optim.adam(1.0), False)
  best, last = (
    float(
      loss_of(head.module, params, valid_y, valid_labels, np.full(100, 0.01))
    )
    for params in (head.best_params, head.params)
  )
  assert best == pytest.approx(head.best_loss, rel=1e-6)
  assert best < last and 0 < head.best_epoch < 30


def test_a_long_clip_counts_as_any_other_for_the_best_epoch(probing):
  """By PyTorch's loss: of one of 1,000 wrong segments among 20 of 10."""
  torch = pytest.importorskip("torch")
  probing.probe.update(
    heads=("linear",),
    max_epochs=20,
    learning_rate=0.02,
    stop_patience=0,
    plateau_patience=100,
  )
  y_NxD, labels_NxK = linear_problem(200)
  valid_y, valid_labels = linear_problem(21, 1)
  valid_labels[0] = 1 - valid_labels[0]
  clip_M = np.repeat(np.arange(21), [1000] + 20 * [10])
  valid = trained_heads._Split(valid_y[clip_M], clip_M, valid_labels)
  with mock.patch.object(representations, "crops", FakeEncoder.crops):
    head = trained_heads._train(
      probing, FakeEncoder(y_NxD), None, labels_NxK, valid, False, ""
    )["linear"]
  logits = np.array(head.module.apply({"params": head.best_params}, valid_y))
  by_clip = torch.nn.functional.binary_cross_entropy_with_logits(
    torch.tensor(logits), torch.tensor(valid_labels).float()
  )
  assert head.best_loss == pytest.approx(by_clip.item(), rel=1e-5)
  assert head.best_epoch > 10


def test_crops_are_new_every_epoch_unless_limited(probing):
  y_NxD, _ = linear_problem(200)
  probing.probe.stop_patience = 0
  probing.probe.max_epochs = 7
  encoder = FakeEncoder(y_NxD)
  fit(probing, encoder=encoder)
  assert encoder.epochs == [0, 1, 2, 3, 4, 5, 6]
  probing.probe.distinct_crops = 3
  encoder = FakeEncoder(y_NxD)
  fit(probing, encoder=encoder)
  assert encoder.epochs == [0, 1, 2]


def test_training_stops_when_nothing_gets_better(probing):
  probing.probe.learning_rate = 1.0
  probing.probe.plateau_patience = 1
  probing.probe.stop_patience = 4
  probing.probe.max_epochs = 500
  y_NxD, _ = linear_problem(200)
  encoder = FakeEncoder(y_NxD)
  heads = fit(probing, encoder=encoder)
  assert len(encoder.epochs) < 200
  last = max(head.best_epoch for head in heads.values())
  assert len(encoder.epochs) == last + 4


def test_the_encoder_is_the_one_that_was_saved(trained, prepared, small):
  encoder = encoders.load(trained, devices=mesh.make_mesh())
  small.eval_every_epochs = 0.0
  state = pretrain.run(small, trained)  # nothing left to train
  x = next(
    input_pipeline.probe_crops(
      prepared, "test", crop=243, seed=0, epoch=0, batch_size=5
    )
  )
  expected = steps.make_encoder(small.model, "float32").apply(
    {
      "params": state.params["encoder"],
      "batch_stats": state.batch_stats["encoder"],
    },
    x,
  )
  (y,) = encoder([x])
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
  # Batches of any length, in order, and the last one shorter.
  parts = np.concatenate(list(encoder([x[:2], x[2:4], x[4:]])))
  np.testing.assert_allclose(parts, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [8, 10])
def test_untrained_statistics_are_those_of_the_training_audio(
  small, prepared, batch_size
):
  """Normalised by them, crops have mean 0 and variance 1 in the first layer.

  Of 24 clips in batches of 10 the last 4 do not count.
  """
  encoder = representations.untrained(
    small.to_dict(), prepared, mesh.make_mesh(), seed=0, batch_size=batch_size
  )
  crops = np.concatenate(
    list(
      input_pipeline.probe_crops(
        prepared, "train", crop=243, seed=0, epoch=0, batch_size=8
      )
    )
  )
  stem = encoder._variables["params"]["stem_conv"]
  windows = crops.reshape(24, -1, 3)
  out = windows @ np.asarray(stem["kernel"])[0] + np.asarray(stem["bias"])
  stats = encoder._variables["batch_stats"]["stem_bn"]
  whole = range(0, 24 - batch_size + 1, batch_size)
  batches = [out[i : i + batch_size] for i in whole]
  mean = np.mean([batch.mean((0, 1)) for batch in batches], axis=0)
  np.testing.assert_allclose(stats["mean"], mean, atol=1e-6)
  var = np.mean([batch.var((0, 1), ddof=1) for batch in batches], axis=0)
  np.testing.assert_allclose(stats["var"], var, rtol=1e-4)


def test_embeddings_are_means_over_segments(data_dir, trained, tmp_path):
  config = shrink(configs.base_embed(), data_dir)
  config.checkpoint = trained
  config.batch_size = 8
  arrays = np.load(embed.run(config, str(tmp_path)))
  encoder = encoders.load(trained, devices=mesh.make_mesh())
  prepared = representations.data_for(encoder, config.data)
  names = input_pipeline.labels(prepared, "test")
  assert arrays["test_ids"].tolist() == names.ids
  np.testing.assert_array_equal(arrays["test_labels"], names.labels_NxK)
  segments = list(
    input_pipeline.segments(prepared, "test", crop=243, batch_size=8)
  )
  x = np.concatenate([s.x_BxT[s.mask_B > 0] for s in segments])
  clip = np.concatenate([s.clip_B[s.mask_B > 0] for s in segments])
  (y,) = encoder([x[clip == 3]])
  np.testing.assert_allclose(
    arrays["test_y"][3], y.mean(0), rtol=1e-4, atol=1e-5
  )
  assert jnp.asarray(arrays["train_y"]).shape == (24, 16)


ALL = ("linear", "mlp", "logistic", "knn")


@pytest.fixture(scope="module")
def whole(data_dir, trained, tmp_path_factory):
  """A workdir with all heads of all encoders, its results, and its config."""
  config = probe_of(trained, data_dir)
  config.probe.heads = ALL
  config.probe.max_epochs = 1
  config.probe.splits = 2
  workdir = str(tmp_path_factory.mktemp("whole"))
  return workdir, probe.run(config, workdir), config


def test_heads_on_clips_are_scored_for_three_encoders(whole, prepared):
  workdir, results, config = whole
  encoder = encoders.load(config.checkpoint, devices=mesh.make_mesh())
  labels = {
    s: input_pipeline.labels(prepared, s).labels_NxK
    for s in ("train", "valid", "test")
  }
  of_mfcc = {s: mfcc.of_split(prepared, s) for s in labels}
  trained = {}
  for split in labels:
    y_MxD, clip_M = representations.segments(
      encoder, prepared, split, batch_size=8
    )
    of_clips = [y_MxD[clip_M == i] for i in range(max(clip_M) + 1)]
    trained[split] = np.stack([np.r_[y.mean(0), y.std(0)] for y in of_clips])
  mean = {split: y[:, : encoder.size] for split, y in trained.items()}
  for prefix, y in (("", trained), ("mean_", mean), ("mfcc_", of_mfcc)):
    for head in ("logistic", "knn"):
      train, valid = (
        classifiers.Vectors(y[s], labels[s]) for s in ("train", "valid")
      )
      found = classifiers.predict(head, train, valid, y["test"], single=False)
      results_of = results[prefix + head]
      expected = metrics.tagging_metrics(labels["test"], found.test_NxK)
      for name, value in expected.items():
        assert results_of[name] == pytest.approx(value, abs=1e-3), name
      held_out = metrics.tagging_metrics(labels["valid"], found.valid_NxK)
      auc = pytest.approx(held_out["roc_auc"], abs=1e-3)
      assert results_of["valid_roc_auc"] == auc
      assert results_of["C" if head == "logistic" else "k"] == found.chosen
  names = [f"{p}{h}" for p in ("", "untrained_") for h in ALL]
  names += ["mean_logistic", "mean_knn", "mfcc_logistic", "mfcc_knn"]
  assert list(results) == [*names, "bootstrap", "splits", "step", "of"]
  on_clips = {n for n in names if n.endswith(("logistic", "knn"))}
  assert set(results["splits"]) == {"count", *on_clips}
  assert results["untrained_knn"]["roc_auc"] != results["knn"]["roc_auc"]
  with open(f"{workdir}/{scores.PER_TAG}") as file:
    rows = list(csv.DictReader(file))
  of_tags = [float(row["mfcc_knn_roc_auc"]) for row in rows]
  auc = results["mfcc_knn"]["roc_auc"]
  assert np.nanmean(of_tags) == pytest.approx(auc, abs=1e-3)
  assert list(encoders.load(workdir).heads.params) in (
    ["linear", "mlp"],
    ["mlp", "linear"],
  )


def test_intervals_and_differences_by_hand():
  """Draw by draw, by the accuracy of the clips that were drawn."""
  rng = np.random.default_rng(0)
  track_N = np.array([f"track {i // 2}" for i in range(40)])
  labels_NxK = np.eye(3, dtype=int)[rng.integers(3, size=40)]
  found = {
    name: scores.of_clips(
      labels_NxK, labels_NxK * signal + rng.normal(size=(40, 3)), single=True
    )
    for name, signal in (("knn", 2), ("untrained_knn", 1.5), ("mfcc_knn", 0))
  }
  results = {name: dict(scored.results) for name, scored in found.items()}
  scores.add_intervals(results, found, labels_NxK, track_N, seed=3, single=True)
  draws = {name: [] for name in found}
  for weight_N in bootstrap.weights(track_N, 3).astype(int):
    drawn = np.repeat(np.arange(40), weight_N)
    for name, scored in found.items():
      predicted_N = scored.predicted_NxK[drawn].argmax(axis=1)
      hits_N = predicted_N == labels_NxK[drawn].argmax(axis=1)
      draws[name].append(100 * hits_N.mean())
  draws = {name: np.array(values) for name, values in draws.items()}

  def between(value_B):
    """Of 20 tracks: as of Student's t."""
    out = scipy.stats.t.ppf(0.975, 19) * np.sqrt(20 / 19)
    return np.percentile(value_B, 100 * scipy.stats.norm.cdf([-out, out]))

  for name, values in draws.items():
    expected = between(values)
    np.testing.assert_allclose(results[name]["interval"]["accuracy"], expected)
  for other in ("untrained", "mfcc"):
    over = results["knn"][f"over_{other}"]["accuracy"]
    than = results[f"{other}_knn"]["accuracy"]
    assert over["difference"] == results["knn"]["accuracy"] - than
    expected = between(draws["knn"] - draws[f"{other}_knn"])
    np.testing.assert_allclose(over["interval"], expected)
  low, high = results["knn"]["over_mfcc"]["accuracy"]["interval"]
  assert low > 0
  made = {"method": bootstrap.METHOD, "draws": 1000, "tracks": 20, "clips": 40}
  assert results["bootstrap"] == made
  table = scores.table(results).splitlines()
  difference = results["knn"]["over_mfcc"]["accuracy"]["difference"]
  (row,) = (line for line in table if line.startswith("knn vs mfcc"))
  assert row.endswith(
    f"{difference:+.1f} ({low:.1f} to {high:.1f}): beyond chance"
  )
  low, high = results["knn"]["over_untrained"]["accuracy"]["interval"]
  (row,) = (line for line in table if line.startswith("knn vs untrained"))
  assert low <= 0 <= high and row.endswith(f"to {high:.1f}): could be chance")


def test_of_few_tracks_there_is_no_interval():
  labels_NxK = np.eye(2, dtype=int)[[0, 1] * 7]
  found = {"knn": scores.of_clips(labels_NxK, labels_NxK, single=True)}
  results = {"knn": dict(found["knn"].results)}
  scores.add_intervals(
    results, found, labels_NxK, "abcdefg" * 2, seed=0, single=True
  )
  assert results["knn"] == found["knn"].results
  assert "(no intervals: 7 test tracks, and they hold" in scores.table(results)


def test_of_rare_classes_average_precision_has_no_interval():
  rng = np.random.default_rng(0)
  for others, known in ((7, False), (8, True)):
    labels_NxK = np.eye(2, dtype=int)[[0] * 12 + [1] * others]
    noisy_NxK = labels_NxK + 0.5 * rng.normal(size=labels_NxK.shape)
    found = {"knn": scores.of_clips(labels_NxK, noisy_NxK, single=True)}
    results = {"knn": dict(found["knn"].results)}
    scores.add_intervals(
      results, found, labels_NxK, range(12 + others), seed=0, single=True
    )
    interval = results["knn"]["interval"]
    assert np.isfinite(interval["pr_auc"]).all() == known
    assert np.isfinite(interval["roc_auc"]).all()


def test_clips_that_are_left_out_are_said_above_the_table():
  prepared = types.SimpleNamespace(
    skipped={"too short": 31, "not found": 700}, num_clips={"train": 199}
  )
  of = {"knn": {"roc_auc": 60.0, "pr_auc": 50.0}}
  first = scores.table(of | scores.left_out(prepared)).splitlines()[0]
  assert first.startswith("731 of 930 clips of the data set are left out, 700")
  assert first.endswith("not found")
  whole = types.SimpleNamespace(skipped={}, num_clips={"train": 199})
  assert scores.left_out(whole) == {}


def test_splits_of_gtzan_say_that_they_mix_artists(prepared, monkeypatch):
  section = configs.base_probe().probe
  section.splits, section.heads = 2, ("knn",)
  assert random_splits.of(prepared, section, 0).notes == []
  monkeypatch.setitem(
    random_splits._MIXED, "synthetic", random_splits._MIXED[gtzan.Gtzan.name]
  )
  (note,) = random_splits.of(prepared, section, 0).notes
  assert "artists" in note and "filtered" in note
  table = scores.table({"knn": {"roc_auc": 50.0}, "notes": [note]})
  assert "(GTZAN's artists are on both sides" in table
  assert max(map(len, table.splitlines())) <= 100


def test_heads_are_made_as_they_are_asked_for(whole, tmp_path):
  _, results, config = whole
  some = configs.base_probe()
  some.update(config)
  some.probe.heads = ("knn", "linear")
  some.probe.mfcc = False
  some.probe.splits = 1
  found = probe.run(some, str(tmp_path))
  names = ["linear", "knn", "untrained_linear", "untrained_knn", "mean_knn"]
  assert list(found) == [*names, "bootstrap", "step", "of"]
  for name in names:
    assert found[name]["roc_auc"] == results[name]["roc_auc"]
  some.probe.heads = ("knn",)
  only = probe.run(some, str(tmp_path / "knn"))
  assert only["knn"] == found["knn"] and "linear" not in only
  assert encoders.load(some.checkpoint).heads is None
  assert not (tmp_path / "knn" / "heads.json").exists()
  assert os.path.getsize(probe.figure(str(tmp_path / "knn"))) > 10_000


def clips_of_tracks(single):
  """60 tracks of 1 to 4 clips, whose vectors know a little of their labels."""
  rng = np.random.default_rng(0)
  track_N = np.repeat([f"t{i}" for i in range(60)], rng.integers(1, 5, 60))
  of_track = {t: rng.integers(3) for t in sorted(set(track_N))}
  labels_NxK = np.eye(3, dtype=int)[[of_track[t] for t in track_N]]
  if not single:
    labels_NxK = (rng.uniform(size=labels_NxK.shape) < 0.4).astype(int)
  noise = rng.normal(size=(len(track_N), 8))
  y_NxD = labels_NxK @ rng.normal(size=(3, 8)) + 2 * noise
  return y_NxD, random_splits.Clips(labels_NxK, track_N)


def test_random_splits_leak_no_track_and_share_out_each_class():
  _, clips = clips_of_tracks(single=True)
  classes_N = clips.labels_NxK.argmax(axis=1)
  splits = []
  for salt in "abc":
    split_N = random_splits.split(clips, salt, single=True)
    splits.append(split_N)
    for track in set(clips.track_N):
      assert len(set(split_N[clips.track_N == track])) == 1
    for k in range(3):
      tracks = {
        split: len(set(clips.track_N[(split_N == split) & (classes_N == k)]))
        for split in ("train", "valid", "test")
      }
      total = sum(tracks.values())
      assert tracks["test"] == max(1, round(0.2 * total))
      assert tracks["valid"] == max(1, round(0.1 * total))
  assert (splits[0] != splits[1]).any() and (splits[1] != splits[2]).any()
  again = random_splits.split(clips, "a", single=True)
  np.testing.assert_array_equal(splits[0], again)


@pytest.mark.parametrize("single", [False, True])
def test_scores_over_splits_by_hand(single):
  y_NxD, clips = clips_of_tracks(single)
  noise = np.random.default_rng(1).normal(size=y_NxD.shape)
  vectors = {"": y_NxD, "untrained_": y_NxD + 5 * noise, "mfcc_": noise}
  vectors |= {"my_own_": y_NxD + noise, "own_": y_NxD - noise}
  options = dict(count=3, seed=5, single=single)

  def scores_of_splits(**options):
    positions = random_splits.draw(clips, **options)
    splits = random_splits.Splits(clips, positions, [])
    return clip_probes.over_splits(vectors, splits, ["knn"], single=single)

  found = scores_of_splits(**options)
  scored = {prefix: [] for prefix in vectors}
  for i in range(3):
    split_N = random_splits.split(clips, f"5 {i}", single=single)
    for prefix, y in vectors.items():
      train, valid, test = (
        classifiers.Vectors(y[split_N == s], clips.labels_NxK[split_N == s])
        for s in ("train", "valid", "test")
      )
      predicted = classifiers.predict(
        "knn", train, valid, test.y_NxD, single=single
      )
      scored[prefix].append(
        metrics.tagging_metrics(test.labels_NxK, predicted.test_NxK)["roc_auc"]
      )
  scored = {prefix: np.array(values) for prefix, values in scored.items()}
  for prefix, values in scored.items():
    auc = found[f"{prefix}knn"]["roc_auc"]
    assert auc["mean"] == pytest.approx(values.mean())
    assert auc["deviation"] == pytest.approx(values.std(ddof=1))
    assert ("accuracy" in found[f"{prefix}knn"]) == single
  for other in ("untrained", "mfcc", "my_own", "own"):
    difference = scored[""] - scored[f"{other}_"]
    over = found["knn"][f"over_{other}"]["roc_auc"]
    assert over["mean"] == pytest.approx(difference.mean())
    assert over["deviation"] == pytest.approx(difference.std(ddof=1))
  other_seed = options | {"seed": 6}
  assert found != scores_of_splits(**other_seed)
  assert found == scores_of_splits(**options)


def test_too_few_tracks_for_splits_are_an_error():
  y_NxD, clips = clips_of_tracks(single=True)
  one = clips._replace(track_N=np.full(len(y_NxD), "a"))
  with pytest.raises(ValueError, match=r"probe.splits is 2, and 1 tracks of"):
    random_splits.draw(one, count=2, seed=0, single=True)
  # One of each class: every split would test the same.
  classes_N = clips.labels_NxK.argmax(axis=1)
  tested = {clips.track_N[np.argmax(classes_N == k)] for k in range(3)}
  with pytest.raises(ValueError, match="only 3 can be tested"):
    random_splits.draw(clips, count=9, seed=0, single=True, tested=tested)


class Called(Exception):
  pass


def test_a_probe_is_made_again_only_of_something_else(
  probing, trained, tmp_path, monkeypatch, capsys
):
  workdir = str(tmp_path / "probe")
  probing.probe.update(max_epochs=1, heads=("linear",))
  probe.main(probing, workdir)
  table, before = capsys.readouterr().out, scores_of(workdir)

  def call(*args, **kwargs):
    raise Called

  for name in ("crops", "segments", "untrained"):
    monkeypatch.setattr(representations, name, call)
  # The run may have been moved.
  probing.checkpoint = shutil.copytree(trained, str(tmp_path / "moved"))
  probe.main(probing, workdir)
  again = capsys.readouterr()
  assert again.out == table and "probe.json: made of the same" in again.err
  assert scores_of(workdir) == before

  def is_probed_anew(config=probing):
    with pytest.raises(Called):
      probe.run(config, workdir)
    return True

  for key, value in (
    ("seed", 1),
    ("probe.max_epochs", 2),
    ("probe.untrained", False),
    ("data.sizes", (8, 4, 4)),
  ):
    changed = configs.base_probe()
    changed.update(probing)
    changed.update_from_flattened_dict({key: value})
    assert is_probed_anew(changed), key
  load = encoders.load

  def of_other_weights(*args, **kwargs):
    encoder = load(*args, **kwargs)
    other = jax.tree.map(lambda x: x + 1, encoder.variables)
    return encoder.with_variables(other)

  with monkeypatch.context() as patch:
    patch.setattr(encoders, "load", of_other_weights)
    assert is_probed_anew()
  # Of an older version, damaged, or without its table of tags.
  path = tmp_path / "probe" / "probe.json"
  whole = path.read_text()
  without = {k: v for k, v in json.loads(whole).items() if k != "of"}
  for text in (json.dumps(without), whole[:-9], "[]"):
    path.write_text(text)
    assert is_probed_anew()
  path.write_text(whole)
  (tmp_path / "probe" / "probe_tags.csv").unlink()
  assert is_probed_anew()


def scores_of(workdir):
  return {
    name: (pathlib.Path(workdir) / name).read_text()
    for name in (scores.RESULTS, scores.PER_TAG)
  }


def test_labels_outside_the_share_make_no_difference(
  probing, prepared, tmp_path, monkeypatch
):
  probing.probe.update(
    label_fraction=0.25,
    heads=("linear", "knn"),
    max_epochs=1,
    untrained=False,
    mfcc=False,
  )
  right = probe.run(probing, str(tmp_path / "right"))
  chosen = label_share.of_training(prepared, 0.25, probing.seed)
  read = input_pipeline.labels

  def garbled(prepared, split):
    found = read(prepared, split)
    if split == "train":
      wrong_NxK = 1 - found.labels_NxK
      wrong_NxK[chosen] = found.labels_NxK[chosen]
      found = found._replace(labels_NxK=wrong_NxK)
    return found

  monkeypatch.setattr(input_pipeline, "labels", garbled)
  assert probe.run(probing, str(tmp_path / "other")) == right
  table = scores.table(right)
  assert "labels of 6 of the 24 training clips" in table


def test_clips_outside_the_share_are_not_seen(probing, prepared, tmp_path):
  """By hand, of the share's vectors alone: the scale is theirs, too."""
  probing.probe.update(
    heads=("logistic",), label_fraction=0.25, untrained=False
  )
  chosen = label_share.of_training(prepared, 0.25, probing.seed)
  results = probe.run(probing, str(tmp_path))
  y, labels = (
    {split: of(prepared, split) for split in ("train", "valid", "test")}
    for of in (mfcc.of_split, lambda *of: input_pipeline.labels(*of).labels_NxK)
  )
  train, valid = (
    classifiers.Vectors(y[split][rows], labels[split][rows])
    for split, rows in (("train", chosen), ("valid", slice(None)))
  )
  found = classifiers.predict("logistic", train, valid, y["test"], single=False)
  by_hand = metrics.tagging_metrics(labels["test"], found.test_NxK)
  assert results["mfcc_logistic"]["roc_auc"] == by_hand["roc_auc"]


def test_splits_learn_from_a_share_of_their_own():
  _, clips = clips_of_tracks(single=True)
  options = dict(count=2, seed=0, single=True)
  whole, part = (
    random_splits.draw(clips, label_fraction=fraction, **options)
    for fraction in (1.0, 0.25)
  )
  for of_all, of_share in zip(whole, part, strict=True):
    for held_out in ("valid", "test"):
      np.testing.assert_array_equal(of_all[held_out], of_share[held_out])
    all_, share = (set(clips.track_N[at["train"]]) for at in (of_all, of_share))
    assert share < all_ and 0.2 * len(all_) < len(share) < 0.3 * len(all_)


@pytest.mark.parametrize("single", [False, True])
def test_only_tracks_that_labels_have_not_chosen_by_are_tested(single):
  _, clips = clips_of_tracks(single)
  tested = {f"t{i}" for i in range(0, 60, 4)}
  splits = random_splits.draw(
    clips, count=20, seed=0, single=single, tested=tested
  )
  class_of = dict(zip(clips.track_N, clips.labels_NxK.argmax(axis=1) * single))
  for at in splits:
    parts = {s: set(clips.track_N[at[s]]) for s in at}
    assert sum(map(len, at.values())) == len(clips.track_N)
    assert sum(map(len, parts.values())) == 60  # none is in two
    assert parts["test"] < tested
    for k in set(class_of.values()):
      of_class = [t for t in tested if class_of[t] == k]
      chosen = [t for t in parts["test"] if class_of[t] == k]
      assert len(chosen) == round(2 / 3 * len(of_class))
      rest = [t for t in class_of if class_of[t] == k and t not in chosen]
      held_out = [t for t in parts["valid"] if class_of[t] == k]
      assert len(held_out) == round(0.1 * len(rest))
  # All of them come to be tested, and learned from.
  test_tracks = [set(clips.track_N[at["test"]]) for at in splits]
  assert set.union(*test_tracks) == tested
  assert not set.intersection(*test_tracks)
