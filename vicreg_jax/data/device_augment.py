"""The eight augmentations in JAX: batched, for a GPU or TPU to do by itself.

Every op maps views `x_BxT` (float32) to views of the same shape. Parameters are
one number a view, `[B]`, and traced: other values compile nothing anew. In any
JAX code:

    import jax
    from vicreg_jax.data import device_augment

    @jax.jit
    def augmented(x_BxT, key):
      semitones_B = jax.random.uniform(key, len(x_BxT), minval=-5, maxval=5)
      return device_augment.pitch_shift(x_BxT, semitones_B)

The ops equal those of `augment.py`, which explains them, up to rounding. Two
differ: noise has another generator, and `pitch_shift` is the same vocoder with
grains of one size. `augment` is the chain, with the draws of `augment.draw`.
The ops have no gradients.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from vicreg_jax import mesh
from vicreg_jax.data import audio, augment_config, freeverb

_GRAIN = 2560  # samples of a view, 116 ms at 22,050 Hz
_HOP = 1024
_TURN = 2.0**32  # in the units of `_chirp`
# An op on some views takes this many rounds for the expected number of them: a
# round has to be large enough for a device, and the last one has spare views.
GOES = 8
LOOPS = ("noise", "filter", "pitch", "reverb")  # which those ops are


# --- the ops -----------------------------------------------------------------


def invert_polarity(x_BxT):
  """-x."""
  return -x_BxT


def add_noise(x_BxT, seed_Bx2, snr_db):
  """Adds white Gaussian noise `snr_db` below the mean power of each view.

  Args:
    x_BxT: the views.
    seed_Bx2: uint32, of each view's own random stream.
    snr_db: a number.
  """

  def normal(seed_2, like_T):
    key = jax.random.fold_in(jax.random.key(0), seed_2[0])
    key = jax.random.fold_in(key, seed_2[1])
    return jax.random.normal(key, like_T.shape)

  power_Bx1 = jnp.square(x_BxT).mean(1, keepdims=True)
  rms_Bx1 = jnp.sqrt(power_Bx1) * 10.0 ** (-snr_db / 20)
  return x_BxT + rms_Bx1 * jax.vmap(normal)(seed_Bx2, x_BxT)


def gain(x_BxT, db_B):
  """Scales by decibels."""
  return x_BxT * 10.0 ** (db_B[:, None] / 20)


def lowpass(x_BxT, cutoff_hz_B, sample_rate, lowest_hz=None):
  """Windowed-sinc low-pass; -6 dB at the cut-off, linear phase, no delay.

  `lowest_hz` is a lower bound of the cut-offs, by default the lowest allowed
  one: the higher, the less there is to compute.
  """
  length = x_BxT.shape[1]
  zeros = augment_config.FILTER_ZEROS / 2
  lowest_hz = lowest_hz or augment_config.lowest_cutoff(sample_rate)
  widest = math.floor(zeros * sample_rate / lowest_hz) + 1
  kernel_BxK = _sinc(cutoff_hz_B[:, None], sample_rate, widest)
  # Overlap-save: samples that a block's transform wraps round are left out.
  block = max(2048, 1 << (8 * widest - 1).bit_length())
  hop = block - 2 * widest
  count = -(-length // hop)
  padded = jnp.pad(x_BxT, [(0, 0), (widest, widest)], mode="edge")
  padded = jnp.pad(padded, [(0, 0), (0, (count + 1) * hop - length)])
  spectrum = jnp.fft.rfft(_frames(padded, count, block, hop))
  spectrum *= jnp.fft.rfft(kernel_BxK, block)[:, None]
  y = jnp.fft.irfft(spectrum, block)[..., 2 * widest :]
  return y.reshape(len(x_BxT), -1)[:, :length]


def _sinc(cutoff_hz_Bx1, sample_rate, widest):
  """Kernels of `lowpass`, `widest` samples to either side."""
  zeros = augment_config.FILTER_ZEROS / 2
  # By the remainder, which is exact: a compiled division may not be exact where
  # the quotient is whole.
  half_Bx1 = jnp.floor_divide(zeros * sample_rate, cutoff_hz_Bx1)
  n_K = np.arange(-widest, widest + 1, dtype=np.float32)
  angle = 2 * math.pi / sample_rate * cutoff_hz_Bx1 * n_K
  sinc = jnp.where(n_K == 0, 1.0, jnp.sin(angle) / jnp.where(n_K, angle, 1.0))
  hann = 0.5 + 0.5 * jnp.cos(math.pi * n_K / half_Bx1)
  kernel = sinc * jnp.where(abs(n_K) <= half_Bx1, hann, 0.0)
  return kernel / kernel.sum(1, keepdims=True)


def highpass(x_BxT, cutoff_hz_B, sample_rate, lowest_hz=None):
  """`x_BxT` minus its `lowpass`."""
  return x_BxT - lowpass(x_BxT, cutoff_hz_B, sample_rate, lowest_hz)


def delay(x_BxT, delay_ms_B, factor, sample_rate):
  """x[n] + factor * x[n - d], d = floor(delay_ms * sample_rate / 1000)."""
  length = x_BxT.shape[1]
  samples = jnp.floor_divide(delay_ms_B * sample_rate, 1000.0)  # exact
  samples = jnp.minimum(samples, length).astype(jnp.int32)
  padded = jnp.pad(x_BxT, [(0, 0), (length, 0)])
  return x_BxT + factor * _cut(padded, length - samples, length)


def pitch_shift(x_BxT, semitones_B):
  """Moves all frequencies by `semitones` (fractional, within +-7); same length.

  As on the host, a grain's spectrum gets the phases that continue the grain
  before it (from a second analysis). It becomes a grain that is squeezed by the
  shift's ratio, and laid down where it was taken. The host squeezes by the size
  of the inverse FFT; here a chirp-z transform evaluates the spectrum at any
  steps: sum_f Y[f] exp(2 pi i f k ratio / N), a convolution by
  2 f k = f^2 + k^2 - (k - f)^2.
  """
  count, length = x_BxT.shape
  ratio_B = 2.0 ** (semitones_B / 12)
  grains = -(-length // _HOP) + 1  # centres at 0, 1, 2 ... hops
  lag_B = jnp.round(ratio_B * _HOP).astype(jnp.int32)
  most = math.ceil(_HOP * 2 ** (augment_config.MAX_SEMITONES / 12))
  read = (grains - 1 + -(-_GRAIN // _HOP)) * _HOP
  padded = jnp.pad(x_BxT, [(0, 0), (_GRAIN // 2 + most, read + _HOP)])

  def analyse(start_B):
    frames = _frames(_cut(padded, start_B, read), grains, _GRAIN, _HOP)
    return jnp.fft.rfft(frames * _hann(_GRAIN))

  now_BxGxF = analyse(jnp.full(count, most))
  step_BxGxF = now_BxGxF * analyse(most + _HOP - lag_B).conj()  # the next's
  bins = np.arange(_GRAIN // 2 + 1)
  angle = jnp.arctan2(step_BxGxF.imag, step_BxGxF.real)
  rest_B = (ratio_B * _HOP - lag_B) * (2 * math.pi / _GRAIN)
  angle += bins.astype(np.float32) * rest_B[:, None, None]
  power = jnp.square(step_BxGxF.real) + jnp.square(step_BxGxF.imag)
  now_BxGxF *= _locked_rotation(jnp.cumsum(angle, 1) - angle, power)
  # Bins that an upward shift moves beyond the Nyquist frequency are left out.
  kept_BxF = bins * ratio_B[:, None] <= _GRAIN / 2
  grains = _squeeze(jnp.where(kept_BxF[:, None], now_BxGxF, 0), ratio_B)
  # A grain's second hop overlaps with the first one of the next.
  halves = (grains * _overlaps(ratio_B)[:, None]).reshape(count, -1, 2, _HOP)
  y = halves[:, :-1, 1] + halves[:, 1:, 0]
  return y.reshape(count, -1)[:, :length]


def _hann(size):
  """A periodic Hann window."""
  turns = np.arange(size) / size
  return (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)


def _locked_rotation(angle, weight):
  """Rotations by the weighted mean of a bin and its four neighbours, of which
  the outer ones count half.
  """

  def locked(part):
    part = jnp.pad(part * weight, [(0, 0), (0, 0), (2, 2)])
    inner = part[..., 1:-3] + part[..., 2:-2] + part[..., 3:-1]
    return part[..., :-4] + part[..., 4:] + 2 * inner

  re, im = locked(jnp.cos(angle)), locked(jnp.sin(angle))
  scale = lax.rsqrt(
    jnp.square(re) + jnp.square(im) + 1e-37
  )  # silence is silent
  return lax.complex(re * scale, im * scale)


def _chirp(ratio_B, n):
  """exp(i pi ratio n^2 / N), [B, len(n)]; N is a grain's samples.

  There are thousands of turns, too many for float32; 32-bit integers drop whole
  turns and keep the fraction.
  """
  per_square_B = ratio_B * (_TURN / (2 * _GRAIN))
  whole_B = jnp.floor(per_square_B)
  square = (n.astype(np.int64) ** 2 % 2**32).astype(np.uint32)
  turned = whole_B.astype(jnp.uint32)[:, None] * square
  turned = lax.bitcast_convert_type(turned, jnp.int32).astype(jnp.float32)
  rest_Bx1 = (per_square_B - whole_B)[:, None]
  turned += rest_Bx1 * np.square(n, dtype=np.float32)
  angle = turned * np.float32(2 * math.pi / _TURN)
  return lax.complex(jnp.cos(angle), jnp.sin(angle))


def _squeeze(spectra_BxGxF, ratio_B):
  """Grains of two hops about their centre, at steps of `ratio` samples."""
  bins = np.arange(_GRAIN // 2 + 1)
  size = 1 << (2 * _HOP + len(bins) - 2).bit_length()
  # Twice what is not its own conjugate; the phase of the centre.
  weight = np.where(bins % (_GRAIN // 2) == 0, 1, 2) / _GRAIN * (-1.0) ** bins
  chirp_BxF = _chirp(ratio_B, bins) * weight.astype(np.float32)
  k = np.arange(size)
  k = np.where(k < 2 * _HOP, k, k - size) - _HOP
  kernel_BxP = jnp.fft.fft(_chirp(ratio_B, k).conj())
  spectra = jnp.fft.fft(spectra_BxGxF * chirp_BxF[:, None], size)
  sums = jnp.fft.ifft(spectra * kernel_BxP[:, None])[..., : 2 * _HOP]
  return (sums * _chirp(ratio_B, k[: 2 * _HOP])[:, None]).real


def _overlaps(ratio_B):
  """Windows [B, 2 hops] that make overlapping grains add up to 1."""
  k = np.arange(-_HOP, _HOP, dtype=np.float32) * ratio_B[:, None]
  squeezed = 0.5 + 0.5 * jnp.cos(k * (2 * math.pi / _GRAIN))
  squeezed = jnp.where(abs(k) < _GRAIN / 2, squeezed, 0.0)
  window = np.sqrt(_hann(2 * _HOP))
  sums = (window * squeezed).reshape(-1, 2, _HOP).sum(1)
  return window / jnp.tile(sums, 2)


def reverb(x_BxT, room_size_B, reverberance_B, damping_B, sample_rate):
  """sox's reverb (Freeverb), one channel: dry + wet; parameters in percent."""
  count, length = x_BxT.shape
  on = freeverb.circle(length, sample_rate)
  half = on.rows * on.columns
  wetness, damp = (
    p.reshape(-1, 1, 1) / 100 for p in (reverberance_B, damping_B)
  )
  feedback = 1 - jnp.exp(
    (100 * wetness - freeverb.FEEDBACK_B)
    / (freeverb.FEEDBACK_A * freeverb.FEEDBACK_B)
  )
  damp = 0.3 * damp + 0.2
  damped = (1 - damp) / (1 - damp * on.inverse_RxC)
  delays_Bx8 = _comb_delays(room_size_B, sample_rate)
  wet = _combs(delays_Bx8, feedback * damped, on) * on.fixed_RxC

  x_Bx2M = jnp.pad(x_BxT, [(0, 0), (0, 2 * half - length)])
  z_BxM = lax.complex(x_Bx2M[:, :half], x_Bx2M[:, half:] * -on.second)
  z_BxM *= on.into_M.astype(np.complex64)
  # Transforms of half the digits, twice: bin k is at row + rows * column.
  z_BxRxC = z_BxM.reshape(count, on.rows, on.columns)
  z_BxCxR = jnp.fft.fft(z_BxRxC.swapaxes(1, 2)) * on.twiddles_CxR
  z_BxRxC = jnp.fft.fft(z_BxCxR.swapaxes(1, 2)) * wet
  z_BxCxR = jnp.fft.ifft(z_BxRxC).swapaxes(1, 2) * on.twiddles_CxR.conj()
  y_BxM = jnp.fft.ifft(z_BxCxR).swapaxes(1, 2).reshape(count, half)
  y_BxM *= (1 / on.into_M).astype(np.complex64)
  y = jnp.concatenate([y_BxM.real, y_BxM.imag * (-1 / on.second)], 1)
  return x_BxT + y[:, :length]


def _comb_delays(room_size_B, sample_rate):
  """Samples [B, 8]. Compared with the host's steps rather than computed: fused
  sums that end in .5 would round to either side.
  """
  shortest_8, room_8xK = freeverb.delay_steps(sample_rate)
  passed_Bx8xK = room_size_B[:, None, None] >= room_8xK
  return shortest_8 + passed_Bx8xK.sum(2, dtype=jnp.int32)


def _combs(delays_Bx8, loop_BxRxC, on):
  """Sum of 1 / (z^D - loop) over the combs' delays D, pairs as one fraction."""
  half = on.rows * on.columns

  def power(quarters):
    """z^D at points given in quarters of a step, without the radius."""
    turn = delays_Bx8[..., None] * quarters % (4 * half)
    angle = turn.astype(jnp.float32) * (math.pi / (2 * half))
    return lax.complex(jnp.cos(angle), jnp.sin(angle))

  # z^D as an outer product of few exponentials, of exact turns.
  low_Bx8xR = power(4 * np.arange(on.rows, dtype=np.int32) + 1)
  low_Bx8xR *= jnp.exp(delays_Bx8 * on.log_radius)[..., None]
  high_Bx8xC = power(4 * on.rows * np.arange(on.columns, dtype=np.int32))
  terms = [
    low_Bx8xR[:, i, :, None] * high_Bx8xC[:, i, None] - loop_BxRxC
    for i in range(delays_Bx8.shape[1])
  ]
  return sum((a + b) / (a * b) for a, b in zip(terms[::2], terms[1::2]))


def _cut(x_BxN, start_B, size):
  """`size` samples of each row, from its own start."""
  return jax.vmap(lambda x, start: lax.dynamic_slice(x, (start,), (size,)))(
    x_BxN, start_B
  )


def _frames(x_BxN, count, width, hop):
  """`count` frames [B, count, width], a hop after each other, by reshapes."""
  pieces = -(-width // hop)
  blocks = x_BxN[:, : (count - 1 + pieces) * hop].reshape(len(x_BxN), -1, hop)
  frames = [blocks[:, i : i + count] for i in range(pieces)]
  return jnp.concatenate(frames, 2)[..., :width]


# --- the chain ---------------------------------------------------------------


def views_of(config, devices: Mesh) -> Callable:
  """`views_of(batch) -> views_BxVxT` for batches of `input_pipeline`."""
  if config.data.augment_on == "device":
    return jit_augment(config, devices)
  return lambda views_BxVxT: views_BxVxT


def jit_augment(config, devices: Mesh) -> Callable:
  """`augmented(crops) -> views_BxVxT` (float32), compiled for a mesh.

  `crops` is a batch of `input_pipeline.Crops`, split over the devices; each
  augments its own rows.
  """
  chain, rate = config.augment.to_dict(), config.data.sample_rate

  def augmented(crops):
    pcm_BxVxT, draws = crops
    shape = pcm_BxVxT.shape
    x_NxT = pcm_BxVxT.reshape(-1, shape[-1]).astype(jnp.float32)
    x_NxT /= audio.INT16_SCALE
    draws = jax.tree.map(lambda d: d.reshape(-1, *d.shape[2:]), draws)
    return augment(x_NxT, draws, chain, rate).reshape(shape)

  batch = PartitionSpec(*devices.axis_names)
  return jax.jit(
    jax.shard_map(
      augmented, mesh=devices, in_specs=batch, out_specs=batch, check_vma=False
    ),
    compiler_options=mesh.compiler_options(devices),
  )


def augment(x_BxT, draws, config, sample_rate):
  """All augmentations after the crop, in the thesis's order.

  Args:
    x_BxT: the views.
    draws: of `augment.draw`, as arrays [B]; "noise" also has a "seed", uint32
      [B, 2]. Ops without draws are left out.
    config: as `augment_config.default_augment()`.
    sample_rate: in Hz.
  """
  c, rate = config, sample_rate
  # Cheap ops: computed for all views, and then chosen.
  all_views = {
    "polarity": lambda x, d: invert_polarity(x),
    "gain": lambda x, d: gain(x, d["db"]),
    "delay": lambda x, d: delay(x, d["ms"], c["delay"]["factor"], rate),
  }
  some_views = {
    "noise": lambda x, d: add_noise(x, d["seed"], c["noise"]["snr_db"]),
    "filter": lambda x, d: _filtered(x, d, c["filter"], rate),
    "pitch": lambda x, d: pitch_shift(x, d["semitones"]),
    "reverb": lambda x, d: reverb(
      x, d["room_size"], d["reverberance"], d["damping"], rate
    ),
  }
  for op in augment_config.default_augment():
    if op not in draws:
      continue
    on_B = draws[op]["on"]
    if op in all_views:
      x_BxT = jnp.where(on_B[:, None], all_views[op](x_BxT, draws[op]), x_BxT)
    else:
      rows = math.ceil(len(x_BxT) * c[op]["p"] / GOES)
      x_BxT = apply_where(some_views[op], x_BxT, on_B, draws[op], rows)
  return x_BxT


def _filtered(x_BxT, draws, config, sample_rate):
  """Each view by its high-pass or its low-pass; both are one convolution."""
  high_B = draws["highpass"]
  hertz_B = jnp.where(high_B, draws["highpass_hz"], draws["lowpass_hz"])
  lowest = min(config["highpass_hz"][0], config["lowpass_hz"][0])
  low_BxT = lowpass(x_BxT, hertz_B, sample_rate, lowest)
  return jnp.where(high_B[:, None], x_BxT - low_BxT, low_BxT)


def apply_where(op, x_BxT, on_B, parameters, rows):
  """Applies `op(x, parameters)` to the views that are on.

  It takes `rows` views at a time, in as many rounds as necessary: a rare op
  costs little, and any number of views is allowed.

  Args:
    op: of views [rows, T] and parameters [rows, ...].
    x_BxT: the views.
    on_B: whether a view takes the op.
    parameters: arrays [B, ...] in a dict or the like.
    rows: views a round, static; the last round may have spare rows.
  """
  count = len(x_BxT)
  # The views that are on come first; invalid row numbers fill the last round.
  order = jnp.argsort(~on_B, stable=True)
  order = jnp.concatenate([order, count + jnp.arange(-count % rows)])

  def go(i, x_BxT):
    chosen = lax.dynamic_slice(order, (i * rows,), (rows,))
    x, on, given = jax.tree.map(
      lambda a: jnp.take(a, chosen, 0, mode="clip"), (x_BxT, on_B, parameters)
    )
    y = jnp.where(on[:, None], op(x, given), x)
    return x_BxT.at[chosen].set(y, mode="drop", unique_indices=True)

  takers = on_B.sum(dtype=jnp.int32)
  return lax.fori_loop(0, (takers + rows - 1) // rows, go, jnp.asarray(x_BxT))
