"""Finds sound that has been decoded before.

A killed preparation has left sound in a `Store`; an earlier version of a folder
with mostly the same files has left sound in its records.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import shutil
import uuid
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vicreg_jax.data import audio
from vicreg_jax.data.prepared import Prepared, glob

CONTENTS_CSV = "contents.csv"  # what `earlier` has to know of the records
CONTENTS_COLUMNS = ("id", "split", "sha256", "dbfs", "note")
SILENCE_DB = -120.0
# Music that is made loud touches full scale; more than this share is a fault.
_CLIPPED_SHARE = 0.01
_LOOK_EVERY = 256  # sounds, at the room that is left


class Sound(NamedTuple):
  """A clip's samples, loudness and note."""

  pcm: bytes  # little-endian, 16 bits
  dbfs: float  # RMS over the clip, in dB of full scale
  note: str  # what is odd, see reports.Report

  @property
  def num_samples(self) -> int:
    return len(self.pcm) // 2


def decode(load, most_seconds: float = np.inf) -> Sound:
  """What `load` gives, float32 [T]; raises its `AudioError`."""
  with audio.reading(most_seconds) as notes:
    samples = load()
  rms = np.sqrt(np.mean(np.square(samples, dtype=np.float32)))
  dbfs = SILENCE_DB
  if rms > 0:
    dbfs = max(20 * float(np.log10(rms)), SILENCE_DB)
  pcm = audio.to_int16(samples)
  if not pcm.any():
    notes.append("digital silence")
  clipped = np.count_nonzero(np.abs(pcm) == audio.INT16_SCALE) / len(pcm)
  if clipped > _CLIPPED_SHARE:
    notes.append(f"clipped, {clipped:.1%} of its samples")
  return Sound(pcm.astype("<i2").tobytes(), dbfs, "; ".join(notes))


class Store:
  """Sounds by the SHA-256 of their files, on disk as soon as they are there.

  A line of `decoded-*.jsonl` says where in `decoded-*.pcm` a sound lies.
  """

  def __init__(self, directory: str, how: Mapping[str, int], expected: int):
    """Finds what others have left in `directory`.

    Args:
      directory: of one source; is made.
      how: options of the decoding, such as the rate.
      expected: number of sounds that will be added. If the disk has no room for
        them beside the records, none is kept.
    """
    self._directory = pathlib.Path(directory)
    self._how, self._expected = dict(how), expected
    self._found = {}
    # A name of its own: others may be at it, or may have been killed.
    self._new = self._directory / f"decoded-{uuid.uuid4().hex[:12]}"
    self._added = self._size = 0
    for path in sorted(self._directory.glob("decoded-*.jsonl")):
      lines = []
      with contextlib.suppress(OSError):
        lines = path.read_bytes().splitlines()
      for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn
          entry = json.loads(line)
          if entry["how"] == self._how:
            self._found[entry["sha256"]] = path.with_suffix(".pcm"), entry

  def get(self, digest: str) -> Sound | None:
    """The sound of a file with this SHA-256, if it is there and whole."""
    if digest not in self._found:
      return None
    path, entry = self._found[digest]
    with contextlib.suppress(OSError), open(path, "rb") as file:
      file.seek(entry["at"])
      pcm = file.read(entry["size"])
      if len(pcm) == entry["size"] and zlib.crc32(pcm) == entry["crc32"]:
        return Sound(pcm, entry["dbfs"], entry["note"])
    return None

  def add(self, digest: str, sound: Sound):
    """Keeps a sound, if there is room."""
    if digest in self._found or not self._expected:
      return
    try:
      self._add(digest, sound)
    except OSError:
      self._expected = 0  # the records will find no room either, and say so

  def _add(self, digest, sound):
    if self._added % _LOOK_EVERY == 1:
      # The records take as much twice, while they are brought into order.
      needed = 3 * self._size / self._added * self._expected
      if shutil.disk_usage(self._directory).free < needed:
        self._remove(f"{self._new.name}.*")
        return
    entry = {
      "sha256": digest,
      "how": self._how,
      "at": self._size,
      "size": len(sound.pcm),
      "crc32": zlib.crc32(sound.pcm),
      "dbfs": sound.dbfs,
      "note": sound.note,
    }
    self._directory.mkdir(parents=True, exist_ok=True)
    # At once: a buffer would be lost with the process.
    for suffix, content in (
      (".pcm", sound.pcm),
      (".jsonl", json.dumps(entry).encode() + b"\n"),
    ):
      with open(f"{self._new}{suffix}", "ab") as file:
        file.write(content)
    self._added, self._size = self._added + 1, self._size + len(sound.pcm)

  def remove(self):
    """Deletes the sound of all processes: the records have it now."""
    self._remove("decoded-*")

  def _remove(self, pattern):
    self._expected = 0
    for path in self._directory.glob(pattern):
      path.unlink(missing_ok=True)


def earlier(
  directory: str, version: str, how: Mapping[str, int], wanted: Collection[str]
) -> Iterator[tuple[str, Sound]]:
  """(SHA-256, sound) of wanted files, from the records that have most of them.

  Damaged records end it.

  Args:
    directory: of the data sets of one builder.
    version: of the records.
    how: see `Store`; the records' metadata have it.
    wanted: SHA-256 of files.
  """
  most, rows = None, {}
  for path in glob(directory, f"*/{version}/{CONTENTS_CSV}"):
    with contextlib.suppress(OSError, ValueError, KeyError, csv.Error):
      metadata = json.loads((path.parent / "metadata.json").read_text())
      # Not by splitlines: a name may hold a line end.
      text = io.StringIO(path.read_bytes().decode(), newline="")
      found = {
        r["id"]: r for r in csv.DictReader(text) if r["sha256"] in wanted
      }
      same = all(metadata[key] == value for key, value in how.items())
      if same and len(found) > len(rows):
        most, rows = path.parent, found
  if most is None:
    return
  try:
    prepared = Prepared.open(os.fspath(most))
    for split in sorted({row["split"] for row in rows.values()}):
      for example in prepared.dataset(split).as_numpy_iterator():
        if row := rows.get(example["id"].decode()):
          sound = Sound(example["samples"], float(row["dbfs"]), row["note"])
          yield row["sha256"], sound
  except (OSError, ValueError, tf.errors.OpError):
    return
