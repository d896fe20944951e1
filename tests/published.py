"""Miniatures of published data sets, and what is prepared of them.

Layouts, encodings and dialects are those of the published files. The pitch of
every clip says which it is.
"""

import csv
import functools
import pathlib

import music
import numpy as np
import pytest

from vicreg_jax import config as configs
from vicreg_jax import messages
from vicreg_jax.data import datasets

RATE = 22_050
CROP = 11_025
ENCODINGS = [(44_100, 2), (48_000, 2), (8_000, 1), (22_050, 1)]


def pitch(number):
  return 200 + 20 * number


@functools.cache
def encoded(number, file_format="MP3", seconds=1.0, silent=False):
  """A tone as a file's bytes, in one of several rates and channels."""
  rate, channels = ENCODINGS[number % len(ENCODINGS)]
  x_T = music.sine(pitch(number), rate, seconds, 0.0 if silent else 0.5)
  return music.encoded(np.stack([x_T] * channels, 1), rate, file_format)


def data(name, path, tmp_path, **changes):
  """The config's section of a data set."""
  section = configs.base_prepare().data
  section.update(
    name=name, path=str(path), dir=str(tmp_path / "prepared"), crop=CROP
  )
  section.update(changes)
  return section


def read(prepared):
  """{id: example} with the "split" of each."""
  return {
    e["id"].decode(): e | {"split": split}
    for split in prepared.num_clips
    for e in prepared.dataset(split).as_numpy_iterator()
  }


def heard(example):
  """The pitch of an example, in Hz."""
  x_T = np.frombuffer(example["samples"], "<i2")[1000:9000]
  return music.heard(x_T, RATE)


def rows(prepared, name):
  """{id: row} of one of the tables beside the records."""
  with open(pathlib.Path(prepared.path) / name, newline="") as f:
    return {row["id"]: row for row in csv.DictReader(f)}


def skipped(prepared):
  """{id: reason}"""
  found = rows(prepared, "skipped.csv")
  return {id_: row["reason"] for id_, row in found.items()}


def labels_of(example, prepared):
  return [n for n, on in zip(prepared.labels, example["labels"]) if on]


def error_of(section):
  """The line of the error that ends a preparation."""
  with pytest.raises(ValueError) as caught:
    datasets.prepare(section)
  assert "\n" not in str(caught.value)
  assert messages.ours(caught.value)
  return str(caught.value)
