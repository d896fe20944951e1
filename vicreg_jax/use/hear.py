"""The API of HEAR, the benchmark of audio representations, over an encoder.

    hear-validator vicreg_jax.use.hear -m runs/mine

The functions are those of https://hearbenchmark.com/hear-api.html. HEAR asks
for a model of TensorFlow or PyTorch, so a model is a `tf.Module`; the encoder
inside runs in JAX.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import waveform

if TYPE_CHECKING:
  import tensorflow as tf

HOP_SECONDS = 0.05  # of timestamps: HEAR's tolerance for events


def load_model(model_file_path: str = "") -> "tf.Module":
  """The encoder of a workdir, an export or CLMR's weights, as a `tf.Module`.

  Its attributes are `sample_rate`, `scene_embedding_size` and
  `timestamp_embedding_size`. Raises ValueError if there is no encoder.
  """
  import tensorflow as tf

  tf.config.set_visible_devices([], "GPU")  # JAX needs them
  if not model_file_path:
    raise ValueError(
      "model_file_path is empty: give a workdir, an exported folder, or a file"
      " of CLMR's weights"
    )
  module = tf.Module(name="vicreg_jax")
  module.encoder = encoders.load(model_file_path)
  module.sample_rate = module.encoder.sample_rate
  module.scene_embedding_size = module.encoder.size
  module.timestamp_embedding_size = module.encoder.size
  return module


def get_timestamp_embeddings(audio, model) -> "tuple[tf.Tensor, tf.Tensor]":
  """Embeddings every 50 ms, each of the crop around its timestamp.

  Before the beginning and after the end crops hold silence.

  Args:
    audio: as in `get_scene_embeddings`.
    model: from `load_model`.

  Returns:
    Tensors: embeddings float32 [n, t, D], and timestamps float32 [n, t] in
    milliseconds, the centres.
  """
  import tensorflow as tf

  audio_NxT = _checked(audio)
  encoder, rate = model.encoder, model.sample_rate
  count = int(audio_NxT.shape[1] / rate / HOP_SECONDS) + 1
  # Each centre is rounded, as a rounded hop's error would add up.
  centre_C = np.round(np.arange(count) * HOP_SECONDS * rate).astype(int)
  windows = _windows(audio_NxT, centre_C, encoder.crop)
  batches = encoders.batched(windows, encoders.BATCH)
  y_MxD = np.concatenate(list(encoder(batches, encoders.BATCH)))
  y_NxCxD = y_MxD.reshape(len(audio_NxT), count, -1)
  stamps_C = 1000 * HOP_SECONDS * np.arange(count)
  stamps_NxC = np.tile(stamps_C, (len(audio_NxT), 1))
  return tf.constant(y_NxCxD), tf.constant(stamps_NxC, tf.float32)


def _windows(audio_NxT, centre_C, crop) -> Iterator[np.ndarray]:
  """Crops around the centres, of one recording after another."""
  for x_T in audio_NxT:
    padded = np.pad(x_T, (crop // 2, crop))
    for centre in centre_C:
      yield padded[centre : centre + crop]


def get_scene_embeddings(audio, model) -> "tf.Tensor":
  """One embedding for each recording: the mean over its segments.

  Args:
    audio: float [n, samples] in [-1, 1], or 16-bit integers, at the model's
      rate; recordings shorter than a crop are repeated.
    model: from `load_model`.

  Returns:
    A tensor, float32 [n, D].

  Raises:
    ValueError: the array cannot be audio, as for `Encoder.embed`.
  """
  import tensorflow as tf

  rows = [model.encoder.embed(x, model.sample_rate) for x in _checked(audio)]
  return tf.constant(np.stack(rows))


def _checked(audio) -> np.ndarray:
  """Float32 [n, samples]."""
  return waveform.checked(audio, {2: "[n, samples]"}).astype(np.float32)
