"""Tensors of a file of PyTorch's, read without PyTorch.

No code of the file runs: a stand-in that does nothing replaces every name in
its pickle. A tensor is read when it becomes an array.
"""

import io
import math
import pickle
import pickletools
import zipfile
from typing import NamedTuple

import numpy as np

from vicreg_jax.use import pytorch_names

LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # torch.save before 1.6
# Bytes. CLMR's encoder has 9.5 MB, and its files have a few times as much.
LARGEST = {"file": 1 << 29, "pickle": 1 << 22, "storage": 1 << 26}


def read(archive: zipfile.ZipFile, root: str) -> tuple[dict, str, str | None]:
  """Tensors of a file by name, its kind, and the data set of its training.

  Args:
    archive: the file, a ZIP file.
    root: folder of data.pkl in it, with its slash.

  Raises:
    ValueError: the pickle is damaged, or holds no tensors by name.
  """
  content = member(archive, f"{root}data.pkl", "pickle")
  try:
    for op, arg, _ in pickletools.genops(content):
      # The unpickler would allocate this many entries.
      if op.name in ("PUT", "LONG_BINPUT") and arg > len(content):
        raise ValueError(f"a memo of {arg:,} objects")
    tree = _Unpickler(io.BytesIO(content)).load()
  except Exception as e:  # pickle does not document which
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
      + pytorch_names.some(" of ", [str(key) for key in top])
    )
  trained_on = _mapping(top.get("hyper_parameters")).get("dataset")
  kind = "Lightning checkpoint" if nested else "state_dict"
  return state, kind, trained_on


def member(archive, name, kind) -> bytes:
  """A file in a ZIP; it may not be larger than expected of its kind."""
  try:
    info = archive.getinfo(name)
  except KeyError as e:
    raise ValueError(f"{name} is missing in the file") from e
  if info.file_size > LARGEST[kind]:
    raise ValueError(
      f"expected {name} to have at most {LARGEST[kind]:,} bytes, found"
      f" {info.file_size:,}"
    )
  # Other decompressors of zipfile's take no bound.
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f"expected {name} stored or deflated in the ZIP file")
  with archive.open(info) as f:
    # Bounded by the declared size, even if the data decompress to more; zipfile
    # checks the CRC at the end.
    content = f.read(info.file_size + 1)
  if len(content) != info.file_size:
    raise ValueError(f"{name} has {len(content)} of {info.file_size} bytes")
  return content


class _Stub:
  """Stands for any name in a pickle, and keeps its arguments."""

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
  """Makes stubs of all names that are not built into pickle."""

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
    content = member(self.archive, name, "storage")
    order = "<"
    if f"{self.root}byteorder" in self.archive.namelist():
      big = member(self.archive, f"{self.root}byteorder", "pickle") == b"big"
      order = ">" if big else "<"
    x = np.frombuffer(content, f"{order}f4", len(content) // 4)
    if 4 * math.prod(self.shape) > LARGEST["storage"]:  # by strides of 0
      raise ValueError(
        f"expected tensors of at most {LARGEST['storage']:,} bytes, found one"
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


def _mapping(value) -> dict:
  """Items of a dict or of its stub, or a stub's attributes."""
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
