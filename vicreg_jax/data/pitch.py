"""The augmentation that shifts the pitch of a view, as TensorFlow ops.

`device_augment.py` has the same in JAX.
"""

import functools
import math

import numpy as np
import tensorflow as tf

from vicreg_jax.data import augment_config

_GRAINS = (2160, 2560)  # 98 to 116 ms at 22,050 Hz; sox's `pitch` has 82 ms
_SHIFTS = 200  # sizes to choose from, per semitone
_ROW = 32  # hops are multiples of it
_GRAINS_IN_BLOCK = 8


def view_of(x_T):
  """`x_T` as a float32 tensor, and its length."""
  x_T = tf.convert_to_tensor(x_T, tf.float32)
  if x_T.shape.rank != 1 or x_T.shape[0] is None:
    raise ValueError(
      f"A view has the shape {x_T.shape}; it must be one channel of a known "
      "length. Set the length with tf.ensure_shape(x_T, [T])."
    )
  return x_T, x_T.shape[0]


def _hann(size, count):
  """The first values of a periodic Hann window of a (tensor) size."""
  turn = 2 * math.pi / tf.cast(size, tf.float32)
  return 0.5 - 0.5 * tf.cos(tf.cast(tf.range(count), tf.float32) * turn)


@functools.lru_cache(maxsize=8)
def _pitch_plan(length):
  """Sizes for each shift on a grid of 1 / _SHIFTS semitones, int32 [shifts, 7].

  Columns: samples of a grain, of a squeezed grain, of a hop, and of the way
  back to a grain's second analysis; grains; samples of silence before and after
  `length` samples. Both sizes have only small factors, for fast FFTs. Of all
  such pairs the nearest to the shift is chosen, half a cent off on average and
  never three. The pitch itself is exact, as it comes from the phases.
  """
  even = np.arange(2 * _ROW, 2 * _GRAINS[1], 2)
  smooth = even[[_is_smooth(int(n)) for n in even]]
  grains_A = smooth[(smooth >= _GRAINS[0]) & (smooth <= _GRAINS[1])]
  cents_AxB = 1200 * np.log2(grains_A[:, None] / smooth)
  plan = []
  for i in range(round(2 * augment_config.MAX_SEMITONES * _SHIFTS) + 1):
    semitones = i / _SHIFTS - augment_config.MAX_SEMITONES
    nearest = np.argmin(np.abs(cents_AxB - 100 * semitones))
    a, b = np.unravel_index(nearest, cents_AxB.shape)
    grain, size = int(grains_A[a]), int(smooth[b])
    hop = size // (2 * _ROW) * _ROW
    lag = round(2 ** (semitones / 12) * hop)
    # Centres at 0, 1, 2 ... hops, up to the end or beyond.
    blocks = -(-(length + hop) // (hop * _GRAINS_IN_BLOCK))
    grains = blocks * _GRAINS_IN_BLOCK
    before = grain // 2 + max(lag - hop, 0)
    read = abs(lag - hop) + (grains - 1) * hop + grain + _ROW
    after = max(read - before - length, 0)
    plan.append((grain, size, hop, lag, grains, before, after))
  return np.array(plan, np.int32)


def _is_smooth(n):
  """Whether `n` has no prime factor above 13."""
  for prime in (2, 3, 5, 7, 11, 13):
    while n % prime == 0:
      n //= prime
  return n == 1


def _frames(x_T, start, count, width, hop):
  """`count` grains of `x_T`, the first from `start`; others in rows of _ROW."""
  rows = (count - 1) * hop + width
  x_RxW = tf.reshape(x_T[start : start + rows * _ROW], [-1, _ROW])
  row_GxR = hop * tf.range(count)[:, None] + tf.range(width)
  return tf.reshape(tf.gather(x_RxW, row_GxR), [count, width * _ROW])


def _sum_before(x_GxF):
  """tf.cumsum over the rows, exclusive, by blocks: three times as fast."""
  bins = tf.shape(x_GxF)[1]
  x_NxBxF = tf.reshape(x_GxF, [-1, _GRAINS_IN_BLOCK, bins])
  sums = tf.unstack(x_NxBxF, axis=1)
  for i in range(1, _GRAINS_IN_BLOCK):
    sums[i] += sums[i - 1]
  before_NxF = tf.cumsum(sums[-1], exclusive=True)
  sums = [before_NxF] + [before_NxF + s_NxF for s_NxF in sums[:-1]]
  return tf.reshape(tf.stack(sums, axis=1), [-1, bins])


def _overlap_add(grains_GxS, margin, window_2xH):
  """Sum of windowed grains, each laid down a hop after the one before it.

  Two hops of each grain are used, `margin` samples from its start. The flat sum
  runs from the middle of the first grain to the middle of the last one.
  """
  hop = tf.shape(window_2xH)[1]
  rising_GxH, falling_GxH = (
    grains_GxS[:, margin + i * hop : margin + (i + 1) * hop] * window_H
    for i, window_H in enumerate(tf.unstack(window_2xH))
  )
  return tf.reshape(falling_GxH[:-1] + rising_GxH[1:], [-1])


def _step(now_GxF, lagged_GxF):
  """Angle from one spectrum to another, and the product of their powers."""
  step_GxF = now_GxF * tf.math.conj(lagged_GxF)
  re_GxF, im_GxF = tf.math.real(step_GxF), tf.math.imag(step_GxF)
  power_GxF = tf.square(re_GxF) + tf.square(im_GxF)
  return tf.atan2(im_GxF, re_GxF), power_GxF


def _locked_rotation(angle_GxF, weight_GxF):
  """Rotations (complex, of size 1) by the weighted mean of a bin and its four
  neighbours, of which the outer ones count half.

  Over the flat array, which is faster: the outermost bins, at 0 Hz and the
  Nyquist frequency, get next to nothing from the neighbouring grains.
  """
  angle, weight = tf.reshape(angle_GxF, [-1]), tf.reshape(weight_GxF, [-1])

  def locked(part):
    # 1 2 2 2 1 = (1 1)(1 1)(1 0 1). A plain sum would become an add_n in
    # graphs, as in `augment.reverb`.
    part *= weight
    part += tf.roll(part, -1, 0)
    part += tf.roll(part, 2, 0)
    return part + tf.roll(part, -1, 0)

  re, im = locked(tf.cos(angle)), locked(tf.sin(angle))
  # 1e-37 keeps silence silent. rsqrt, as graphs turn 1 / sqrt into it, and
  # eager samples would differ in the last bit.
  scale = tf.math.rsqrt(tf.square(re) + tf.square(im) + 1e-37)
  rotation = tf.complex(re * scale, im * scale)
  return tf.reshape(rotation, tf.shape(angle_GxF))


def pitch_shift(x_T, semitones):
  """Moves all frequencies by `semitones` (fractional, within +-7); same length.

  A phase vocoder on resampled grains. Each grain of some 2,400 samples is
  squeezed to grain / ratio samples by an inverse FFT of that size. Grains are
  laid down at the hop at which they were taken, which keeps time; a hop is half
  a squeezed grain. A rotation of each bin continues the previous grain at the
  shifted frequency: by the phase that a bin advances over `ratio` hops of
  input. A second analysis, taken that much earlier, gives this phase without
  unwrapping (Puckette 1995, "Phase-locked vocoder"). As there, a bin takes its
  rotation from its neighbourhood, which keeps a partial's bins in phase. Five
  bins, weighted by their squared power, suffice for grains that overlap twice.
  """
  x_T, length = view_of(x_T)
  semitones = tf.cast(semitones, tf.float32)
  shift = tf.cast(
    tf.round((semitones + augment_config.MAX_SEMITONES) * _SHIFTS), tf.int32
  )
  grain, size, hop, lag, grains, before, after = tf.unstack(
    tf.gather(_pitch_plan(length), shift)
  )
  advance = tf.pow(2.0, semitones / 12) * tf.cast(hop, tf.float32)
  padded = tf.pad(x_T, [[before, after]])
  width = (grain + _ROW - 1) // _ROW
  window = _hann(grain, width * _ROW)

  def analyse(start):
    frames_GxS = _frames(padded, start, grains, width, hop // _ROW)
    # The transform leaves out a row's samples beyond the grain.
    return tf.raw_ops.RFFT(input=frames_GxS * window, fft_length=[grain])

  now_GxF = analyse(tf.maximum(lag - hop, 0))
  lagged_GxF = analyse(tf.maximum(hop - lag, 0))  # of the next grain
  # Bins that an upward shift moves beyond the Nyquist frequency are left out.
  bins = tf.minimum(grain, size) // 2 + 1
  now_GxF, lagged_GxF = now_GxF[:, :bins], lagged_GxF[:, :bins]
  step_GxF, power_GxF = _step(now_GxF, lagged_GxF)
  # The rest of `advance` is applied as a phase.
  rest = (advance - tf.cast(lag, tf.float32)) / tf.cast(grain, tf.float32)
  step_GxF += tf.cast(tf.range(bins), tf.float32) * (rest * 2 * math.pi)
  now_GxF *= _locked_rotation(_sum_before(step_GxF), power_GxF)
  missing = tf.maximum(size // 2 + 1 - bins, 0)
  now_GxF = tf.pad(now_GxF, [[0, 0], [0, missing]])
  grains_GxS = tf.raw_ops.IRFFT(input=now_GxF, fft_length=[size])

  margin = (size - 2 * hop) // 2
  squeezed = _hann(size, size)[margin : margin + 2 * hop]
  squeezed_2xH = tf.reshape(squeezed, [2, -1])
  window_2xH = tf.reshape(tf.sqrt(_hann(2 * hop, 2 * hop)), [2, -1])
  # Overlapping products of both windows add up to 1.
  window_2xH /= tf.reduce_sum(window_2xH * squeezed_2xH, 0)
  window_2xH *= tf.cast(size, tf.float32) / tf.cast(grain, tf.float32)
  y = _overlap_add(grains_GxS, margin, window_2xH)
  return tf.ensure_shape(y[:length], [length])
