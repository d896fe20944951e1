"""The synthetic music: repeatable, balanced, and what its tags say it is.

The checks listen to rendered sound with librosa and FFTs; none of them reads
the composer's or the renderer's code back.
"""

import dataclasses
import hashlib
import os
import subprocess
import sys
import types

import librosa
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vicreg_jax.data import datasets
from vicreg_jax.data.datasets import composer, synthetic

RATE = 22_050
SECONDS = 6
CROP = 59_049

pytestmark = pytest.mark.usefixtures("plain_librosa")


@pytest.fixture(scope="module")
def scores():
  return [composer.compose(3, i) for i in range(100)]


@pytest.fixture(scope="module")
def labels(scores):
  return dict(zip(composer.TAGS, np.stack([*map(composer.tags, scores)]).T))


def play(score, seconds=SECONDS, rate=RATE):
  return synthetic.render(score, int(seconds * rate), rate)


def without(score, *instruments):
  parts = tuple(p for p in score.parts if p.instrument not in instruments)
  return dataclasses.replace(score, parts=parts)


def digest(x_T):
  return hashlib.sha256(x_T.tobytes()).hexdigest()


def test_bits_repeat_in_any_order_and_differ_by_seed_and_index():
  pieces = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 1_000_000), (2**40, 0)]
  first = [digest(play(composer.compose(*p))) for p in pieces]
  again = [digest(play(composer.compose(*p))) for p in pieces[::-1]]
  assert first == again[::-1]
  assert len(set(first)) == len(pieces)


@pytest.mark.slow
def test_bits_are_the_same_on_older_processors():
  code = """
import hashlib
from vicreg_jax.data.datasets import composer, synthetic
digest = hashlib.sha256()
for i in range(6):
  digest.update(synthetic.render(composer.compose(0, i), 44_100, 22_050))
print(digest.hexdigest())
"""
  # Names of NumPy 2.4, then of NumPy before it; it ignores unknown ones.
  disabled = "X86_V3 X86_V4 AVX512_ICL AVX512_SPR AVX2 FMA3 AVX512F"
  result = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled},
    capture_output=True,
    text=True,
    check=True,
  )
  here = hashlib.sha256()
  for i in range(6):
    here.update(synthetic.render(composer.compose(0, i), 44_100, 22_050))
  assert result.stdout.strip() == here.hexdigest()


def test_golden_clip():
  x_T = play(composer.compose(0, 0), seconds=3)
  power = np.abs(np.fft.rfft(x_T.astype(np.float64))) ** 2
  edges = np.array([0, 150, 300, 600, 1200, 2400, 4800, 11025]) * 3
  bands = np.add.reduceat(power, edges[:-1]) / power.sum()
  np.testing.assert_allclose(
    bands,
    [0.787117, 0.180854, 0.0268022, 0.00447532, 0.000597322, 0.000124452]
    + [3.01717e-05],
    rtol=1e-4,
    err_msg="The samples of the synthetic set have changed. If that is meant, "
    "raise Synthetic.VERSION, so that nobody trains on stale records, and put "
    "the new figures here.",
  )


SIZES = {"train": 200, "valid": 50, "test": 100}  # the configs' default


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tags_are_neither_rare_nor_common_in_any_split(seed):
  seen = set()
  for split, size in SIZES.items():
    pieces = [
      composer.compose(seed, synthetic.clip_index(split, i))
      for i in range(size)
    ]
    share_K = np.mean([composer.tags(p) for p in pieces], axis=0)
    assert share_K.min() >= 0.08, dict(zip(composer.TAGS, share_K))
    assert share_K.max() <= 0.70, dict(zip(composer.TAGS, share_K))
    seen |= {(p.index, hash(p.parts)) for p in pieces}
  # No index and no music is in two splits.
  total = sum(SIZES.values())
  assert len({i for i, _ in seen}) == len({h for _, h in seen}) == total


def test_no_tag_gives_another_away():
  tags_NxK = np.stack(
    [composer.tags(composer.compose(0, i)) for i in range(500)]
  )
  correlation = np.corrcoef(tags_NxK.T) - np.eye(len(composer.TAGS))
  names = composer.TAGS
  for pair in (("fast", "slow"), ("major", "minor"), ("high", "low")):
    i, j = map(names.index, pair)
    assert not np.any(tags_NxK[:, i] & tags_NxK[:, j])
    correlation[[i, j], [j, i]] = 0
  assert np.abs(correlation).max() < 0.2


def test_samples_are_sane(scores):
  for score in scores[:30]:
    x_T = play(score, seconds=10)
    assert x_T.dtype == np.float32 and x_T.shape == (10 * RATE,)
    assert np.isfinite(x_T).all()
    assert np.abs(x_T).max() <= 0.95
    assert abs(x_T.mean(dtype=float)) < 1e-5
    rms = 20 * np.log10(np.sqrt(np.mean(x_T.astype(float) ** 2)))
    assert -30 < rms < -15
    # No crop that training may draw is empty.
    power = np.cumsum(x_T.astype(float) ** 2)
    power = (power[CROP:] - power[:-CROP]) / CROP
    assert power.min() > 10 ** ((rms - 20) / 10)


@pytest.mark.parametrize("instrument", (*composer.INSTRUMENTS, "bass"))
def test_notes_are_in_tune(scores, instrument):
  for score in scores[:6]:
    for midi in (28, 36, 41) if instrument == "bass" else (43, 57, 69, 81, 89):
      note = composer.Note(0.0, 4 * score.tempo / 60, midi, 1.0, 0.0)
      part = composer.Part(instrument, (note,))
      x_T = play(dataclasses.replace(score, parts=(part,), start=0.0), 4)
      x_T = x_T[RATE // 4 : 3 * RATE]
      num = 1 << 19
      power = np.abs(np.fft.rfft(x_T * np.hanning(len(x_T)), num)) ** 2
      expected = 440 * 2 ** ((midi - 69) / 12)
      frequency = np.arange(1, len(power)) * RATE / num
      cents = 1200 * np.log2(frequency / expected)
      power = power[1:]
      near = np.abs(cents) < 60
      centre = np.sum((cents * power)[near]) / np.sum(power[near])
      assert abs(centre) < 10, (score.index, midi, centre)
      beside = (np.abs(cents) > 120) & (np.abs(cents) < 240)
      assert power[near].max() > 30 * power[beside].max(), (score.index, midi)


def test_tempo_is_heard(scores):
  hits = []
  for score in scores[:40]:
    strength = librosa.onset.onset_strength(
      y=play(score), sr=RATE, hop_length=256
    )
    seconds = np.arange(len(strength)) * 256 / RATE
    # The strongest period of the onsets, near the eighth note's.
    rate = np.linspace(0.6, 1.6, 101)
    turns = np.outer(rate * score.tempo / 30, seconds)
    line = np.abs(np.exp(-2j * np.pi * turns) @ (strength - strength.mean()))
    hits.append(abs(rate[np.argmax(line)] - 1) < 0.04)
  assert np.mean(hits) > 0.9


def test_bounds_of_tempo_and_register(scores, labels):
  tempo = np.array([score.tempo for score in scores])
  np.testing.assert_array_equal(labels["fast"] == 1, tempo >= 135)
  np.testing.assert_array_equal(labels["slow"] == 1, tempo <= 80)
  # Nobody is near a bound: the tags can be told by ear.
  assert np.abs(tempo - 135).min() > 2 and np.abs(tempo - 80).min() > 1.9


def test_drums_are_heard(scores, labels):
  jumps = []
  for i in np.flatnonzero(labels["drums"])[:20]:
    score = dataclasses.replace(scores[i], start=0.0)
    part = next(p for p in score.parts if p.instrument == "drums")
    snares = {n.beat for n in part.notes if n.midi == composer.SNARE}
    assert snares >= set(range(1, composer.LOOP, 2))  # the backbeat
    for x_T in play(score), play(without(score, "drums")):
      power = np.abs(librosa.stft(x_T, n_fft=512, hop_length=128)) ** 2
      treble = power[117:].sum(0)  # above 5 kHz
      frames = np.array(
        [
          round((note.beat * 60 / score.tempo + note.late) * RATE / 128)
          for note in part.notes
          if note.midi == composer.SNARE
        ]
      )
      frames = frames[(frames > 8) & (frames < len(treble) - 8)]
      after = np.median([treble[f + 1 : f + 4].mean() for f in frames])
      before = np.median([treble[f - 8 : f - 3].mean() for f in frames])
      jumps.append(after / before)
  with_, without_ = np.array(jumps).reshape(-1, 2).T
  assert np.mean(with_ > 3) > 0.9
  assert np.median(with_) > 5 * np.median(without_)


def test_mode_is_heard_in_the_chords(scores):
  right = []
  for score in scores[:60]:
    # The chords alone, on a near-sine (overtones have thirds of their own) and
    # high up (semitones lie further apart).
    part, up = score.parts[0], 12 * round((76 - score.centre) / 12)
    notes = tuple(n._replace(midi=n.midi + up) for n in part.notes)
    part = composer.Part("flute", notes)
    x_T = play(dataclasses.replace(score, parts=(part,), start=0.0))
    length = int(composer.LOOP / len(score.chords) * 60 / score.tempo * RATE)
    interval_12 = np.zeros(12)
    for k in range(len(x_T) // length):
      chord_T = x_T[k * length : (k + 1) * length]
      power = np.abs(np.fft.rfft(chord_T * np.hanning(length))) ** 2
      frequency = np.fft.rfftfreq(length, 1 / RATE)
      keep = (frequency > 300) & (frequency < 4000)
      midi = np.round(69 + 12 * np.log2(frequency[keep] / 440)).astype(int)
      root = score.chords[k][0]
      interval_12 += np.bincount((midi - root) % 12, power[keep], 12)
    minor, major = interval_12[3:5] / interval_12.sum()
    right.append(
      {
        "major": major > max(0.1, 5 * minor),
        "minor": minor > max(0.1, 5 * major),
        "open": max(major, minor) < 0.05,
      }[score.mode]
    )
  assert np.mean(right) > 0.95


def test_register_is_heard(scores, labels):
  lowest = []
  for score in scores:
    x_T = play(without(score, "bass", "drums"), 4)
    power = np.abs(np.fft.rfft(x_T)) ** 2
    share = np.cumsum(power) / power.sum()
    lowest.append(np.searchsorted(share, 0.1) / 4)  # Hz below which 10 % lie
  lowest = np.array(lowest)
  assert roc_auc_score(labels["high"], lowest) > 0.95
  assert roc_auc_score(labels["low"], -lowest) > 0.95


def test_arpeggio_is_heard(scores, labels):
  voices = []
  for score in scores:
    # One note at a time or a chord: strong peaks within a frame.
    part = score.parts[0]._replace(instrument="organ")
    x_T = play(dataclasses.replace(score, parts=(part,)), 4)
    # In tune, as its notes are: numba's functions would estimate the tuning.
    chroma = librosa.feature.chroma_stft(y=x_T, sr=RATE, norm=1, tuning=0)
    voices.append(np.median(1 / np.sum(chroma**2, axis=0)))
  auc = roc_auc_score(labels["arpeggio"], -np.array(voices))
  assert auc > 0.85


def test_staccato_is_heard(scores, labels):
  active = []
  for score in scores:
    x_T = play(without(score, "bass", "drums"), 4)
    rms = librosa.feature.rms(y=x_T, frame_length=1024, hop_length=256)[0]
    active.append(np.mean(rms > 0.2 * np.percentile(rms, 95)))
  auc = roc_auc_score(labels["staccato"], -np.array(active))
  assert auc > 0.95


def test_each_instrument_is_audible_in_its_mix(scores):
  for score in scores[:20]:
    whole = play(score)
    for part in score.parts:
      rest = play(without(score, part.instrument))
      gain = (whole @ rest) / (rest @ rest) if rest.any() else 0.0
      left = whole - gain * rest
      share = 10 * np.log10((left @ left) / (whole @ whole))
      assert share > -16, (score.index, part.instrument, share)


def options(directory, **changes):
  values = {
    **{"name": "synthetic", "dir": str(directory), "seed": 5, "crop": 20_000},
    **{"sizes": (3, 1, 2), "clip_seconds": 1.0, "sample_rate": RATE},
    "beam": "",
    "path": "",
  }
  return types.SimpleNamespace(**{**values, **changes})


def test_prepared_records_hold_the_music(tmp_path):
  prepared = datasets.prepare(options(tmp_path))
  assert prepared.labels == composer.TAGS and prepared.label_kind == "multi"
  assert prepared.num_clips == {"train": 3, "valid": 1, "test": 2}
  for split in prepared.num_clips:
    for example in prepared.dataset(split).as_numpy_iterator():
      name, number = example["id"].decode().split("/")
      score = composer.compose(5, synthetic.clip_index(name, int(number)))
      assert name == split
      np.testing.assert_array_equal(example["labels"], composer.tags(score))
      x_T = np.frombuffer(example["samples"], "<i2") / 32767
      np.testing.assert_allclose(x_T, play(score, 1), atol=0.51 / 32767)
  paths = {prepared.path}
  for change in ({"seed": 6}, {"sizes": (2, 0, 0)}, {"clip_seconds": 1.5}):
    paths.add(datasets.prepare(options(tmp_path, **change)).path)
  assert len(paths) == 4


def test_a_clip_shorter_than_a_crop_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"clip_seconds=0.5 .* 11025 samples"):
    datasets.prepare(options(tmp_path, clip_seconds=0.5))
