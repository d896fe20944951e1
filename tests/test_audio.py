"""audio.py against SciPy's resampling, analytic sines and planted faults."""

import os
import shutil
import struct
import subprocess
import warnings

import numpy as np
import pytest
import scipy.signal
import soundfile

from vicreg_jax.data import audio

RATE = 22_050


def sine(frequency, rate, seconds=2.0, amplitude=0.5):
  t = np.arange(int(seconds * rate)) / rate
  return amplitude * np.sin(2 * np.pi * frequency * t)


def snr_db(got, want):
  """Away from the ends, where filters differ."""
  middle = slice(2000, min(len(got), len(want)) - 2000)
  error = got[middle].astype(np.float64) - want[middle]
  return 10 * np.log10(np.mean(want[middle] ** 2) / np.mean(error**2))


def wav_bytes(rate, channels, data, bits=16, kind=1, declared=None):
  declared = len(data) if declared is None else declared
  fmt = struct.pack(
    "<IHHIIHH", 16, kind, channels, rate, 0, channels * bits // 8 & 0xFFFF, bits
  )
  return (
    b"RIFF" + struct.pack("<I", (36 + declared) & 0xFFFFFFFF) + b"WAVEfmt "
    + fmt + b"data" + struct.pack("<I", declared) + data
  )  # fmt: skip


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampled_sine_is_the_analytic_sine(tmp_path, rate):
  path = tmp_path / "a.wav"
  soundfile.write(path, sine(1000, rate), rate, subtype="FLOAT")
  got = audio.load(path, RATE)
  assert got.dtype == np.float32 and abs(len(got) - 2 * RATE) <= 1
  assert snr_db(got, sine(1000, RATE)) > 80


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_resampled_noise_agrees_with_scipy(tmp_path, rate):
  # Band-limited below both Nyquist rates: there all good filters agree.
  noise = np.random.default_rng(0).normal(size=3 * rate)
  band = scipy.signal.butter(8, [200, 2500], "bandpass", fs=rate, output="sos")
  noise = 0.2 * scipy.signal.sosfiltfilt(band, noise)
  path = tmp_path / "a.wav"
  soundfile.write(path, noise, rate, subtype="FLOAT")
  factor = np.gcd(rate, RATE)
  want = scipy.signal.resample_poly(
    noise, RATE // factor, rate // factor, window=("kaiser", 12.0)
  )
  assert snr_db(audio.load(path, RATE), want) > 40


def test_blocks_leave_no_seam(tmp_path):
  # 14 s at 48 kHz are three blocks; a seam would break the sine.
  path = tmp_path / "a.flac"
  soundfile.write(path, sine(440, 48_000, 14), 48_000, subtype="PCM_24")
  got = audio.load(path, RATE)
  assert abs(len(got) - 14 * RATE) <= 1
  assert snr_db(got, sine(440, RATE, 14)) > 80


@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_lengths_around_a_block(tmp_path, rate, extra):
  path = tmp_path / "a.wav"
  num_frames = audio._BLOCK_FRAMES + extra
  soundfile.write(path, sine(440, rate, num_frames / rate), rate)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    got = audio.load(path, RATE)
  assert abs(len(got) - num_frames * RATE / rate) <= 1
  assert snr_db(got, sine(440, RATE, num_frames / rate)) > 60


def test_mono_is_the_mean_of_the_channels(tmp_path):
  path = tmp_path / "a.wav"
  left, right = sine(300, RATE), sine(700, RATE)
  soundfile.write(path, np.stack([left, right], 1), RATE, subtype="FLOAT")
  np.testing.assert_allclose(
    audio.load(path, RATE), (left + right) / 2, atol=1e-7
  )


@pytest.mark.parametrize(
  "suffix, min_snr",
  [
    ("wav", 80),
    ("flac", 80),
    ("au", 80),
    ("aiff", 80),
    ("ogg", 25),
    ("mp3", 0),
  ],
)
def test_encodings_of_libsndfile(tmp_path, suffix, min_snr):
  if suffix.upper() not in soundfile.available_formats():
    pytest.skip(f"this libsndfile has no {suffix}")
  path = tmp_path / f"a.{suffix}"
  soundfile.write(path, np.stack([sine(440, 44_100)] * 2, 1), 44_100)
  got = audio.load(path, RATE)
  assert abs(len(got) - 2 * RATE) < 3000
  if suffix != "mp3":  # its encoder's delay moves the phase
    assert snr_db(got, sine(440, RATE)) > min_snr
  spectrum = np.abs(np.fft.rfft(got[:RATE] * np.hanning(RATE)))
  assert np.argmax(spectrum) == 440
  assert np.abs(got[2000:-4000]).max() == pytest.approx(0.5, abs=0.03)


def by_ffmpeg(path):
  """ffmpeg's decode, mean of two channels and resampling."""
  command = ["ffmpeg", "-v", "error", "-i", path, "-af"]
  # Not `-ac 1`, which sums float channels with 1 / sqrt(2) each.
  command += [f"pan=mono|c0=0.5*c0+0.5*c1,aresample={RATE}"]
  command += ["-f", "f32le", "pipe:1"]
  done = subprocess.run(command, check=True, capture_output=True)
  return np.frombuffer(done.stdout, "<f4").astype(float)


def aligned(got, want):
  """Both from the lag on at which they agree best."""
  size = 1 << (len(got) + len(want)).bit_length()
  spectrum = np.fft.rfft(got, size) * np.conj(np.fft.rfft(want, size))
  lag = int(np.argmax(np.fft.irfft(spectrum)))
  lag -= size * (lag > size // 2)
  return got[max(lag, 0) :], want[max(-lag, 0) :]


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg not installed")
@pytest.mark.parametrize(
  "suffix, rate",
  [("flac", 44_100), ("wav", 48_000), ("au", 8_000), ("mp3", 44_100)],
)
def test_ffmpeg_agrees(tmp_path, suffix, rate):
  # Music's spectrum falls; where the filters' slopes are there is little.
  noise = np.random.default_rng(0).normal(size=(4 * rate, 2))
  low = scipy.signal.butter(6, [60, 3000], "bandpass", fs=rate, output="sos")
  noise = 0.1 * scipy.signal.sosfilt(low, noise, axis=0)
  path = tmp_path / f"a.{suffix}"
  soundfile.write(path, noise, rate)
  got, want = aligned(audio.load(path, RATE), by_ffmpeg(path))
  assert abs(len(got) - len(want)) < 3000
  assert snr_db(got, want) > 60


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg not installed")
@pytest.mark.parametrize("suffix", ["m4a", "aac", "wma"])
def test_encodings_of_ffmpeg(tmp_path, suffix):
  wav, path = tmp_path / "a.wav", tmp_path / f"a.{suffix}"
  # Opposite weights: a sum instead of a mean, or one channel, shows.
  soundfile.write(
    wav, np.stack([sine(440, 44_100), 0.5 * sine(440, 44_100)], 1), 44_100
  )
  subprocess.run(["ffmpeg", "-v", "error", "-i", wav, path], check=True)
  got = audio.load(path, RATE)
  assert abs(len(got) - 2 * RATE) < 4000
  rms = np.sqrt(np.mean(got[5000:30000].astype(np.float64) ** 2))
  assert rms == pytest.approx(0.75 * 0.5 / np.sqrt(2), rel=0.04)
  assert np.argmax(np.abs(np.fft.rfft(got[:RATE] * np.hanning(RATE)))) == 440


def test_without_ffmpeg_the_error_names_it(tmp_path, monkeypatch):
  path = tmp_path / "a.m4a"
  path.write_bytes(b"anything")
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(audio.AudioError, match="install ffmpeg") as error:
    audio.load(path)
  assert error.value.reason == "ffmpeg not installed"


def fault_cases():
  data = np.random.default_rng(0).bytes(40_000)
  text = b"no audio here\n" * 100
  nan = np.full(1000, np.nan, "<f4").tobytes()
  big = np.full(1000, 3e38, "<f4").tobytes()
  return {
    "zero.wav": (b"", "empty file"),
    "text.mp3": (text, "not decodable"),
    "text.ogg": (text, "not decodable"),
    "text.wav": (text, "not decodable"),
    "text.au": (text, "not decodable"),
    "head.flac": (b"fLaC\0\0\0\x22", "not decodable"),
    "channels0.wav": (wav_bytes(RATE, 0, data), "not decodable"),
    "channels50.wav": (wav_bytes(RATE, 50, data), "absurd header"),
    "channels65535.wav": (wav_bytes(RATE, 65535, data), "not decodable"),
    "rate0.wav": (wav_bytes(0, 1, data), "not decodable"),
    "rate1.wav": (wav_bytes(1, 1, data), "absurd header"),
    "rate2e9.wav": (wav_bytes(2_000_000_000, 1, data), "absurd header"),
    "silent.wav": (wav_bytes(RATE, 1, b""), "no samples"),
    "nan.wav": (wav_bytes(RATE, 1, nan, 32, 3), "not finite"),
    "overflow.wav": (wav_bytes(RATE, 2, big, 32, 3), "not finite"),
  }


@pytest.mark.parametrize("name", fault_cases())
def test_faults_are_named(tmp_path, name):
  content, reason = fault_cases()[name]
  path = tmp_path / name
  path.write_bytes(content)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    with pytest.raises(audio.AudioError) as error:
      audio.load(path)
  assert error.value.reason == reason
  assert error.value.path == str(path) and str(path) in str(error.value)
  assert isinstance(error.value, ValueError)


def test_missing_files_and_directories_are_named(tmp_path):
  for path, reason in [(tmp_path / "x.wav", "not found"),
                       (tmp_path, "not a file"),
                       (os.devnull, "not a file")]:  # fmt: skip
    with pytest.raises(audio.AudioError) as error:
      audio.load(path)
    assert error.value.reason == reason


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
  def refuse(*args):
    raise PermissionError(13, "Permission denied")

  path = tmp_path / "a.wav"
  path.write_bytes(wav_bytes(RATE, 1, bytes(400)))
  # The tests may be root's, whom no file refuses; test_fuzz.py has a user.
  monkeypatch.setattr("builtins.open", refuse)
  with pytest.raises(audio.AudioError, match="Permission denied") as error:
    audio.load(path)
  assert error.value.reason == "not readable"


def test_errors_are_one_line_whatever_the_name():
  name = os.fsdecode(b"new\nline \xff \x1b[2J.wav")
  error = audio.AudioError(name, "not found")
  assert str(error) == r"new\nline \udcff \x1b[2J.wav: not found"
  assert error.path == name


def test_damage_in_the_middle(tmp_path):
  flac, wav = tmp_path / "a.flac", tmp_path / "a.wav"
  noise = 0.1 * np.random.default_rng(0).normal(size=4 * RATE)
  for path in (flac, wav):
    soundfile.write(path, noise, RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(audio.AudioError, match="not decodable"):
    audio.load(flac)
  # A WAV says nothing of what is lost: what is there is used.
  np.testing.assert_allclose(
    audio.load(wav), noise[: 2 * RATE - 11], atol=1 / 32768
  )


def test_a_header_that_promises_gigabytes_gives_what_is_there(tmp_path):
  data = np.arange(-1000, 1000, dtype="<i2").tobytes()
  path = tmp_path / "a.wav"
  path.write_bytes(wav_bytes(RATE, 1, data, declared=0xFFFFFFF0))
  np.testing.assert_array_equal(
    audio.load(path) * 32768, np.arange(-1000, 1000)
  )


def test_too_long_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(audio, "_MAX_SECONDS", 3)
  path = tmp_path / "a.wav"
  soundfile.write(path, np.zeros(3 * RATE), RATE)
  assert len(audio.load(path)) == 3 * RATE
  soundfile.write(path, np.zeros(3 * RATE + 1), RATE)
  with pytest.raises(audio.AudioError, match="too long"):
    audio.load(path)


def test_int16_codec():
  x = np.array([0, 1, -1, 1.5, -7, 0.5, 1e-9], np.float32)
  np.testing.assert_array_equal(
    audio.to_int16(x), [0, 32767, -32767, 32767, -32767, 16384, 0]
  )
  noise = np.random.default_rng(0).uniform(-1, 1, 10_000).astype(np.float32)
  coded = audio.to_int16(noise)
  assert coded.dtype == np.int16
  assert audio.from_int16(coded).dtype == np.float32
  np.testing.assert_allclose(
    audio.from_int16(coded), noise, atol=1.02 / 65534, rtol=0
  )
  np.testing.assert_array_equal(audio.to_int16(-noise), -coded)
  # Decoding and coding again changes nothing.
  every = np.arange(-32767, 32768, dtype=np.int16)
  np.testing.assert_array_equal(audio.to_int16(audio.from_int16(every)), every)
