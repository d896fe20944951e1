"""Augmentations against their physical effect and independent references."""

import math
import shutil
import subprocess

import jax
import ml_collections
import numpy as np
import pytest
import scipy.signal
import soundfile
import tensorflow as tf
from music import db, notes, power, white, write

from vicreg_jax import config as configs
from vicreg_jax import config_limits
from vicreg_jax.data import augment as A
from vicreg_jax.data import (
  augment_config,
  crops,
  device_augment,
  seeds,
)

SR = 22_050
T = 59_049
TIME = np.arange(T) / SR
INSIDE = slice(4_000, -4_000)
OPS = ("polarity", "noise", "gain", "filter", "delay", "pitch", "reverb")


def sines(*hertz, amplitude=0.15):
  x = sum(np.sin(2 * np.pi * f * TIME + i) for i, f in enumerate(hertz))
  return (amplitude * x).astype(np.float32)


def peak_hz(x, near, width=12.0):
  """Frequency of the strongest peak near `near`, by parabola on 2^19 points."""
  size = 1 << 19
  s = np.log(np.abs(np.fft.rfft(x * np.blackman(len(x)), size)) + 1e-30)
  low, high = (int((near + d) * size / SR) for d in (-width, width))
  i = low + np.argmax(s[low:high])
  a, b, c = s[i - 1 : i + 2]
  return (i + 0.5 * (a - c) / (a - 2 * b + c)) * SR / size


def config(**p):
  """The default configuration with only the given probabilities non-zero."""
  c = augment_config.default_augment()
  for op in c:
    c[op]["p"] = p.get(op, 0.0)
  return c


# --- single ops --------------------------------------------------------------


def test_polarity_and_gain():
  x = white()
  np.testing.assert_array_equal(A.invert_polarity(x), -x)
  for level in (-6.0, -2.5, 0.0):
    y = A.gain(x, level).numpy()
    assert db(power(y) / power(x)) == pytest.approx(level, abs=1e-4)
    np.testing.assert_allclose(y, x * 10 ** (level / 20), rtol=1e-6)


@pytest.mark.parametrize("snr", [80.0, 20.0])
def test_noise_has_the_snr_and_is_white_and_gaussian(snr):
  x = white(1, 3.0) if snr < 50 else sines(440)
  noise = A.add_noise(x, [1, 2], snr).numpy().astype(np.float64) - x
  assert db(power(x) / power(noise)) == pytest.approx(snr, abs=0.1)
  z = noise / noise.std()
  assert abs(z.mean()) < 0.02
  if snr < 50:  # at 80 dB the sum with x is rounded to a coarse grid
    assert np.mean(z**4) == pytest.approx(3, abs=0.1)
  halves = np.abs(np.fft.rfft(z))[1:] ** 2
  assert halves[: T // 4].mean() == pytest.approx(
    halves[T // 4 :].mean(), rel=0.05
  )


def test_filters_are_windowed_sincs_of_scipy():
  x = white(2)
  for cutoff in (200.0, 731.7, 1_200.0, 2_200.0, 4_000.0):
    half = int(4 * SR / cutoff)
    taps = scipy.signal.firwin(2 * half + 1, cutoff, window="hann", fs=SR)
    padded = np.pad(x.astype(np.float64), half, mode="edge")
    low = scipy.signal.fftconvolve(padded, taps, mode="valid")
    np.testing.assert_allclose(A.lowpass(x, cutoff, SR), low, atol=1e-6)
    np.testing.assert_allclose(A.highpass(x, cutoff, SR), x - low, atol=1e-6)
    # Of a tensor: in long blocks, or in short ones for cut-offs above some.
    for lowest in (None, 0.98 * cutoff):
      y = A.lowpass(x, tf.constant(cutoff, tf.float32), SR, lowest)
      np.testing.assert_allclose(y, low, atol=1e-6)


def test_filter_refuses_a_cutoff_it_cannot_realise():
  with pytest.raises(ValueError, match=r"cutoff_hz is 50\.0"):
    A.lowpass(white(), 50.0, SR)


@pytest.mark.parametrize("ms", [200.0, 250.0, 500.0])
def test_delay_adds_one_echo(ms):
  x = white(3)
  y = A.delay(x, ms, 0.5, SR).numpy()
  d = int(ms * SR / 1_000)
  expected = x.copy()
  expected[d:] += 0.5 * x[:-d]
  np.testing.assert_allclose(y, expected, atol=1e-7)


def test_delay_longer_than_the_view_adds_nothing():
  x = white(3, length=1_000)
  np.testing.assert_array_equal(A.delay(x, 500.0, 0.5, SR), x)


_shift_on_device = jax.jit(device_augment.pitch_shift)


def shift_on_device(x, semitones):
  semitones_1 = np.full(1, semitones, np.float32)
  return np.asarray(_shift_on_device(x[None], semitones_1))[0]


@pytest.fixture(params=["host", "device"])
def pitch_shift(request):
  """`pitch_shift(x, semitones)`, NumPy: what is asked of it is one thing."""
  if request.param == "device":
    return shift_on_device
  return lambda x, semitones: A.pitch_shift(x, semitones).numpy()


@pytest.mark.parametrize("semitones", [-5.0, -2.37, -0.5, 0.13, 1.9, 3.7, 5.0])
def test_pitch_moves_sines_within_ten_cents_at_their_level(
  semitones, pitch_shift
):
  ratio = 2 ** (semitones / 12)
  for hertz in (110.0, 233.0, 440.0, 1_000.0, 1_760.0):
    x = sines(hertz, amplitude=0.5)
    y = pitch_shift(x, semitones)
    got = peak_hz(y[INSIDE], hertz * ratio)
    assert abs(1_200 * np.log2(got / (hertz * ratio))) < 2
    assert abs(db(power(y[INSIDE]) / power(x[INSIDE]))) < 0.3


def partials(y, hertz, width=10):
  """Power spectrum of `y`, and which of its bins are near one of `hertz`."""
  s = np.abs(np.fft.rfft(y * np.blackman(len(y)))) ** 2
  f = np.fft.rfftfreq(len(y), 1 / SR)
  return s, np.any([np.abs(f - h) < width for h in hertz], axis=0)


@pytest.mark.parametrize("semitones", [-5.0, -2.3, 3.7, 5.0])
def test_pitch_moves_each_partial_of_a_chord(semitones, pitch_shift):
  ratio = 2 ** (semitones / 12)
  chord = (220.0, 277.18, 329.63, 440.0, 554.37, 659.26)
  x = sines(*chord)
  y = pitch_shift(x, semitones)[INSIDE]
  for f in chord:
    cents = 1_200 * np.log2(peak_hz(y, f * ratio) / (f * ratio))
    assert abs(cents) < 2, f
    s, here = partials(y, [f * ratio])
    # Equal amplitudes in, equal amplitudes out.
    assert abs(db(s[here].sum() * len(chord) / s.sum())) < 0.5, f
  s, here = partials(y, np.multiply(chord, ratio))
  assert db(s[~here].sum() / s[here].sum()) < -35
  assert abs(db(power(y) / power(x[INSIDE]))) < 0.3


def test_pitch_zero_is_identity_and_music_keeps_its_level(pitch_shift):
  x = notes()
  np.testing.assert_allclose(pitch_shift(x, 0.0), x, atol=1e-5)
  for semitones in (-5.0, -1.5, 2.0, 5.0):
    y = pitch_shift(x, semitones)
    assert abs(db(power(y) / power(x))) < 1


@pytest.mark.parametrize("semitones", [-5.0, -2.0, 3.0, 5.0])
def test_pitch_keeps_onsets_in_place(semitones, pitch_shift):
  rng = np.random.default_rng(4)
  x = np.zeros(T, np.float32)
  onsets = range(5_000, T - 8_000, 9_000)
  for n in onsets:
    x[n : n + 2_000] += rng.normal(size=2_000) * np.exp(-np.arange(2_000) / 400)
  y = pitch_shift(x, semitones)

  def arrival(v, share):
    energy = np.cumsum(v.astype(np.float64) ** 2)
    return np.searchsorted(energy, share * energy[-1]) / SR

  for n in onsets:
    around = slice(n - 2_500, n + 4_500)
    for share in (0.1, 0.5):
      moved = arrival(y[around], share) - arrival(x[around], share)
      assert abs(moved) < 0.015
  # An upward shift takes the top of a white burst's band past Nyquist.
  left = min(1, 2 ** (-semitones / 12))
  assert abs(db(power(y) / (left * power(x)))) < 2


def freeverb_in_time(x, room_size, reverberance, damping):
  """Wet signal of sox's reverb.c, in float64 and in the time domain."""
  rate, scale = SR / 44_100, 0.9 * room_size / 100 + 0.1
  a = -1 / math.log(1 - 0.3)
  b = 100 / (math.log(1 - 0.98) * a + 1)
  feedback = 1 - math.exp((reverberance - b) / (a * b))
  damp = damping / 100 * 0.3 + 0.2
  wet = np.zeros(len(x))
  for size in (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617):
    d = int(scale * rate * size + 0.5)
    # Damped feedback: y[n] = damp y[n-1] + x[n-d] - damp x[n-d-1]
    #                         + feedback (1 - damp) y[n-d]
    above, below = np.zeros(d + 2), np.zeros(d + 2)
    above[d], above[d + 1] = 1, -damp
    below[0], below[1] = 1, -damp
    below[d] -= feedback * (1 - damp)
    wet += scipy.signal.lfilter(above, below, x.astype(np.float64))
  for size in (225, 341, 441, 556):
    buffer, out = np.zeros(int(rate * size + 0.5)), np.empty(len(x))
    d = len(buffer)
    for n in range(0, len(x), d):  # the delay line, one length at a time
      part = wet[n : n + d]
      out[n : n + d] = buffer[: len(part)] - part
      buffer[: len(part)] = part + 0.5 * buffer[: len(part)]
    wet = out
  return 0.015 * wet


ROOMS = ((100, 100, 0), (0, 0, 0), (0, 100, 0), (50, 50, 50), (33, 80, 100))


@pytest.mark.parametrize("room", ROOMS)
def test_reverb_is_freeverb_sample_by_sample(room):
  for x in (white(5), notes(5)):
    expected = freeverb_in_time(x, *room)
    wet = A.reverb(x, *map(float, room), SR).numpy().astype(np.float64) - x
    assert db(power(wet - expected) / power(expected)) < -65


@pytest.mark.skipif(not shutil.which("sox"), reason="sox is not installed")
@pytest.mark.parametrize("room", ROOMS)
def test_reverb_agrees_with_sox(room, tmp_path):
  x = np.clip(white(6, 0.05), -1, 1)
  write(tmp_path / "in.wav", x, SR, "FLOAT")
  size, reverberance, damping = map(str, room)
  subprocess.run(
    ["sox", tmp_path / "in.wav", tmp_path / "out.wav", "reverb"]
    + [reverberance, damping, size, "0"],
    check=True,
  )
  expected = soundfile.read(tmp_path / "out.wav")[0][:T]
  y = A.reverb(x, *map(float, room), SR).numpy()
  assert db(power(y - expected) / power(expected)) < -55


def sox_pitch(x, semitones, directory):
  write(directory / "in.wav", x, SR, "FLOAT")
  subprocess.run(
    ["sox", directory / "in.wav", directory / "out.wav", "pitch"]
    + [str(100 * semitones)],
    check=True,
  )
  return soundfile.read(directory / "out.wav")[0][:T]


@pytest.mark.skipif(not shutil.which("sox"), reason="sox is not installed")
@pytest.mark.parametrize("semitones", [-5.0, -0.7, 3.7])
def test_pitch_leaves_less_beside_close_partials_than_sox(
  semitones, tmp_path, pitch_shift
):
  chord = (130.8, 164.8, 196.0, 261.6, 523.2)
  x = sines(*chord)
  beside = []
  for y in (pitch_shift(x, semitones), sox_pitch(x, semitones, tmp_path)):
    moved = np.multiply(chord, 2 ** (semitones / 12))
    s, here = partials(np.asarray(y)[INSIDE], moved)
    beside.append(db(s[~here].sum() / s[here].sum()))
  assert beside[0] < -23 and beside[0] < beside[1] - 5


@pytest.mark.parametrize("level", [1e-4, 100.0])
def test_pitch_is_the_same_at_any_level(level, pitch_shift):
  x = notes(8)
  y = pitch_shift(x, -3.3).astype(np.float64)
  scaled = pitch_shift((level * x).astype(np.float32), -3.3) / level
  assert db(power(scaled - y) / power(y)) < -35


@pytest.mark.skipif(not shutil.which("sox"), reason="sox is not installed")
@pytest.mark.parametrize("semitones", [-4.5, 3.2])
def test_pitch_agrees_with_sox_in_its_spectrum(
  semitones, tmp_path, pitch_shift
):
  x = notes(7)
  theirs = sox_pitch(x, semitones, tmp_path)
  ours = pitch_shift(x, semitones)

  def bands(v):
    f, s = scipy.signal.welch(v, SR, nperseg=4_096)
    edges = 100 * 2 ** np.arange(0, 6.1, 0.5)
    return db(np.histogram(f, edges, weights=s)[0])

  assert np.abs(bands(ours) - bands(theirs)).max() < 3
  assert abs(db(power(ours) / power(theirs))) < 1


# --- the chain ---------------------------------------------------------------

SEEDS = [np.array([i, 7 * i + 1], np.int64) for i in range(40)]


def run_ops(x):
  yield A.invert_polarity(x)
  yield A.add_noise(x, [1, 2], 80.0)
  yield A.gain(x, -6.0)
  for cutoff in (200.0, 4_000.0):
    yield A.highpass(x, cutoff, SR)
    yield A.lowpass(x, cutoff, SR)
  yield A.delay(x, 200.0, 0.5, SR)
  for semitones in (-7.0, -5.0, 0.0, 5.0, 7.0):
    yield A.pitch_shift(x, semitones)
  for room in ROOMS:
    yield A.reverb(x, *map(float, room), SR)


def test_silence_stays_silent_and_full_scale_stays_bounded():
  for y in run_ops(np.zeros(T, np.float32)):
    np.testing.assert_array_equal(y, np.zeros(T))
  square = np.sign(np.sin(2 * np.pi * 300 * TIME)).astype(np.float32)
  constant = np.ones(T, np.float32)
  for x in (square, constant, np.clip(white(8, 1.0), -1, 1)):
    for y in run_ops(x):
      assert y.shape == [T] and y.dtype == tf.float32
      assert np.isfinite(y).all()
      # A constant is amplified by the combs' resonance at 0 Hz.
      assert power(y) < (60 if x is constant else 4) * power(x)


@pytest.mark.parametrize("length, rate", [(1, SR), (700, SR), (99_000, 44_100)])
def test_chain_takes_any_length_and_rate(length, rate):
  x = white(13, length=length)
  always = config(**dict.fromkeys(OPS, 1.0))
  y = A.augment(x, [5, 6], always, rate).numpy()
  assert y.shape == (length,) and np.isfinite(y).all() and np.abs(y).max() > 0


def test_chain_equals_its_ops_in_order():
  c = config(**dict.fromkeys(OPS, 1.0))
  x = white(10)
  for seed in SEEDS[:3]:
    d = A.draw(seed, c)
    y = A.invert_polarity(x)
    y = A.add_noise(y, seeds.op_seed(seed, "noise"), 80.0)
    y = A.gain(y, d["gain"]["db"])
    if d["filter"]["highpass"]:
      lowest = c["filter"]["highpass_hz"][0]
      y = A.highpass(y, d["filter"]["highpass_hz"], SR, lowest)
    else:
      lowest = c["filter"]["lowpass_hz"][0]
      y = A.lowpass(y, d["filter"]["lowpass_hz"], SR, lowest)
    y = A.delay(y, d["delay"]["ms"], 0.5, SR)
    y = A.pitch_shift(y, d["pitch"]["semitones"])
    r = d["reverb"]
    y = A.reverb(y, r["room_size"], r["reverberance"], r["damping"], SR)
    np.testing.assert_allclose(A.augment(x, seed, c, SR), y, atol=1e-6)


def test_p_zero_is_the_identity_and_leaves_no_op():
  x = white(11)
  for seed in SEEDS[:5]:
    np.testing.assert_array_equal(A.augment(x, seed, config(), SR), x)
  graph = tf.function(lambda x: A.augment(x, [1, 2], config(), SR))
  graph = graph.get_concrete_function(tf.TensorSpec([T])).graph
  types = {op.type for op in graph.get_operations()}
  assert not types & {"If", "StatelessIf", "RFFT", "AddV2", "Mul"}


@pytest.mark.slow
def test_same_bits_eager_in_a_pipeline_and_on_any_number_of_threads():
  c = augment_config.default_augment()
  x = white(12)

  def view(i, x):
    return A.augment(x, seeds.example_seed(1, 2, i, 0), c, SR)

  def pipeline(calls, threads):
    ds = tf.data.Dataset.from_tensors(x).repeat(24).enumerate()
    ds = ds.map(view, num_parallel_calls=calls)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = threads
    return np.stack(list(ds.with_options(options).as_numpy_iterator()))

  one = pipeline(1, 1)
  np.testing.assert_array_equal(one, pipeline(8, 8))
  eager = np.stack([view(tf.constant(i, tf.int64), x) for i in range(24)])
  np.testing.assert_array_equal(one, eager)
  assert len({y.tobytes() for y in one}) == 24


def draws_of(c, count=20_000):
  """`draw` over many seeds, vectorised by the graph."""
  ds = tf.data.Dataset.range(count).map(
    lambda i: A.draw(seeds.example_seed(0, 0, i, 0), c), num_parallel_calls=2
  )
  return next(ds.batch(count).as_numpy_iterator())


@pytest.fixture(scope="module")
def default_draws():
  return draws_of(augment_config.default_augment())


def test_frequencies_and_ranges_are_the_thesis_s(default_draws):
  d = default_draws
  expected = dict(zip(OPS, (0.8, 0.01, 0.3, 0.8, 0.3, 0.6, 0.6)))
  count = len(d["pitch"]["on"])
  for op, p in expected.items():
    assert d[op]["on"].mean() == pytest.approx(
      p, abs=4 * np.sqrt(p * (1 - p) / count)
    ), op
  assert d["filter"]["highpass"].mean() == pytest.approx(0.5, abs=0.015)
  for values, low, high in (
    (d["gain"]["db"], -6, 0),
    (d["filter"]["highpass_hz"], 200, 1_200),
    (d["filter"]["lowpass_hz"], 2_200, 4_000),
    (d["pitch"]["semitones"], -5, 5),
    (d["reverb"]["room_size"], 0, 100),
    (d["reverb"]["reverberance"], 0, 100),
    (d["reverb"]["damping"], 0, 100),
  ):
    assert low <= values.min() and values.max() <= high
    unit = np.sort((values - low) / (high - low))
    assert np.abs(unit - np.linspace(0, 1, count)).max() < 0.015
  ms, counts = np.unique(d["delay"]["ms"], return_counts=True)
  np.testing.assert_array_equal(ms, [200, 250, 300, 350, 400, 450, 500])
  assert np.abs(counts * 7 / count - 1).max() < 0.08


def test_draws_are_independent(default_draws):
  d = default_draws
  rows = {op: d[op]["on"] for op in OPS if op != "noise"}
  rows |= {k: v for op in d for k, v in d[op].items() if k != "on"}
  r = np.abs(np.corrcoef(np.array([*rows.values()], np.float64)))
  names = [*rows]
  strong = {(names[i], names[j]) for i, j in np.argwhere(np.triu(r, 1) > 0.04)}
  # By design: of the two, a coin chooses one. The coin itself is of neither.
  assert strong == {("highpass_hz", "lowpass_hz")}


def test_switching_an_op_off_changes_no_other_draw(default_draws):
  c = augment_config.default_augment()
  c["gain"]["p"] = c["pitch"]["p"] = 0.0
  c["delay"]["p"] = 1.0
  fewer = draws_of(c, 500)
  assert fewer.keys() == default_draws.keys() - {"gain", "pitch"}
  for op in ("polarity", "filter", "reverb"):
    for key, values in fewer[op].items():
      np.testing.assert_array_equal(values, default_draws[op][key][:500])


# --- seeds and crops ---------------------------------------------------------


def test_example_seed_is_splitmix64():
  mask = 2**64 - 1

  def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)

  gamma = 0x9E3779B97F4A7C15
  # The published first output of SplitMix64 from state 0.
  assert mix(gamma) == 0xE220A8397B1DCDAF
  for seed, epoch, example, view in ((0, 0, 0, 0), (7, 3, -5, 1), (1, 2, 9, 0)):
    h = 0
    for value in (seed, epoch, view, example):
      h = mix(((h ^ (value & mask)) + gamma) & mask)
    pair = [mix((h + gamma) & mask), mix((h + 2 * gamma) & mask)]
    got = seeds.example_seed(
      seed, tf.constant(epoch, tf.int64), tf.constant(example, tf.int64), view
    )
    assert [int(v) & mask for v in got] == pair


def starts_of(length, crop, count):
  """Where the crops of so many clips of that length begin."""
  clips = tf.data.Dataset.range(count).map(
    lambda i: crops.random_start(length, crop, seeds.example_seed(0, 0, i, 0))
  )
  return np.array([int(start) for start in clips])


def test_crop_start_is_uniform_with_both_ends():
  values, counts = np.unique(starts_of(13, 10, 8_000), return_counts=True)
  np.testing.assert_array_equal(values, [0, 1, 2, 3])
  assert np.abs(counts / 2_000 - 1).max() < 0.1
  assert int(crops.random_start(T, T, [1, 2])) == 0
  with pytest.raises(tf.errors.InvalidArgumentError, match="shorter than"):
    crops.random_start(T - 1, T, [1, 2])


def test_crop_is_independent_of_the_chain(default_draws):
  starts = starts_of(10**6, 10, 4_000)
  for op in default_draws:
    for values in default_draws[op].values():
      r = np.corrcoef(starts, values[:4_000].astype(float))[0, 1]
      assert abs(r) < 0.07, op


# --- configuration -----------------------------------------------------------


@pytest.mark.parametrize(
  "op, key, value",
  [
    ("filter", "p", 1.5),
    ("gain", "p", "0.3"),
    ("noise", "snr_db", float("nan")),
    ("filter", "highpass_hz", (50.0, 1_200.0)),
    ("filter", "lowpass_hz", (2_200.0, 12_000.0)),
    ("filter", "highpass_hz", (1_200.0, 200.0)),
    ("filter", "lowpass_hz", (3_000.0,)),
    ("delay", "step_ms", 0.0),
    ("delay", "delay_ms", 200.0),
    ("pitch", "semitones", (-8.0, 5.0)),
    ("reverb", "room_size", (0.0, 101.0)),
    ("gain", "min_db", 1.0),
  ],
)
def test_limits_name_key_and_value(op, key, value):
  c = configs.base_pretrain().to_dict()
  assert tuple(augment_config.default_augment()) == OPS
  c["augment"][op][key] = value
  with pytest.raises(ValueError, match=rf"augment\.{op}\.{key}") as error:
    config_limits.validate(ml_collections.ConfigDict(c))
  assert str(value) in str(error.value)


def test_a_view_must_be_mono_of_known_length():
  with pytest.raises(ValueError, match="one channel"):
    A.pitch_shift(np.zeros((2, T), np.float32), 1.0)
