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

# By these a folder's audio is known; what is in a file decides how it is read.
EXTENSIONS = frozenset({
  ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".ape", ".au", ".caf", ".dsf",
  ".flac", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mp4", ".mpc", ".oga",
  ".ogg", ".opus", ".spx", ".tta", ".w64", ".wav", ".weba", ".webm", ".wma",
  ".wv",
})  # fmt: skip
# Sound, or notes, of which nothing here makes samples.
UNREAD = frozenset({
  ".amr", ".dff", ".dts", ".it", ".mid", ".midi", ".mod", ".ra", ".ram", ".s3m",
  ".shn", ".snd", ".tak", ".voc", ".xm",
})  # fmt: skip

# What lies outside cannot be music, and resampling it could fill the memory.
SAMPLE_RATES = range(1_000, 768_001)
_MAX_CHANNELS = 16
_MAX_SECONDS = 4 * 3600
# Of full scale. Floats above it are integers that nobody has scaled.
_MAX_PEAK = 16
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
# Their durations are guesses from the first packets.
_NO_DURATION = ("aac", "ac3", "mp3")
# Durations are rounded to packets, of up to 2,048 samples.
_ROUNDED_SECONDS = 0.06

_damage = contextvars.ContextVar("damage")


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
def damage() -> Iterator[list[str]]:
  """Collects a note of each file that this thread reads but for a lost part.

  Outside of it they are warnings.
  """
  notes = []
  token = _damage.set(notes)
  try:
    yield notes
  finally:
    _damage.reset(token)


def load(path, sample_rate: int = 22_050) -> np.ndarray:
  """Decodes a file to float32 [T], mono, at `sample_rate` Hz.

  Channels are averaged; soxr resamples ("HQ"). Loud files may exceed 1 a
  little. What a file holds decides how it is read, not its name. It is decoded
  in blocks, so that what its header promises is never allocated. Of a damaged
  file there is what can be decoded, and a note; see `damage`.

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
  return np.concatenate(list(_decode(io.BytesIO(content), name, sample_rate)))


def _decode(file, name, sample_rate):
  """Pieces that are not empty, and at least one of them."""
  some = False
  for block in _resampled(file, name, sample_rate):
    if not block.size:
      continue
    peak = max(block.max(), -block.min())  # NaN, if one is
    if not np.isfinite(peak):
      raise AudioError(name, "not finite")
    if peak > _MAX_PEAK:
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
  return np.rint(np.clip(samples, -1, 1) * INT16_SCALE).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
  """The float32 samples that `to_int16` has rounded; error <= 1 / 65534."""
  return samples.astype(np.float32) / np.float32(INT16_SCALE)


def _resampled(file, name, sample_rate):
  """The file block by block: float32 [T]."""
  stream, rate, seconds = None, None, 0.0
  for new_rate, block_CxF in _frames(file, name):
    num_channels, num_frames = block_CxF.shape
    if new_rate not in SAMPLE_RATES or num_channels > _MAX_CHANNELS:
      what = f"{new_rate} Hz, {num_channels} channels"
      raise AudioError(name, "absurd header", what)
    seconds += num_frames / new_rate
    if seconds > _MAX_SECONDS:
      raise AudioError(name, "too long", f"over {_MAX_SECONDS // 3600} hours")
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
  """Pairs of a rate and samples [channels, frames]."""
  size, done = file.seek(0, os.SEEK_END), 0
  if not size:
    raise AudioError(name, "empty file")
  file.seek(0)
  # libsndfile gets the file itself: through Python's it needs the GIL.
  in_memory = isinstance(file, io.BytesIO)
  source = file if in_memory else file.fileno()
  try:
    with soundfile.SoundFile(source, closefd=False) as sound:
      rate = sound.samplerate
      if rate not in SAMPLE_RATES or not 1 <= sound.channels <= _MAX_CHANNELS:
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
        return
  except soundfile.SoundFileError:
    pass
  file.seek(0)
  yield from _ffmpeg(file, name, done)


def _ffmpeg(file, name, skip):
  """As `_frames`, without the first `skip` of them."""
  import av  # a tenth of a second, which few files need

  good = bad = failed = 0  # bytes
  seconds = expected = 0.0
  rate = 1
  try:
    with av.open(
      file,
      options={"format_whitelist": _DEMUXERS},
      metadata_errors="replace",
    ) as container:
      if not container.streams.audio:
        raise AudioError(name, "not decodable", "no sound in it")
      if container.duration and container.format.name not in _NO_DURATION:
        expected = container.duration / av.time_base
      for packet in container.demux(container.streams.audio[0]):
        try:
          frames = packet.decode()
        except av.FFmpegError:
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
            yield rate, _floats(frame)[:, skipped:]
  except (av.FFmpegError, OSError) as error:
    if not good:
      raise AudioError(name, "not decodable", error.strerror) from None
    expected = max(expected, seconds)
  if failed and not good:
    raise AudioError(name, "not decodable", "no packet of it")
  lost = bad / max(good + bad, 1)
  seconds += skip / rate  # which libsndfile has read, and FFmpeg has not
  if expected - seconds > _ROUNDED_SECONDS:
    lost = max(lost, 1 - seconds / expected)
  if lost:
    _note(name, f"damaged, {lost:.1%} lost")


def _floats(frame):
  """The samples [channels, frames] as float32; integers are scaled to 1."""
  x_CxF = frame.to_ndarray()
  if not frame.format.is_planar:
    x_CxF = x_CxF.reshape(frame.samples, -1).T
  if x_CxF.dtype.kind not in "iu":
    return x_CxF.astype(np.float32)
  half = 1 << 8 * x_CxF.dtype.itemsize - 1
  zero = half if x_CxF.dtype.kind == "u" else 0
  return (x_CxF.astype(np.float32) - zero) / np.float32(half)


def _note(name, text):
  notes = _damage.get(None)
  if notes is None:
    warnings.warn(f"{name}: {text}", stacklevel=2)
  else:
    notes.append(text)
