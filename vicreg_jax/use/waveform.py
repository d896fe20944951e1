"""Checks and resamples arrays of samples of other programs."""

import os
from collections.abc import Iterator

import numpy as np
import soxr

from vicreg_jax.data import audio as audio_files

_BLOCK = 1 << 18  # samples that are resampled at a time
_INT16 = np.float32(32768)  # full scale of 16-bit files, as decoders have it
_SHAPES = {1: "[samples]", 2: "[channels, samples]"}


def mono_blocks(audio, rate: float | None, to: int) -> Iterator[np.ndarray]:
  """Consecutive pieces, float32 [T] at `to` Hz, of a file or an array.

  The arguments and errors are those of `Encoder.embed`.
  """
  if isinstance(audio, (str, os.PathLike)):
    if rate is not None:
      raise ValueError(
        f"sample_rate is {rate}, and {os.fspath(audio)} says its own: leave"
        " sample_rate out"
      )
    yield from audio_files.blocks(audio, to)
    return
  x_CxT = np.atleast_2d(checked(audio, _SHAPES))
  channels, T = x_CxT.shape
  if channels > T:
    raise ValueError(
      f"audio has the shape {x_CxT.shape}, more channels than samples: it must"
      " be [channels, samples]; transpose it"
    )
  if channels > audio_files.MAX_CHANNELS:
    raise ValueError(
      f"audio has the shape {x_CxT.shape}: more than"
      f" {audio_files.MAX_CHANNELS} channels; give one recording at a time"
    )
  rate = _checked_rate(rate, to)
  stream = soxr.ResampleStream(rate, to, 1, dtype="float32")
  for start in range(0, T, _BLOCK):
    x_T = x_CxT[:, start : start + _BLOCK].mean(0).astype(np.float32)
    if rate != to:
      x_T = stream.resample_chunk(x_T, start + _BLOCK >= T)
    if x_T.size:
      yield x_T


def checked(audio, shapes: dict[int, str]) -> np.ndarray:
  """Samples as floats, 1 being full scale.

  16-bit integers are scaled like those of a file. Floats may exceed full scale
  up to `data.audio.MAX_PEAK`, like those of a file: larger values are integers
  that nobody has scaled.

  Args:
    audio: an array of NumPy, JAX, PyTorch or TensorFlow, or lists of floats.
    shapes: the allowed shapes in words, by the number of axes.

  Raises:
    ValueError: the array cannot be audio.
  """
  x = _as_numpy(audio)
  if x.dtype.kind != "f" and x.dtype != np.int16:
    raise ValueError(
      f"audio is an array of {x.dtype}: give floats, 1 being full scale, or"
      " 16-bit integers"
    )
  if x.ndim not in shapes or not x.size:
    raise ValueError(
      f"audio has the shape {x.shape}; it must be"
      f" {' or '.join(shapes.values())}, and hold some"
    )
  if x.dtype == np.int16:
    return x / _INT16
  peak = max(x.max(), -x.min())  # NaN, if there is one
  if not np.isfinite(peak):
    raise ValueError("audio holds values that are not finite: replace them")
  if peak > audio_files.MAX_PEAK:
    raise ValueError(
      f"audio has a peak of {peak:.6g}, and 1 is full scale: scale it, 16-bit"
      " integers by 1 / 32768"
    )
  return x


def _as_numpy(audio) -> np.ndarray:
  try:
    if hasattr(audio, "detach"):  # PyTorch's, perhaps with a gradient
      audio = audio.detach().cpu()
      if str(audio.dtype) == "torch.bfloat16":  # NumPy has no bfloat16
        audio = audio.float()
    x = np.asarray(audio)
  except Exception as e:  # other libraries have errors of their own
    text = " ".join(str(e).split())[:200]
    raise ValueError(
      f"audio is a {type(audio).__name__} that NumPy does not take ({text}):"
      " give a path, or an array of floats"
    ) from e
  return x.astype(np.float32) if x.dtype.name == "bfloat16" else x


def _checked_rate(rate, to) -> float:
  known = audio_files.SAMPLE_RATES
  try:
    if not isinstance(rate, str) and known[0] <= float(rate) <= known[-1]:
      return float(rate)
  except (TypeError, ValueError):
    pass
  raise ValueError(
    f"sample_rate is {rate!r}: give the Hz of the array, {known[0]:,} to"
    f" {known[-1]:,}; {to} if it is the encoder's own"
  )
