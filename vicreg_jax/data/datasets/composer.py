"""Composes short pieces of music at random, with tags.

How the 16 tags are decided (`tags`), all from the score and never by ear:

  plucked organ bell pad flute brass bass drums   the instrument plays
  fast, slow         tempo of 135 beats a minute or more, of 80 or less
  major, minor       every chord is a major (a minor) triad; the remaining
                     pieces have suspended chords or bare fifths
  high, low          chords voiced around MIDI note 69 or above, 52 or below
  arpeggio           the chords are broken into running eighth notes
  staccato           the notes of all instruments but the bass are short

Everything else varies from clip to clip and is no tag: key, progression,
rhythm, melody, swing, timing and velocities. Every instrument plays in every
bar and the eighth-note pulse never stops, so a crop of some 3 s has the sound
of all tags.

Draws that decide tags are stratified: each tag is about as frequent in the
first 50 clips of a split as in the next 50, for any seed.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

INSTRUMENTS = ("plucked", "organ", "bell", "pad", "flute", "brass")
TAGS = INSTRUMENTS + (
  *("bass", "drums", "fast", "slow", "major", "minor", "high", "low"),
  *("arpeggio", "staccato"),
)

LOOP = 32  # beats of a score (eight bars of four); `render` repeats them
KICK, SNARE, HAT = range(3)  # what `Note.midi` means in the part "drums"

_STRATUM = 50  # clips among which tags have their set frequency
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


def generator(seed: int, *stream: int) -> np.random.Generator:
  """Draws of a stream: strata 0, scores 1, parts 2, mixes 3, then an index."""
  sequence = np.random.SeedSequence(seed, spawn_key=stream)
  return np.random.Generator(np.random.PCG64(sequence))


def _strata(seed: int, index: int, num: int) -> np.ndarray:
  """`num` uniform draws in [0, 1), stratified over _STRATUM clips."""
  block, place = divmod(index, _STRATUM)
  rng = generator(seed, 0, block)
  order_NxS = np.tile(np.arange(_STRATUM), (num, 1))
  return (rng.permuted(order_NxS, axis=1)[:, place] + 0.5) / _STRATUM


@functools.lru_cache(4096)  # each job asks anew
def compose(seed: int, index: int) -> Score:
  """Composes piece `index` of the set that `seed` names (both >= 0)."""
  rng = generator(seed, 1, index)
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
  chords = _chords(rng, tempo, key, mode)
  writer = _Writer(rng, chords, key, mode, centre, staccato)
  parts = writer.parts(players, arpeggio, staccato)
  if has_bass:
    parts.append(Part("bass", writer.bass()))
  if has_drums:
    parts.append(Part("drums", writer.drums()))
  return Score(
    *(seed, index, tempo, key, mode, centre, arpeggio, staccato, chords),
    *(tuple(parts), float(rng.uniform(0, LOOP))),
  )


def _chords(rng, tempo, key, mode) -> tuple[tuple[int, ...], ...]:
  """Four chords, over and over. Their roots are the same in every mode: only
  the third tells major from minor.
  """
  beats = int(rng.choice((2, 4))) if tempo < 80 else 4
  shape = _TRIADS[mode][rng.integers(len(_TRIADS[mode]))]
  if mode != "open" and rng.random() < 0.25:
    shape += (14,)
  roots = [0]
  while len(roots) < 4:
    roots.append(int(rng.choice([r for r in (0, 5, 7) if r != roots[-1]])))
  return tuple(
    tuple((key + root + step) % 12 for step in shape) for root in roots
  ) * (LOOP // (4 * beats))


class _Writer:
  """Writes the notes of one piece, all parts from one random stream."""

  def __init__(self, rng, chords, key, mode, centre, staccato):
    self.rng, self.chords, self.centre = rng, chords, centre
    self.scale = {(key + step) % 12 for step in _SCALES[mode]}
    self.change = LOOP // len(chords)  # beats from chord to chord
    self.swing = rng.uniform(0, 0.08) if rng.random() < 0.5 else 0.0
    self.loose = rng.uniform(0.001, 0.007)  # seconds
    # A staccato note lasts a fixed part of an eighth note.
    self.short = rng.uniform(0.12, 0.2) if staccato else None
    self.legato = rng.uniform(0.85, 1.0)

  def parts(self, players, arpeggio, staccato) -> list[Part]:
    """The first plays chords, the second a melody, others one of the two."""
    parts = []
    for place, name in enumerate(players):
      if place == 0 and arpeggio:
        notes = self.broken_chords()
      elif place == 0:
        pulsed = staccato or len(players) == 1 or self.rng.random() < 0.6
        notes = self.block_chords(pulsed)
      elif place == 1 or self.rng.random() < 0.5:
        notes = self.melody(above=5 if place == 1 else -5)
      else:
        notes = self.block_chords(pulsed=staccato)
      parts.append(Part(name, notes))
    return parts

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
  parts = {part.instrument for part in score.parts}
  told = dict.fromkeys((*parts, score.mode), True) | {
    "fast": score.tempo >= 135,
    "slow": score.tempo <= 80,
    "high": score.centre >= 69,
    "low": score.centre <= 52,
    "arpeggio": score.arpeggio,
    "staccato": score.staccato,
  }
  return np.array([told.get(tag, False) for tag in TAGS], np.uint8)
