"""CLMR's weights, read from its released files.

CLMR (Spijkervet and Burgoyne, 2021) is SampleCNN(variant="clmr") on 59,049
samples at 22,050 Hz. PyTorch, Lightning and PyTorch's ONNX exporter wrote its
files; this module reads them without these packages. Only the tensors of the
networks are read, after a check of their shapes.
"""

import io
import os
import re
import stat
import zipfile
from typing import NamedTuple

from vicreg_jax.model import samplecnn
from vicreg_jax.use import clmr_onnx, pytorch_file, pytorch_names

ENCODER = samplecnn.SampleCNN(variant="clmr")
# The tags of CLMR's heads of 50 outputs, in the order of its MagnaTagATune.
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
# Labels of CLMR's data sets, by name.
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
_SEVERAL = (None, "magnatagatune", "msd")  # sets with several labels a clip

_WEIGHTS = (".pt", ".pth", ".ckpt", ".onnx")
SUFFIXES = (*_WEIGHTS, ".zip")
_CONV = re.compile(r"^conv(\d{1,2})\.")  # layers of release 1, from 1 on


class Weights(NamedTuple):
  """The content of a file of CLMR's. Arrays are float32; missing ones are None.

  Attributes:
    encoder: {"params", "batch_stats"} of `ENCODER`.
    projector: parameters of `samplecnn.Projector((512, P), batch_norm=False)`.
    head: parameters of `samplecnn.Head(K, hidden)`, `hidden` 0 or 512.
    tags: the K names that the head predicts, if known.
    single: a clip has one of the labels: CLMR evaluates the head's data set by
      softmax.
    source: the kind of file, in words.
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
    ValueError: the file is none of these; expected and found are named.
  """
  try:
    if stat.S_ISFIFO(os.stat(path).st_mode):
      raise ValueError("a pipe, which cannot be read twice")
    with open(path, "rb") as f:
      return _read(f, str(path))
  except OSError as e:
    raise ValueError(f"{path}: cannot be read ({e.strerror or e})") from e
  except Exception as e:  # a damaged file may raise anything
    text = " ".join(str(e).split())[:500]
    if type(e) is not ValueError:
      text = f"damaged, or no file of CLMR's ({type(e).__name__}: {text})"
    raise ValueError(f"{path}: {text}") from e


def _read(f, path, nested=False):
  """Weights in an open file, which may itself come from a ZIP file."""
  start = f.read(len(pytorch_file.LEGACY))
  f.seek(0)
  if start == pytorch_file.LEGACY:
    raise ValueError(
      "expected PyTorch's format since version 1.6, found the one before it;"
      " load and save it once with PyTorch"
    )
  if path.lower().endswith(".onnx"):
    return _weights(clmr_onnx.read(f), "ONNX", None)
  if not zipfile.is_zipfile(f):
    raise ValueError(
      "expected a file of PyTorch's, an .onnx or a .zip, found none of them,"
      " or a file that has lost its end"
    )
  with zipfile.ZipFile(f) as archive:
    names = archive.namelist()
    records = [n for n in names if re.fullmatch(r"([^/]+/)?data\.pkl", n)]
    if records:
      root = records[0].removesuffix("data.pkl")
      return _weights(*pytorch_file.read(archive, root))
    # A Mac adds files that are named like the others.
    files = [
      n for n in names if n.lower().endswith(_WEIGHTS) and "__MACOSX" not in n
    ]
    if len(files) != 1 or nested:
      raise ValueError(
        f"expected one file in the ZIP that ends in {', '.join(_WEIGHTS)}, or"
        f" PyTorch's data.pkl, found {len(files)} among {len(names)}"
        + pytorch_names.some(": ", files or names)
      )
    content = io.BytesIO(pytorch_file.member(archive, files[0], "file"))
    return _read(content, files[0], nested=True)


def _as_sequential(match):
  return f"sequential.{int(match[1]) - 1}."


def _weights(state, kind, trained_on) -> Weights:
  """The weights in a state_dict of one of CLMR's modules."""
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
      + pytorch_names.some(": ", shown)
    )
  labels = _LABELS.get(trained_on or "magnatagatune", ())
  known = head and len(head["out"]["bias"]) == len(labels)
  return Weights(
    pytorch_names.variables(encoder, ENCODER) if has_encoder else None,
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
          "kernel": pytorch_names.array(
            state, f"{prefix}{i}.weight", shape
          ).T.copy()
        }
        for i, shape in shapes.items()
      }
  return None


def _head(state, encoder):
  """Parameters of a head, and its kind in words."""
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
  weight = pytorch_names.array(
    state, f"{name}.weight", (outputs, ENCODER.representation_size)
  )
  bias = pytorch_names.array(state, f"{name}.bias", weight.shape[:1])
  return {"kernel": weight.T.copy(), "bias": bias}
