"""Sounds that tests make, files and archives of them, and what is heard."""

import io
import pathlib
import shutil
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile

from vicreg_jax.data import audio

needs_ffmpeg = pytest.mark.skipif(
  not shutil.which("ffmpeg"), reason="ffmpeg not installed"
)
# Suffixes of what ffmpeg encodes, and what it has to be told of some.
ENCODED = sorted(audio.EXTENSIONS - {".ape", ".dsf", ".mpc"})
_TOLD = {
  ".aifc": ("-f", "aiff"), ".m4b": ("-f", "mp4"), ".oga": ("-f", "ogg"),
  ".snd": ("-f", "au"), ".weba": ("-f", "webm"),
  ".spx": ("-ar", "32000", "-ac", "1", "-b:a", "40k"),
}  # fmt: skip


def sine(hertz, rate, seconds=2.0, amplitude=0.5):
  """Float64 [T]."""
  t = np.arange(int(seconds * rate)) / rate
  return amplitude * np.sin(2 * np.pi * hertz * t)


def noise(*shape, scale=0.1, seed=0):
  """White Gaussian noise, float64."""
  return scale * np.random.default_rng(seed).normal(size=shape)


def white(seed=0, scale=0.1, length=59_049):
  """`noise` as float32."""
  return noise(length, scale=scale, seed=seed).astype(np.float32)


def notes(seed=0, rate=22_050, length=59_049):
  """Decaying harmonic notes, each with a burst of noise at its onset."""
  rng = np.random.default_rng(seed)
  x = np.zeros(length)
  for start in range(0, length, 5_000):
    t = np.arange(length - start) / rate
    f0 = 110 * 2 ** (rng.integers(0, 24) / 12)
    for k in range(1, 12):
      phase = rng.uniform(0, 2 * np.pi)
      x[start:] += np.sin(2 * np.pi * f0 * k * t + phase) * np.exp(-3 * t) / k
    x[start:] += rng.normal(size=len(t)) * np.exp(-60 * t)
  return (0.1 * x).astype(np.float32)


def encoded(x, rate, form="WAV", subtype=None):
  """The bytes of a file of [T] or [T, C], as libsndfile writes it."""
  file = io.BytesIO()
  soundfile.write(file, x, rate, format=form, subtype=subtype)
  return file.getvalue()


def write(path, x, rate, subtype=None):
  """Writes a file by its suffix, and makes its folder; returns the path."""
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, x, rate, subtype)
  return path


def write_sines(folder, count, low, seconds=0.1):
  """So many sines of `low` to twice `low` Hz, at 22,050 Hz."""
  rng = np.random.default_rng([low, *folder.parent.name.encode()])
  for i in range(count):
    x_T = sine(low * rng.uniform(1, 2), 22_050, seconds)
    write(folder / f"{i}.wav", x_T, 22_050)


def by_ffmpeg(source, path, *options):
  """Has ffmpeg encode a file as another; returns its path."""
  options = (*_TOLD.get(path.suffix, ()), *options)
  command = ["ffmpeg", "-v", "error", "-i", source, *options, path]
  subprocess.run(command, check=True)
  return path


def write_tree(root, members):
  """Writes {name: bytes} below a folder."""
  for name, content in members.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, "w", compression) as file:
    for name, content in members.items():
      file.writestr(name, content)


def add(tar, name, content=b"", **attributes):
  """Adds a member to an open tar."""
  member = tarfile.TarInfo(name)
  member.size = len(content)
  for key, value in attributes.items():
    setattr(member, key, value)
  tar.addfile(member, io.BytesIO(content))


def write_tar(path, members):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w:gz") as tar:
    for name, content in members.items():
      add(tar, name, content, mtime=1_000_000_000)


def heard(x_T, rate):
  """The pitch of a sound, in Hz."""
  spectrum = np.abs(np.fft.rfft(x_T * np.hanning(len(x_T)), 1 << 16))
  return np.argmax(spectrum) * rate / (1 << 16)


def db(ratio):
  return 10 * np.log10(ratio)


def power(x):
  return np.mean(np.square(x, dtype=np.float64))
