"""Decodes audio files to mono float32, and converts to 16 bits. NumPy.

libsndfile decodes the formats that it knows, FFmpeg (by PyAV) the others.
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

INT16_SCALE = 32767  # for both signs, as +1 has to fit
TOO_LONG = "too long"
FOLDER_NOT_READABLE = "folder not readable"

# Suffixes of audio in a folder; a file's content decides how it is read.
EXTENSIONS = frozenset({
  ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".ape", ".au", ".caf", ".dsf",
  ".flac", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mp4", ".mpc", ".oga",
  ".ogg", ".opus", ".snd", ".spx", ".tta", ".w64", ".wav", ".weba",
  ".webm", ".wma", ".wv",
})  # fmt: skip
# Suffixes of sound, or of notes, that nothing here decodes.
UNREAD = frozenset({
  ".amr", ".dff", ".dts", ".it", ".mid", ".midi", ".mod", ".ra", ".ram", ".s3m",
  ".shn", ".tak", ".voc", ".xm",
})  # fmt: skip

# Other rates cannot be music, and resampling them could fill the memory.
SAMPLE_RATES = range(1_000, 768_001)
MAX_CHANNELS = 16
_MAX_SECONDS = 4 * 3600
# Of full scale. Floats above it are integers that nobody has scaled.
MAX_PEAK = 16
_BLOCK_FRAMES = 1 << 18
# Errors of paths that lead to nothing; ELOOP: a link to itself.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

# Formats whose end libsndfile may miss, as headers need not tell the length.
_STREAMS = ("FLAC", "MP3", "OGG")
# Tags at the end of a file: no sound follows.
_TAG_BYTES = 4096
# Of an Ogg stream: the mark of a page, its version, "first", or "first, last".
_FIRST_PAGE = re.compile(rb"OggS\0[\2\6]")
_FIRST_PAGE_BYTES = 6
_CHUNK = 1 << 20
_reading = contextvars.ContextVar("reading", default=(None, np.inf))


class _Bytes(io.BytesIO):
  """Bytes with a name, a hint for FFmpeg where the content gives none."""

  name = ""


class _Sound(soundfile.SoundFile):
  """Seeks after each block, as soundfile does, but not in an OGG.

  In an OGG, seeking would repeat the sound after a gap.
  """

  def seekable(self):
    return self.format != "OGG" and super().seekable()


class AudioError(ValueError):
  """A file without audio. There are few reasons, which are counted."""

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
  """Collects notes of lost parts of files that this thread reads.

  Outside of this context notes are warnings. Longer files are "too long".
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
  little. A file's content, not its name, decides how it is read. Decoding is in
  blocks: the length that a header promises is never allocated. A damaged file
  gives the samples that can be decoded, and a note; see `reading`.

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
    # Two libraries read the file in turns, so Python must not read ahead.
    file = io.FileIO(path)
  except OSError as error:
    raise AudioError(path, "not readable", error.strerror) from None
  with file:
    yield from _decode(file, path, sample_rate)


def check(path):
  """Raises `AudioError` unless a path leads to a plain file.

  Its `reason` is "not found", "not a file" (a pipe or a device, too), "folder
  not readable" or "not readable". The file is not opened: a pipe would wait for
  a writer.
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
  """At least one piece, none of them empty."""
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
  """Rounds float samples to int16; +-1 becomes +-32767, louder is clipped.

  With 32767 rather than 32768, +1 fits, both signs have the same scale, and
  inverting the polarity stays exact.
  """
  scaled = np.clip(samples, -1, 1)
  scaled *= INT16_SCALE
  return np.rint(scaled, out=scaled).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
  """Inverts `to_int16`, with an error of at most 1 / 65534."""
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
  lost = seconds = 0.0  # of readable links
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
  """The links of an Ogg chain, one after another, or the whole file."""
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
  """Positions of the links of an Ogg file; none for other files.

  A link reaches from its first page to the next link's. Parallel streams of a
  link have their first pages side by side.
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
    head = file.read(27 + 255)  # ends with the sizes of the page's parts
    end = page + 27 + head[26] + sum(head[27 : 27 + head[26]])
  return starts


def _sound(file, name, size):
  """As `_frames`; returns the lost and the whole length, in seconds.

  libsndfile decodes first; if it stops before the end, FFmpeg continues.
  """
  if not size:
    raise AudioError(name, "empty file")
  done, broken = 0, False
  file.seek(0)
  # libsndfile gets a file's number: a Python file would need the GIL.
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
  except OSError as error:  # of the disk, not of the content
    raise AudioError(name, "not readable", error.strerror) from None


def _is_cut(file):
  """Whether an MP3's header has its length, and the MP3 ends within a frame.

  Without a length libsndfile guesses.
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
