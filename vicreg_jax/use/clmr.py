"""CLMR's weights: read from the files it released, and named as it names them.

CLMR (Spijkervet and Burgoyne, 2021) is SampleCNN(variant="clmr") on 59,049
samples at 22,050 Hz. Its files were written by PyTorch, Lightning and PyTorch's
ONNX exporter. They are read here without any of these, and nothing in them is
run: what a pickle names is replaced by a stand-in that does nothing. Of the
tensors only those that are wanted are read, after their shapes were looked at.
"""

import collections
import functools
import io
import math
import os
import pickle
import pickletools
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.model import samplecnn, view_norm

ENCODER = samplecnn.SampleCNN(variant="clmr")
# What CLMR's heads of 50 outputs predict: the order of its MagnaTagATune.
# fmt: off
TAGS = (
  "guitar", "classical", "slow", "techno", "strings", "drums", "electronic",
  "rock", "fast", "piano", "ambient", "beat", "violin", "vocal", "synth",
  "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
  "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal",
  "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice",
  "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
  "no voice", "weird", "country", "metal", "female voice", "choral",
)
# fmt: on
# Of a data set of CLMR's by its name.
_LABELS = {
  "magnatagatune": TAGS,
  "gtzan": (
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
  ),
}  # fmt: skip
_SEVERAL = (None, "magnatagatune", "msd")  # labels a clip; the others have one

# Bytes. CLMR's encoder has 9.5 MB, its files a few times as much.
_LARGEST = {"file": 1 << 29, "pickle": 1 << 22, "storage": 1 << 26}
_LARGEST_WEIGHT = 1e6  # of any kind; those of a training are a few at most
_WEIGHTS = (".pt", ".pth", ".ckpt", ".onnx")
SUFFIXES = (*_WEIGHTS, ".zip")
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # torch.save before 1.6
_SHOWN = 3  # names in an error
_CONV = re.compile(r"^conv(\d{1,2})\.")  # layers of release 1, from 1 on
# A convolution and its BatchNorm in PyTorch, and where Flax keeps them.
_LAYER = {
  "0.weight": ("params", "conv", "kernel"),
  "0.bias": ("params", "conv", "bias"),
  "1.weight": ("params", "bn", "scale"),
  "1.bias": ("params", "bn", "bias"),
  "1.running_mean": ("batch_stats", "bn", "mean"),
  "1.running_var": ("batch_stats", "bn", "var"),
}


class Weights(NamedTuple):
  """What a file of CLMR's holds; all arrays are float32, None is not there.

  Attributes:
    encoder: {"params", "batch_stats"} of `ENCODER`.
    projector: parameters of `samplecnn.Projector((512, P), batch_norm=False)`.
    head: parameters of `samplecnn.Head(K, hidden)`, `hidden` 0 or 512.
    tags: the K names that the head predicts, where they are known.
    single: a clip has one of the labels: the head is of a data set that CLMR
      evaluates by softmax.
    source: which kind of file it is, in words.
  """

  encoder: dict | None
  projector: dict | None
  head: dict | None
  tags: tuple[str, ...] | None
  single: bool
  source: str


def read(path: str) -> Weights:
  """Reads a file of CLMR's weights.

  Args:
    path: a local file of PyTorch's (a Lightning checkpoint or a state_dict, of
      the encoder, of encoder and projector, or of a head: `.pt`, `.ckpt`), an
      `.onnx`, or a `.zip` with one of these in it.

  Raises:
    ValueError: it is none of these; expected and found are named.
  """
  try:
    if stat.S_ISFIFO(os.stat(path).st_mode):
      raise ValueError("a pipe, which cannot be read twice")
    with open(path, "rb") as f:
      return _read(f, str(path))
  except OSError as e:
    raise ValueError(f"{path}: cannot be read ({e.strerror or e})") from e
  except Exception as e:  # what a damaged file raises is anybody's guess
    text = " ".join(str(e).split())[:500]
    if type(e) is not ValueError:
      text = f"damaged, or no file of CLMR's ({type(e).__name__}: {text})"
    raise ValueError(f"{path}: {text}") from e


def state_dict(
  encoder: Mapping, projector: Mapping | None = None
) -> dict[str, np.ndarray]:
  """An encoder's variables as PyTorch has them, by CLMR's names.

  Args:
    encoder: {"params", "batch_stats"} of a SampleCNN of any variant and size.
    projector: parameters of a Projector without BatchNorm.

  Returns:
    `sequential.{i}.0.{weight,bias}` (convolution, [out, in, width]) and
    `sequential.{i}.1.{weight,bias,running_mean,running_var}`, float32, and
    `num_batches_tracked`, int64, for each layer i from the stem on. With a
    projector, its `projector.{0,2}.weight` too, and "encoder." before the
    encoder's names.
  """
  state = {}
  for name, (collection, module, leaf), axes in _places(_blocks(encoder)):
    array = np.asarray(encoder[collection][module][leaf], np.float32)
    state[name] = np.ascontiguousarray(array.transpose(axes))
    layer, _, last = name.rpartition(".")
    if last == "running_var":
      state[f"{layer}.num_batches_tracked"] = np.zeros((), np.int64)
  if projector is None:
    return state
  state = {f"encoder.{name}": array for name, array in state.items()}
  for i in range(len(projector)):
    kernel = np.asarray(projector[f"dense{i}"]["kernel"], np.float32)
    state[f"projector.{2 * i}.weight"] = np.ascontiguousarray(kernel.T)
  return state


def variables(state: Mapping[str, Any], encoder: samplecnn.SampleCNN) -> dict:
  """The encoder's variables from arrays with the names of `state_dict`.

  `num_batches_tracked` and names of other modules are not looked at.

  Raises:
    ValueError: an array is missing or too many, has another shape or type, or
      holds what no training leaves there.
  """
  like = _shapes(encoder)
  places = {name: rest for name, *rest in _places(encoder.blocks)}
  found = {
    name
    for name in state
    if name.startswith("sequential.") and not name.endswith("_tracked")
  }
  if found != set(places):
    raise ValueError(
      f"expected the {len(places)} arrays of a SampleCNN with"
      f" {encoder.blocks} blocks, found {len(found)}"
      + _some("; missing: ", [name for name in places if name not in found])
      + _some("; unknown: ", [name for name in found if name not in places])
    )
  out = {"params": {}, "batch_stats": {}}
  for name, ((collection, module, leaf), axes) in places.items():
    shape = like[collection][module][leaf].shape
    array = _array(state, name, tuple(shape[a] for a in axes))
    array = np.ascontiguousarray(array.transpose(np.argsort(axes)))
    out[collection].setdefault(module, {})[leaf] = array
  return out


@functools.cache
def _shapes(encoder: samplecnn.SampleCNN) -> dict:
  """Shapes of an encoder's variables; they take half a second."""
  x_BxT = jnp.zeros((1, samplecnn.crop_for(encoder.blocks)))
  return jax.eval_shape(lambda: encoder.init(jax.random.key(0), x_BxT))


def import_onnx():
  """The package `onnx`. Raises ValueError if it is not installed."""
  try:
    import onnx
    import onnx.checker
    import onnx.numpy_helper
  except ImportError as e:
    raise ValueError(
      f"ONNX needs the package onnx ({e}): pip install 'vicreg_jax[onnx]'"
    ) from e
  return onnx


def initializers(model) -> dict[str, np.ndarray]:
  """Arrays of an ONNX model, by name.

  Raises:
    ValueError: one lies in another file, whose name would be the model's to
      choose.
  """
  helper = import_onnx().numpy_helper
  external = [t.name for t in model.graph.initializer if t.external_data]
  if external:
    raise ValueError(
      "expected all weights in the ONNX file"
      + _some(", found elsewhere: ", external)
    )
  return {t.name: helper.to_array(t) for t in model.graph.initializer}


def _blocks(encoder):
  return sum(k.endswith("_conv") for k in encoder["params"]) - 2


def _places(blocks) -> Iterator[tuple]:
  """(name in PyTorch, path in Flax, Flax's axes as PyTorch orders them)."""
  layers = ("stem", *(f"block{i}" for i in range(blocks)), "last")
  for i, layer in enumerate(layers):
    for name, (collection, kind, leaf) in _LAYER.items():
      axes = (0,)
      if leaf == "kernel":  # the stem's is [1, width, out]
        axes = (2, 0, 1) if layer == "stem" else (2, 1, 0)
      yield (
        f"sequential.{i}.{name}",
        (collection, f"{layer}_{kind}", leaf),
        axes,
      )


def _some(title, names):
  more = ", ..." if len(names) > _SHOWN else ""
  return title + ", ".join(sorted(names)[:_SHOWN]) + more if names else ""


def _array(state, name, shape):
  """A float32 array of a state_dict; None in `shape` is any length."""
  if name not in state:
    raise ValueError(f"expected {name}, which is missing")
  x = state[name]
  fits = len(x.shape) == len(shape) and all(
    b in (a, None) for a, b in zip(x.shape, shape)
  )
  if not fits or x.dtype != "float32":
    raise ValueError(
      f"expected {name} as float32"
      f" {list('any' if n is None else n for n in shape)}, found {x.dtype}"
      f" {list(x.shape)}"
    )
  x = np.asarray(x)
  # NaN is not below it either. Without a checksum this is all that tells.
  if x.size and not np.abs(x).max() < _LARGEST_WEIGHT:
    raise ValueError(
      f"expected numbers below {_LARGEST_WEIGHT:g} in {name}, found"
      f" {x.flat[np.argmax(np.abs(x))]:g}: the file is damaged, or its training"
      " has failed"
    )
  if name.endswith("running_var") and x.min() < 0:
    raise ValueError(
      f"expected no negative variance in {name}, found {x.min():g}: the file is"
      " damaged"
    )
  return x


# ---- which file it is


def _read(f, path, nested=False):
  """Weights in an open file, which may itself come from a ZIP file."""
  start = f.read(len(_LEGACY))
  f.seek(0)
  if start == _LEGACY:
    raise ValueError(
      "expected PyTorch's format since version 1.6, found the one before it;"
      " load and save it once with PyTorch"
    )
  if path.lower().endswith(".onnx"):
    return _read_onnx(f)
  if not zipfile.is_zipfile(f):
    raise ValueError(
      "expected a file of PyTorch's, an .onnx or a .zip, found none of them,"
      " or a file that has lost its end"
    )
  with zipfile.ZipFile(f) as archive:
    names = archive.namelist()
    records = [n for n in names if re.fullmatch(r"([^/]+/)?data\.pkl", n)]
    if records:
      return _read_pytorch(archive, records[0].removesuffix("data.pkl"))
    # A Mac adds files that are named like the others.
    files = [
      n for n in names if n.lower().endswith(_WEIGHTS) and "__MACOSX" not in n
    ]
    if len(files) != 1 or nested:
      raise ValueError(
        f"expected one file in the ZIP that ends in {', '.join(_WEIGHTS)}, or"
        f" PyTorch's data.pkl, found {len(files)} among {len(names)}"
        + _some(": ", files or names)
      )
    content = io.BytesIO(_member(archive, files[0], "file"))
    return _read(content, files[0], nested=True)


def _member(archive, name, kind) -> bytes:
  """A file in a ZIP, which may be no larger than its kind is expected."""
  try:
    info = archive.getinfo(name)
  except KeyError as e:
    raise ValueError(f"{name} is missing in the file") from e
  if info.file_size > _LARGEST[kind]:
    raise ValueError(
      f"expected {name} to have at most {_LARGEST[kind]:,} bytes, found"
      f" {info.file_size:,}"
    )
  # Other decompressors of zipfile's take no bound.
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f"expected {name} stored or deflated in the ZIP file")
  with archive.open(info) as f:
    # Bounded by what was declared, even if more would come of it; zipfile
    # checks the CRC at the end.
    content = f.read(info.file_size + 1)
  if len(content) != info.file_size:
    raise ValueError(f"{name} has {len(content)} of {info.file_size} bytes")
  return content


# ---- PyTorch's files


class _Stub:
  """Stands for whatever a pickle names. It keeps what it is given."""

  origin = ""

  def __new__(cls, *args, **kwargs):
    stub = super().__new__(cls)
    stub.args, stub.items, stub.state = args, {}, None
    return stub

  def __call__(self, *args, **kwargs):
    return _Stub()

  def __setitem__(self, key, value):
    self.items[key] = value

  def __setstate__(self, state):
    self.state = state

  def append(self, value):
    pass

  def extend(self, values):
    pass


class _Unpickler(pickle.Unpickler):
  """Makes stubs of all that is not built into pickles themselves."""

  def find_class(self, module, name):
    return type("_Stub", (_Stub,), {"origin": f"{module}.{name}"})

  def persistent_load(self, pid):
    return pid


class _Tensor(NamedTuple):
  """A tensor in PyTorch's file, read when it becomes an array."""

  archive: zipfile.ZipFile
  root: str
  key: str
  dtype: str
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  offset: int

  def __array__(self, dtype=None, copy=None):
    name = f"{self.root}data/{self.key}"
    content = _member(self.archive, name, "storage")
    order = "<"
    if f"{self.root}byteorder" in self.archive.namelist():
      big = _member(self.archive, f"{self.root}byteorder", "pickle") == b"big"
      order = ">" if big else "<"
    x = np.frombuffer(content, f"{order}f4", len(content) // 4)
    if 4 * math.prod(self.shape) > _LARGEST["storage"]:  # by strides of 0
      raise ValueError(
        f"expected tensors of at most {_LARGEST['storage']:,} bytes, found one"
        f" of shape {list(self.shape)}"
      )
    last = self.offset + sum(
      (n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)
    )
    if min(self.offset, *self.strides) < 0 or last >= len(x):
      raise ValueError(
        f"expected at least {last + 1} numbers in {name}, found {len(x)}"
      )
    x = np.lib.stride_tricks.as_strided(
      x[self.offset :], self.shape, [4 * s for s in self.strides]
    )
    return x.astype(np.float32, order="C")


def _read_pytorch(archive, root):
  content = _member(archive, f"{root}data.pkl", "pickle")
  try:
    for op, arg, _ in pickletools.genops(content):
      # The unpickler would make room for so many.
      if op.name in ("PUT", "LONG_BINPUT") and arg > len(content):
        raise ValueError(f"a memo of {arg:,} objects")
    tree = _Unpickler(io.BytesIO(content)).load()
  except Exception as e:  # the module's documentation does not say which
    raise ValueError(f"{root}data.pkl is damaged ({e})") from e
  top = _mapping(tree)
  nested = "state_dict" in top
  state = {
    name: tensor
    for name, value in _mapping(top["state_dict"] if nested else top).items()
    if isinstance(name, str) and (tensor := _tensor(value, archive, root))
  }
  if not state:
    kind = getattr(tree, "origin", "") or type(tree).__name__
    raise ValueError(
      f"expected a state_dict of CLMR's, found no tensors in its {kind}"
      + _some(" of ", [str(key) for key in top])
    )
  trained_on = _mapping(top.get("hyper_parameters")).get("dataset")
  kind = "Lightning checkpoint" if nested else "state_dict"
  return _weights(state, kind, trained_on)


def _mapping(value) -> dict:
  """Items of a dict or of what stands for one, or attributes."""
  if isinstance(value, _Stub):
    state = value.state if isinstance(value.state, dict) else {}
    return state | value.items
  return value if isinstance(value, dict) else {}


def _tensor(value, archive, root) -> _Tensor | None:
  """The tensor that a stub stands for."""
  while _origin(value) == "torch._utils._rebuild_parameter":
    value = value.args[0]
  if _origin(value) != "torch._utils._rebuild_tensor_v2":
    return None
  (_, kind, key, *_), offset, shape, strides, *_ = value.args
  dtype = kind.origin.rpartition(".")[2].removesuffix("Storage").lower()
  dtype = {"float": "float32"}.get(dtype, dtype)
  return _Tensor(archive, root, key, dtype, shape, strides, offset)


def _origin(value):
  return value.origin if isinstance(value, _Stub) else ""


def _as_sequential(match):
  return f"sequential.{int(match[1]) - 1}."


def _weights(state, kind, trained_on) -> Weights:
  """What a state_dict of one of CLMR's modules holds."""
  encoder = {}
  for prefix in ("model.encoder.", "encoder.", ""):
    encoder = encoder or {
      _CONV.sub(_as_sequential, name.removeprefix(prefix)): tensor
      for name, tensor in state.items()
      if re.match(rf"{re.escape(prefix)}(sequential|conv\d+|fc)\.", name)
    }
  if any(re.search(r"\bconv1\.", name) for name in state):
    kind += " of release 1"
  projector = _projector(state)
  head, part = _head(state, encoder)
  has_encoder = any(name.startswith("sequential.") for name in encoder)
  if not (has_encoder or head):
    shown = [f"{n} {list(t.shape)}" for n, t in state.items()]
    raise ValueError(
      "expected tensors encoder.sequential.0.0.weight [128, 1, 3] and so on,"
      f" or a head's 0.weight [50, 512], found {len(state)} others"
      + _some(": ", shown)
    )
  labels = _LABELS.get(trained_on or "magnatagatune", ())
  known = head and len(head["out"]["bias"]) == len(labels)
  return Weights(
    variables(encoder, ENCODER) if has_encoder else None,
    projector,
    head,
    labels if known else None,
    bool(head) and trained_on not in _SEVERAL,
    f"CLMR, {kind}{part}",
  )


def _projector(state):
  size = ENCODER.representation_size
  for prefix in ("model.projector.", "projector."):
    if f"{prefix}0.weight" in state:
      shapes = {0: (size, size), 2: (None, size)}
      return {
        f"dense{i // 2}": {
          "kernel": _array(state, f"{prefix}{i}.weight", shape).T.copy()
        }
        for i, shape in shapes.items()
      }
  return None


def _head(state, encoder):
  """Parameters of a head, and in words whose it is."""
  size = ENCODER.representation_size
  for prefix in ("model.", ""):
    if f"{prefix}2.weight" in state:
      return {
        "hidden": _dense(state, f"{prefix}0", size),
        "out": _dense(state, f"{prefix}2", None),
      }, " of a fine-tuner"
    if f"{prefix}0.weight" in state:
      return {"out": _dense(state, f"{prefix}0", None)}, " of a fine-tuner"
  if "fc.weight" in encoder:
    return {"out": _dense(encoder, "fc", None)}, " with its last layer"
  return None, ""


def _dense(state, name, outputs):
  weight = _array(
    state, f"{name}.weight", (outputs, ENCODER.representation_size)
  )
  bias = _array(state, f"{name}.bias", weight.shape[:1])
  return {"kernel": weight.T.copy(), "bias": bias}


# ---- ONNX

# What an exporter writes between the layers.
_SHAPING = (
  "Cast", "Concat", "Constant", "Flatten", "Gather", "Identity", "Mul",
  "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze",
)  # fmt: skip
_LAYER_OPS = "Conv( BatchNormalization)? Relu"
_OPS = f"{_LAYER_OPS}( {_LAYER_OPS} MaxPool){{9}} {_LAYER_OPS}( Gemm)?"
_DEFAULTS = dict(
  strides=[1],
  pads=[0, 0],
  dilations=[1],
  group=1,
  epsilon=1e-5,
  alpha=1.0,
  beta=1.0,
)


def _read_onnx(f):
  onnx = import_onnx()
  content = f.read(_LARGEST["file"] + 1)
  if len(content) > _LARGEST["file"]:
    raise ValueError(
      f"expected at most {_LARGEST['file']:,} bytes of ONNX, found more"
    )
  model = onnx.load_model_from_string(content)
  nodes = [n for n in model.graph.node if n.op_type not in _SHAPING]
  ops = [n.op_type for n in nodes]
  if not re.fullmatch(_OPS, " ".join(ops)):
    counts = [f"{n} {op}" for op, n in collections.Counter(ops).items()]
    raise ValueError(
      "expected the layers of CLMR's encoder, 11 Conv and Relu with 9 MaxPool"
      f" between them, found {', '.join(counts[:8]) or 'none'}"
    )
  arrays, state, i = initializers(model), {}, -1
  _check_order(model.graph)
  for node in nodes:
    inputs = [arrays.get(name) for name in node.input[1:]]
    if any(array is None for array in inputs):
      raise ValueError(
        f"expected the weights of {node.op_type} {node.name} among the model's"
        f" initializers, found {', '.join(node.input[1:])} elsewhere"
      )
    if node.op_type == "Conv":
      i += 1
      state |= _conv(f"sequential.{i}", *inputs)
    elif node.op_type == "BatchNormalization":
      names = ("weight", "bias", "running_mean", "running_var")
      state |= {f"sequential.{i}.1.{n}": a for n, a in zip(names, inputs)}
    elif node.op_type == "Gemm":
      state |= {"fc.weight": inputs[0], "fc.bias": inputs[1]}
    _check_attributes(onnx, node, i)
  return _weights(state, "ONNX", None)


def _check_order(graph):
  """Raises ValueError unless each layer takes what the one before it gives.

  `onnx.checker` would, and refuse files over what does not matter here.
  """
  layers, after = 0, {value.name: 0 for value in graph.input}
  for node in graph.node:
    if node.op_type in _SHAPING:
      made = max((after.get(name, 0) for name in node.input), default=0)
    elif after.get(node.input[0]) == layers:
      layers = made = layers + 1
    else:
      raise ValueError(
        f"expected layers one after another, found {node.op_type}"
        f" {node.name} of {node.input[0]}"
      )
    after |= dict.fromkeys(node.output, made)
  if all(after.get(value.name) != layers for value in graph.output):
    raise ValueError("expected the last layer's output to be the model's")


def _conv(layer, kernel, bias=None):
  """A convolution, and a BatchNorm that leaves as it is what comes of it."""
  zeros = np.zeros(len(kernel), np.float32)
  # Exporters fold BatchNorm into convolutions: then that is all there is.
  # var + eps is 1 to the bit, and so is the factor 1 / sqrt(var + eps).
  var = np.float32(1) - np.float32(view_norm.PerViewNorm.epsilon)
  return {
    f"{layer}.0.weight": kernel,
    f"{layer}.0.bias": zeros if bias is None else bias,
    f"{layer}.1.weight": zeros + 1,
    f"{layer}.1.bias": zeros,
    f"{layer}.1.running_mean": zeros,
    f"{layer}.1.running_var": zeros + var,
  }


def _check_attributes(onnx, node, i):
  """Raises ValueError unless a node of layer i does what CLMR's does."""
  found = _DEFAULTS | {
    a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
  }
  expected = {
    "Conv": dict(strides=[1], pads=[1, 1], dilations=[1], group=1),
    "MaxPool": dict(strides=[3], pads=[0, 0], kernel_shape=[3]),
    "BatchNormalization": dict(epsilon=view_norm.PerViewNorm.epsilon),
    "Gemm": dict(alpha=1.0, beta=1.0, transB=1),
    "Relu": {},
  }[node.op_type]
  if node.op_type == "Conv" and i == 0:
    expected |= dict(strides=[3], pads=[0, 0])
  for name, value in expected.items():
    if not np.array_equal(np.float32(found.get(name, 0)), np.float32(value)):
      raise ValueError(
        f"expected {name}={value} of {node.op_type} {i + 1}, found"
        f" {found.get(name)}"
      )
