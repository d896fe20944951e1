"""Freeverb as in sox's reverb.c: constants, and factors without parameters.

`reverb` in `augment.py` explains how the transfer function is evaluated on a
circle of radius r > 1. Factors that depend only on length and rate are here,
once for TensorFlow and JAX.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

COMBS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)  # at 44,100 Hz
_ALLPASSES = (225, 341, 441, 556)
_WET = 0.015
FEEDBACK_A = -1 / math.log(1 - 0.3)
FEEDBACK_B = 100 / (math.log(1 - 0.98) * FEEDBACK_A + 1)
_DECAY = 3000.0  # of the circle's r, over a transform


def comb_delays(room_size, sample_rate: float) -> np.ndarray:
  """Samples of a room's combs, along a last axis; in float32, as TensorFlow.

  Args:
    room_size: float32 [..., 1 or 8], in percent.
    sample_rate: in Hz.
  """
  rate, combs_8 = np.float32(sample_rate / 44_100), np.array(COMBS, np.float32)
  share = np.float32(0.9) * (room_size / np.float32(100)) + np.float32(0.1)
  return (share * rate * combs_8 + np.float32(0.5)).astype(np.int32)


@functools.lru_cache(maxsize=4)
def delay_steps(sample_rate: float) -> tuple[np.ndarray, np.ndarray]:
  """Delays of the smallest room, [8], and the rooms at which they grow by one.

  The rooms are float32 [8, K], ascending; infinity is beyond the largest room.
  """
  shortest_8, longest_8 = (
    comb_delays(np.full(1, room, np.float32), sample_rate) for room in (0, 100)
  )
  steps_K = 1 + np.arange((longest_8 - shortest_8).max(), dtype=np.int32)
  # Positive floats are ordered like their bits: bisect to find the first.
  low_Kx8 = np.zeros([len(steps_K), 8], np.int32)
  high_Kx8 = np.full_like(low_Kx8, np.float32(100).view(np.int32))
  wanted_Kx8 = shortest_8 + steps_K[:, None]
  for _ in range(32):
    middle_Kx8 = low_Kx8 + (high_Kx8 - low_Kx8) // 2
    grown = comb_delays(middle_Kx8.view(np.float32), sample_rate) >= wanted_Kx8
    high_Kx8 = np.where(grown, middle_Kx8, high_Kx8)
    low_Kx8 = np.where(grown, low_Kx8, middle_Kx8 + 1)
  room_Kx8 = np.where(
    wanted_Kx8 <= longest_8, high_Kx8.view(np.float32), np.float32(np.inf)
  )
  return shortest_8, room_Kx8.T.copy()


class Circle(NamedTuple):
  """Points on a circle, k = row + rows * column, and factors for transforms.

  Attributes:
    rows, columns: their product M is half of the transform's length.
    log_radius: ln r.
    inverse_RxC: 1 / z.
    fixed_RxC: the four all-passes and the wet gain.
    into_M: factors before the transform of M points.
    second: r^-M.
    twiddles_CxR: factors between the short transforms of the long one.
  """

  rows: int
  columns: int
  log_radius: float
  inverse_RxC: np.ndarray
  fixed_RxC: np.ndarray
  into_M: np.ndarray
  second: float
  twiddles_CxR: np.ndarray


@functools.lru_cache(maxsize=4)
def circle(length: int, sample_rate: float) -> Circle:
  """For signals of `length` samples; complex64, computed in float64."""
  # The product is at least half of `length`; both factors suit an FFT.
  rows = 1 << max(4, round(math.log2(length / 2) / 2))
  columns = 16 * -(-length // (2 * rows * 16))
  half = rows * columns
  log_radius = math.log(_DECAY) / (2 * half)
  k_RxC = np.arange(rows)[:, None] + rows * np.arange(columns)
  z_RxC = np.exp(log_radius + 1j * np.pi * (2 * k_RxC + 0.5) / half)
  fixed = np.full(z_RxC.shape, _WET, np.complex128)
  for samples in _ALLPASSES:
    echo = z_RxC ** -int(sample_rate / 44_100 * samples + 0.5)
    fixed *= (1.5 * echo - 1) / (1 - 0.5 * echo)
  turns_CxR = np.outer(np.arange(columns), np.arange(rows)) / half
  into_M = np.exp(-(log_radius + 0.5j * np.pi / half) * np.arange(half))
  return Circle(
    rows,
    columns,
    log_radius,
    (1 / z_RxC).astype(np.complex64),
    fixed.astype(np.complex64),
    into_M,
    math.exp(-log_radius * half),
    np.exp(-2j * np.pi * turns_CxR).astype(np.complex64),
  )
