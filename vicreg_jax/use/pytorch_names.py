"""Converts a SampleCNN's variables to a PyTorch state_dict, and back.

The names are CLMR's, `sequential.{i}.0.weight` and so on, for encoders of any
size. Exports and CLMR's own files have these names.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.model import samplecnn

_LARGEST_WEIGHT = 1e6  # a training's weights stay below 10 or so
_SHOWN = 3  # names in an error
# Names of a convolution and its BatchNorm in PyTorch, and paths in Flax.
_LAYER = {
  "0.weight": ("params", "conv", "kernel"),
  "0.bias": ("params", "conv", "bias"),
  "1.weight": ("params", "bn", "scale"),
  "1.bias": ("params", "bn", "bias"),
  "1.running_mean": ("batch_stats", "bn", "mean"),
  "1.running_var": ("batch_stats", "bn", "var"),
}


def state_dict(encoder: Mapping) -> dict[str, np.ndarray]:
  """An encoder's variables as PyTorch has them, by CLMR's names.

  Args:
    encoder: {"params", "batch_stats"} of a SampleCNN of any variant and size.

  Returns:
    `sequential.{i}.0.{weight,bias}` (convolution, [out, in, width]) and
    `sequential.{i}.1.{weight,bias,running_mean,running_var}`, float32, and
    `num_batches_tracked`, int64, for each layer i from the stem on.
  """
  state = {}
  for name, (collection, module, leaf), axes in _places(_blocks(encoder)):
    x = np.asarray(encoder[collection][module][leaf], np.float32)
    state[name] = np.ascontiguousarray(x.transpose(axes))
    layer, _, last = name.rpartition(".")
    if last == "running_var":
      state[f"{layer}.num_batches_tracked"] = np.zeros((), np.int64)
  return state


def variables(state: Mapping[str, Any], encoder: samplecnn.SampleCNN) -> dict:
  """The encoder's variables from arrays with the names of `state_dict`.

  `num_batches_tracked` and names of other modules are ignored.

  Raises:
    ValueError: an array is missing or too many, has another shape or type, or
      holds values that no training gives.
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
      + some("; missing: ", [name for name in places if name not in found])
      + some("; unknown: ", [name for name in found if name not in places])
    )
  out = {"params": {}, "batch_stats": {}}
  for name, ((collection, module, leaf), axes) in places.items():
    shape = like[collection][module][leaf].shape
    x = array(state, name, tuple(shape[a] for a in axes))
    x = np.ascontiguousarray(x.transpose(np.argsort(axes)))
    out[collection].setdefault(module, {})[leaf] = x
  return out


@functools.cache
def _shapes(encoder: samplecnn.SampleCNN) -> dict:
  """Shapes of an encoder's variables. Takes half a second."""
  x_BxT = jnp.zeros((1, samplecnn.crop_for(encoder.blocks)))
  return jax.eval_shape(lambda: encoder.init(jax.random.key(0), x_BxT))


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


def some(title: str, names) -> str:
  """A title and the first of some names; "" if there are none."""
  more = ", ..." if len(names) > _SHOWN else ""
  return title + ", ".join(sorted(names)[:_SHOWN]) + more if names else ""


def array(state: Mapping, name: str, shape) -> np.ndarray:
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
  # NaN is not below the limit either. Files without checksums need this check.
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
