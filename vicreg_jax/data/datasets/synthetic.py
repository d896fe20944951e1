"""A small multi-label music data set that composes and renders itself.

For a first run without any data at hand. Each clip is a short piece drawn at
random (`composer.py`): a chord progression played by one to six instruments
(`instruments.py`), with or without bass and drums. It is synthetic, and results
on it say nothing about real music: use it to see the whole pipeline work, never
to compare methods.

The timbre of each instrument, drum tuning, mix levels, equaliser, room and
loudness vary from clip to clip, and are no tags.

Randomness comes from (seed, index) alone: clips may be rendered in any order
and give the same bits.
"""

import functools

import numpy as np
import tensorflow_datasets as tfds

from vicreg_jax.data.datasets import base
from vicreg_jax.data.datasets.composer import (
  LOOP,
  TAGS,
  Score,
  compose,
  generator,
  tags,
)
from vicreg_jax.data.datasets.instruments import VOICES, fading, noise
from vicreg_jax.data.prepared import SPLITS

_SPLIT_STRIDE = 1_000_000  # indices kept for each split
_LOWEST_RATE = 8000  # Hz


def clip_index(split: str, number: int) -> int:
  """Index of clip `number` of a split; no two splits share an index."""
  return SPLITS.index(split) * _SPLIT_STRIDE + number


def render(score: Score, num_samples: int, sample_rate: int) -> np.ndarray:
  """Plays a score: float32 [num_samples], peak at most 0.95, no DC."""
  mix_T = np.zeros(num_samples, np.float32)
  for part in score.parts:
    # By name, so that a part sounds the same whoever plays along.
    rng = generator(score.seed, 2, score.index, TAGS.index(part.instrument))
    part_T = _play(score, part, num_samples, sample_rate, rng)
    level = 10.0 ** (rng.uniform(-3, 3) / 20)
    power = np.mean(part_T.astype(np.float64) ** 2)
    # Gains are rounded: the last bits of a long sum differ between machines.
    mix_T += np.float32(round(level / np.sqrt(power + 1e-6), 4)) * part_T
  rng = generator(score.seed, 3, score.index)
  # A quiet hiss, so that no clip holds digital silence.
  hiss = np.float32(10.0 ** rng.uniform(-3.5, -2.5))
  mix_T += hiss * noise(rng, num_samples)
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
  voice = VOICES[part.instrument](rng, rate)
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
  tail = noise(rng, num) * fading(num, decay * rate)
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


class Synthetic(base.ClipBuilder, skip_registration=True):
  """The builder of `data.name="synthetic"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")  # raise it when any sample changes

  @classmethod
  def source(cls, data) -> base.Source:
    """`data.sizes` pieces of `data.clip_seconds` s, drawn by `data.seed`."""
    sizes = dict(zip(SPLITS, data.sizes, strict=True))
    if not sizes["train"]:
      raise ValueError(
        f"data.sizes is {tuple(data.sizes)}: give 1 clip or more to train on"
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
