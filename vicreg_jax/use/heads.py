"""Heads that a probe, or a training with labels, has left in its workdir.

    heads.json   names of the labels, and the encoder of the heads
    heads.npz    parameters of the heads

Both lie beside `probe.json`, or beside the weights in an export. A head gives a
label's probability for a segment. The probability for a recording is the mean
over its segments, as in the scores.
"""

import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from vicreg_jax import files
from vicreg_jax.model import samplecnn

ABOUT, PARAMETERS = "heads.json", "heads.npz"


class Heads(NamedTuple):
  """Heads over the representations of one encoder.

  Attributes:
    labels: K names, in the order of the outputs.
    single: a clip has one label: the probabilities add up to 1.
    encoder: fingerprint of the encoder's weights.
    step: of the encoder's checkpoint.
    params: {name of a head: its parameters, of `samplecnn.Head`}; the head with
      the lowest validation loss is the first.
  """

  labels: tuple[str, ...]
  single: bool
  encoder: str
  step: int
  params: Mapping[str, Any]

  def probabilities(self, y_SxD: np.ndarray, head: str = "") -> np.ndarray:
    """The mean [K] of `of_each` over segments."""
    return self.of_each(y_SxD, head).mean(0)

  def of_each(self, y_SxD: np.ndarray, head: str = "") -> np.ndarray:
    """Probabilities [S, K], by the named head or else the best.

    Raises:
      ValueError: there is no such head.
    """
    head = head or next(iter(self.params))
    if head not in self.params:
      raise ValueError(
        f"there is no head {head!r}; use one of {', '.join(self.params)}"
      )
    params = self.params[head]
    hidden = params["hidden"]["kernel"].shape[1] if "hidden" in params else 0
    module = samplecnn.Head(len(self.labels), hidden)
    logits_SxK = module.apply({"params": params}, y_SxD)
    activation = jax.nn.softmax if self.single else jax.nn.sigmoid
    return np.asarray(activation(logits_SxK))


def contents(heads: Heads) -> dict[str, bytes]:
  """{name: content} of the files, in the order in which to write them."""
  content = io.BytesIO()
  flat = flax.traverse_util.flatten_dict(dict(heads.params), sep="/")
  np.savez(content, **{k: np.asarray(v) for k, v in flat.items()})
  about = heads._replace(params=list(heads.params))._asdict()
  return {
    PARAMETERS: content.getvalue(),
    ABOUT: json.dumps(about, indent=2).encode() + b"\n",
  }


def save(heads: Heads, workdir: str):
  """Writes heads. Raises ValueError if the disk refuses."""
  for name, content in contents(heads).items():
    with files.explained(f"{workdir}/{name}"):
      files.write(f"{workdir}/{name}", content)


def load(workdir: str) -> Heads | None:
  """The heads of a workdir or an export; None if there are none.

  Raises:
    ValueError: the heads are damaged.
  """
  path = f"{workdir}/{ABOUT}"
  try:
    if not files.exists(path):
      return None
    about = json.loads(files.read(path))
    with np.load(io.BytesIO(files.read(f"{workdir}/{PARAMETERS}"))) as arrays:
      params = flax.traverse_util.unflatten_dict(dict(arrays), sep="/")
    heads = Heads(
      labels=tuple(about["labels"]),
      single=about["single"],
      encoder=about["encoder"],
      step=about["step"],
      params={name: params[name] for name in about["params"]},
    )
    if not heads.params:
      raise ValueError("it names no heads")
    for name, head in heads.params.items():
      outputs = head["out"]["kernel"].shape[1]
      if outputs != len(heads.labels):
        raise ValueError(
          f"{name} has {outputs} outputs for {len(heads.labels)} labels"
        )
    return heads
  except Exception as e:  # NumPy has errors of several kinds
    raise ValueError(
      f"{path}: damaged ({' '.join(str(e).split())[:200]}); probe or"
      " export again"
    ) from e
