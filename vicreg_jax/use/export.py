"""Writes a frozen encoder as files for other programs, and reads these files.

An export is a directory with `model.json`, which describes the encoder, and
`encoder.safetensors` or `encoder.onnx`. The weights have CLMR's names: CLMR's
own class loads an export of variant "clmr" (its `fc` being an Identity) with
`load_state_dict(load_file(...), strict=True)`. The ONNX model maps `audio`
[batch, crop] to `embedding` [batch, size], both float32. The export has the
heads, too, in the files of `vicreg_jax.use.heads`.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np
import safetensors.numpy

from vicreg_jax import config_limits, files
from vicreg_jax.model import samplecnn, view_norm
from vicreg_jax.use import clmr_onnx, pytorch_names
from vicreg_jax.use import heads as heads_lib

CARD = "model.json"
WEIGHTS = {"safetensors": "encoder.safetensors", "onnx": "encoder.onnx"}
FORMAT_VERSION = 1
OPSET = 18

# Keys of a card, and their keys in a run's config.
_CONFIG = {
  "sample_rate": ("data", "sample_rate"),
  "crop": ("data", "crop"),
  "size": ("model", "representation_size"),
  "variant": ("model", "variant"),
  "width": ("model", "width"),
  "blocks": ("model", "blocks"),
}


def make_card(
  config: Mapping,
  *,
  name: str,
  licence: str,
  training: Mapping | None = None,
  tags: Sequence[str] | None = None,
  scores: Mapping | None = None,
) -> dict:
  """The content of `model.json`; `write` adds the file of weights.

  Args:
    config: `data` and `model` of the encoder's run.
    name: of the model.
    licence: of the weights, as an SPDX identifier for example.
    training: data and objective of the training: `training_of` the run.
    tags: names of the predicted labels.
    scores: `probe.json` of the run.
  """
  return {
    "name": name,
    **{key: config[a][b] for key, (a, b) in _CONFIG.items()},
    "tags": None if tags is None else list(tags),
    "training": training,
    "scores": scores,
    "licence": licence,
  }


def training_of(config: Mapping, steps: int) -> dict:
  """For a card: data set, objective and steps of the run with this config."""
  pretrained = config["job"] == "pretrain"
  return {
    "data": config["data"]["name"],
    "objective": config["loss"]["name"] if pretrained else "labels",
    "steps": steps,
  }


def write(
  variables: Mapping,
  card: Mapping,
  directory: str,
  format: str,
  heads: heads_lib.Heads | None = None,
) -> list[str]:
  """Exports an encoder, whole or not at all.

  Args:
    variables: {"params", "batch_stats"} of the encoder.
    card: of `make_card`.
    directory: a local path; an older export there is replaced.
    format: "safetensors" or "onnx".
    heads: of this encoder, to export as well.

  Returns:
    The names of its files.

  Raises:
    ValueError: the directory holds something else or cannot be written, the
      format is unknown, its package is missing, or the variables are not those
      of the card's encoder.
  """
  if format not in WEIGHTS:
    raise ValueError(f"format is {format!r}; use one of {', '.join(WEIGHTS)}")
  if files.is_bucket(directory):
    raise ValueError(f"{directory}: an export is written to a local directory")
  path = pathlib.Path(files.absolute(directory))
  _check_replaceable(path)
  encoder = _encoder(_config(card))
  state = pytorch_names.state_dict(variables)
  pytorch_names.variables(state, encoder)  # raises for another encoder
  if format == "onnx":
    content = _to_onnx(state, encoder, card).SerializeToString()
  else:
    content = safetensors.numpy.save(state)
  text = json.dumps(
    {
      **card,
      "weights": WEIGHTS[format],
      "sha256": hashlib.sha256(content).hexdigest(),
      "format_version": FORMAT_VERSION,
      "vicreg_jax": _version(),
    },
    indent=2,
  )
  contents = {WEIGHTS[format]: content, CARD: text.encode() + b"\n"}
  if heads:
    contents |= heads_lib.contents(heads)
  partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
  try:
    with files.explained(directory, "--output"):
      for name, content in contents.items():
        files.write(partial / name, content)
      _swap(partial, path)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return list(contents)


def read(directory: str) -> tuple[dict, dict, dict]:
  """The encoder of an export, bit for bit as it was written.

  Returns:
    The parts of a run's config that describe the encoder, as in
    `validate_encoder`, its variables {"params", "batch_stats"}, and its card.

  Raises:
    ValueError: a file is missing or damaged, or its package is missing.
  """
  path = files.absolute(directory)
  card = _read_card(path)
  weights = path / card["weights"]
  content = _content(weights)
  if hashlib.sha256(content).hexdigest() != card["sha256"]:
    raise ValueError(
      f"{weights}: damaged, its SHA-256 is not the one in {CARD}; copy or"
      " export it again"
    )
  try:
    config = _config(card)
    if weights.name == WEIGHTS["onnx"]:
      onnx = clmr_onnx.import_onnx()
      state = clmr_onnx.initializers(onnx.load_model_from_string(content))
    else:
      state = safetensors.numpy.load(content)
    return config, pytorch_names.variables(state, _encoder(config)), card
  except Exception as e:  # the packages have errors of their own
    raise ValueError(f"{directory}: {' '.join(str(e).split())}") from e


def _read_card(path) -> dict:
  content = _content(path / CARD)
  try:
    card = json.loads(content)
  except ValueError as e:
    raise ValueError(f"{path / CARD}: damaged ({e})") from e
  keys = ("format_version", "weights", "sha256", *_CONFIG)
  lacking = [k for k in keys if not isinstance(card, dict) or k not in card]
  if lacking:
    raise ValueError(
      f"{path / CARD}: not a model card of an export, it lacks"
      f" {', '.join(lacking)}"
    )
  if card["format_version"] != FORMAT_VERSION:
    raise ValueError(
      f"{path / CARD}: format_version is {card['format_version']!r}, this"
      f" version of vicreg_jax reads {FORMAT_VERSION}"
    )
  if card["weights"] not in WEIGHTS.values():
    raise ValueError(
      f"{path / CARD}: weights is {card['weights']!r}; expected one of"
      f" {', '.join(WEIGHTS.values())}"
    )
  return card


def _content(path) -> bytes:
  try:
    return files.read(path)
  except OSError as e:
    raise ValueError(f"{path}: cannot be read ({e.strerror or e})") from e


def _config(card) -> dict:
  """The parts of a run's config that describe an encoder, checked."""
  config = {"seed": 0, "dtype": "float32", "data": {}, "model": {}}
  for key, (section, name) in _CONFIG.items():
    config[section][name] = card[key]
  config_limits.validate_encoder(ml_collections.ConfigDict(config))
  return config


def _encoder(config) -> samplecnn.SampleCNN:
  variant = config["model"]["variant"]
  if variant == samplecnn.RESIDUAL:
    raise ValueError(
      f"model.variant is {variant!r}, and exports have CLMR's layers: use the"
      " workdir itself, or export an encoder of variant 'thesis' or 'clmr'"
    )
  return samplecnn.SampleCNN(**config["model"])


def _version():
  try:
    return importlib.metadata.version("vicreg_jax")
  except importlib.metadata.PackageNotFoundError:
    return None  # run from source, not installed


# ---- the directory


def _check_replaceable(path):
  """Raises ValueError if a directory holds anything but an export."""
  try:
    names = {child.name for child in path.iterdir()}
  except FileNotFoundError:
    return
  except OSError as e:
    raise ValueError(f"{path}: not a directory ({e.strerror or e})") from e
  if not names:
    return
  with contextlib.suppress(ValueError):
    of_heads = {heads_lib.ABOUT, heads_lib.PARAMETERS}
    if names - of_heads == {CARD, _read_card(path)["weights"]}:
      return
  raise ValueError(
    f"{path}: not empty, and not an export that could be replaced; choose"
    " another directory"
  )


def _swap(partial, path):
  """Renames a directory to `path`, in place of an older export."""
  if not path.exists():
    os.rename(partial, path)
    return
  old = path.with_name(f"{partial.name}.old")
  os.rename(path, old)
  try:
    os.rename(partial, path)
  except OSError:
    os.rename(old, path)
    raise
  shutil.rmtree(old, ignore_errors=True)


# ---- ONNX


def _to_onnx(state, encoder, card):
  """The model whose initializers are the arrays of a state_dict."""
  onnx = clmr_onnx.import_onnx()
  make, floats = onnx.helper, onnx.TensorProto.FLOAT
  arrays = {n: a for n, a in state.items() if not n.endswith("_tracked")}
  arrays |= {"channel": np.array([1]), "time": np.array([2])}  # axes
  nodes = [make.make_node("Unsqueeze", ["audio", "channel"], ["waveform"])]

  def add(op, inputs, layer, **attributes):
    """A node on the output of the one before it."""
    inputs, output = [*nodes[-1].output, *inputs], f"{layer}/{op}"
    nodes.append(make.make_node(op, inputs, [output], output, **attributes))

  last = encoder.blocks + 1
  for i in range(last + 1):
    layer = f"sequential.{i}"
    width = state[f"{layer}.0.weight"].shape[2]
    stride, pad = (view_norm.POOL, 0) if i == 0 else (1, width // 2)
    add(
      "Conv",
      [f"{layer}.0.weight", f"{layer}.0.bias"],
      layer,
      kernel_shape=[width],
      strides=[stride],
      pads=[pad, pad],
    )
    norm = ("weight", "bias", "running_mean", "running_var")
    add(
      "BatchNormalization",
      [f"{layer}.1.{name}" for name in norm],
      layer,
      epsilon=view_norm.PerViewNorm.epsilon,
    )
    add("Relu", [], layer)
    if 0 < i < last:
      pool = [view_norm.POOL]
      add("MaxPool", [], layer, kernel_shape=pool, strides=pool)
  inputs = [*nodes[-1].output, "time"]
  nodes.append(make.make_node("Squeeze", inputs, ["embedding"]))
  graph = make.make_graph(
    nodes,
    "encoder",
    [make.make_tensor_value_info("audio", floats, ["batch", card["crop"]])],
    [make.make_tensor_value_info("embedding", floats, ["batch", card["size"]])],
    [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items()],
  )
  model = make.make_model(
    graph,
    opset_imports=[make.make_opsetid("", OPSET)],
    ir_version=8,
    producer_name="vicreg_jax",
  )
  onnx.checker.check_model(model, full_check=True)
  return model
