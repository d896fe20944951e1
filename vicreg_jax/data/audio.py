"""Audio files to mono float32, and the 16-bit form they are kept in. NumPy.

libsndfile decodes what it can, to its end; FFmpeg (by PyAV) the rest.
"""

import contextlib
import contextvars
import io
import os
import warnings
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

INT16_SCALE = 32767  # both signs; so that +1 fits
TOO_LONG = "too long"

# By these a folder's audio is known; what is in a file decides how it is read.
EXTENSIONS = frozenset({
  ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".ape", ".au", ".caf", ".dsf",
  ".flac", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mp4", ".mpc", ".oga",
  ".ogg", ".opus", ".snd", ".spx", ".tta", ".w64", ".wav", ".weba",
  ".webm", ".wma", ".wv",
})  # fmt: skip
# Sound, or notes, of which nothing here makes samples.
UNREAD = frozenset({
  ".amr", ".dff", ".dts", ".it", ".mid", ".midi", ".mod", ".ra", ".ram", ".s3m",
  ".shn", ".tak", ".voc", ".xm",
})  # fmt: skip

# What lies outside cannot be music, and resampling it could fill the memory.
SAMPLE_RATES = range(1_000, 768_001)
MAX_CHANNELS = 16
_MAX_SECONDS = 4 * 3600
# Of full scale. Floats above it are integers that nobody has scaled.
MAX_PEAK = 16
_BLOCK_FRAMES = 1 << 18

# Formats of which libsndfile may miss the end: their headers need not tell it.
_STREAMS = ("FLAC", "MP3", "OGG")
# Tags at the end that are no reason to look there for sound.
_TAG_BYTES = 4096
# No playlists, which name other files; none that needs a network.
_DEMUXERS = (
  "aac,ac3,aiff,ape,asf,au,caf,dsf,flac,matroska,mov,mp3,mpc,mpc8,ogg,tta,w64"
  ",wav,wv"
)
# By how many seconds a file may be shorter than it says. Most count what an
# encoder adds; durations of the last three are guesses from the first packets.
_SHORTER = {
  "flac": 1e-3, "ogg": 0.05, "aac": np.inf, "ac3": np.inf, "mp3": np.inf
}  # fmt: skip
_SHORTER_ELSE = 0.2

_reading = contextvars.ContextVar("reading", default=(None, np.inf))


class _Bytes(io.BytesIO):
  """With a name, of which FFmpeg takes a hint where the content gives none."""

  name = ""


class _Sound(soundfile.SoundFile):
  """Seeks after each block, as soundfile does, but not in an OGG.

  There it would repeat what follows a gap.
  """

  def seekable(self):
    return self.format != "OGG" and super().seekable()


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


@contextlib.contextmanager
def reading(most_seconds: float = np.inf) -> Iterator[list[str]]:
  """Collects notes of what is lost of files that this thread reads.

  Outside of it they are warnings. Files that are longer are "too long".
  """
  notes = []
  token = _reading.set((notes, most_seconds))
  try:
    yield notes
  finally:
    _reading.reset(token)


def load(path, sample_rate: int = 22_050) -> np.ndarray:
  """Decodes a file to float32 [T], mono, at `sample_rate` Hz.

  Channels are averaged; soxr resamples ("HQ"). Loud files may exceed 1 a
  little. What a file holds decides how it is read, not its name. It is decoded
  in blocks, so that what its header promises is never allocated. Of a damaged
  file there is what can be decoded, and a note; see `reading`.

  Raises `AudioError`, whose `reason` is "not found", "not a file", "not
  readable", "empty file", "not decodable", "absurd header", "too long", "no
  samples", "not finite" or "over full scale".
  """
  return np.concatenate(list(blocks(path, sample_rate)))


def blocks(path, sample_rate: int = 22_050) -> Iterator[np.ndarray]:
  """As `load`, in consecutive pieces of some seconds or less.

  Hours take no more memory than minutes. An error may come after some pieces.
  """
  path = os.fspath(path)
  if not os.path.exists(path):
    raise AudioError(path, "not found")
  if not os.path.isfile(path):
    raise AudioError(path, "not a file")
  try:
    # Two libraries read it by turns, so Python must not read ahead.
    file = io.FileIO(path)
  except OSError as error:
    raise AudioError(path, "not readable", error.strerror) from None
  with file:
    yield from _decode(file, path, sample_rate)


def loads(content: bytes, name: str, sample_rate: int = 22_050) -> np.ndarray:
  """As `load`, from a file's bytes; errors call it `name`."""
  file = _Bytes(content)
  file.name = os.fspath(name)
  return np.concatenate(list(_decode(file, name, sample_rate)))


def _decode(file, name, sample_rate):
  """Pieces that are not empty, and at least one of them."""
  some = False
  for block in _resampled(file, name, sample_rate):
    if not block.size:
      continue
    peak = max(block.max(), -block.min())  # NaN, if one is
    if not np.isfinite(peak):
      raise AudioError(name, "not finite")
    if peak > MAX_PEAK:
      raise AudioError(
        name, "over full scale", f"a peak of {peak:,.0f}: scale it to 1"
      )
    some = True
    yield block
  if not some:
    raise AudioError(name, "no samples")


def to_int16(samples: np.ndarray) -> np.ndarray:
  """Rounds float samples to int16; +-1 becomes +-32767, beyond is clipped.

  32767 rather than 32768, so that +1 fits: the scale is the same for both
  signs, and inverting the polarity stays exact.
  """
  scaled = np.clip(samples, -1, 1)
  scaled *= INT16_SCALE
  return np.rint(scaled, out=scaled).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
  """The float32 samples that `to_int16` has rounded; error <= 1 / 65534."""
  return samples.astype(np.float32) / np.float32(INT16_SCALE)


def _resampled(file, name, sample_rate):
  """The file block by block: float32 [T]."""
  stream, rate, seconds = None, None, 0.0
  most_seconds = min(_MAX_SECONDS, _reading.get()[1])
  for new_rate, block_CxF in _frames(file, name):
    num_channels, num_frames = block_CxF.shape
    if new_rate not in SAMPLE_RATES or num_channels > MAX_CHANNELS:
      what = f"{new_rate} Hz, {num_channels} channels"
      raise AudioError(name, "absurd header", what)
    seconds += num_frames / new_rate
    if seconds > most_seconds + 1e-6:  # of rounding
      raise AudioError(name, TOO_LONG, f"over {most_seconds / 3600:g} hours")
    if new_rate != rate:
      if stream:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
      rate = new_rate
      stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    # Absurd floats may overflow here; `_decode` then finds them.
    with np.errstate(over="ignore", invalid="ignore"):
      block = _mean(block_CxF)
    yield block if rate == sample_rate else stream.resample_chunk(block)
  if stream and rate != sample_rate:
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _mean(block_CxF):
  """The mean of the channels; `mean(axis=0)` takes as long as decoding MP3."""
  block = block_CxF[0].copy()
  for channel_F in block_CxF[1:]:
    block += channel_F
  return block / np.float32(len(block_CxF))


def _frames(file, name):
  """Pairs of a rate and samples float32 [channels, frames].

  libsndfile's; where these end before the file does, FFmpeg's from there on.
  """
  size, done, broken = file.seek(0, os.SEEK_END), 0, False
  if not size:
    raise AudioError(name, "empty file")
  file.seek(0)
  # libsndfile gets a file by its number: through Python's it needs the GIL.
  source = file if isinstance(file, io.BytesIO) else file.fileno()
  try:
    with _Sound(source, closefd=False) as sound:
      rate = sound.samplerate
      if rate not in SAMPLE_RATES or not 1 <= sound.channels <= MAX_CHANNELS:
        what = f"{rate} Hz, {sound.channels} channels"
        raise AudioError(name, "absurd header", what)
      while True:
        block_FxC = sound.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
        done += len(block_FxC)
        yield rate, block_FxC.T
        if len(block_FxC) < _BLOCK_FRAMES:
          break
      at_end = sound.format not in _STREAMS or file.tell() > size - _TAG_BYTES
      if done and at_end:
        missing = sound.frames - done
        known = sound.format == "OGG" or (
          sound.format == "MP3" and _has_length(file)
        )
        if known and missing > 2304:
          _note_lost(name, missing / sound.frames)
        return
  except soundfile.SoundFileError:
    broken = True
  try:
    file.seek(0)
    yield from _ffmpeg(file, name, done)
  except AudioError:
    if broken or not done:
      raise
  except OSError as error:  # of the disk, not of what is in the file
    raise AudioError(name, "not readable", error.strerror) from None


def _has_length(file):
  """Whether an MP3 says how long it is; else libsndfile guesses."""
  file.seek(0)
  head = file.read(10)
  start = 0
  if head[:3] == b"ID3":
    start = 10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
  file.seek(start)
  frame = file.read(64)
  return b"Xing" in frame or b"Info" in frame


def _ffmpeg(file, name, skip):
  """As `_frames`, but the first `skip`; an OSError is the disk's."""
  import av  # a tenth of a second, which few files need

  good = bad = failed = 0  # bytes
  seconds = expected = 0.0
  rate = 1
  try:
    # Tags may be no UTF-8; from 19 on PyAV reads none that nobody asks for.
    tags = {"metadata_errors": "replace"} if _major(av) < 19 else {}
    options = {"format_whitelist": _DEMUXERS}
    with av.open(file, options=options, **tags) as container:
      if not container.streams.audio:
        raise AudioError(name, "not decodable", "no sound in it")
      stream = container.streams.audio[0]
      if stream.duration:
        expected = float(stream.duration * stream.time_base)
      elif container.duration and len(container.streams) == 1:
        expected = container.duration / av.time_base
      shorter = _SHORTER.get(container.format.name, _SHORTER_ELSE)
      for packet in container.demux(stream):
        try:
          frames = packet.decode()
        except (av.FFmpegError, ValueError):  # ValueError: no such codec
          failed += packet.size
          continue
        if packet.size:  # not the last one, which only flushes the decoder
          # What fails before and after the sound are tags.
          bad += failed if good else 0
          good, failed = good + packet.size, 0
        for frame in frames:
          rate = frame.sample_rate
          seconds += frame.samples / rate
          skipped = min(skip, frame.samples)
          skip -= skipped
          if skipped < frame.samples:
            yield rate, _floats(frame, name)[:, skipped:]
  except av.FFmpegError as error:
    if not good:
      raise AudioError(name, "not decodable", error.strerror) from None
  if failed and not good:
    raise AudioError(name, "not decodable", "no packet of it")
  lost = bad / max(good + bad, 1)
  seconds += skip / rate  # which libsndfile has read, and FFmpeg has not
  if expected - seconds > shorter:
    lost = max(lost, 1 - seconds / expected)
  if lost:
    _note_lost(name, lost)


def _major(module) -> int:
  return int(module.__version__.split(".")[0])


def _floats(frame, name):
  """The samples [channels, frames] as float32; integers are scaled to 1."""
  try:
    x_CxF = frame.to_ndarray()
  except ValueError as error:  # NumPy or PyAV has no such samples
    raise AudioError(name, "not decodable", str(error)) from None
  if not frame.format.is_planar:
    x_CxF = x_CxF.reshape(frame.samples, -1).T
  if x_CxF.dtype.kind not in "iu":
    return x_CxF.astype(np.float32)
  half = 1 << 8 * x_CxF.dtype.itemsize - 1
  zero = half if x_CxF.dtype.kind == "u" else 0
  return (x_CxF.astype(np.float32) - zero) / np.float32(half)


def _note_lost(name, share):
  text, notes = f"damaged, {share:.1%} lost", _reading.get()[0]
  if notes is None:
    warnings.warn(f"{name}: {text}", stacklevel=2)
  else:
    notes.append(text)
