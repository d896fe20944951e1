"""Files as CLMR's, written by PyTorch itself, and what is no such file."""

import copy
import json
import os
import pickle
import sys
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vicreg_jax
from vicreg_jax import __main__ as command
from vicreg_jax.model import samplecnn, view_norm
from vicreg_jax.training import workdir as workdirs
from vicreg_jax.use import clmr, pytorch_file
from vicreg_jax.use.import_weights import import_weights

torch = pytest.importorskip("torch")
nn = torch.nn
BEFORE = (1, 128, 128, 128, 256, 256, 256, 256, 256, 256, 512)
AFTER = (128, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512)


class Encoder(nn.Module):
  """CLMR's SampleCNN without its last layer, or with one of 50 tags."""

  def __init__(self, outputs=0, after=AFTER):
    super().__init__()
    layers = []
    for i, (a, b) in enumerate(zip(BEFORE, after)):
      conv = nn.Conv1d(a, b, 3, padding=1) if i else nn.Conv1d(a, b, 3, 3)
      pool = [nn.MaxPool1d(3)] * (0 < i < 10)
      layers.append(nn.Sequential(conv, nn.BatchNorm1d(b), nn.ReLU(), *pool))
    self.sequential = nn.Sequential(*layers)
    self.fc = nn.Linear(512, outputs) if outputs else nn.Identity()

  def forward(self, x_BxT):
    return self.fc(self.sequential(x_BxT[:, None])[:, :, 0])


class SimCLR(nn.Module):
  def __init__(self, encoder):
    super().__init__()
    self.encoder = encoder
    self.projector = nn.Sequential(
      nn.Linear(512, 512, bias=False), nn.ReLU(), nn.Linear(512, 64, bias=False)
    )


class Module(nn.Module):
  """Of Lightning: its `model`, and `encoder` once more beside it."""

  def __init__(self, encoder, model):
    super().__init__()
    self.encoder, self.model = encoder, model


class Arguments(dict):
  """A class that torch.load(weights_only=True) does not know."""


class Payload:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def encoder():
  """With statistics and scales as after a training, some negative."""
  torch.manual_seed(0)
  encoder = Encoder().eval()
  for norm in encoder.modules():
    if isinstance(norm, nn.BatchNorm1d):
      nn.init.normal_(norm.weight)
      nn.init.normal_(norm.bias)
      nn.init.normal_(norm.running_mean)
      nn.init.uniform_(norm.running_var, 0.5, 2.0)
  return encoder


@pytest.fixture(scope="module")
def expected(encoder, tmp_path_factory):
  """Variables whose representations are PyTorch's, to compare others with."""
  path = tmp_path_factory.mktemp("clmr") / "encoder.pt"
  torch.save(encoder.state_dict(), path)
  weights = clmr.read(str(path))
  assert weights[1:] == (None, None, None, False, "CLMR, state_dict")
  agrees(encoder, weights.encoder)
  return weights.encoder


def agrees(encoder, variables):
  x_BxT = np.random.default_rng(1).normal(size=(1, 59_049)).astype("float32")
  with torch.no_grad():
    y_BxD = encoder(torch.from_numpy(x_BxT)).numpy()
  assert y_BxD.std() > 0.5
  found_BxD = clmr.ENCODER.apply(variables, x_BxT)
  np.testing.assert_allclose(found_BxD, y_BxD, atol=1e-5, rtol=1e-5)


def same(found, expected):
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    if isinstance(value, dict):
      same(found[key], value)
    else:
      assert found[key].dtype == np.float32
      assert np.array_equal(found[key], np.asarray(value))


def save(path, value, **how):
  torch.save(value, path, **how)
  return str(path)


def lightning(module, **hyper_parameters):
  return {
    "epoch": 3,
    "pytorch-lightning_version": "1.2.0",
    "state_dict": module.state_dict(),
    "callbacks": {Arguments: {"best": torch.ones(3)}},
    "optimizer_states": [{"state": {0: torch.ones(2)}}],
    "hyper_parameters": Arguments(hyper_parameters),
  }


def of_release_1(encoder):
  return {
    f"encoder.conv{int(i) + 1}.{rest}": value
    for name, value in encoder.state_dict().items()
    for i, rest in [name.removeprefix("sequential.").split(".", 1)]
  }


def test_a_pretraining_of_lightning(tmp_path, encoder, expected):
  model = SimCLR(encoder)
  path = save(tmp_path / "clmr.ckpt", lightning(Module(encoder, model)))
  with pytest.raises(pickle.UnpicklingError):
    torch.load(path, weights_only=True)
  archive = str(tmp_path / "clmr.zip")
  with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as f:
    f.write(path, "folder/clmr.ckpt")
    f.writestr("__MACOSX/folder/._clmr.ckpt", b"\0")
    f.writestr("README.txt", b"")
  for file in (path, archive):
    weights = clmr.read(file)
    assert weights.source == "CLMR, Lightning checkpoint"
    assert weights.head is weights.tags is None
    same(weights.encoder, expected)
    assert weights.projector["dense1"]["kernel"].shape == (512, 64)
    y_BxD = np.random.default_rng(2).normal(size=(3, 512)).astype("float32")
    found = samplecnn.Projector((512, 64), batch_norm=False).apply(
      {"params": weights.projector}, y_BxD
    )
    z_BxE = model.projector(torch.from_numpy(y_BxD)).detach()
    np.testing.assert_allclose(found, z_BxE, atol=1e-5)


@pytest.mark.parametrize("hidden", [0, 512])
def test_a_fine_tuner_of_lightning(tmp_path, encoder, expected, hidden):
  head = [nn.Linear(512, 512), nn.ReLU()] * bool(hidden)
  head = nn.Sequential(*head, nn.Linear(512, 50))
  module = Module(encoder, head)
  path = save(tmp_path / "a.ckpt", lightning(module, dataset="magnatagatune"))
  weights = clmr.read(path)
  same(weights.encoder, expected)
  assert weights.projector is None
  assert weights.tags[0] == "guitar" and weights.tags[49] == "choral"
  assert len(set(weights.tags)) == 50
  assert weights.source == "CLMR, Lightning checkpoint of a fine-tuner"
  y_BxD = np.random.default_rng(3).normal(size=(3, 512)).astype("float32")
  found = samplecnn.Head(50, hidden).apply({"params": weights.head}, y_BxD)
  s_BxK = head(torch.from_numpy(y_BxD)).detach()
  np.testing.assert_allclose(found, s_BxK, atol=1e-5)
  # A head alone; and what other data it knows.
  alone = clmr.read(save(tmp_path / "b.pt", head.state_dict()))
  assert alone.encoder is None
  same(alone.head, weights.head)
  path = save(tmp_path / "c.ckpt", lightning(module, dataset="msd"))
  assert clmr.read(path).tags is None
  assert not (weights.single or alone.single or clmr.read(path).single)


@pytest.mark.parametrize("data, outputs", [("gtzan", 10), ("audio", 3)])
def test_a_head_of_one_label_a_clip(tmp_path, encoder, data, outputs):
  """CLMR evaluates all data sets but two by softmax."""
  torch.manual_seed(2)
  head = nn.Sequential(nn.Linear(512, outputs))
  module = Module(encoder, head)
  path = save(tmp_path / "a.ckpt", lightning(module, dataset=data))
  heads = vicreg_jax.load(path).heads
  y_SxD = np.random.default_rng(3).normal(size=(4, 512)).astype("float32")
  with torch.no_grad():
    want_K = torch.softmax(head(torch.from_numpy(y_SxD)), 1).mean(0)
  found_K = heads.probabilities(y_SxD)
  np.testing.assert_allclose(found_K, want_K, atol=1e-6)
  names = "blues classical country disco hiphop jazz metal pop reggae rock"
  other = [f"output {k}" for k in range(outputs)]
  assert list(heads.labels) == (names.split() if data == "gtzan" else other)


def test_release_1(tmp_path, encoder, expected):
  weights = clmr.read(save(tmp_path / "clmr.pt", of_release_1(encoder)))
  same(weights.encoder, expected)
  assert weights.source == "CLMR, state_dict of release 1"


def test_tensors_that_share_a_storage_or_are_not_contiguous(
  tmp_path, encoder, expected
):
  state = encoder.state_dict()
  name = "sequential.3.0.weight"
  whole = torch.zeros(5, *state[name].shape)
  whole[2] = state[name]
  state[name] = whole[2]
  name = "sequential.4.0.weight"
  state[name] = state[name].permute(2, 1, 0).contiguous().permute(2, 1, 0)
  state["sequential.1.1.bias"] = nn.Parameter(state["sequential.1.1.bias"])
  state = {f"encoder.{name}": value for name, value in state.items()}
  same(clmr.read(save(tmp_path / "clmr.pt", state)).encoder, expected)


def test_nothing_in_a_pickle_is_run(tmp_path, encoder, expected):
  flag = tmp_path / "flag"
  state = encoder.state_dict() | {"more": Payload(flag)}
  path = save(tmp_path / "clmr.ckpt", {"state_dict": state, "a": Payload(flag)})
  same(clmr.read(path).encoder, expected)
  assert not flag.exists()
  rejected(save(tmp_path / "b.pt", Payload(flag)), "no tensors", "system")
  assert not flag.exists()
  torch.load(path, weights_only=False)
  assert flag.exists()


# ---- ONNX


def to_onnx(path, encoder, fold=False, linear=None, **changed):
  """CLMR's model as exporters write it, its BatchNorm folded or not."""
  onnx = pytest.importorskip("onnx")
  nodes, arrays, x = [], {}, "audio"

  def add(op, inputs=(), **attributes):
    nonlocal x
    attributes |= changed.get(op, {})
    y = f"/{op}_{len(nodes)}"
    nodes.append(onnx.helper.make_node(op, [x, *inputs], [y], **attributes))
    x = y

  for i, layer in enumerate(encoder.sequential):
    conv, norm = layer[:2]
    w, b = (p.detach().double() for p in (conv.weight, conv.bias))
    if fold:
      factor = norm.weight.double() / (norm.running_var.double() + 1e-5).sqrt()
      w = w * factor[:, None, None]
      b = norm.bias.double() + (b - norm.running_mean.double()) * factor
    arrays |= {f"w{i}": w, f"b{i}": b}
    pads, strides = ([1, 1], [1]) if i else ([0, 0], [3])
    geometry = dict(kernel_shape=[3], group=1, dilations=[1])
    add("Conv", [f"w{i}", f"b{i}"], pads=pads, strides=strides, **geometry)
    if not fold:
      names = [f"{n}{i}" for n in ("scale", "shift", "mean", "var")]
      values = norm.weight, norm.bias, norm.running_mean, norm.running_var
      arrays |= dict(zip(names, values))
      add("BatchNormalization", names, epsilon=1e-5)
    add("Relu")
    if 0 < i < 10:
      add("MaxPool", kernel_shape=[3], strides=[3])
  add("Flatten")
  if linear:
    arrays |= {"fc.weight": linear.weight, "fc.bias": linear.bias}
    add("Gemm", ["fc.weight", "fc.bias"], transB=1)
  arrays = [
    onnx.numpy_helper.from_array(a.detach().float().numpy(), name)
    for name, a in arrays.items()
  ]
  value = onnx.helper.make_tensor_value_info
  graph = onnx.helper.make_graph(
    nodes,
    "main",
    [value("audio", 1, [1, 1, 59_049])],
    [value(x, 1, None)],
    arrays,
  )
  model = onnx.helper.make_model(graph)
  path.write_bytes(model.SerializeToString())
  return str(path)


def test_onnx(tmp_path, encoder, expected):
  linear = nn.Linear(512, 50)
  weights = clmr.read(to_onnx(tmp_path / "a.onnx", encoder, linear=linear))
  same(weights.encoder, expected)
  same(weights.head["out"], {"kernel": linear.weight.T.detach().numpy(),
                             "bias": linear.bias.detach().numpy()})  # fmt: skip
  assert weights.tags == clmr.TAGS
  assert clmr.read(to_onnx(tmp_path / "b.onnx", encoder)).head is None


def test_onnx_with_batch_norm_folded_into_convolutions(tmp_path, encoder):
  path = to_onnx(tmp_path / "clmr.onnx", encoder, fold=True)
  variables = clmr.read(path).encoder
  agrees(encoder, variables)
  for name, stats in variables["batch_stats"].items():
    norm = variables["params"][name]
    factor = norm["scale"] / jnp.sqrt(stats["var"] + view_norm.Block.epsilon)
    assert np.all(factor == 1)
    assert not np.any(norm["bias"]) and not np.any(stats["mean"])


# ---- what is no file of CLMR's


def rejected(path, *words):
  """Its error is one short line that has the path and all the words."""
  with pytest.raises(ValueError) as error:
    clmr.read(str(path))
  text = str(error.value)
  assert "\n" not in text and len(text) < 800 and str(path) in text
  for word in words:
    assert word in text, text


def test_other_states(tmp_path, encoder):
  whole, name = encoder.state_dict(), "sequential.3.0.weight"
  var = "sequential.3.1.running_var"
  lacking = {k: v for k, v in whole.items() if k != name}
  path = tmp_path / "clmr.pt"
  for state, *words in (
    (lacking, "66", "found 65", f"missing: {name}"),
    (whole | {"sequential.11.0.bias": torch.ones(1)}, "found 67", "unknown"),
    (whole | {name: torch.ones(2, 3)}, "[256, 128, 3]", "[2, 3]", name),
    (whole | {name: whole[name].half()}, "float32", "found half"),
    (whole | {name: whole[name].bfloat16()}, "float32", "found bfloat16"),
    (whole | {name: 3}, f"missing: {name}"),
    ({"layer1.conv.weight": torch.ones(3)}, "layer1.conv.weight [3]", "0.0"),
    ({"0.weight": torch.ones(50, 9)}, "['any', 512]", "[50, 9]"),
    ({"0.weight": torch.ones(50, 512)}, "0.bias", "missing"),
    ({"0.weight": torch.ones(1).expand(1 << 20, 512)}, "67,108,864 bytes"),
    ({"fc.weight": torch.ones(50, 512)}, "fc.bias", "missing"),
    ({"a": 1, "b": [2]}, "no tensors", "dict of a, b"),
    ([1, 2], "no tensors", "list"),
    (encoder, "no tensors", "test_clmr.Encoder"),
    (whole | {name: whole[name] * np.nan}, "below 1e+06", name, "nan"),
    (whole | {name: whole[name] * -1e30}, "below 1e+06", name, "damaged"),
    (whole | {var: whole[var] * -1}, "negative variance", var),
    ({"0.weight": torch.ones(9, 512), "0.bias": torch.ones(9) / 0}, "0.bias"),
    (Encoder(after=(96,) * 11).state_dict(), "[128, 1, 3]", "[96, 1, 3]"),
  ):
    rejected(save(path, state), *words)


def test_other_files(tmp_path, encoder):
  path = tmp_path / "clmr.pt"
  rejected(path, "cannot be read", "No such file")
  rejected(tmp_path, "cannot be read", "Is a directory")
  os.mkfifo(tmp_path / "pipe.pt")
  rejected(tmp_path / "pipe.pt", "a pipe")
  save(path, encoder.state_dict(), _use_new_zipfile_serialization=False)
  rejected(path, "since version 1.6")
  for content in (b"", b"\0" * 99, pickle.dumps({"a": 1})):
    path.write_bytes(content)
    rejected(path, "PyTorch's, an .onnx or a .zip")
  save(path, encoder.state_dict())
  whole = path.read_bytes()
  path.write_bytes(whole[:-5000])
  rejected(path, "lost its end")
  at = whole.index(encoder.sequential[3][0].weight.detach().numpy().tobytes())
  path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
  rejected(path, "damaged", "CRC")


def repack(path, *changed):
  """Deflates PyTorch's file, with other contents; None leaves a file out."""
  with zipfile.ZipFile(path) as archive:
    contents = {name: archive.read(name) for name in archive.namelist()}
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, True, 1) as archive:
    for name, content in (contents | dict(changed)).items():
      if content is not None:
        archive.writestr(name, content)


def test_files_of_pytorch_that_lie(tmp_path, encoder, expected):
  path = save(tmp_path / "clmr.pt", encoder.state_dict())
  repack(path)
  same(clmr.read(path).encoder, expected)
  repack(path, ("clmr/data/7", b"\0" * 8))
  rejected(path, "clmr/data/7", "found 2")
  repack(path, ("clmr/data/7", None))
  rejected(path, "clmr/data/7", "missing")
  for content, *words in (
    (bytes((1 << 22) + 1), "at most 4,194,304", "4,194,305"),
    (b"\x80\x02}", "damaged"),
    (b"\x80\x02r\xff\xff\xff\x7f}.", "memo"),
    (b"\x80\x02" + b"(" * 100, "damaged"),
    (b"cos\nsystem\nq\x00)\x81}b.", "no tensors"),
  ):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
      archive.writestr("clmr/data.pkl", content)
    rejected(path, *words)
  with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
    archive.writestr("clmr/data.pkl", b"}.")
  rejected(path, "stored or deflated")


def test_a_bomb_is_not_unpacked(tmp_path):
  path = tmp_path / "bomb.pt"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("bomb/data.pkl", bytes(1 << 25))
    archive.getinfo("bomb/data.pkl").file_size = 100
  tracemalloc.start()
  rejected(path, "damaged", "CRC")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 1 << 22


def test_other_archives(tmp_path, encoder):
  inner = save(tmp_path / "a.pt", encoder.state_dict())
  path = tmp_path / "clmr.zip"
  for names, *words in (
    ((), "found 0 among 0"),
    (("a.txt", "b.py"), "found 0 among 2: a.txt, b.py", ".ckpt"),
    (("a.pt", "b/c.ckpt"), "found 2", "a.pt, b/c.ckpt"),
  ):
    with zipfile.ZipFile(path, "w") as archive:
      for name in names:
        archive.write(inner, name)
    rejected(path, *words)
  with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
    archive.write(path, "inner.pt")
  rejected(tmp_path / "outer.zip", "found 2")


def test_other_onnx(tmp_path, encoder, monkeypatch):
  onnx = pytest.importorskip("onnx")
  path = tmp_path / "clmr.onnx"
  small = Encoder(after=(2,) * 11).eval()
  to_onnx(path, small)
  whole = path.read_bytes()
  for content, *words in (
    (whole[:-99], "damaged"),
    (b"no model", "damaged"),
    (b"", "11 Conv", "found none"),
  ):
    path.write_bytes(content)
    rejected(path, *words)
  for changed, *words in (
    ({"Conv": dict(pads=[1, 1])}, "pads=[0, 0] of Conv 1", "found [1, 1]"),
    ({"Conv": dict(dilations=[2])}, "dilations=[1]", "found [2]"),
    ({"MaxPool": dict(kernel_shape=[2])}, "kernel_shape=[3]", "found [2]"),
    ({"BatchNormalization": dict(epsilon=1e-3)}, "epsilon=1e-05", "0.001"),
    ({"Gemm": dict(alpha=0.5)}, "alpha=1.0", "found 0.5"),
    ({"Conv": dict(group=2)}, "group=1", "found 2"),
  ):
    linear = nn.Linear(512, 50) if "Gemm" in changed else None
    rejected(to_onnx(path, small, linear=linear, **changed), *words)
  rejected(to_onnx(path, small), "[128, 1, 3]", "found float32 [2, 1, 3]")
  shorter = copy.deepcopy(small)
  shorter.sequential = shorter.sequential[:10]
  rejected(to_onnx(path, shorter), "11 Conv", "found 10 Conv")

  for change in ("/Relu_5", "/MaxPool_6"):  # of which a bit has flipped
    model = onnx.load_model_from_string(whole)
    node = next(n for n in model.graph.node if n.input[0] == change)
    node.input[0] = f"{change[:-1]}{int(change[-1]) ^ 1}"
    path.write_bytes(model.SerializeToString())
    rejected(path, "one after another", node.input[0])
  model = onnx.load_model_from_string(whole)
  model.graph.output[0].name = "/Relu_1"
  path.write_bytes(model.SerializeToString())
  rejected(path, "last layer's output")
  model = onnx.load_model_from_string(whole)
  tensor = model.graph.initializer[0]
  tensor.external_data.add(key="location", value="/etc/passwd")
  path.write_bytes(model.SerializeToString())
  rejected(path, "elsewhere", "w0")
  model = onnx.load_model_from_string(whole)
  half = onnx.numpy_helper.from_array(np.ones((2, 1, 3), np.float16), "w0")
  model.graph.initializer[0].CopyFrom(half)
  path.write_bytes(model.SerializeToString())
  rejected(path, "float32", "float16")
  del model.graph.initializer[0]
  path.write_bytes(model.SerializeToString())
  rejected(path, "initializers", "w0")

  monkeypatch.setitem(pytorch_file.LARGEST, "file", 1000)
  rejected(path, "at most 1,000 bytes")
  monkeypatch.setitem(sys.modules, "onnx", None)
  rejected(path, "pip install 'vicreg_jax[onnx]'")


def test_an_import_is_a_workdir_that_loads(tmp_path, encoder, expected):
  """Encoder, projector and the tags of a head: what the file has."""
  model = SimCLR(encoder)
  path = save(tmp_path / "clmr.ckpt", lightning(Module(encoder, model)))
  told = import_weights(path, str(tmp_path / "run"))
  assert "projector to 64" in told and "2,368,512 parameters" in told
  loaded = vicreg_jax.load(tmp_path / "run")
  same(jax.tree.map(np.asarray, loaded.variables), expected)
  x_T = np.random.default_rng(1).normal(size=59_049).astype("float32")
  with torch.no_grad():
    y_D = encoder(torch.from_numpy(x_T[None])).numpy()[0]
  for each in (loaded, vicreg_jax.load(path)):
    np.testing.assert_allclose(each.embed(x_T, 22_050), y_D, atol=1e-5)
  with pytest.raises(ValueError, match="is not empty"):
    import_weights(path, str(tmp_path / "run"))
  config = workdirs.load_config(str(tmp_path / "run"))
  assert config["model"]["projector"] == [512, 64]


def test_an_import_keeps_the_tags_of_a_whole_model(tmp_path):
  torch.manual_seed(1)
  encoder = Encoder(outputs=50).eval()
  to_onnx(tmp_path / "clmr.onnx", encoder, linear=encoder.fc)
  import_weights(str(tmp_path / "clmr.onnx"), str(tmp_path / "run"))
  x_T = np.random.default_rng(1).normal(size=59_049).astype("float32")
  with torch.no_grad():
    shares_K = torch.sigmoid(encoder(torch.from_numpy(x_T[None])))[0]
  found = vicreg_jax.load(tmp_path / "run").tags(x_T, 22_050)
  assert tuple(found) == clmr.TAGS
  np.testing.assert_allclose(list(found.values()), shares_K, atol=1e-5)


def test_of_an_import_no_training_and_no_scores_are_known(tmp_path, encoder):
  run, out = str(tmp_path / "run"), tmp_path / "export"
  import_weights(save(tmp_path / "a.pt", encoder.state_dict()), run)
  with pytest.raises(SystemExit) as end:
    command.main(["export", run, f"--output={out}", "--license=MIT"])
  assert end.value.code == 0
  card = json.loads((out / "model.json").read_text())
  assert card["training"] is card["scores"] is card["tags"] is None
