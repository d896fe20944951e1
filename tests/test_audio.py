"""audio.py against SciPy's resampling, analytic sines and planted faults."""

import io
import os
import shutil
import struct
import subprocess
import warnings

import music
import numpy as np
import pytest
import scipy.signal
import soundfile

from vicreg_jax.data import audio, ffmpeg

RATE = 22_050


def snr_db(got, want):
  """Away from the ends, where filters differ."""
  middle = slice(2000, min(len(got), len(want)) - 2000)
  error = got[middle].astype(np.float64) - want[middle]
  power = max(np.mean(error**2), 1e-30)
  return 10 * np.log10(np.mean(want[middle] ** 2) / power)


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
  music.write(path, music.sine(1000, rate), rate, subtype="FLOAT")
  got = audio.load(path, RATE)
  assert got.dtype == np.float32 and abs(len(got) - 2 * RATE) <= 1
  assert snr_db(got, music.sine(1000, RATE)) > 80


@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_lengths_around_a_block(tmp_path, rate, extra):
  path = tmp_path / "a.wav"
  num_frames = audio._BLOCK_FRAMES + extra
  music.write(path, music.sine(440, rate, num_frames / rate), rate)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    got = audio.load(path, RATE)
  assert abs(len(got) - num_frames * RATE / rate) <= 1
  assert snr_db(got, music.sine(440, RATE, num_frames / rate)) > 60


def test_mono_is_the_mean_of_the_channels(tmp_path):
  path = tmp_path / "a.wav"
  left, right = music.sine(300, RATE), music.sine(700, RATE)
  music.write(path, np.stack([left, right], 1), RATE, subtype="FLOAT")
  np.testing.assert_allclose(
    audio.load(path, RATE), (left + right) / 2, atol=1e-7
  )


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


@music.needs_ffmpeg
@pytest.mark.parametrize(
  "suffix, rate",
  [("flac", 44_100), ("wav", 48_000), ("au", 8_000), ("mp3", 44_100)],
)
def test_ffmpeg_agrees(tmp_path, suffix, rate):
  # Music's spectrum falls; where the filters' slopes are there is little.
  noise = music.noise(4 * rate, 2)
  low = scipy.signal.butter(6, [60, 3000], "bandpass", fs=rate, output="sos")
  noise = scipy.signal.sosfilt(low, noise, axis=0)
  path = tmp_path / f"a.{suffix}"
  music.write(path, noise, rate)
  got, want = aligned(audio.load(path, RATE), by_ffmpeg(path))
  assert abs(len(got) - len(want)) < 3000
  assert snr_db(got, want) > 60


# --- files as they are found ---

SECONDS = 10.0


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """Encodes pink noise in stereo, 10 s at 44.1 kHz; returns the path."""
  if not shutil.which("ffmpeg"):
    pytest.skip("ffmpeg not installed")
  folder = tmp_path_factory.mktemp("found")
  noise = music.noise(441_000, 1, scale=0.05)
  noise = scipy.signal.lfilter([1], [1, -0.9], noise, axis=0)
  music.write(folder / "a.wav", noise * [1, 0.5], 44_100)

  def encode(name, *options):
    path = folder / name
    if path.exists():
      return path
    return music.by_ffmpeg(folder / "a.wav", path, *options)

  encode.mono = noise[:, 0] * 0.75
  return encode


NO_XING = ("-q:a", "4", "-write_xing", "0")
MP3S = {"xing.mp3": ("-q:a", "4"), "no_xing.mp3": NO_XING,
        "cbr.mp3": ("-b:a", "128k")}  # fmt: skip


def same_at(got, want, start, stop, lag=0):
  """Whether seconds start to stop of two files agree, one later by a lag."""
  span = slice(int(start * RATE), int(stop * RATE))
  part = got[span.start + lag : span.stop + lag]
  return snr_db(part, want[span].astype(np.float64))


@pytest.mark.parametrize(
  "name, options",
  [("no_xing.mp3", NO_XING), ("a.mp2", ()), ("a.aac", ()),
   # Its first packets are small, as if all were; or large.
   ("soft.mp3", (*NO_XING, "-af", "volume=0:enable='lt(t,1)'")),
   ("loud.mp3", (*NO_XING, "-af", "volume=0:enable='gt(t,9)'"))],
)  # fmt: skip
def test_the_length_is_that_of_the_sound(found, name, options):
  with audio.reading() as notes:
    got = audio.load(found(name, *options), RATE)
  assert notes == []
  assert len(got) / RATE == pytest.approx(SECONDS, abs=0.06)
  mono = scipy.signal.resample_poly(found.mono, 1, 2)
  got, want = aligned(got, mono)
  assert same_at(got, want, 1.2, 8.8) > 5


@pytest.mark.parametrize("name", [*MP3S, "a.flac", "a.ogg"])
def test_files_put_together_are_read_to_the_end(found, tmp_path, name):
  one = found(name, *MP3S.get(name, ()))
  path = tmp_path / name
  path.write_bytes(one.read_bytes() * 3)
  with audio.reading():
    got = audio.load(path, RATE)
  assert len(got) / RATE == pytest.approx(3 * SECONDS, abs=0.15)
  first = audio.load(one, RATE).astype(np.float64)
  assert same_at(got, first, 1, 9) > 60
  last, first = aligned(got[-10 * RATE :], first)
  assert same_at(last, first, 1, 9) > 60


@pytest.fixture
def links(tmp_path):
  """Links of an Ogg chain: what is in them, and libsndfile's decode of each."""
  noise = music.noise(2 * 48_000, 2)
  # Where the filters' slopes are there is nothing.
  low = scipy.signal.butter(8, 4000, fs=48_000, output="sos")
  noise = scipy.signal.sosfilt(low, noise, axis=0)

  def make(subtype, rate, channels, seconds=2.0):
    path = tmp_path / "link.ogg"
    sound = noise[: int(seconds * rate), :channels]
    music.write(path, sound, rate, subtype)
    decoded, _ = soundfile.read(path, always_2d=True)
    factor = np.gcd(rate, RATE)
    want = scipy.signal.resample_poly(
      decoded.mean(1), RATE // factor, rate // factor
    )
    return path.read_bytes(), want

  return make


@pytest.mark.parametrize(
  "chain",
  [(("VORBIS", 44_100, 2), ("VORBIS", 44_100, 2, 1.0)),
   (("VORBIS", 44_100, 2), ("VORBIS", 48_000, 2), ("VORBIS", 44_100, 1)),
   (("OPUS", 48_000, 2), ("OPUS", 48_000, 1)),
   (("OPUS", 48_000, 1), ("OPUS", 48_000, 2), ("VORBIS", 22_050, 1))],
)  # fmt: skip
def test_every_link_of_an_ogg_chain_is_read(links, tmp_path, chain):
  contents, parts = zip(*(links(*link) for link in chain))
  path = tmp_path / "a.ogg"
  path.write_bytes(b"".join(contents))
  with audio.reading() as notes:
    got = audio.load(path, RATE)
  assert notes == []
  assert abs(len(got) - sum(map(len, parts))) < 10
  start = 0
  for part in parts:
    assert snr_db(got[start:], part) > 40
    start += len(part)


def test_links_are_found_wherever_reads_of_the_file_end(
  links, tmp_path, monkeypatch
):
  one, part = links("VORBIS", 22_050, 1, 0.3)
  for chunk in range(len(one) - 2, len(one) + 8):
    monkeypatch.setattr(audio, "_CHUNK", chunk)
    assert abs(len(audio.loads(one * 3, "a.ogg", RATE)) - 3 * len(part)) < 10


def lost_of(content):
  """The share that is noted, and the seconds that are read."""
  with audio.reading() as notes:
    got = audio.loads(content, "a.ogg", RATE)
  (note,) = notes
  said = note.removeprefix("damaged, ").removesuffix("% lost")
  return float(said) / 100, len(got) / RATE


def test_the_share_that_is_lost_is_of_the_whole_chain(links):
  first, _ = links("VORBIS", 44_100, 2, 2.0)
  last, _ = links("VORBIS", 48_000, 1, 2.0)
  page = last.index(b"OggS", len(last) // 2)
  damaged = last[:page] + bytes(300) + last[page + 300 :]
  share, seconds = lost_of(first + damaged)
  assert 2.2 < seconds < 3.8
  assert share == pytest.approx(1 - seconds / 4, abs=0.006)
  # Of a link that cannot be read, only the bytes are known.
  damaged = last[:40] + bytes(len(last) - 40)
  share, seconds = lost_of(first + damaged + first)
  assert seconds == pytest.approx(4, abs=0.01)
  size = len(damaged)
  assert share == pytest.approx(size / (2 * len(first) + size), abs=0.006)
  with pytest.raises(audio.AudioError, match="not decodable"):
    audio.loads(damaged * 2, "a.ogg", RATE)


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("name", [*MP3S, "a.flac", "a.ogg"])
def test_damage_costs_what_is_damaged(found, tmp_path, name, in_memory):
  whole = found(name, *MP3S.get(name, ()))
  content = bytearray(whole.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 4000] = np.random.default_rng(1).bytes(4000)
  path = tmp_path / name
  path.write_bytes(content)
  with audio.reading() as notes:
    if in_memory:
      got = audio.loads(bytes(content), name, RATE)
    else:
      got = audio.load(path, RATE)
  want = audio.load(whole, RATE)
  lost = 1 - len(got) / len(want)
  # An OGG loses whole pages, of a second each.
  assert 0.005 < lost < (0.25 if name == "a.ogg" else 0.06)
  (note,) = notes
  share = float(note.removeprefix("damaged, ").removesuffix("% lost")) / 100
  assert share == pytest.approx(lost, abs=0.006)
  # What is before the damage is where it was, and so is what comes after.
  middle = {"no_xing.mp3": 4.5, "a.ogg": 4.5}.get(name, 5)
  assert same_at(got, want, 0.5, middle - 0.5) > 60
  got, want = aligned(got[-4 * RATE :], want[-4 * RATE :].astype(np.float64))
  assert same_at(got, want, 0.5, 3.5) > 60


def test_damage_is_a_warning_where_nobody_collects(found, tmp_path):
  content = found("a.flac").read_bytes()
  path = tmp_path / "a.flac"
  path.write_bytes(content[: len(content) // 2])
  with pytest.warns(UserWarning, match=r"a\.flac: damaged, 5\d\.\d% lost"):
    audio.load(path)


@pytest.mark.parametrize(
  "suffix, options",
  [("flac", ()), ("mka", ()), ("wv", ()),
   ("m4a", ("-movflags", "faststart"))],
)  # fmt: skip
def test_cut_files_say_what_is_lost(found, tmp_path, suffix, options):
  whole = found(f"fast.{suffix}", *options)
  with audio.reading() as notes:
    seconds = len(audio.load(whole, RATE)) / RATE
  assert notes == []
  path = tmp_path / f"a.{suffix}"
  path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
  with audio.reading() as notes:
    share = 1 - len(audio.load(path, RATE)) / RATE / seconds
  assert 0.2 < share < 0.45
  (note,) = notes
  said = float(note.removeprefix("damaged, ").removesuffix("% lost")) / 100
  assert said == pytest.approx(share, abs=0.006)


def claims(content, times):
  """An MP3 or a FLAC whose header has so many times its length."""
  content = bytearray(content)
  if b"Xing" in content:
    at, size, mask = content.index(b"Xing") + 8, 4, -1
  else:  # 36 bits of STREAMINFO
    at, size, mask = 18, 8, (1 << 36) - 1
  value = int.from_bytes(content[at : at + size])
  value = value & ~mask | (value & mask) * times
  content[at : at + size] = value.to_bytes(size)
  return bytes(content)


@pytest.mark.parametrize("times", [2, 10])
@pytest.mark.parametrize("name", ["xing.mp3", "a.flac"])
def test_a_header_that_claims_a_greater_length_is_no_loss(found, name, times):
  one = found(name, *MP3S.get(name, ())).read_bytes()
  want = audio.loads(one, name, RATE)
  with audio.reading() as notes:
    got = audio.loads(claims(one, times), name, RATE)
  assert notes == []
  assert 0 <= len(got) - len(want) < 0.03 * RATE
  np.testing.assert_allclose(got[: len(want) - 100], want[:-100], atol=1e-5)
  if name == "a.flac":  # whose frames say where they are: damage is known
    middle = len(one) // 2
    damaged = one[:middle] + bytes(3000) + one[middle + 3000 :]
    share, seconds = lost_of(claims(damaged, times))
    assert share == pytest.approx(1 - seconds / SECONDS, abs=0.006)


@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\1\2" + bytes(130)])
def test_a_cut_mp3_that_says_how_long_it_was(found, tmp_path, tag):
  path = tmp_path / "a.mp3"
  for name in ("xing.mp3", "no_xing.mp3"):
    content = found(name, *MP3S[name]).read_bytes()
    if name == "xing.mp3" and tag:
      start = content.index(b"\xff\xfb")
      content = tag + content[start:]
    path.write_bytes(content[: len(content) // 2])
    with audio.reading() as notes:
      share = 1 - len(audio.load(path, RATE)) / RATE / SECONDS
    assert 0.4 < share < 0.6
    want = [f"damaged, {share:.1%} lost"] if name == "xing.mp3" else []
    assert notes == want


def test_rubbish_before_the_sound(found, tmp_path):
  content = bytes(2000) + found("cbr.mp3", *MP3S["cbr.mp3"]).read_bytes()
  path = tmp_path / "a.mp3"
  path.write_bytes(content)
  got = audio.load(path, RATE)
  np.testing.assert_array_equal(got, audio.loads(content, "a.mp3", RATE))
  assert len(got) / RATE == pytest.approx(SECONDS, abs=0.06)


@pytest.mark.parametrize("name", [*MP3S, "a.flac"])
@pytest.mark.parametrize("size", [128, 50_000])
def test_a_tag_at_the_end_changes_nothing(
  found, tmp_path, monkeypatch, name, size
):
  one = found(name, *MP3S.get(name, ()))
  text = b"a picture, say; " * (size // 16)
  footer = b"APETAGEX" + struct.pack("<IIII", 2000, len(text) + 32, 1, 0)
  tag = text + footer + bytes(8)
  path = tmp_path / name
  path.write_bytes(one.read_bytes() + tag)
  with audio.reading() as notes:
    got = audio.load(path, RATE)
  want = audio.load(one, RATE)
  assert notes == []
  # libsndfile gives up on a long tag; FFmpeg then leaves the encoder's padding.
  assert 0 <= len(got) - len(want) < 0.03 * RATE
  np.testing.assert_allclose(got[: len(want) - 100], want[:-100], atol=1e-5)
  if name == "a.flac":
    monkeypatch.setattr(ffmpeg, "_DEMUXERS", "wav")  # FFmpeg knows no FLAC
    np.testing.assert_array_equal(audio.load(path, RATE), want)


@pytest.mark.parametrize(
  "right, wrong", [("aac", "mp3"), ("m4a", "wav"), ("flac", "m4a"),
                   ("mp3", "wav"), ("wav", "aac")]
)  # fmt: skip
def test_the_content_decides_not_the_name(found, tmp_path, right, wrong):
  path = tmp_path / f"a.{wrong}"
  shutil.copy(found(f"a.{right}"), path)
  want = audio.load(found(f"a.{right}"), RATE)
  assert len(want) / RATE == pytest.approx(SECONDS, abs=0.06)
  np.testing.assert_array_equal(audio.load(path, RATE), want)
  np.testing.assert_array_equal(
    audio.loads(path.read_bytes(), path.name, RATE), want
  )


@pytest.mark.parametrize("suffix", music.ENCODED)
def test_every_suffix_is_read(found, suffix):
  got = audio.load(found(f"every{suffix}"), RATE)
  assert len(got) / RATE == pytest.approx(SECONDS, abs=0.06)
  got, want = aligned(got, scipy.signal.resample_poly(found.mono, 1, 2))
  assert same_at(got, want, 1, 9) > (2 if suffix == ".spx" else 5)


def test_direct_stream_digital_is_read(tmp_path):
  """DSF by hand: one bit a sample, as a modulator of first order makes it."""
  rate, seconds = 64 * 44_100, 0.25
  want = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate * seconds) / rate)
  steps = np.floor(np.cumsum((want + 1) / 2))
  bits = np.diff(steps, prepend=0).astype(np.uint8)
  block = 4096
  data = np.packbits(bits, bitorder="little")
  data = np.pad(data, (0, -len(data) % block)).tobytes()
  form = struct.pack(
    "<QIIIIIIQII", 52, 1, 0, 1, 1, rate, 1, len(bits), block, 0
  )
  head = struct.pack("<QQQ", 28, 28 + 52 + 12 + len(data), 0)
  path = tmp_path / "a.dsf"
  path.write_bytes(
    b"DSD " + head + b"fmt " + form
    + b"data" + struct.pack("<Q", 12 + len(data)) + data
  )  # fmt: skip
  got = audio.load(path, RATE)
  assert len(got) / RATE == pytest.approx(seconds, abs=0.02)
  assert music.heard(got[1000:5000], RATE) == pytest.approx(440, abs=5)
  rms = np.sqrt(np.mean(got[1000:5000].astype(np.float64) ** 2))
  assert rms == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize(
  "content",
  [b"ffconcat version 1.0\nfile 'a.wav'\n",
   b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.m4a\n#EXT-X-ENDLIST\n"],
)  # fmt: skip
def test_playlists_in_disguise_are_refused(found, tmp_path, content):
  shutil.copy(found("a.wav"), tmp_path)
  shutil.copy(found("a.m4a"), tmp_path)
  path = tmp_path / "list.m4a"
  path.write_bytes(content)
  with pytest.raises(audio.AudioError) as error:
    audio.load(path)
  assert error.value.reason == "not decodable"


@pytest.mark.parametrize("declared", [0, 0xFFFFFFF0])
def test_a_wav_s_header_need_not_tell_its_length(tmp_path, declared):
  """As of a stream, of nothing or of gigabytes."""
  want = np.arange(-1000, 1000)
  content = wav_bytes(RATE, 1, want.astype("<i2").tobytes(), declared=declared)
  path = tmp_path / "a.wav"
  path.write_bytes(content)
  np.testing.assert_array_equal(audio.load(path) * 32768, want)


@pytest.mark.parametrize(
  "bits, kind, dtype, zero, scale",
  [(8, 1, "u1", 128, 128), (16, 1, "<i2", 0, 1 << 15),
   (32, 1, "<i4", 0, 1 << 31), (32, 3, "<f4", 0, 1), (64, 3, "<f8", 0, 1)],
)  # fmt: skip
def test_every_kind_of_sample_is_scaled_to_1(
  tmp_path, bits, kind, dtype, zero, scale
):
  # A data size of 0, which is FFmpeg's to read.
  left = np.linspace(-0.9, 0.9, 3000)
  x_TxC = np.stack([left, left / 3], 1) * scale + zero
  data = x_TxC.astype(dtype).tobytes()
  path = tmp_path / "a.wav"
  path.write_bytes(wav_bytes(RATE, 2, data, bits, kind, declared=0))
  np.testing.assert_allclose(
    audio.load(path), left * 2 / 3, atol=1 / 128 if bits == 8 else 1 / 32768
  )


def test_floats_that_are_integers_are_refused(tmp_path):
  path = tmp_path / "a.wav"
  loud = 20_000 * music.sine(440, RATE)
  music.write(path, loud, RATE, subtype="FLOAT")
  with pytest.raises(audio.AudioError, match="a peak of 10,000") as error:
    audio.load(path)
  assert error.value.reason == "over full scale"
  music.write(path, loud / 10_000, RATE, subtype="FLOAT")
  np.testing.assert_allclose(audio.load(path), loud / 10_000, atol=1e-6)


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
  os.mkfifo(tmp_path / "pipe.mp3")  # to open it would wait for a writer
  for path, reason in [(tmp_path / "x.wav", "not found"),
                       (tmp_path / "pipe.mp3" / "x.wav", "not found"),
                       (tmp_path, "not a file"),
                       (tmp_path / "pipe.mp3", "not a file"),
                       (os.devnull, "not a file")]:  # fmt: skip
    with pytest.raises(audio.AudioError) as error:
      audio.load(path)
    assert error.value.reason == reason


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
  def refuse(*args, **options):
    raise PermissionError(13, "Permission denied")

  path = tmp_path / "a.wav"
  path.write_bytes(wav_bytes(RATE, 1, bytes(400)))
  # The tests may be root's, whom no file refuses.
  monkeypatch.setattr("io.FileIO", refuse)
  with pytest.raises(audio.AudioError, match="Permission denied") as error:
    audio.load(path)
  assert error.value.reason == "not readable"


@pytest.mark.parametrize("name", ["a.m4a", "a.flac"])
def test_a_disk_that_fails_is_no_damage(found, tmp_path, name, monkeypatch):
  """Nor the end of a file: what is behind it is there."""

  class Failing(io.FileIO):
    def read(self, size=-1):
      if self.tell() > 60_000:
        raise OSError(5, "Input/output error")
      return super().read(size)

  path = tmp_path / name
  content = bytearray(found(name).read_bytes())
  content[20_000:24_000] = bytes(4000)  # FFmpeg is asked, for FLAC
  path.write_bytes(content)
  monkeypatch.setattr("io.FileIO", Failing)
  with pytest.raises(audio.AudioError, match="Input/output error") as error:
    audio.load(path)
  assert error.value.reason == "not readable"


def test_errors_are_one_line_whatever_the_name():
  name = os.fsdecode(b"new\nline \xff \x1b[2J.wav")
  error = audio.AudioError(name, "not found")
  assert str(error) == r"new\nline \udcff \x1b[2J.wav: not found"
  assert error.path == name


def test_a_wav_that_was_cut_gives_what_is_there(tmp_path):
  path = tmp_path / "a.wav"
  noise = music.noise(4 * RATE)
  music.write(path, noise, RATE)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  np.testing.assert_allclose(
    audio.load(path), noise[: 2 * RATE - 11], atol=1 / 32768
  )


def test_too_long_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(audio, "_MAX_SECONDS", 3)
  path = tmp_path / "a.wav"
  music.write(path, np.zeros(3 * RATE), RATE)
  assert len(audio.load(path)) == 3 * RATE
  music.write(path, np.zeros(3 * RATE + 1), RATE)
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
