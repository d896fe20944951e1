"""The voices of synthetic music: each makes the samples of a note.

Samples are made by table look-up, sums and products, not by `sin` or `exp` of
long arrays, whose last bits differ between processors.
"""

from collections.abc import Callable

import numpy as np

_TABLE = 8192  # samples of one period of a wave table
# A voice is a function (frequency in Hz, samples until release) -> float32
# samples, release included. What makes it draws its timbre, once for a clip.

_Voice = Callable[[float, int], np.ndarray]
_SINE = np.sin(2 * np.pi * np.arange(_TABLE) / _TABLE).astype(np.float32)


def _read(table: np.ndarray, phase: np.ndarray) -> np.ndarray:
  """Reads a wave table at a phase in cycles (>= -1)."""
  return table[((phase + 1.0) * _TABLE).astype(np.int64) & (_TABLE - 1)]


def _wave(amplitudes: np.ndarray, limit: float, turns: np.ndarray):
  """One period with these harmonics, those above `limit` left out, at RMS 1.

  `turns` are the harmonics' phases in cycles, `limit` counts harmonics.
  """
  num = max(1, min(len(amplitudes), int(limit)))
  spectrum = np.zeros(_TABLE // 2 + 1, np.complex128)
  spectrum[1 : num + 1] = amplitudes[:num] * np.exp(2j * np.pi * turns[:num])
  spectrum *= _TABLE / np.sqrt(2 * np.sum(np.abs(spectrum) ** 2))
  return np.fft.irfft(spectrum).astype(np.float32)


def fading(num: int, time: float) -> np.ndarray:
  """exp(-n / time), by blocks so that few exponentials are taken."""
  fine = np.exp(-np.arange(256) / time)
  coarse = np.exp(-256 * np.arange(-(-num // 256)) / time)
  return np.outer(coarse, fine).ravel()[:num].astype(np.float32)


def _shape(gate: int, attack: float, release: float, decay: float = np.inf):
  """Envelope of a note, float32 [gate + release]; times in samples.

  Linear attack, exponential decay with time constant `decay`, and a release
  that starts where the note was let go. Short notes get a shorter attack.
  """
  attack, release = int(min(attack, 0.5 * gate)), int(release)
  envelope = np.ones(gate + release, np.float32)
  if decay < np.inf:
    envelope = fading(gate + release, decay)
  envelope[:attack] *= np.arange(attack, dtype=np.float32) / max(attack, 1)
  fall = np.arange(release, 0, -1, dtype=np.float32) / max(release, 1)
  envelope[gate:] *= fall * fall
  return envelope


def noise(rng: np.random.Generator, num: int) -> np.ndarray:
  """White noise, float32 [num], uniform from -1 to 1."""
  return 2.0 * rng.random(num, np.float32) - 1.0


def _plucked(rng: np.random.Generator, rate: int) -> _Voice:
  """Plucked string: Karplus and Strong's loop (CMJ 7(2), 1983).

  Each period is the one before, low-passed. The loop filter only scales the
  harmonics of a period, so all periods come from one matrix of powers and one
  inverse FFT, and reading them at a fractional rate gives the exact pitch.
  """
  burst = rng.uniform(0.3, 1.0, 512) * np.exp(2j * np.pi * rng.random(512))
  position, soft = rng.uniform(0.08, 0.45), rng.uniform(0.2, 1.2)
  ring, damping = rng.uniform(0.8, 3.0), rng.uniform(0.1, 0.6)
  release = rng.uniform(0.03, 0.08)

  def voice(frequency: float, gate: int) -> np.ndarray:
    num = gate + int(release * rate)
    harmonics = max(1, min(512, int(0.45 * rate / frequency)))
    order = np.arange(1, harmonics + 1)
    first = burst[:harmonics] * order**-soft
    first = first * np.abs(np.sin(np.pi * order * position))
    # -60 dB after `ring` seconds, high harmonics sooner.
    loss = 10.0 ** (-3 / (frequency * ring)) * (
      1 - damping * (1 - np.cos(np.pi * order * frequency / rate))
    )
    size = 1 << int(np.ceil(np.log2(4 * harmonics + 2)))
    periods = int(num * frequency / rate) + 2
    power_PxH = np.ones((periods, harmonics), np.float32)
    power_PxH[1:] = loss
    np.multiply.accumulate(power_PxH, axis=0, out=power_PxH)
    spectrum_PxF = np.zeros((periods, size // 2 + 1), np.complex64)
    rows_PxH = spectrum_PxF[:, 1 : harmonics + 1]
    rows_PxH.real = power_PxH * first.real.astype(np.float32)
    rows_PxH.imag = power_PxH * first.imag.astype(np.float32)
    string = np.fft.irfft(spectrum_PxF, axis=1).ravel()
    place = np.arange(num) * (frequency / rate * size)
    whole = place.astype(np.int64)
    part = (place - whole).astype(np.float32)
    tone = string[whole] * (1 - part) + string[whole + 1] * part
    return tone * _shape(gate, 0.001 * rate, release * rate) * size

  return voice


def _organ(rng: np.random.Generator, rate: int) -> _Voice:
  """Drawbar organ: nine sine partials, key click, rotating speaker."""
  bars = np.zeros(16)
  bars[[0, 1, 2, 3, 5, 7, 9, 11, 15]] = rng.random(9) ** 1.5
  bars[0] *= 0.6
  bars[1] = rng.uniform(0.6, 1.0)
  turns = rng.random(16)
  speed, depth = rng.uniform(5.0, 7.5), rng.uniform(0.1, 0.35)
  click = rng.uniform(0, 1.5) * noise(rng, int(0.006 * rate))
  attack, release = rng.uniform(0.004, 0.02), rng.uniform(0.02, 0.08)

  def voice(frequency: float, gate: int) -> np.ndarray:
    # The lowest drawbar sounds an octave below the key.
    table = _wave(bars, 0.9 * rate / frequency, turns)
    time = np.arange(gate + int(release * rate)) / rate
    tone = _read(table, 0.5 * frequency * time)
    tone *= 1 + np.float32(depth) * _read(_SINE, speed * time)
    head = tone[: len(click)]
    head += click[: len(head)]
    return tone * _shape(gate, attack * rate, release * rate)

  return voice


def _bell(rng: np.random.Generator, rate: int) -> _Voice:
  """Frequency modulation with a decaying index (Chowning, JAES 21(7), 1973)."""
  ratio = rng.choice((2.76, 3.5, 4.2, 5.4)) * rng.uniform(0.995, 1.005)
  index, fade = rng.uniform(1.2, 2.8), rng.uniform(0.1, 0.5)
  decay, release = rng.uniform(0.4, 1.2), rng.uniform(0.05, 0.12)

  def voice(frequency: float, gate: int) -> np.ndarray:
    num = gate + int(release * rate)
    time = np.arange(num) / rate
    # Carson's rule keeps the sidebands of high notes below half the rate.
    room = (0.5 * rate / frequency - 1) / ratio - 1
    strength = min(index, max(room, 0.0)) / (2 * np.pi)
    swing = fading(num, fade * rate) * _read(_SINE, ratio * frequency * time)
    tone = _read(_SINE, frequency * time + strength * swing)
    return tone * _shape(gate, 0.002 * rate, release * rate, decay * rate)

  return voice


def _pad(rng: np.random.Generator, rate: int) -> _Voice:
  """Bowed strings: three detuned saws, slow attack, moving brightness."""
  order = np.arange(1, 129)
  dark = order ** -rng.uniform(1.8, 2.6)
  bright = order ** -rng.uniform(1.0, 1.5)
  detune = 2.0 ** (rng.uniform(8, 18) / 1200)
  turns, speed = rng.random(128), rng.uniform(0.2, 1.0)
  attack, release = rng.uniform(0.06, 0.2), rng.uniform(0.1, 0.35)

  def voice(frequency: float, gate: int) -> np.ndarray:
    time = np.arange(gate + int(release * rate)) / rate
    limit = 0.45 * rate / (frequency * detune)
    low, high = _wave(dark, limit, turns), _wave(bright, limit, turns)
    shift = 0.5 - 0.5 * _read(_SINE, speed * time + 0.25)
    tone = np.zeros(len(time), np.float32)
    for cycles in (frequency / detune, frequency, frequency * detune):
      phase = cycles * time + 0.37 * cycles
      tone += (1 - shift) * _read(low, phase) + shift * _read(high, phase)
    return tone * _shape(gate, attack * rate, release * rate)

  return voice


def _flute(rng: np.random.Generator, rate: int) -> _Voice:
  """Near-sine with vibrato, and breath noise about its own pitch."""
  tilt = rng.uniform(0.08, 0.35)
  partials = tilt ** np.arange(6) * rng.uniform(0.6, 1.0, 6)
  turns = rng.random(6)
  speed, cents = rng.uniform(4.2, 6.5), rng.uniform(4, 18)
  breath = rng.uniform(0.15, 0.6)
  air = noise(rng, 8 * rate)
  for gap in (1, 2, 3):  # moving averages: a soft low-pass
    air = 0.6 * (air[:-gap] + air[gap:])
  attack, release = rng.uniform(0.03, 0.08), rng.uniform(0.04, 0.1)

  def voice(frequency: float, gate: int) -> np.ndarray:
    num = gate + int(release * rate)
    time = np.arange(num) / rate
    swing = frequency * cents / 1731 / (2 * np.pi * speed)
    phase = frequency * time + swing * _read(_SINE, speed * time)
    tone = _read(_wave(partials, 0.45 * rate / frequency, turns), phase)
    hiss = np.resize(air, num)
    tone += np.float32(breath) * hiss * (0.4 + 0.6 * _read(_SINE, phase))
    return tone * _shape(gate, attack * rate, release * rate)

  return voice


def _brass(rng: np.random.Generator, rate: int) -> _Voice:
  """Brass: the louder within the note, the brighter; pitch slides in."""
  order = np.arange(1, 65)
  peak = rng.uniform(2.0, 5.0)
  bright = order / (order**2 + peak**2) * order ** -rng.uniform(0.0, 0.4)
  dark = order ** -rng.uniform(2.0, 3.0)
  turns = rng.random(64) * rng.uniform(0, 0.3)
  scoop, slide = rng.uniform(0.1, 0.5), rng.uniform(0.02, 0.05)
  attack, release = rng.uniform(0.03, 0.08), rng.uniform(0.04, 0.09)
  fade, rest = rng.uniform(0.08, 0.4), rng.uniform(0.3, 0.7)

  def voice(frequency: float, gate: int) -> np.ndarray:
    num = gate + int(release * rate)
    time = np.arange(num) / rate
    # From `scoop` semitones below: the phase lost to the slide.
    lost = frequency * scoop / 17.31 * slide * (1 - fading(num, slide * rate))
    limit = 0.45 * rate / frequency
    phase = frequency * time - lost
    envelope = _shape(gate, attack * rate, release * rate)
    blare = envelope * (rest + (1 - rest) * fading(num, fade * rate))
    blare = blare.astype(np.float32)
    tone = (1 - blare) * _read(_wave(dark, limit, turns), phase)
    tone += blare * _read(_wave(bright, limit, turns), phase)
    return tone * envelope

  return voice


def _bass(rng: np.random.Generator, rate: int) -> _Voice:
  """Bass: a dark wave under a decay, round or fretted."""
  order = np.arange(1, 33)
  partials = order ** -rng.uniform(1.0, 2.2) * rng.uniform(0.4, 1.0, 32)
  partials *= 1 / (1 + (order / rng.uniform(3, 12)) ** 4)
  partials[0] = 1.0
  turns, decay = rng.random(32), rng.uniform(0.25, 2.0)
  attack, release = rng.uniform(0.003, 0.02), rng.uniform(0.03, 0.1)

  def voice(frequency: float, gate: int) -> np.ndarray:
    time = np.arange(gate + int(release * rate)) / rate
    table = _wave(partials, 0.45 * rate / frequency, turns)
    envelope = _shape(gate, attack * rate, release * rate, decay * rate)
    return _read(table, frequency * time) * envelope

  return voice


def _drum_kit(rng: np.random.Generator, rate: int) -> list[np.ndarray]:
  """One hit of each of KICK, SNARE and HAT."""

  def hit(seconds, decay):
    num = int(seconds * rate)
    return np.arange(num) / rate, _shape(num, 0, 0, decay * rate)

  time, envelope = hit(0.4, rng.uniform(0.06, 0.14))
  drop, fall = rng.uniform(60, 250), rng.uniform(0.015, 0.05)
  phase = rng.uniform(42, 68) * time
  phase += drop * fall * (1 - fading(len(time), fall * rate))
  kick = _read(_SINE, phase) * envelope

  time, envelope = hit(0.3, rng.uniform(0.03, 0.09))
  ring = _read(_SINE, rng.uniform(150, 260) * time)
  ring *= fading(len(time), rng.uniform(0.02, 0.06) * rate)
  rattle = noise(rng, len(time)) * envelope
  snare = rng.uniform(0.5, 0.9) * rattle + rng.uniform(0.2, 0.6) * ring

  time, envelope = hit(0.25, rng.choice((0.012, 0.03, 0.07)))
  hiss = noise(rng, len(time) + 2)
  hat = (hiss[2:] - 2 * hiss[1:-1] + hiss[:-2]) * envelope
  levels = rng.uniform(((0.8,), (0.5,), (0.06,)), ((1.2,), (1.0,), (0.22,)))
  return [
    (level * drum).astype(np.float32)
    for level, drum in zip(levels[:, 0], (kick, snare, hat))
  ]


# What makes a voice of each part; of drums, the hits themselves.
VOICES = {
  "plucked": _plucked,
  "organ": _organ,
  "bell": _bell,
  "pad": _pad,
  "flute": _flute,
  "brass": _brass,
  "bass": _bass,
  "drums": _drum_kit,
}
