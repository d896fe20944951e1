"""The eight augmentations of the thesis (section 3.3.1) as TensorFlow ops.

Every op maps one mono view `x_T` (float32 [T], T static) to one of the same
length. Use inside a `tf.data` map:

    x_T = augment(x_T, seed, config, sample_rate)

Randomness is a pure function of `seed` (see `seeds.py`), so a view does not
depend on the order or number of threads. For the same reason, sums over samples
avoid multi-threaded reductions.
"""

import math

import numpy as np
import tensorflow as tf

from vicreg_jax.data import augment_config, freeverb, seeds
from vicreg_jax.data.pitch import pitch_shift, view_of

_COLUMNS = 4  # a coin and at most three parameters

# Longest half kernel of a block, and its samples: short blocks fit the cache.
_FILTER_BLOCKS = ((64, 2048), (448, 4096), (augment_config.FILTER_HALF, 8192))

# --- random numbers ----------------------------------------------------------


def draw(seed, config):
  """Draws for `augment`: {op: {"on": bool, parameter: float32}} scalars.

  Each op has its own row of one table of random numbers: switching an op off,
  or changing a range, changes no other draw. Ops with p = 0 are left out.
  """
  used = {op: c for op, c in config.items() if c["p"]}
  if not used:
    return {}
  u = tf.random.stateless_uniform([len(seeds.OPS) - 1, _COLUMNS], seed)

  def uniform(op, column, low, high):
    # Rounding may exceed an end.
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


def invert_polarity(x_T):
  """-x."""
  return -view_of(x_T)[0]


def add_noise(x_T, seed, snr_db):
  """Adds white Gaussian noise `snr_db` below the mean power of `x_T`."""
  x_T, length = view_of(x_T)
  # Two short stages: a single long sum depends on the number of threads.
  rows_Rx256 = tf.reshape(
    tf.pad(tf.square(x_T), [[0, -length % 256]]), [-1, 256]
  )
  power = tf.reduce_sum(tf.reduce_sum(rows_Rx256, 1)) / length
  rms = tf.sqrt(power) * 10.0 ** (-snr_db / 20)
  return x_T + rms * tf.random.stateless_normal([length], seed)


def gain(x_T, db):
  """Scales by `db` decibels."""
  return view_of(x_T)[0] * tf.pow(10.0, tf.cast(db, tf.float32) / 20)


def lowpass(x_T, cutoff_hz, sample_rate, lowest_hz=None):
  """Windowed-sinc low-pass; -6 dB at `cutoff_hz`, linear phase, no delay.

  The filter of julius.lowpass_filter, which CLMR's release (v2021) applies:
  sinc x Hann, 8 zero crossings in all, unit sum, edges replicated. The lowest
  cut-off is 4 / 1024 of the sample rate (86 Hz at 22,050 Hz).

  `lowest_hz` is a lower bound for a `cutoff_hz` that is a tensor: the higher,
  the less there is to compute.
  """
  x_T, length = view_of(x_T)
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
  x_T, _ = view_of(x_T)
  return x_T - lowpass(x_T, cutoff_hz, sample_rate, lowest_hz)


def delay(x_T, delay_ms, factor, sample_rate):
  """x[n] + factor * x[n - d], d = floor(delay_ms * sample_rate / 1000)."""
  x_T, length = view_of(x_T)
  # The product is exact in float32: whole results are not floored down.
  samples = tf.cast(delay_ms * sample_rate / 1000, tf.int32)
  samples = tf.minimum(samples, length)
  echo = tf.pad(x_T[: length - samples], [[samples, 0]])
  return x_T + factor * tf.ensure_shape(echo, [length])


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

  The M = N / 2 points on the circle are at angles (2k + 1/2) pi / M. At all of
  them z^-M = -i r^-M: the second half of the (real) signal goes into the
  imaginary part of a complex FFT of M points.
  """
  x_T, length = view_of(x_T)
  rate = sample_rate / 44_100
  on = freeverb.circle(length, sample_rate)
  half = on.rows * on.columns
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
  damped = tf.cast(1 - damp, tf.complex64) / (
    1 - tf.cast(damp, tf.complex64) * on.inverse_RxC
  )
  loop_RxC = tf.cast(feedback, tf.complex64) * damped
  wet = _combs(delays_8, loop_RxC, on) * on.fixed_RxC

  x_2M = tf.pad(x_T, [[0, 2 * half - length]])
  z_M = tf.complex(x_2M[:half], x_2M[half:] * -on.second)
  z_M *= on.into_M.astype(np.complex64)
  twiddles = on.twiddles_CxR
  z_RxC = _fft(tf.reshape(z_M, [on.rows, on.columns]), twiddles)
  y_M = tf.reshape(_inverse_fft(z_RxC * wet, twiddles), [-1])
  y_M *= (1 / on.into_M).astype(np.complex64)
  y = tf.concat([tf.math.real(y_M), tf.math.imag(y_M) * (-1 / on.second)], 0)
  return x_T + y[:length]


def _combs(delays_8, loop_RxC, on):
  """The sum of the combs' 1 / (z^D - loop), pairs as one fraction."""
  half = on.rows * on.columns

  def power(quarters_M):
    """z^D of each comb at points given in quarters of a step, [8, M]."""
    # Exact turns in integers: the products would not fit float32.
    turn_8xM = tf.math.floormod(delays_8[:, None] * quarters_M, 4 * half)
    angle_8xM = tf.cast(turn_8xM, tf.float32) * (math.pi / (2 * half))
    return tf.complex(tf.cos(angle_8xM), tf.sin(angle_8xM))

  # Point k = row + rows * column, in the order of `_fft`: z^D is an outer
  # product of few exponentials.
  low_8xR = power(4 * np.arange(on.rows) + 1)
  high_8xC = power(4 * on.rows * np.arange(on.columns))
  growth_8 = tf.exp(tf.cast(delays_8, tf.float32) * on.log_radius)
  low_8xR *= tf.cast(growth_8, tf.complex64)[:, None]
  z_D = [low_8xR[i, :, None] * high_8xC[i] for i in range(len(freeverb.COMBS))]
  # The second half is negated and subtracted: graph rewriting turns sums of
  # three and more into add_n, which adds in another order than eager code.
  terms = [z - loop_RxC for z in z_D[:4]] + [loop_RxC - z for z in z_D[4:]]
  pairs = [(a + b) / (a * b) for a, b in zip(terms[::2], terms[1::2])]
  return (pairs[0] + pairs[1]) - (pairs[2] + pairs[3])


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
  x_T, _ = view_of(x_T)
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
