"""MFCCs of prepared clips: the baseline for representations.

A clip has 20 MFCCs and their slopes, as by `librosa.feature.mfcc` and `delta`
with defaults; mean and standard deviation of each over time make 80 numbers.
They are kept beside the records, and made anew if they do not fit.

librosa is not used: on its first use numba compiles other functions for half a
minute. The tests compare with it.
"""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.signal
import threadpoolctl
from tqdm import tqdm

from vicreg_jax import files
from vicreg_jax.data import audio, input_pipeline, records
from vicreg_jax.data.prepared import Prepared
from vicreg_jax.data.threads import map_in_order

_COUNT = 20
_BANDS = 128
_FRAME, _HOP = 2048, 512  # samples
_FLOOR_DB = 80.0  # below the loudest band
_WIDTH = 9  # frames that a slope is fitted to
_BLOCK = 256  # frames at a time, which fit a cache
_AT_WORK_SECONDS = 4 * 3600.0  # of sound, on all cores; 90 MB an hour
_VERSION = 2  # raise it when the features change


class _Clip(NamedTuple):
  """Samples of a clip, which are read on demand: x[3:9]."""

  length: int
  read: Callable[[int, int], np.ndarray]  # from, to: int16

  def __len__(self):
    return self.length

  def __getitem__(self, part):
    return audio.from_int16(self.read(part.start, part.stop))


def features(x_T: np.ndarray | _Clip, sample_rate: int) -> np.ndarray:
  """The 80 numbers of a clip (float32 [T]): means, then deviations."""
  mfcc_CxF = _mfcc(x_T, sample_rate)
  all_CxF = np.concatenate([mfcc_CxF, _slopes(mfcc_CxF)])
  return np.concatenate([all_CxF.mean(axis=1), all_CxF.std(axis=1)])


def _mfcc(x_T, sample_rate):
  """Davis and Mermelstein (1980), in decibels: float32 [20, 1 + T // 512].

  Frames come in blocks, as spectra are eight times as large as the sound.
  """
  window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)  # periodic
  bands_BxM = _bands(sample_rate).T
  blocks = _blocks(1 + len(x_T) // _HOP)
  db_FxM = np.empty((blocks[-1].stop, _BANDS), np.float32)
  for block in blocks:
    power_FxB = np.abs(scipy.fft.rfft(window * _frames(x_T, block))) ** 2
    mel_FxM = np.maximum(power_FxB @ bands_BxM, 1e-10)
    db_FxM[block] = 10 * np.log10(mel_FxM)
  least = db_FxM.max() - _FLOOR_DB
  mfcc_CxF = np.empty((_COUNT, len(db_FxM)), np.float32)
  for block in blocks:
    rows_FxM = np.maximum(db_FxM[block], least)
    all_FxM = scipy.fft.dct(rows_FxM, norm="ortho")
    mfcc_CxF[:, block] = all_FxM[:, :_COUNT].T
  return mfcc_CxF


def _blocks(count):
  starts = range(0, count, _BLOCK)
  return [slice(start, min(start + _BLOCK, count)) for start in starts]


def _frames(x_T, block):
  """Some frames [F, 2048]; around the sound there are zeros."""
  start = block.start * _HOP - _FRAME // 2
  stop = (block.stop - 1) * _HOP + _FRAME // 2
  before, after = max(-start, 0), max(stop - len(x_T), 0)
  part_T = np.pad(x_T[start + before : stop - after], (before, after))
  return np.lib.stride_tricks.sliding_window_view(part_T, _FRAME)[::_HOP]


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


def _slopes(y_CxF):
  """Slopes [C, F] of the lines fitted to the nine frames around each frame.

  At the ends, the line is that of the first or last nine frames. A clip under
  0.2 s has fewer frames; its first and last frame are then repeated.
  """
  mode = "nearest" if y_CxF.shape[1] < _WIDTH else "interp"
  return scipy.signal.savgol_filter(y_CxF, _WIDTH, 1, deriv=1, mode=mode)


def of_split(prepared: Prepared, split: str, progress=False) -> np.ndarray:
  """`y_Nx80` of every clip, in the order of `input_pipeline.labels`."""
  ids = input_pipeline.labels(prepared, split).ids

  def make():
    return {"y": _of_clips(prepared, split, len(ids), progress)}

  path = f"{prepared.path}/mfcc-{split}.npz"
  return files.kept_npz(path, [str(_VERSION), *ids], make)["y"]


def _of_clips(prepared, split, count, progress):
  # The number of clips at work, as if they all had one length.
  length = prepared.seconds[split] / count
  threads = max(1, min(os.cpu_count(), int(_AT_WORK_SECONDS / length)))

  def of_clip(clip):
    return features(clip, prepared.sample_rate)

  # Every core has its own clip: NumPy need not use several cores for one.
  with threadpoolctl.threadpool_limits(1):
    rows = map_in_order(of_clip, _clips(prepared, split), threads, threads)
    rows = tqdm(
      rows,
      total=count,
      desc=f"MFCCs {split}",
      unit="clip",
      disable=None if progress else True,
    )
    return np.stack(list(rows)).astype(np.float32)


def _clips(prepared, split):
  """The clips of a split, in the order of `input_pipeline.labels`."""
  if files.is_bucket(prepared.path):  # reading parts would copy all records
    for pcm in input_pipeline.samples(prepared, split):
      pcm_T = np.frombuffer(pcm, "<i2")
      yield _Clip(len(pcm_T), lambda start, stop, x=pcm_T: x[start:stop])
    return
  clips = records.Clips(prepared, (split,))
  for clip, size in enumerate(clips.index.size_N.tolist()):
    yield _Clip(size // records.SAMPLE, functools.partial(clips.part, clip))
