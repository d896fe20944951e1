"""Audio files to mono float32, and the 16-bit form they are kept in. NumPy.

libsndfile decodes what it can, to its end; FFmpeg (by PyAV) the rest.
"""

import contextlib
import contextvars
import errno
import io
import itertools
import os
import re
import stat
import warnings
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from vicreg_jax.data import ffmpeg

INT16_SCALE = 32767  # both signs; so that +1 fits
TOO_LONG = "too long"
FOLDER_NOT_READABLE = "folder not readable"

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
# Errors of a path at whose end there is nothing; ELOOP: a link to itself.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

# Formats of which libsndfile may miss the end: their headers need not tell it.
_STREAMS = ("FLAC", "MP3", "OGG")
# Tags at the end that are no reason to look there for sound.
_TAG_BYTES = 4096
# Of an Ogg stream: the mark of a page, its version, "first", or "first, last".
_FIRST_PAGE = re.compile(rb"OggS\0[\2\6]")
_FIRST_PAGE_BYTES = 6
_CHUNK = 1 << 20
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

  Raises `AudioError`, whose `reason` is one of `check`, "not readable", "empty
  file", "not decodable", "absurd header", "too long", "no samples", "not
  finite" or "over full scale".
  """
  return np.concatenate(list(blocks(path, sample_rate)))


def blocks(path, sample_rate: int = 22_050) -> Iterator[np.ndarray]:
  """As `load`, in consecutive pieces of some seconds or less.

  Hours take no more memory than minutes. An error may come after some pieces.
  """
  path = os.fspath(path)
  check(path)
  try:
    # Two libraries read it by turns, so Python must not read ahead.
    file = io.FileIO(path)
  except OSError as error:
    raise AudioError(path, "not readable", error.strerror) from None
  with file:
    yield from _decode(file, path, sample_rate)


def check(path):
  """Raises `AudioError` unless a path leads to a plain file.

  Its `reason` is "not found", "not a file" (of a pipe or a device, too),
  "folder not readable" or "not readable". The file is not opened: a pipe would
  wait for somebody who writes into it.
  """
  path, reason = os.fspath(path), "not readable"
  try:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
      reason = FOLDER_NOT_READABLE
      os.scandir(path).close()
  except ValueError:  # a zero byte in the name
    raise AudioError(path, "not found") from None
  except OSError as error:
    if error.errno in _NOWHERE:
      reason = "not found"
    raise AudioError(path, reason, error.strerror) from None
  if not stat.S_ISREG(mode):
    raise AudioError(path, "not a file")


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
  """Pairs of a rate and samples float32 [channels, frames]; notes a loss.

  The links of an Ogg chain may differ in rate and channels.
  """
  lost = seconds = 0.0  # of links that can be read
  read = unread = 0  # bytes
  fault = None
  for link in _links(file, name):
    size = link.seek(0, os.SEEK_END)
    try:
      missing, length = yield from _sound(link, name, size)
    except AudioError as error:
      if link is file:  # there are no others
        raise
      fault, unread = fault or error, unread + size
    else:
      lost, seconds, read = lost + missing, seconds + length, read + size
  if not read:
    raise fault
  if lost or unread:
    share = (lost / max(seconds, 1e-9) * read + unread) / (read + unread)
    _note_lost(name, share)


def _links(file, name):
  """The links of an Ogg chain, one after another; else the file as it is."""
  try:
    starts = _link_starts(file)
    if len(starts) < 2:
      yield file
      return
    for start, end in itertools.pairwise([*starts, file.seek(0, os.SEEK_END)]):
      file.seek(start)
      link = _Bytes(file.read(end - start))
      link.name = os.fspath(name)
      yield link
  except OSError as error:
    raise AudioError(name, "not readable", error.strerror) from None


def _link_starts(file):
  """Where the links of an Ogg file begin; of another file there are none.

  A link is what comes between a first page and the next. Of streams that run
  beside one another, the first pages do, too.
  """
  file.seek(0)
  if file.read(4) != b"OggS":
    return []
  pages, tail, at = [], b"", file.seek(0)
  while chunk := file.read(_CHUNK):
    begin, content = at - len(tail), tail + chunk
    pages += [begin + m.start() for m in _FIRST_PAGE.finditer(content)]
    tail, at = content[1 - _FIRST_PAGE_BYTES :], at + len(chunk)
  starts, end = [], -1
  for page in pages if pages[1:] else ():
    if page != end:
      starts.append(page)
    file.seek(page)
    head = file.read(27 + 255)  # whose last bytes are the sizes of its parts
    end = page + 27 + head[26] + sum(head[27 : 27 + head[26]])
  return starts


def _sound(file, name, size):
  """As `_frames`; returns how much of it is lost, and all of it, in seconds.

  libsndfile's; where these end before the file does, FFmpeg's from there on.
  """
  if not size:
    raise AudioError(name, "empty file")
  done, broken = 0, False
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
        known = missing > 2304 and (
          sound.format == "OGG" or (sound.format == "MP3" and _is_cut(file))
        )
        missing = missing if known else 0
        return missing / rate, (done + missing) / rate
  except soundfile.SoundFileError:
    broken = True
  try:
    file.seek(0)
    return (yield from ffmpeg.decode(file, done))
  except ffmpeg.Undecodable as error:
    if broken or not done:
      raise AudioError(name, "not decodable", str(error)) from None
    return 0.0, done / rate
  except OSError as error:  # of the disk, not of what is in the file
    raise AudioError(name, "not readable", error.strerror) from None


def _is_cut(file):
  """Whether an MP3 says how long it is, and ends within a frame.

  Where it does not say so, libsndfile guesses.
  """
  file.seek(0)
  head = file.read(10)
  start = 0
  if head[:3] == b"ID3":
    start = 10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
  file.seek(start)
  frame = file.read(64)
  file.seek(0)
  return (b"Xing" in frame or b"Info" in frame) and ffmpeg.is_cut(file)


def _note_lost(name, share):
  text, notes = f"damaged, {share:.1%} lost", _reading.get()[0]
  if notes is None:
    warnings.warn(f"{name}: {text}", stacklevel=2)
  else:
    notes.append(text)
