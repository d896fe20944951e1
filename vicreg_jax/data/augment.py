"""The eight augmentations of the thesis (section 3.3.1) as TensorFlow ops.

Every op maps one mono view `x_T` (float32 [T], T static) to one of the same
length. Use inside a `tf.data` map:

    x_T = augment(x_T, seed, config, sample_rate)

Randomness is a pure function of `seed` (see `seeds.py`): no state, so a view
does not depend on the order or number of threads. Sums over samples are kept
out of multi-threaded reductions for the same reason.
"""

import functools
import math

import numpy as np
import tensorflow as tf

from vicreg_jax.data import augment_config, freeverb, seeds

_COLUMNS = 4  # a coin and at most three parameters

# Half kernels that a block is for, and its samples: short blocks fit the cache.
_FILTER_BLOCKS = ((64, 2048), (448, 4096), (augment_config.FILTER_HALF, 8192))

_GRAINS = (2160, 2560)  # 98 to 116 ms at 22,050 Hz; sox's `pitch` has 82 ms
_SHIFTS = 200  # sizes to choose from, per semitone
_ROW = 32  # hops are multiples of it
_GRAINS_IN_BLOCK = 8


# --- what is drawn -----------------------------------------------------------


def draw(seed, config):
  """What `augment` will do: {op: {"on": bool, parameter: float32}} scalars.

  An op reads its own row of one table, so switching an op off, or changing a
  range, leaves all other draws as they were. Ops with p = 0 are left out.
  """
  used = {op: c for op, c in config.items() if c["p"]}
  if not used:
    return {}
  u = tf.random.stateless_uniform([len(seeds.OPS) - 1, _COLUMNS], seed)

  def uniform(op, column, low, high):
    # Rounding may step over an end.
    value = low + (high - low) * u[seeds.OPS[op], column]
    return tf.clip_by_value(value, low, high)

  draws = {op: {"on": u[seeds.OPS[op], 0] < c["p"]} for op, c in used.items()}
  if "gain" in draws:
    c = config["gain"]
    draws["gain"]["db"] = uniform("gain", 1, c["min_db"], c["max_db"])
  if "filter" in draws:
    c = config["filter"]
    draws["filter"] |= {
      "highpass": u[seeds.OPS["filter"], 1] < c["highpass_p"],
      "highpass_hz": uniform("filter", 2, *c["highpass_hz"]),
      "lowpass_hz": uniform("filter", 2, *c["lowpass_hz"]),
    }
  if "delay" in draws:
    low, high = config["delay"]["delay_ms"]
    step = config["delay"]["step_ms"]
    count = math.floor((high - low) / step + 1e-6) + 1
    steps = tf.floor(count * u[seeds.OPS["delay"], 1])
    draws["delay"]["ms"] = low + step * tf.minimum(steps, count - 1)
  if "pitch" in draws:
    semitones = uniform("pitch", 1, *config["pitch"]["semitones"])
    draws["pitch"]["semitones"] = semitones
  if "reverb" in draws:
    for column, key in enumerate(("room_size", "reverberance", "damping"), 1):
      value = uniform("reverb", column, *config["reverb"][key])
      draws["reverb"][key] = value
  return draws


# --- the ops -----------------------------------------------------------------


def _view(x_T):
  """`x_T` as a float32 tensor, and its length."""
  x_T = tf.convert_to_tensor(x_T, tf.float32)
  if x_T.shape.rank != 1 or x_T.shape[0] is None:
    raise ValueError(
      f"A view has the shape {x_T.shape}; it must be one channel of a known "
      "length. Set the length with tf.ensure_shape(x_T, [T])."
    )
  return x_T, x_T.shape[0]


def invert_polarity(x_T):
  """-x."""
  return -_view(x_T)[0]


def add_noise(x_T, seed, snr_db):
  """Adds white Gaussian noise `snr_db` below the mean power of `x_T`."""
  x_T, length = _view(x_T)
  # Two short stages: a single long sum depends on the number of threads.
  rows_Rx256 = tf.reshape(
    tf.pad(tf.square(x_T), [[0, -length % 256]]), [-1, 256]
  )
  power = tf.reduce_sum(tf.reduce_sum(rows_Rx256, 1)) / length
  rms = tf.sqrt(power) * 10.0 ** (-snr_db / 20)
  return x_T + rms * tf.random.stateless_normal([length], seed)


def gain(x_T, db):
  """Scales by `db` decibels."""
  return _view(x_T)[0] * tf.pow(10.0, tf.cast(db, tf.float32) / 20)


def lowpass(x_T, cutoff_hz, sample_rate, lowest_hz=None):
  """Windowed-sinc low-pass; -6 dB at `cutoff_hz`, linear phase, no delay.

  The filter of julius.lowpass_filter, which CLMR's release (v2021) applies:
  sinc x Hann, 8 zero crossings in all, unit sum, edges replicated. The lowest
  cut-off is 4 / 1024 of the sample rate (86 Hz at 22,050 Hz).

  Where `cutoff_hz` is a tensor, `lowest_hz` is a number that it is never
  below: the higher, the less there is to compute.
  """
  x_T, length = _view(x_T)
  lowest = augment_config.lowest_cutoff(sample_rate)
  if not tf.is_tensor(cutoff_hz):
    if not lowest <= cutoff_hz <= sample_rate / 2:
      raise ValueError(
        f"cutoff_hz is {cutoff_hz!r}; it must be from {lowest:g} to "
        f"{sample_rate / 2:g} Hz."
      )
    lowest_hz = cutoff_hz
  longest = (
    augment_config.FILTER_ZEROS / 2 * sample_rate / (lowest_hz or lowest)
  )
  # Rounding may lengthen the kernel by one.
  widest, block = next(
    (row for row in _FILTER_BLOCKS if row[0] > longest), _FILTER_BLOCKS[-1]
  )
  cutoff = tf.cast(cutoff_hz, tf.float32) / sample_rate
  half = tf.floor(augment_config.FILTER_ZEROS / 2 / cutoff)
  n = tf.range(-widest, widest + 1, dtype=tf.float32)
  angle = 2 * math.pi * cutoff * n
  sinc = tf.where(n == 0, 1.0, tf.sin(angle) / tf.where(n == 0, 1.0, angle))
  hann = 0.5 + 0.5 * tf.cos(math.pi * n / half)
  window = tf.where(tf.abs(n) <= half, hann, 0)
  kernel = sinc * window
  kernel /= tf.reduce_sum(kernel)

  # Overlap-save: blocks that fit the cache beat one long transform.
  edge = tf.ones([widest])
  padded = tf.concat([x_T[:1] * edge, x_T, x_T[-1:] * edge], 0)
  blocks = tf.signal.frame(padded, block, block - 2 * widest, pad_end=True)
  spectrum = tf.signal.rfft(blocks)
  spectrum *= tf.signal.rfft(kernel, [block])
  y = tf.signal.irfft(spectrum, [block])[:, 2 * widest :]
  return tf.reshape(y, [-1])[:length]


def highpass(x_T, cutoff_hz, sample_rate, lowest_hz=None):
  """`x_T` minus its `lowpass`, as in julius.highpass_filter."""
  x_T, _ = _view(x_T)
  return x_T - lowpass(x_T, cutoff_hz, sample_rate, lowest_hz)


def delay(x_T, delay_ms, factor, sample_rate):
  """x[n] + factor * x[n - d], d = floor(delay_ms * sample_rate / 1000)."""
  x_T, length = _view(x_T)
  # The product is exact in float32, so whole results are not floored away.
  samples = tf.cast(delay_ms * sample_rate / 1000, tf.int32)
  samples = tf.minimum(samples, length)
  echo = tf.pad(x_T[: length - samples], [[samples, 0]])
  return x_T + factor * tf.ensure_shape(echo, [length])


def _hann(size, count):
  """The first values of a periodic Hann window of a (tensor) size."""
  turn = 2 * math.pi / tf.cast(size, tf.float32)
  return 0.5 - 0.5 * tf.cos(tf.cast(tf.range(count), tf.float32) * turn)


@functools.lru_cache(maxsize=8)
def _pitch_plan(length):
  """Sizes for each shift on a grid of 1 / _SHIFTS semitones, int32 [shifts, 7].

  Columns: samples of a grain, of a squeezed grain, of a hop, and of the way
  back to a grain's second analysis; grains; samples of silence before `length`
  samples and after. Both sizes have small factors only, which makes their FFTs
  fast: of all such pairs the one nearest to the shift, half a cent off on
  average and never three. The pitch is exact, as it comes from the phases.
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

  Of a grain, two hops are used, `margin` samples from its start. The sum runs
  from the middle of the first grain to that of the last one, flat.
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

  Over the flat array, which is faster: what the outermost bins get from the
  grains beside theirs, at 0 Hz and the Nyquist frequency, is next to nothing.
  """
  angle, weight = tf.reshape(angle_GxF, [-1]), tf.reshape(weight_GxF, [-1])

  def locked(part):
    # 1 2 2 2 1 = (1 1)(1 1)(1 0 1). A plain sum would become an add_n in
    # graphs, as in `reverb`.
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
  squeezed to grain / ratio samples by an inverse FFT of that size, and grains
  are laid down at the hop at which they were taken, so time is kept; a hop is
  half a squeezed grain. What a grain needs is a rotation per bin that continues
  the previous one at the shifted frequency: the phase a bin advances over
  `ratio` hops of input, read off a second analysis taken that much earlier
  (Puckette 1995, "Phase-locked vocoder"), which needs no unwrapping. As there,
  a bin takes its rotation from its neighbourhood, which keeps a partial's bins
  in phase; five bins, weighted by the square of their power, do so well enough
  for grains that overlap only twice.
  """
  x_T, length = _view(x_T)
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
    # The transform leaves out what a row has beyond the grain.
    return tf.raw_ops.RFFT(input=frames_GxS * window, fft_length=[grain])

  now_GxF = analyse(tf.maximum(lag - hop, 0))
  lagged_GxF = analyse(tf.maximum(hop - lag, 0))  # of the next grain
  # What an upward shift moves beyond the Nyquist frequency is left out.
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


def reverb(x_T, room_size, reverberance, damping, sample_rate):
  """sox's reverb (Freeverb), one channel: dry + wet; parameters in percent.

  Eight combs with a damped feedback in parallel, then four all-passes, as in
  sox's reverb.c with its defaults (wet gain 0 dB, no pre-delay) and stereo
  depth 0. `room_size` scales the combs' delays, `reverberance` is their
  feedback, `damping` the low-pass in it.

  The closed-form transfer function is evaluated on a circle of radius r > 1
  and applied by one FFT of N >= T samples. With r^N = 3,000, what wraps round
  arrives 70 dB down, and float32 errors, which grow by as much, stay there
  too.

  On the circle the M = N / 2 points are (2k + 1/2) pi / M. There z^-M = -i r^-M
  at all of them, so that the second half of the (real) signal goes into the
  imaginary part of a complex FFT of M points.
  """
  x_T, length = _view(x_T)
  rate = sample_rate / 44_100
  on = freeverb.circle(length, sample_rate)
  rows, columns, half = on.rows, on.columns, on.rows * on.columns

  room, wetness, damp = (
    tf.cast(p, tf.float32) / 100 for p in (room_size, reverberance, damping)
  )
  feedback = 1 - tf.exp(
    (100 * wetness - freeverb.FEEDBACK_B)
    / (freeverb.FEEDBACK_A * freeverb.FEEDBACK_B)
  )
  damp = 0.3 * damp + 0.2
  delays_8 = tf.cast(
    (0.9 * room + 0.1) * rate * tf.constant(freeverb.COMBS, tf.float32) + 0.5,
    tf.int64,
  )

  def power(quarters_M):
    """z^D of each comb at points of so many quarters of a step, [8, M]."""
    # Exact turns in integers: the products would not fit float32.
    turn_8xM = tf.math.floormod(delays_8[:, None] * quarters_M, 4 * half)
    angle_8xM = tf.cast(turn_8xM, tf.float32) * (math.pi / (2 * half))
    return tf.complex(tf.cos(angle_8xM), tf.sin(angle_8xM))

  # Point k = row + rows * column, as `_fft` leaves them, so that z^D is an
  # outer product of few exponentials.
  low_8xR = power(4 * np.arange(rows) + 1)
  high_8xC = power(4 * rows * np.arange(columns))
  growth_8 = tf.exp(tf.cast(delays_8, tf.float32) * on.log_radius)
  low_8xR *= tf.cast(growth_8, tf.complex64)[:, None]

  damped = tf.cast(1 - damp, tf.complex64) / (
    1 - tf.cast(damp, tf.complex64) * on.inverse_RxC
  )
  loop = tf.cast(feedback, tf.complex64) * damped
  # The sum of the combs' 1 / (z^D - loop), pairs as one fraction. The second
  # half is negated and subtracted: graph rewriting turns sums of three and more
  # into add_n, which adds in another order than eager code.
  z_D = [low_8xR[i, :, None] * high_8xC[i] for i in range(len(freeverb.COMBS))]
  terms = [z - loop for z in z_D[:4]] + [loop - z for z in z_D[4:]]
  pairs = [(a + b) / (a * b) for a, b in zip(terms[::2], terms[1::2])]
  wet = (pairs[0] + pairs[1]) - (pairs[2] + pairs[3])
  wet *= on.fixed_RxC

  x_2M = tf.pad(x_T, [[0, 2 * half - length]])
  z_M = tf.complex(x_2M[:half], x_2M[half:] * -on.second)
  z_M *= on.into_M.astype(np.complex64)
  twiddles = on.twiddles_CxR
  z_RxC = _fft(tf.reshape(z_M, [rows, columns]), twiddles)
  y_M = tf.reshape(_inverse_fft(z_RxC * wet, twiddles), [-1])
  y_M *= (1 / on.into_M).astype(np.complex64)
  y = tf.concat([tf.math.real(y_M), tf.math.imag(y_M) * (-1 / on.second)], 0)
  return x_T + y[:length]


def _fft(z_RxC, twiddles_CxR):
  """DFT of the flattened array; bin k = row + R * column of the result.

  Many short transforms, twice, in half the time of a long one.
  """
  z_CxR = tf.signal.fft(tf.transpose(z_RxC)) * twiddles_CxR
  return tf.signal.fft(tf.transpose(z_CxR))


def _inverse_fft(z_RxC, twiddles_CxR):
  """The inverse of `_fft`."""
  z_CxR = tf.transpose(tf.signal.ifft(z_RxC))
  return tf.transpose(tf.signal.ifft(z_CxR * twiddles_CxR.conj()))


# --- the chain ---------------------------------------------------------------


def augment(x_T, seed, config, sample_rate):
  """All augmentations after the crop, in the thesis's order.

  Args:
    x_T: float32 [T], T static.
    seed: int32 or int64 [2], see `seeds.example_seed`.
    config: as `augment_config.default_augment()`.
    sample_rate: in Hz.
  """
  x_T, _ = _view(x_T)
  draws = draw(seed, config)
  ops = {
    "polarity": lambda x, d: invert_polarity(x),
    "noise": lambda x, d: add_noise(
      x, seeds.op_seed(seed, "noise"), config["noise"]["snr_db"]
    ),
    "gain": lambda x, d: gain(x, d["db"]),
    "filter": lambda x, d: tf.cond(
      d["highpass"],
      lambda: highpass(
        x, d["highpass_hz"], sample_rate, config["filter"]["highpass_hz"][0]
      ),
      lambda: lowpass(
        x, d["lowpass_hz"], sample_rate, config["filter"]["lowpass_hz"][0]
      ),
    ),
    "delay": lambda x, d: delay(
      x, d["ms"], config["delay"]["factor"], sample_rate
    ),
    "pitch": lambda x, d: pitch_shift(x, d["semitones"]),
    "reverb": lambda x, d: reverb(
      x, d["room_size"], d["reverberance"], d["damping"], sample_rate
    ),
  }
  for op, apply in ops.items():
    if op in draws:
      # All work is inside the branch: an op that is off costs nothing.
      x_T = tf.cond(
        draws[op]["on"],
        lambda x=x_T, d=draws[op], apply=apply: apply(x, d),
        lambda x=x_T: tf.identity(x),
      )
  return x_T
