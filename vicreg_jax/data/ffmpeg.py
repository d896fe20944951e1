"""FFmpeg, by PyAV: sound that libsndfile cannot read, and containers' tags."""

import contextlib
from collections.abc import Iterator

import numpy as np

# No playlists, which name other files, and no network protocols.
_DEMUXERS = (
  "aac,ac3,aiff,ape,asf,au,caf,dsf,flac,matroska,mov,mp3,mpc,mpc8,ogg,tta,w64"
  ",wav,wv"
)
# Seconds that a file may be shorter than its declared duration. Most formats
# count an encoder's padding; the last three guess from their first packets.
_SHORTER = {
  "flac": 1e-3, "ogg": 0.05, "aac": np.inf, "ac3": np.inf, "mp3": np.inf
}  # fmt: skip
_SHORTER_ELSE = 0.2


class Undecodable(ValueError):
  """A file without sound that FFmpeg could read."""


@contextlib.contextmanager
def opened(file, errors: str = "replace", **options: str) -> Iterator[tuple]:
  """Yields the container in a file, and its first stream of sound.

  Args:
    file: binary, and seekable.
    errors: for tags that are not UTF-8, as in `str.encode`. PyAV 19 and later
      always use "surrogateescape".
    options: FFmpeg's.

  Raises:
    Undecodable: by FFmpeg, here or while it is read.
  """
  import av  # a tenth of a second, which few files need

  options["format_whitelist"] = _DEMUXERS
  major = int(av.__version__.split(".")[0])
  tags = {"metadata_errors": errors} if major < 19 else {}
  try:
    with av.open(file, options=options, **tags) as container:
      if not container.streams.audio:
        raise Undecodable("no sound in it")
      yield container, container.streams.audio[0]
  except av.FFmpegError as error:
    raise Undecodable(error.strerror) from None


def decode(file, skip: int):
  """Yields (rate, samples float32 [channels, frames]) after `skip` frames.

  Returns the lost and the whole length, in seconds.

  Raises:
    Undecodable: there is no sound in the file.
    OSError: the disk's.
  """
  import av

  good = bad = failed = 0  # bytes
  seconds = expected = end = 0.0
  rate = 1
  with opened(file) as (container, stream):
    if stream.duration:
      expected = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
      expected = container.duration / av.time_base
    form = container.format.name
    try:
      for packet in container.demux(stream):
        try:
          frames = packet.decode()
        except (av.FFmpegError, ValueError):  # ValueError: no such codec
          failed += packet.size
          continue
        if packet.size:  # not the last one, which only flushes the decoder
          # Packets that fail before and after the sound are tags.
          bad += failed if good else 0
          good, failed = good + packet.size, 0
        for frame in frames:
          rate = frame.sample_rate
          seconds += frame.samples / rate
          end = (frame.time or 0.0) + frame.samples / rate
          skipped = min(skip, frame.samples)
          skip -= skipped
          if skipped < frame.samples:
            yield rate, _floats(frame)[:, skipped:]
    except av.FFmpegError:
      if not good:
        raise
  if failed and not good:
    raise Undecodable("no packet of it")
  lost = bad / max(good + bad, 1)
  seconds += skip / rate  # which libsndfile has read, and FFmpeg has not
  if form == "flac" and not failed:
    # The file ends with a whole frame, which has its position.
    expected = min(expected, end)
  if expected - seconds > _SHORTER.get(form, _SHORTER_ELSE):
    lost = max(lost, 1 - seconds / expected)
  length = seconds / (1 - lost) if lost < 1 else expected
  return length - seconds, length


def _floats(frame):
  """The samples [channels, frames] as float32; integers are scaled to 1."""
  try:
    x_CxF = frame.to_ndarray()
  except ValueError as error:  # NumPy or PyAV does not know the samples' type
    raise Undecodable(str(error)) from None
  if not frame.format.is_planar:
    x_CxF = x_CxF.reshape(frame.samples, -1).T
  if x_CxF.dtype.kind not in "iu":
    return x_CxF.astype(np.float32)
  half = 1 << 8 * x_CxF.dtype.itemsize - 1
  zero = half if x_CxF.dtype.kind == "u" else 0
  return (x_CxF.astype(np.float32) - zero) / np.float32(half)


def is_cut(file) -> bool:
  """Whether an MP3 ends within a frame; else it is whole."""
  import av

  last = b""
  with (
    contextlib.suppress(Undecodable),
    opened(file) as (container, stream),
  ):
    for packet in container.demux(stream):
      last = bytes(packet) or last
  # A frame that is not whole waits for more.
  return not av.CodecContext.create("mp3", "r").parse(last)
