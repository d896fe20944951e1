"""The weights of SampleCNN in an ONNX file, such as that of CLMR's web demo."""

import collections
import re

import numpy as np

from vicreg_jax.model import view_norm
from vicreg_jax.use import pytorch_file, pytorch_names

# Operators that exporters write between the layers.
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
    ValueError: an array lies in another file, which the model would name.
  """
  helper = import_onnx().numpy_helper
  external = [t.name for t in model.graph.initializer if t.external_data]
  if external:
    raise ValueError(
      "expected all weights in the ONNX file"
      + pytorch_names.some(", found elsewhere: ", external)
    )
  return {t.name: helper.to_array(t) for t in model.graph.initializer}


def read(f) -> dict[str, np.ndarray]:
  """A state_dict of the layers of CLMR's encoder in an open ONNX file.

  Raises:
    ValueError: the model has other layers, or another order of layers.
  """
  onnx = import_onnx()
  largest = pytorch_file.LARGEST["file"]
  content = f.read(largest + 1)
  if len(content) > largest:
    raise ValueError(f"expected at most {largest:,} bytes of ONNX, found more")
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
  return state


def _check_order(graph):
  """Raises ValueError unless each layer takes the output of the one before it.

  `onnx.checker` also refuses files for reasons that do not matter here.
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
  """A convolution, and a BatchNorm that does not change its output."""
  zeros = np.zeros(len(kernel), np.float32)
  # Exporters fold BatchNorm into convolutions, and leave no other BatchNorm.
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
  """Raises ValueError unless a node of layer i has CLMR's attributes."""
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
