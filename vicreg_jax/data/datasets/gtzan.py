"""GTZAN: 1,000 clips of 30 s in ten genres (Tzanetakis and Cook, 2002).

`data.path` holds `genres.tar.gz`, which is extracted beside itself, once;
`archive.zip` as Kaggle has it; or `genres/` or `genres_original/` with folders
of .au or .wav files.

`data.split_set="filtered"`: the splits of Kereliuk, Sturm and Larsen (2015),
arXiv:1507.04761, without repeated, distorted and mislabelled clips and with no
artist in two splits: 443, 197 and 290 clips. "full": all, split in each genre
by the hash of their names, as data set "folder" does; artists repeat there.
"""

import functools
import importlib.resources
import os

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from vicreg_jax.data import audio, tracks
from vicreg_jax.data.datasets import archives, base, official
from vicreg_jax.data.prepared import SPLITS

GENRES = (
  "blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop",
  "reggae", "rock",
)  # fmt: skip
_CLIPS_PER_GENRE = 100
_ARCHIVE, _FOLDERS = "genres.tar.gz", ("genres", "genres_original")
_ZIP = "archive.zip"
_SUFFIXES = (".au", ".wav")
_BROKEN = "jazz/jazz.00054"  # no WAV in Kaggle's copy
_MEMBER = (
  rf"(.*/)?(?P<folder>{'|'.join(GENRES)})"
  r"/(?P<file>(?P=folder)\.\d{5}\.(?i:au|wav))"
)


def filtered(split: str) -> list[str]:
  """Names such as "blues/blues.00029" of the fault-filtered split."""
  text = (
    importlib.resources.files(__package__) / f"gtzan_{split}_filtered.txt"
  ).read_text()
  lines = [line for line in text.splitlines() if not line.startswith("#")]
  return [line.removesuffix(".wav") for line in lines]


class Gtzan(official.OfficialBuilder, skip_registration=True):
  """The builder of `data.name="gtzan"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  @classmethod
  def variant(cls, data) -> str:
    return data.split_set

  @classmethod
  def source(cls, data) -> base.Source:
    files = _tree(data.path)
    names = [
      f"{genre}/{genre}.{number:05d}"
      for genre in GENRES
      for number in range(_CLIPS_PER_GENRE)
    ]
    if data.split_set == "filtered":
      splits = {split: filtered(split) for split in SPLITS}
      kept = set().union(*splits.values())
      skipped = {n: "fault-filtered" for n in names if n not in kept}
    else:
      split_of = tracks.split({name: name.split("/")[0] for name in names})
      splits = {s: [n for n in names if split_of[n] == s] for s in SPLITS}
      skipped = {}

    def clip(name):
      suffix = next((s for s in _SUFFIXES if name + s in files), _SUFFIXES[0])
      load = functools.partial(_load, files, name + suffix, data.sample_rate)
      label = [genre == name.split("/")[0] for genre in GENRES]
      return base.Clip(name, name, load, np.array(label, np.uint8))

    paths = [name + suffix for name in names for suffix in _SUFFIXES]
    stamps = files.stamp(paths)
    return base.Source(
      name=cls.variant(data),
      identity=stamps,
      former=[files.former(stamps)],
      splits={s: [clip(name) for name in splits[s]] for s in SPLITS},
      labels=GENRES,
      label_kind="single",
      skipped=skipped,
    )


def _load(files, name, sample_rate):
  try:
    return files.load(name, int(sample_rate))
  except audio.AudioError as error:
    if name == f"{_BROKEN}.wav" and error.reason != "not found":
      raise audio.AudioError(name, "broken in Kaggle's copy") from None
    raise


def _tree(path):
  root = official.local_directory(path)
  archive, zipped = os.path.join(root, _ARCHIVE), os.path.join(root, _ZIP)
  for folder in _FOLDERS:
    files = official.tree(os.path.join(root, folder))
    if any(genre in files for genre in GENRES):
      return files
  if os.path.isfile(archive):
    folder = os.path.join(root, _FOLDERS[0])
    for name in archives.extract_tar(archive, folder, _MEMBER):
      logging.warning("%s: unsafe member %r is left out", archive, name)
    return archives.Tree(folder)
  if os.path.isfile(zipped):
    return archives.Zip.open([zipped])
  raise official.missing(
    root,
    (_ARCHIVE, _ZIP, *(f"{folder}/{GENRES[0]}" for folder in _FOLDERS)),
    "put one of them there",
  )
