"""Audio files to mono float32, and the 16-bit form they are kept in. NumPy."""

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

_FFMPEG_ONLY = frozenset({".aac", ".m4a", ".mp4", ".wma"})
INT16_SCALE = 32767  # both signs; so that +1 fits

EXTENSIONS = _FFMPEG_ONLY | {
  ".aif",
  ".aiff",
  ".au",
  ".flac",
  ".mp3",
  ".oga",
  ".ogg",
  ".opus",
  ".wav",
}

# What lies outside cannot be music, and resampling it could fill the memory.
SAMPLE_RATES = range(1_000, 768_001)
_MAX_CHANNELS = 16
_MAX_SECONDS = 4 * 3600
_FFMPEG_TIMEOUT_SECONDS = 300
_BLOCK_FRAMES = 1 << 18


class AudioError(ValueError):
  """A file that gives no audio. `reason` is one of few, to be counted."""

  def __init__(self, path, reason: str, detail: str = ""):
    self.path = os.fspath(path)
    self.reason = reason
    text = f"{self.path}: {reason}" + (f" ({detail})" if detail else "")
    # A name may hold line ends and bytes that are no text.
    super().__init__(
      "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    )


def load(path, sample_rate: int = 22_050) -> np.ndarray:
  """Decodes a file to float32 [T], mono, at `sample_rate` Hz.

  Channels are averaged; soxr resamples ("HQ"). Loud files may exceed 1 a
  little. AAC and WMA (.m4a and the like) need the ffmpeg program, all else is
  libsndfile's. The file is decoded in blocks, so that what its header promises
  is never allocated. Raises `AudioError`, whose `reason` is "not found", "not a
  file", "not readable", "empty file", "not decodable", "ffmpeg not installed",
  "absurd header", "too long", "no samples" or "not finite".
  """
  return np.concatenate(list(blocks(path, sample_rate)))


def blocks(path, sample_rate: int = 22_050) -> Iterator[np.ndarray]:
  """As `load`, in consecutive pieces of some seconds each.

  Hours take no more memory than minutes. An error may come after some pieces.
  """
  path = os.fspath(path)
  if not os.path.exists(path):
    raise AudioError(path, "not found")
  if not os.path.isfile(path):
    raise AudioError(path, "not a file")
  try:
    with open(path, "rb") as file:
      empty = not file.read(1)
  except OSError as error:
    raise AudioError(path, "not readable", error.strerror) from None
  if empty:
    raise AudioError(path, "empty file")
  if os.path.splitext(path)[1].lower() in _FFMPEG_ONLY:
    # On disk: hours of many channels take gigabytes before they are averaged.
    with tempfile.TemporaryFile() as decoded:
      _ffmpeg(path, decoded)
      yield from _decode(decoded, path, sample_rate)
    return
  # libsndfile gets the path itself: through a Python file it needs the GIL.
  # As bytes, since a name need not be valid UTF-8.
  yield from _decode(os.fsencode(path), path, sample_rate)


def loads(content: bytes, name: str, sample_rate: int = 22_050) -> np.ndarray:
  """As `load`, from a file's bytes; errors call it `name`. No AAC or WMA."""
  if not content:
    raise AudioError(name, "empty file")
  return np.concatenate(list(_decode(io.BytesIO(content), name, sample_rate)))


def _decode(file, name, sample_rate):
  """Pieces that are not empty, and at least one of them."""
  some = False
  try:
    with soundfile.SoundFile(file) as sound:
      for block in _read(name, sound, sample_rate):
        if not np.isfinite(block).all():
          raise AudioError(name, "not finite")
        if block.size:
          some = True
          yield block
  except soundfile.SoundFileError as error:
    detail = str(error).split(": ")[-1]
    raise AudioError(name, "not decodable", detail) from None
  if not some:
    raise AudioError(name, "no samples")


def to_int16(samples: np.ndarray) -> np.ndarray:
  """Rounds float samples to int16; +-1 becomes +-32767, beyond is clipped.

  32767 rather than 32768, so that +1 fits: the scale is the same for both
  signs, and inverting the polarity stays exact.
  """
  return np.rint(np.clip(samples, -1, 1) * INT16_SCALE).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
  """The float32 samples that `to_int16` has rounded; error <= 1 / 65534."""
  return samples.astype(np.float32) / np.float32(INT16_SCALE)


def _read(path, sound, sample_rate):
  """An open SoundFile block by block: float32 [T], mono."""
  rate, channels = sound.samplerate, sound.channels
  if sound.format == "RAW":  # libsndfile's guess for any .au without a header
    raise AudioError(path, "not decodable", "no header")
  if rate not in SAMPLE_RATES or not 1 <= channels <= _MAX_CHANNELS:
    raise AudioError(path, "absurd header", f"{rate} Hz, {channels} channels")
  stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
  num_frames = 0
  while True:
    block_FxC = sound.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
    num_frames += len(block_FxC)
    if num_frames > _MAX_SECONDS * rate:
      raise AudioError(path, "too long", f"over {_MAX_SECONDS // 3600} hours")
    # Absurd floats may overflow here; `_decode` then finds them.
    with np.errstate(over="ignore", invalid="ignore"):
      block = _mean(block_FxC)
    last = len(block) < _BLOCK_FRAMES
    yield block if rate == sample_rate else stream.resample_chunk(block, last)
    if last:
      return


def _mean(block_FxC):
  """The mean of the channels; `mean(axis=1)` takes as long as decoding MP3."""
  block = block_FxC[:, 0].copy()
  for channel_F in block_FxC.T[1:]:
    block += channel_F
  return block / np.float32(block_FxC.shape[1])


def _ffmpeg(path, out):
  """Writes the file as AU, the one format for streams of unknown length."""
  if shutil.which("ffmpeg") is None:
    raise AudioError(
      path,
      "ffmpeg not installed",
      "install ffmpeg, or convert it to FLAC or WAV",
    )
  command = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1"]
  # Only local files: a playlist in disguise must not open a connection.
  command += ["-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
  command += ["-t", str(_MAX_SECONDS + 1), "-map", "0:a:0"]
  command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
  try:
    result = subprocess.run(
      command,
      stdout=out,
      stderr=subprocess.PIPE,
      timeout=_FFMPEG_TIMEOUT_SECONDS,
    )
  except subprocess.TimeoutExpired:
    raise AudioError(path, "not decodable", "ffmpeg took too long") from None
  if result.returncode or not out.seek(0, os.SEEK_END):
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    detail = lines[-1] if lines else f"ffmpeg exit code {result.returncode}"
    raise AudioError(path, "not decodable", detail)
  out.seek(0)
