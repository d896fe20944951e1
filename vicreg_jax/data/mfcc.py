"""MFCCs of prepared clips: what a representation has to be better than.

Of a clip 20 MFCCs and their slopes, as `librosa.feature.mfcc` and `delta` have
them by default; the mean and the standard deviation of each over time make 80
numbers. They are kept beside the records, and made anew if they do not fit.

Why not by librosa itself: on its first use numba compiles functions that
nothing here calls, for half a minute. The tests compare the two.
"""

import contextlib
import functools
import io
import os

import numpy as np
import threadpoolctl
from tqdm import tqdm

from vicreg_jax import files
from vicreg_jax.data import audio, input_pipeline
from vicreg_jax.data.prepared import Prepared
from vicreg_jax.data.threads import map_in_order

SIZE = 80
_COUNT = 20
_BANDS = 128
_FRAME, _HOP = 2048, 512  # samples
_FLOOR_DB = 80.0  # below the loudest band
_WIDTH = 9  # frames that a slope is fitted to
_VERSION = 2  # raise it when the features change


def features(x_T: np.ndarray, sample_rate: int) -> np.ndarray:
  """The 80 numbers of a clip (float32 [T]): means, then deviations."""
  mfcc_CxF = _mfcc(x_T, sample_rate)
  all_CxF = np.concatenate([mfcc_CxF, _slopes(mfcc_CxF)])
  return np.concatenate([all_CxF.mean(axis=1), all_CxF.std(axis=1)])


def _mfcc(x_T, sample_rate):
  """Davis and Mermelstein (1980), in decibels: float32 [20, 1 + T // 512]."""
  window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)  # periodic
  padded = np.pad(x_T.astype(np.float32), _FRAME // 2)
  frames_FxW = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP]
  power_FxB = np.abs(np.fft.rfft(window * frames_FxW)) ** 2
  mel_FxM = power_FxB @ _bands(sample_rate).T
  db_FxM = 10 * np.log10(np.maximum(mel_FxM, 1e-10))
  db_FxM = np.maximum(db_FxM, db_FxM.max() - _FLOOR_DB)
  return _cosines() @ db_FxM.T


@functools.lru_cache
def _bands(sample_rate):
  """Slaney's triangles of equal area (Auditory Toolbox, 1998): [128, 1025]."""

  # The mel scale: linear to 1 kHz, then 27 steps for a factor of 6.4.
  def hertz(mel):
    above = 1000 * 6.4 ** ((mel - 15) / 27)
    return np.where(mel < 15, mel * 200 / 3, above)

  nyquist = sample_rate / 2
  top = nyquist * 3 / 200
  if nyquist >= 1000:
    top = 15 + 27 * np.log(nyquist / 1000) / np.log(6.4)
  edges = hertz(np.linspace(0, top, _BANDS + 2))[:, None]
  low, middle, high = edges[:-2], edges[1:-1], edges[2:]
  f_B = np.linspace(0, nyquist, 1 + _FRAME // 2)
  rising, falling = (f_B - low) / (middle - low), (high - f_B) / (high - middle)
  triangles = np.maximum(0, np.minimum(rising, falling))
  return (triangles * 2 / (high - low)).astype(np.float32)


@functools.lru_cache
def _cosines():
  """The first rows of the orthonormal DCT of the second kind: [20, 128]."""
  n_M = np.arange(_BANDS) + 0.5
  rows = np.cos(np.pi / _BANDS * np.outer(np.arange(_COUNT), n_M))
  rows *= np.sqrt(2 / _BANDS)
  rows[0] /= np.sqrt(2)
  return rows.astype(np.float32)


def _slopes(y_CxF):
  """Of the line fitted to nine frames about each; [C, F].

  At the ends it is the line of the first or the last nine. A clip of under
  0.2 s has fewer; its first and last frame are then repeated.
  """
  half = _WIDTH // 2
  short = y_CxF.shape[1] < _WIDTH
  if short:
    y_CxF = np.pad(y_CxF, ((0, 0), (half, half)), mode="edge")
  t_W = np.arange(-half, half + 1)
  windows = np.lib.stride_tricks.sliding_window_view(y_CxF, _WIDTH, axis=1)
  slopes = windows @ (t_W / np.sum(t_W**2)).astype(np.float32)
  return slopes if short else np.pad(slopes, ((0, 0), (half, half)), "edge")


def of_split(prepared: Prepared, split: str, progress=False) -> np.ndarray:
  """`y_Nx80` of every clip, in the order of `input_pipeline.labels`."""
  path = f"{prepared.path}/mfcc-{split}.npz"
  ids = input_pipeline.labels(prepared, split).ids
  made_of = [str(_VERSION), *ids]
  # A damaged one has whatever error; what does not fit is made anew.
  with (
    contextlib.suppress(Exception),
    np.load(io.BytesIO(files.read(path))) as kept,
  ):
    if kept["made_of"].tolist() == made_of:
      return kept["y"]

  def of_clip(samples):
    x_T = audio.from_int16(np.frombuffer(samples, "<i2"))
    return features(x_T, prepared.sample_rate)

  cores = os.cpu_count()
  # Every core has a clip of its own, so that none is to be shared out.
  with threadpoolctl.threadpool_limits(1):
    rows = map_in_order(
      of_clip, input_pipeline.samples(prepared, split), cores, 2 * cores
    )
    rows = tqdm(
      rows,
      total=len(ids),
      desc=f"MFCCs {split}",
      unit="clip",
      disable=None if progress else True,
    )
    y_NxD = np.stack(list(rows)).astype(np.float32)
  content = io.BytesIO()
  np.savez(content, y=y_NxD, made_of=made_of)
  with contextlib.suppress(OSError):  # somebody else's data, or a full disk
    files.write(path, content.getvalue())
  return y_NxD
