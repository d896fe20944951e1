"""Exports, as other programs read them and as we do."""

import hashlib
import json
import os
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from vicreg_jax import config as configs
from vicreg_jax import config_limits
from vicreg_jax.model import samplecnn
from vicreg_jax.use import clmr, export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def config_of(variant="thesis", blocks=3, width=0.125, size=24, **data):
  crop = samplecnn.crop_for(blocks)
  config = configs.base_pretrain().to_dict()
  config["data"] |= {"name": "synthetic", "crop": crop} | data
  config["model"] |= dict(
    variant=variant, blocks=blocks, width=width, representation_size=size
  )
  return config


def variables_of(config, seed=0):
  """Of an encoder as after a training; some scales are negative or 0."""
  draw = np.random.default_rng(seed)
  model = samplecnn.SampleCNN(
    **{k: config["model"][k] for k in ("variant", "width", "blocks")},
    representation_size=config["model"]["representation_size"],
  )
  shapes = jax.eval_shape(
    lambda: model.init(
      jax.random.key(0), jnp.zeros((1, config["data"]["crop"]))
    )
  )

  def drawn(path, like):
    x = draw.normal(size=like.shape)
    if path[-1].key == "kernel":
      x *= np.sqrt(2 / np.prod(like.shape[:-1]))
    elif path[-1].key == "var":
      x = np.exp(0.3 * x)
    else:
      x[1:2] = 0.0
    return x.astype("float32")

  return model, jax.tree_util.tree_map_with_path(drawn, shapes)


def card_of(config, **more):
  return export.make_card(config, name="a model", licence="CC-BY-4.0", **more)


def waves(config):
  shape = 2, config["data"]["crop"]
  return np.random.default_rng(5).normal(size=shape).astype("float32")


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    assert a.dtype == b.dtype == np.float32
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
  "arguments",
  [
    dict(),
    dict(variant="clmr", blocks=4, width=0.2, crop=400),
    dict(blocks=1, width=0.03, size=20),
    dict(variant="clmr", blocks=9, width=1.0, size=512),
  ],
)
def test_onnx_gives_what_ours_does(tmp_path, arguments):
  config = config_of(**arguments)
  model, variables = variables_of(config)
  directory = tmp_path / "export"
  export.write(variables, card_of(config), str(directory), "onnx")
  proto = onnx.load(directory / "encoder.onnx")
  onnx.checker.check_model(proto, full_check=True)
  assert [o.version for o in proto.opset_import] == [18]
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = 1  # others would wait busily
  session = onnxruntime.InferenceSession(directory / "encoder.onnx", options)
  x_BxT = waves(config)
  expected_BxD = np.asarray(jax.jit(model.apply)(variables, x_BxT))
  assert expected_BxD.std() > 0.1
  for clips in (1, 2):
    (found_BxD,) = session.run(["embedding"], {"audio": x_BxT[:clips]})
    np.testing.assert_allclose(
      found_BxD, expected_BxD[:clips], atol=1e-4, rtol=1e-4
    )
  assert_same(export.read(str(directory))[1], variables)
  if config["model"]["blocks"] == 9:
    # The whole CLMR encoder is what CLMR's own file would be.
    found = clmr.read(str(directory / "encoder.onnx")).encoder
    assert_same(found, variables)


@pytest.mark.parametrize("variant", ["thesis", "clmr"])
def test_safetensors_are_what_pytorch_loads(tmp_path, variant):
  torch = pytest.importorskip("torch")
  safetensors_torch = pytest.importorskip("safetensors.torch")
  nn = torch.nn
  config = config_of(variant, blocks=4)
  model, variables = variables_of(config)
  export.write(variables, card_of(config), str(tmp_path / "e"), "safetensors")

  last = 1 if variant == "thesis" else 3
  channels = (16, 16, 16, 32, 32, 24)
  layers, before = [], 1
  for i, c in enumerate(channels):
    conv = nn.Conv1d(before, c, 3, 3 if i == 0 else 1, 0 if i == 0 else 1)
    if i == len(channels) - 1:
      conv = nn.Conv1d(before, c, last, padding=last // 2)
    pool = [nn.MaxPool1d(3)] * (0 < i < len(channels) - 1)
    layers.append(nn.Sequential(conv, nn.BatchNorm1d(c), nn.ReLU(), *pool))
    before = c
  twin = nn.Module()
  twin.sequential = nn.Sequential(*layers)
  state = safetensors_torch.load_file(tmp_path / "e" / "encoder.safetensors")
  assert state.keys() == twin.state_dict().keys()
  twin.load_state_dict(state, strict=True)
  x_BxT = waves(config)
  with torch.no_grad():
    y_BxD = twin.eval().sequential(torch.from_numpy(x_BxT)[:, None])[:, :, 0]
  assert y_BxD.std() > 0.1
  found_BxD = model.apply(variables, x_BxT)
  np.testing.assert_allclose(found_BxD, y_BxD, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", list(export.WEIGHTS))
def test_a_residual_encoder_is_not_exported(tmp_path, kind):
  card = card_of(config_of("rese-2-multi"))
  with pytest.raises(ValueError, match=r"'rese-2-multi'.* use the workdir"):
    export.write({}, card, str(tmp_path / "e"), kind)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", list(export.WEIGHTS))
def test_a_card_says_what_an_export_is(tmp_path, kind):
  config = config_of("clmr", sample_rate=16_000)
  variables = variables_of(config)[1]
  scores = {"linear": {"roc_auc": 88.5, "pr_auc": None}}
  card = card_of(
    config,
    training=export.training_of(config, 120),
    tags=("rock", "no vocals"),
    scores=scores,
  )
  directory = str(tmp_path / "export")
  export.write(variables, card, directory, kind)
  assert sorted(os.listdir(directory)) == [f"encoder.{kind}", "model.json"]
  assert os.listdir(tmp_path) == ["export"]
  described, found, read = export.read(directory)
  assert_same(found, variables)
  content = (tmp_path / "export" / f"encoder.{kind}").read_bytes()
  assert read == {
    "name": "a model",
    "sample_rate": 16_000,
    "crop": 81,
    "size": 24,
    "variant": "clmr",
    "width": 0.125,
    "blocks": 3,
    "tags": ["rock", "no vocals"],
    "training": {"data": "synthetic", "objective": "vicreg", "steps": 120},
    "scores": scores,
    "licence": "CC-BY-4.0",
    "weights": f"encoder.{kind}",
    "sha256": hashlib.sha256(content).hexdigest(),
    "format_version": 1,
    "vicreg_jax": read["vicreg_jax"],
  }
  config_limits.validate_encoder(ml_collections.ConfigDict(described))
  for section in ("data", "model"):
    for key, value in described[section].items():
      assert config[section][key] == value
  # What was read can be written, over what is there.
  other = next(k for k in export.WEIGHTS if k != kind)
  changed = jax.tree.map(lambda x: x + 1, variables)
  export.write(changed, read, directory, other)
  assert sorted(os.listdir(directory)) == [f"encoder.{other}", "model.json"]
  assert os.listdir(tmp_path) == ["export"]
  described_again, found, again = export.read(directory)
  assert described_again == described
  assert_same(found, changed)
  names = ("weights", "sha256")
  assert {k: v for k, v in again.items() if k not in names} == {
    k: v for k, v in read.items() if k not in names
  }


def test_training_with_labels_has_them_for_its_objective():
  config = configs.base_supervised().to_dict()
  assert export.training_of(config, 3)["objective"] == "labels"


def rejected(function, *arguments, words=()):
  """Its error is one short line with all the words."""
  with pytest.raises(ValueError) as error:
    function(*arguments)
  text = str(error.value)
  assert "\n" not in text and len(text) < 800
  for word in words:
    assert str(word) in text, text


def test_what_is_not_written(tmp_path, monkeypatch):
  config = config_of()
  variables, card = variables_of(config)[1], card_of(config)

  def refused(directory, *words, card=card, kind="safetensors"):
    rejected(export.write, variables, card, str(directory), kind, words=words)

  full = tmp_path / "full"
  full.mkdir()
  (full / "thesis.tex").write_text("mine")
  refused(full, full, "not empty")
  export.write(variables, card, str(tmp_path / "e"), "onnx")
  (tmp_path / "e" / "notes.txt").write_text("mine")
  refused(tmp_path / "e", "not empty")
  refused(full / "thesis.tex", "not a directory")
  refused(full / "thesis.tex" / "e", "thesis.tex")
  refused("gs://bucket/e", "gs://bucket/e", "local")
  refused(tmp_path / "new", "'hdf5'", "safetensors, onnx", kind="hdf5")
  other = card | {"variant": "clmr"}
  refused(tmp_path / "new", "[24, 32, 3]", "[24, 32, 1]", card=other)
  refused(tmp_path / "new", "blocks", "12", card=card | {"blocks": 12})
  with monkeypatch.context() as patched:
    patched.setitem(sys.modules, "onnx", None)
    refused(tmp_path / "new", "pip install 'vicreg_jax[onnx]'", kind="onnx")
  assert sorted(os.listdir(tmp_path)) == ["e", "full"]
  assert (full / "thesis.tex").read_text() == "mine"
  assert (tmp_path / "e" / "notes.txt").read_text() == "mine"


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
  config = config_of()
  (_, first), (_, second) = variables_of(config, 1), variables_of(config, 2)
  card, directory = card_of(config), str(tmp_path / "e")
  export.write(first, card, directory, "safetensors")
  rename, calls = os.rename, []

  def failing(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
      raise OSError(28, "No space left on device")
    rename(*arguments)

  monkeypatch.setattr(os, "rename", failing)
  write = export.write, second, card, directory, "safetensors"
  rejected(*write, words=("No space left", directory))
  assert os.listdir(tmp_path) == ["e"]
  assert_same(export.read(directory)[1], first)
  write[0](*write[1:])
  assert_same(export.read(directory)[1], second)


def test_what_cannot_be_read(tmp_path):
  config = config_of()
  variables, card = variables_of(config)[1], card_of(config)
  directory = tmp_path / "e"
  export.write(variables, card, str(directory), "safetensors")
  file, text = directory / export.CARD, (directory / export.CARD).read_text()
  read = json.loads(text)

  def refused(*words):
    rejected(export.read, str(directory), words=words)

  rejected(export.read, str(tmp_path / "no"), words=(tmp_path / "no",))
  for content, *words in (
    (text[:-9], "damaged"),
    ("[]", "not a model card"),
    ("3", "not a model card"),
    (b"\xff".decode("latin1"), "damaged"),
    (json.dumps({k: v for k, v in read.items() if k != "crop"}), "lacks crop"),
    (json.dumps(read | {"format_version": 2}), "format_version is 2"),
    (json.dumps(read | {"weights": "../x"}), "'../x'", "encoder.onnx"),
    (json.dumps(read | {"width": "wide"}), "model.width", "wide"),
    (json.dumps(read | {"blocks": 4}), "data.crop", "model.blocks=4"),
    (json.dumps(read | {"size": 23}), "[23, 32, 1]", "[24, 32, 1]"),
  ):
    file.write_text(content)
    refused(directory, *words)
  file.write_text(text)
  weights = directory / "encoder.safetensors"
  whole = weights.read_bytes()
  for content in (whole[:-4], whole[:-1] + b"\1", b""):
    weights.write_bytes(content)
    refused(weights, "damaged")
  # Even where the sum is right.
  for name, content in (("safetensors", whole[:99]), ("onnx", b"no model")):
    (directory / f"encoder.{name}").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    changed = read | {"weights": f"encoder.{name}", "sha256": digest}
    file.write_text(json.dumps(changed))
    refused(directory)
  weights.unlink()
  file.write_text(text)
  refused(weights, "No such file")
