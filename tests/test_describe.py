"""Tempo of clicks and keys of cadences, and librosa's onsets and chroma."""

import numpy as np
import pytest

from vicreg_jax.library import describe

RATE = 22_050


def clicks(bpm, seconds=10, rate=RATE, subdivided=False):
  """Clicks a minute in a little noise; softer ones between them."""
  x_T = np.random.default_rng(0).normal(size=int(seconds * rate)) * 1e-3
  t_C = np.arange(int(0.03 * rate)) / rate
  click_C = np.sin(2 * np.pi * 1000 * t_C) * np.exp(-t_C / 0.005)
  step = 60 / bpm / (1 + subdivided)
  for i, at in enumerate(np.arange(0.1, seconds - 0.1, step)):
    start = int(at * rate)
    x_T[start : start + len(t_C)] += click_C * (
      0.4 if subdivided and i % 2 else 1
    )
  return x_T.astype(np.float32)


def octaves_apart(found, bpm):
  """By how many whole octaves, and the share by which it misses these."""
  octaves = np.round(np.log2(found / bpm))
  return octaves, abs(found / bpm / 2**octaves - 1)


@pytest.mark.parametrize("rate", [8_000, RATE, 44_100])
def test_the_tempo_of_clicks(rate):
  for bpm in np.linspace(60, 180, 7):
    octaves, error = octaves_apart(
      describe.tempo(clicks(bpm, rate=rate), rate), bpm
    )
    assert error < 0.005, bpm
    assert not octaves or bpm > 150, bpm


def test_the_tempo_of_clicks_with_others_between():
  for bpm in (62, 87, 101, 127, 153, 178):
    _, error = octaves_apart(
      describe.tempo(clicks(bpm, subdivided=True), RATE), bpm
    )
    assert error < 0.005, bpm


def test_librosa_has_the_same_tempo(plain_librosa):
  for bpm in (73, 100, 126):
    found = plain_librosa.feature.tempo(y=clicks(bpm), sr=RATE)[0]
    assert describe.tempo(clicks(bpm), RATE) == pytest.approx(found, rel=0.03)


def test_loudness_and_an_offset_do_not_count():
  x_T = clicks(110)
  found = describe.tempo(x_T, RATE)
  for changed in (x_T / 1000, x_T * 30, x_T + 0.5):
    assert describe.tempo(changed, RATE) == pytest.approx(found, rel=2e-3)


def chord(notes, rate, detune):
  """Half a second of MIDI notes, with six partials each."""
  t_T = np.arange(rate // 2) / rate
  x_T = np.zeros(len(t_T))
  for note in notes:
    hertz = 440 * 2 ** ((note - 69 + detune) / 12)
    for partial in range(1, 7):
      x_T += np.sin(2 * np.pi * partial * hertz * t_T) / partial
  return x_T * np.exp(-2 * t_T)


def cadence(tonic, chords, rate=RATE, detune=0.0):
  """Of chords such as "0M 5M 7M 0M": semitones from the tonic, and the kind."""
  third = {"M": 4, "m": 3}
  return np.concatenate(
    [
      chord(
        48 + (tonic + int(text[:-1])) % 12 + np.array([0, third[text[-1]], 7]),
        rate,
        detune,
      )
      for text in chords.split()
    ]
  )


KEYS = {
  "major": "C Db D Eb E F F# G Ab A Bb B",
  "minor": "C C# D Eb E F F# G G# A Bb B",
}


@pytest.mark.parametrize(
  "chords, kind",
  [
    ("0M 5M 7M 0M", "major"),
    ("0M 7M 9m 5M", "major"),
    ("0m 5m 7M 0m", "minor"),
  ],
)
@pytest.mark.parametrize("detune", [0, 0.3, -0.4])  # semitones
def test_the_key_of_a_cadence(chords, kind, detune):
  found = [
    describe.key(cadence(tonic, chords, detune=detune), RATE)
    for tonic in range(12)
  ]
  assert found == [f"{letter} {kind}" for letter in KEYS[kind].split()]


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_keys_at_other_rates_and_in_noise(rate):
  x_T = cadence(9, "0m 5m 7M 0m", rate)
  noise_T = np.random.default_rng(0).normal(size=len(x_T))
  for changed in (x_T, x_T / 1000, x_T + 0.3 * noise_T, x_T + 5):
    assert describe.key(changed, rate) == "A minor"


def test_notes_are_librosa_s_chroma(plain_librosa):
  x_T = cadence(2, "0M 5M 7M 0M").astype(np.float32)
  chroma_12xF = plain_librosa.feature.chroma_stft(
    y=x_T, sr=RATE, tuning=0, n_fft=8192, hop_length=4096, norm=None
  )
  found = describe._notes(x_T, RATE)
  assert np.corrcoef(found, chroma_12xF.mean(axis=1))[0, 1] > 0.95


def test_silence_has_neither():
  for x_T in (np.zeros(10 * RATE), np.full(10 * RATE, 0.5), np.zeros(0)):
    assert np.isnan(describe.tempo(x_T, RATE))
    assert describe.key(x_T, RATE) == ""


def test_blocks_leave_no_trace(monkeypatch):
  x_T = cadence(0, "0M 5M 7M 0M 5M 7M 0M 7M 0M")
  found = describe.tempo(x_T, RATE), describe._notes(x_T, RATE)
  monkeypatch.setattr(describe, "_BLOCK", 3)
  assert describe.tempo(x_T, RATE) == pytest.approx(found[0], rel=1e-6)
  np.testing.assert_allclose(describe._notes(x_T, RATE), found[1], rtol=1e-3)


def test_little_has_no_tempo():
  assert np.isnan(describe.tempo(clicks(120, seconds=3), RATE))
  single = np.zeros(10 * RATE, np.float32)
  single[5 * RATE] = 1
  found = describe.tempo(single, RATE)
  assert np.isnan(found) or 40 <= found <= 240
  assert describe.key(single[:1], RATE) == ""
