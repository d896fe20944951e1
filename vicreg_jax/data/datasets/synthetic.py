"""A small multi-label music data set that composes and renders itself.

For a first run without any data at hand. Each clip is a short piece drawn at
random: a chord progression played by one to six instruments, with or without
bass and drums. It is synthetic, and results on it say nothing about real
music: use it to see the whole pipeline work, never to compare methods.

How the 16 tags are decided (`tags`), all from the score and never by ear:

  plucked organ bell pad flute brass bass drums   the instrument plays
  fast, slow         tempo of 135 beats a minute or more, of 80 or less
  major, minor       every chord is a major (a minor) triad; the remaining
                     pieces have suspended chords or bare fifths
  high, low          chords voiced around MIDI note 69 or above, 52 or below
  arpeggio           the chords are broken into running eighth notes
  staccato           the notes of all instruments but the bass are short

Everything else varies from clip to clip and is no tag: key, progression,
rhythm, melody, swing, timing, velocities, the timbre of each instrument, drum
tuning, mix levels, equaliser, room and loudness. Every instrument plays in
every bar and the eighth-note pulse never stops, so a crop of some 3 s holds
what the tags speak of.

Randomness comes from (seed, index) alone: clips may be rendered in any order
and give the same bits. Samples are made by table look-up, sums and products,
not by `sin` or `exp` of long arrays, whose last bits differ between
processors. Draws that decide tags are stratified: each tag is about as
frequent in the first 50 clips of a split as in the next 50, for any seed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from vicreg_jax.data.datasets import base
from vicreg_jax.data.prepared import SPLITS

INSTRUMENTS = ("plucked", "organ", "bell", "pad", "flute", "brass")
TAGS = INSTRUMENTS + (
  *("bass", "drums", "fast", "slow", "major", "minor", "high", "low"),
  *("arpeggio", "staccato"),
)

LOOP = 32  # beats of a score (eight bars of four); `render` repeats them
KICK, SNARE, HAT = range(3)  # what `Note.midi` means in the part "drums"

_STRATUM = 50  # clips among which tags have their set frequency
_SPLIT_STRIDE = 1_000_000  # indices kept for each split
_LOWEST_RATE = 8000  # Hz
_TABLE = 8192  # samples of one period of a wave table
_TRIADS = {
  "major": ((0, 4, 7),),
  "minor": ((0, 3, 7),),
  "open": ((0, 5, 7), (0, 2, 7), (0, 7, 12)),
}
_SCALES = {
  "major": (0, 2, 4, 5, 7, 9, 11),
  "minor": (0, 2, 3, 5, 7, 8, 10),
  "open": (0, 2, 5, 7),
}


class Note(NamedTuple):
  beat: float  # onset, in beats from the start of the loop
  beats: float  # length until the release, in beats
  midi: int  # MIDI note number (69 = 440 Hz), or one of KICK, SNARE, HAT
  velocity: float  # amplitude, 0 to 1
  late: float  # seconds by which the player is late


class Part(NamedTuple):
  instrument: str  # one of INSTRUMENTS, "bass" or "drums"
  notes: tuple[Note, ...]


@dataclasses.dataclass(frozen=True)
class Score:
  """One piece: what `compose` decided, `tags` reads and `render` plays."""

  seed: int  # with `index`: the stream that timbres are drawn from
  index: int
  tempo: float  # beats a minute
  key: int  # pitch class of the tonic, 0 = C
  mode: str  # "major", "minor" or "open"
  centre: int  # MIDI note that chords are voiced around
  arpeggio: bool
  staccato: bool
  chords: tuple[tuple[int, ...], ...]  # pitch classes; LOOP / len beats each
  parts: tuple[Part, ...]
  start: float  # beat of the loop that the clip starts at


def clip_index(split: str, number: int) -> int:
  """Index of clip `number` of a split; no two splits share an index."""
  if not 0 <= number < _SPLIT_STRIDE:
    raise ValueError(
      f"Synthetic clip number {number} is outside 0..{_SPLIT_STRIDE - 1}: "
      "ask for fewer clips."
    )
  return SPLITS.index(split) * _SPLIT_STRIDE + number


def _rng(seed: int, *stream: int) -> np.random.Generator:
  sequence = np.random.SeedSequence(seed, spawn_key=stream)
  return np.random.Generator(np.random.PCG64(sequence))


# ------------------------------------------------------------------ composing


def _strata(seed: int, index: int, num: int) -> np.ndarray:
  """`num` uniform draws in [0, 1), stratified over _STRATUM clips."""
  block, place = divmod(index, _STRATUM)
  rng = _rng(seed, 0, block)
  order_NxS = np.tile(np.arange(_STRATUM), (num, 1))
  return (rng.permuted(order_NxS, axis=1)[:, place] + 0.5) / _STRATUM


@functools.lru_cache(4096)  # each job asks anew
def compose(seed: int, index: int) -> Score:
  """Composes piece `index` of the set that `seed` names (both >= 0)."""
  if seed < 0 or index < 0:
    raise ValueError(
      "Synthetic music needs a seed and an index of 0 or more, got "
      f"seed={seed}, index={index}."
    )
  rng = _rng(seed, 1, index)
  u_tempo, u_mode, u_register, u_arpeggio, u_staccato, u_bass, u_drums, *u = (
    _strata(seed, index, 7 + len(INSTRUMENTS)).tolist()
  )

  def band(u: float, bands: tuple[tuple[float, float, float], ...]) -> float:
    """A uniform draw from the first (share, low, high) that covers u."""
    share, low, high = bands[0]
    if u < share or len(bands) == 1:
      return rng.uniform(low, high)
    return band(u - share, bands[1:])

  tempo = band(u_tempo, ((0.32, 60, 78), (0.36, 138, 172), (1, 92, 118)))
  mode = "major" if u_mode < 0.4 else "minor" if u_mode < 0.8 else "open"
  registers = ((0.34, 44, 51), (0.34, 70, 77), (1, 57, 64))
  centre = round(band(u_register, registers))
  arpeggio, staccato = u_arpeggio < 0.36, u_staccato < 0.36
  has_bass, has_drums = u_bass < 0.5, u_drums < 0.5
  players = [name for name, draw in zip(INSTRUMENTS, u) if draw < 0.25]
  if not players:
    players = [INSTRUMENTS[rng.integers(len(INSTRUMENTS))]]
  players = [players[i] for i in rng.permutation(len(players))]

  key = int(rng.integers(12))
  # The same roots in every mode: only the third tells major from minor.
  beats = int(rng.choice((2, 4))) if tempo < 80 else 4
  shape = _TRIADS[mode][rng.integers(len(_TRIADS[mode]))]
  if mode != "open" and rng.random() < 0.25:
    shape += (14,)
  roots = [0]
  while len(roots) < 4:
    roots.append(int(rng.choice([r for r in (0, 5, 7) if r != roots[-1]])))
  chords = tuple(
    tuple((key + root + step) % 12 for step in shape) for root in roots
  ) * (LOOP // (4 * beats))

  writer = _Writer(rng, chords, tempo, key, mode, centre, staccato)
  parts = []
  for place, name in enumerate(players):
    if place == 0 and arpeggio:
      notes = writer.broken_chords()
    elif place == 0:
      pulsed = staccato or len(players) == 1 or rng.random() < 0.6
      notes = writer.block_chords(pulsed)
    elif place == 1 or rng.random() < 0.5:
      notes = writer.melody(above=5 if place == 1 else -5)
    else:
      notes = writer.block_chords(pulsed=staccato)
    parts.append(Part(name, notes))
  if has_bass:
    parts.append(Part("bass", writer.bass()))
  if has_drums:
    parts.append(Part("drums", writer.drums()))
  return Score(
    *(seed, index, tempo, key, mode, centre, arpeggio, staccato, chords),
    *(tuple(parts), float(rng.uniform(0, LOOP))),
  )


class _Writer:
  """Writes the notes of one piece, all parts from one random stream."""

  def __init__(self, rng, chords, tempo, key, mode, centre, staccato):
    self.rng, self.chords, self.centre = rng, chords, centre
    self.scale = {(key + step) % 12 for step in _SCALES[mode]}
    self.change = LOOP // len(chords)  # beats from chord to chord
    self.swing = rng.uniform(0, 0.08) if rng.random() < 0.5 else 0.0
    self.loose = rng.uniform(0.001, 0.007)  # seconds
    # A staccato note lasts a fixed part of an eighth note.
    self.short = rng.uniform(0.12, 0.2) if staccato else None
    self.legato = rng.uniform(0.85, 1.0)

  def _note(self, eighth: int, beats: float, midi: int, accent=1.0) -> Note:
    rng = self.rng
    if self.short is not None:
      beats = self.short
    beat = eighth / 2 + (self.swing if eighth % 2 else 0.0)
    velocity = accent * rng.uniform(0.65, 1.0)
    return Note(beat, beats, midi, velocity, rng.uniform(0, 2 * self.loose))

  def _onsets(self, on_beat: float, off_beat: float) -> list[int]:
    """Eighths of the loop: a bar's rhythm, repeated with some changes."""
    chance = np.tile([on_beat, off_beat], 4)
    bars = [self.rng.random(8) < chance for _ in range(2)]
    bars = [bars[i] for i in (0, 1, 0, 0, 0, 1, 0, 1)]
    onsets = [i for i, on in enumerate(np.concatenate(bars)) if on]
    filled = [0]  # No gap longer than a beat and a half.
    for onset in onsets + [2 * LOOP]:
      while onset - filled[-1] > 3:
        filled.append(filled[-1] + 2)
      if filled[-1] < onset < 2 * LOOP:
        filled.append(onset)
    return filled

  def _chord(self, eighth: int) -> list[int]:
    """Pitches of the chord sounding then, in the octave about the centre."""
    low = self.centre - 6
    classes = set(self.chords[eighth // (2 * self.change)])
    return sorted(low + (c - low) % 12 for c in classes)

  def _lengths(self, onsets: list[int]):
    """(onset in eighths, beats until the next one, scaled to legato)."""
    for onset, following in zip(onsets, onsets[1:] + [2 * LOOP]):
      yield onset, self.legato * (following - onset) / 2

  def block_chords(self, pulsed: bool) -> tuple[Note, ...]:
    onsets = range(0, 2 * LOOP, 2 * self.change)
    if pulsed:
      onsets = sorted({*onsets, *self._onsets(0.75, 0.6)})
    return tuple(
      self._note(onset, beats, midi)
      for onset, beats in self._lengths(list(onsets))
      for midi in self._chord(onset)
    )

  def broken_chords(self) -> tuple[Note, ...]:
    octaves = int(self.rng.integers(1, 3))
    style = self.rng.choice(("up", "down", "up and down", "mixed"))
    notes = []
    for onset, beats in self._lengths(list(range(2 * LOOP))):
      pitches = self._chord(onset)
      run = [p + 12 * o for o in range(octaves) for p in pitches]
      if style == "down":
        run = run[::-1]
      elif style == "up and down":
        run = run + run[-2:0:-1]
      elif style == "mixed":
        run = run[::2] + run[1::2]
      # A note rings on over the next one, as under a pedal.
      notes.append(self._note(onset, 1.6 * beats, run[onset % len(run)]))
    return tuple(notes)

  def melody(self, above: int) -> tuple[Note, ...]:
    """A walk on the scale, with chord notes on the beats."""
    low = self.centre + above - 4
    ladder = [p for p in range(low, low + 13) if p % 12 in self.scale]
    place = len(ladder) // 2
    notes = []
    for onset, beats in self._lengths(self._onsets(0.85, 0.55)):
      step = int(self.rng.choice((-2, -1, -1, 1, 1, 2)))
      place = min(max(place + step, 0), len(ladder) - 1)
      pitch = ladder[place]
      if onset % 2 == 0:
        classes = self.chords[onset // (2 * self.change)]
        fitting = [p for p in range(low, low + 13) if p % 12 in classes]
        pitch = min(fitting, key=lambda p, near=pitch: abs(p - near))
        place = int(np.argmin([abs(p - pitch) for p in ladder]))
      notes.append(self._note(onset, beats, pitch))
    return tuple(notes)

  def bass(self) -> tuple[Note, ...]:
    onsets = self._onsets(0.7, self.rng.choice((0.1, 0.4, 0.9)))
    gate = self.rng.uniform(0.5, 1.0)
    low = int(self.rng.integers(26, 31))
    notes = []
    for onset, beats in self._lengths(onsets):
      chord = self.chords[onset // (2 * self.change)]
      fifth = onset % 8 and self.rng.random() < 0.25
      pitch = low + (chord[2 if fifth else 0] - low) % 12
      note = self._note(onset, beats, pitch)
      notes.append(note._replace(beats=gate * beats))
    return tuple(notes)

  def drums(self) -> tuple[Note, ...]:
    rng = self.rng
    hat_off = rng.choice((0.4, 1.0), p=(0.2, 0.8))
    chance_DxE = np.zeros((3, 8))
    chance_DxE[KICK] = rng.choice(((1, 0, 0, 0, 1, 0, 0, 0), (1, 0) * 4))
    chance_DxE[KICK] += rng.uniform(0, 0.3) * (rng.random(8) < 0.5)
    chance_DxE[SNARE, [2, 6]] = 1.0
    chance_DxE[SNARE] += rng.uniform(0, 0.15)
    chance_DxE[HAT] = np.tile([0.9, hat_off], 4)
    return tuple(
      self._note(onset, 0.25, drum, accent=0.7 if onset % 2 else 1.0)
      for drum in (KICK, SNARE, HAT)
      for onset, draw in enumerate(rng.random(2 * LOOP))
      if draw < chance_DxE[drum, onset % 8]
    )


def tags(score: Score) -> np.ndarray:
  """The tags of a score, uint8 [len(TAGS)]; the module says the rules."""
  true = {part.instrument for part in score.parts} | {score.mode}
  true |= {"fast"} if score.tempo >= 135 else set()
  true |= {"slow"} if score.tempo <= 80 else set()
  true |= {"high"} if score.centre >= 69 else set()
  true |= {"low"} if score.centre <= 52 else set()
  true |= {"arpeggio"} if score.arpeggio else set()
  true |= {"staccato"} if score.staccato else set()
  return np.array([tag in true for tag in TAGS], np.uint8)


# ------------------------------------------------------------------ rendering
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


def _decay(num: int, time: float) -> np.ndarray:
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
    envelope = _decay(gate + release, decay)
  envelope[:attack] *= np.arange(attack, dtype=np.float32) / max(attack, 1)
  fall = np.arange(release, 0, -1, dtype=np.float32) / max(release, 1)
  envelope[gate:] *= fall * fall
  return envelope


def _noise(rng: np.random.Generator, num: int) -> np.ndarray:
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
  click = rng.uniform(0, 1.5) * _noise(rng, int(0.006 * rate))
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
    swing = _decay(num, fade * rate) * _read(_SINE, ratio * frequency * time)
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
  air = _noise(rng, 8 * rate)
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
    lost = frequency * scoop / 17.31 * slide * (1 - _decay(num, slide * rate))
    limit = 0.45 * rate / frequency
    phase = frequency * time - lost
    envelope = _shape(gate, attack * rate, release * rate)
    blare = envelope * (rest + (1 - rest) * _decay(num, fade * rate))
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
  phase += drop * fall * (1 - _decay(len(time), fall * rate))
  kick = _read(_SINE, phase) * envelope

  time, envelope = hit(0.3, rng.uniform(0.03, 0.09))
  ring = _read(_SINE, rng.uniform(150, 260) * time)
  ring *= _decay(len(time), rng.uniform(0.02, 0.06) * rate)
  rattle = _noise(rng, len(time)) * envelope
  snare = rng.uniform(0.5, 0.9) * rattle + rng.uniform(0.2, 0.6) * ring

  time, envelope = hit(0.25, rng.choice((0.012, 0.03, 0.07)))
  hiss = _noise(rng, len(time) + 2)
  hat = (hiss[2:] - 2 * hiss[1:-1] + hiss[:-2]) * envelope
  levels = rng.uniform(((0.8,), (0.5,), (0.06,)), ((1.2,), (1.0,), (0.22,)))
  return [
    (level * drum).astype(np.float32)
    for level, drum in zip(levels[:, 0], (kick, snare, hat))
  ]


_VOICES = {
  "plucked": _plucked,
  "organ": _organ,
  "bell": _bell,
  "pad": _pad,
  "flute": _flute,
  "brass": _brass,
  "bass": _bass,
}


def render(score: Score, num_samples: int, sample_rate: int) -> np.ndarray:
  """Plays a score: float32 [num_samples], peak at most 0.95, no DC."""
  if num_samples < 1 or sample_rate < _LOWEST_RATE:
    raise ValueError(
      f"Rendering needs 1 sample or more at {_LOWEST_RATE} Hz or more, got "
      f"{num_samples} samples at {sample_rate} Hz."
    )
  mix_T = np.zeros(num_samples, np.float32)
  for part in score.parts:
    # By name, so that a part sounds the same whoever plays along.
    name = (*INSTRUMENTS, "bass", "drums").index(part.instrument)
    rng = _rng(score.seed, 2, score.index, name)
    part_T = _play(score, part, num_samples, sample_rate, rng)
    level = 10.0 ** (rng.uniform(-3, 3) / 20)
    power = np.mean(part_T.astype(np.float64) ** 2)
    # Gains are rounded: the last bits of a long sum differ between machines.
    mix_T += np.float32(round(level / np.sqrt(power + 1e-6), 4)) * part_T
  rng = _rng(score.seed, 3, score.index)
  # A quiet hiss, so that no clip holds digital silence.
  hiss = np.float32(10.0 ** rng.uniform(-3.5, -2.5))
  mix_T += hiss * _noise(rng, num_samples)
  mix_T = _room(mix_T, sample_rate, rng)
  loudness = 10.0 ** (rng.uniform(-26, -16) / 20)
  power = np.mean(mix_T.astype(np.float64) ** 2)
  peak = float(np.max(np.abs(mix_T)))
  gain = min(loudness / np.sqrt(power + 1e-12), 0.94 / (peak + 1e-6))
  return mix_T * np.float32(float(f"{gain:.4g}"))


def _play(score, part, num_samples, rate, rng) -> np.ndarray:
  """The notes of one part, before its level is set."""
  out_T = np.zeros(num_samples, np.float32)
  drums = part.instrument == "drums"
  voice = (_drum_kit if drums else _VOICES[part.instrument])(rng, rate)
  beat = 60.0 / score.tempo  # seconds
  seconds = num_samples / rate
  loops = int((seconds / beat + score.start) // LOOP) + 1
  sounds = {}  # Notes of one pitch and length sound the same.
  for note in part.notes:
    key = (note.midi, round(note.beats, 6))
    for loop in range(loops):
      onset = (note.beat + loop * LOOP - score.start) * beat + note.late
      if onset >= seconds or onset + note.beats * beat + 0.4 < 0:
        continue
      if key not in sounds:
        frequency = 440.0 * 2.0 ** ((note.midi - 69) / 12)
        gate = max(1, int(note.beats * beat * rate))
        sounds[key] = voice[note.midi] if drums else voice(frequency, gate)
      first = int(onset * rate)  # A clip may start within a note.
      sound = sounds[key][max(-first, 0) :]
      first = max(first, 0)
      sound = sound[: num_samples - first]
      out_T[first : first + len(sound)] += np.float32(note.velocity) * sound
  return out_T


def _room(x_T: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
  """Reverberation, an equaliser that tilts, and no DC: one pass by FFT."""
  decay, wet = rng.uniform(0.05, 0.25), rng.uniform(0.0, 0.35)
  num = int(4 * decay * rate)
  tail = _noise(rng, num) * _decay(num, decay * rate)
  tail *= np.float32(round(wet / np.sqrt(0.17 * decay * rate), 6))
  tail[0] += 1.0
  size = 1 << (len(x_T) + num - 1).bit_length()
  frequency = np.arange(size // 2 + 1) * (rate / size)
  square = frequency * frequency
  corner, tilt = rng.uniform(400, 2500) ** 2, rng.uniform(0.6, 1.6)
  # The gain goes from 1 / tilt below the corner to tilt above it.
  gain = (square * tilt + corner / tilt) / (square + corner)
  gain *= square / (square + 20.0**2)
  gain = gain.astype(np.float32)
  x_F, tail_F = np.fft.rfft(x_T, size), np.fft.rfft(tail, size)
  # Not x_F * tail_F: where a processor fuses multiply and add, NumPy's complex
  # product rounds differently.
  spectrum = np.empty_like(x_F)
  spectrum.real = gain * (x_F.real * tail_F.real - x_F.imag * tail_F.imag)
  spectrum.imag = gain * (x_F.real * tail_F.imag + x_F.imag * tail_F.real)
  out_T = np.fft.irfft(spectrum)[: len(x_T)].astype(np.float32)
  return out_T - np.float32(round(float(np.mean(out_T, dtype=float)), 6))


# ---------------------------------------------------------------- the builder


class Synthetic(base.ClipBuilder, skip_registration=True):
  """The builder of `data.name="synthetic"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")  # raise it when any sample changes

  @classmethod
  def source(cls, data) -> base.Source:
    """`data.sizes` pieces of `data.clip_seconds` s, drawn by `data.seed`."""
    sizes = dict(zip(SPLITS, data.sizes))
    if len(data.sizes) != 3 or min(data.sizes) < 0 or not sizes["train"]:
      raise ValueError(
        f"data.sizes is {tuple(data.sizes)}: give the numbers of clips to "
        "train on, validate and test with, 1 or more to train on, such as "
        "(200, 50, 100)"
      )
    num_samples = round(data.clip_seconds * data.sample_rate)
    if data.sample_rate < _LOWEST_RATE:
      raise ValueError(
        f"data.sample_rate is {data.sample_rate}: synthetic music needs "
        f"{_LOWEST_RATE} Hz or more"
      )
    if num_samples < data.crop:
      raise ValueError(
        f"data.clip_seconds={data.clip_seconds:g} at {data.sample_rate} Hz "
        f"gives clips of {num_samples} samples, shorter than data.crop="
        f"{data.crop}: use longer clips or a shorter crop"
      )

    def clip(split: str, number: int) -> base.Clip:
      score = compose(data.seed, clip_index(split, number))
      name = f"{split}/{number:06d}"
      load = functools.partial(render, score, num_samples, data.sample_rate)
      return base.Clip(id=name, track=name, load=load, labels=tags(score))

    return base.Source(
      name=f"seed{data.seed}",
      identity=[data.seed, *data.sizes, num_samples],
      splits={
        split: [clip(split, number) for number in range(size)]
        for split, size in sizes.items()
      },
      labels=TAGS,
      label_kind="multi",
    )
