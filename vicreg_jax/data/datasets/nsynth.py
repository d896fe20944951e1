"""NSynth: 305,979 notes of 4 s, by 1,006 instruments (Engel et al., 2017).

`data.path` holds `nsynth-train.jsonwav.tar.gz`, and the same of `valid` and
`test`, which are extracted beside themselves, once; or their contents,
`nsynth-train/` with `examples.json` and `audio/*.wav`, and so on.

`data.target` is the label of a note: its "pitch", as a MIDI number, or the
"family" of its instrument, one of eleven. The splits are the official ones:
289,205, 12,678 and 4,096 notes. No instrument of the first is in the others. A
clip's `track` is its instrument.
"""

import json
import os
import re

import tensorflow_datasets as tfds
from absl import logging

from vicreg_jax.data.datasets import archives, base, official
from vicreg_jax.data.prepared import SPLITS

FAMILIES = (
  "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed",
  "string", "synth_lead", "vocal",
)  # fmt: skip
_JSON = "examples.json"
_PITCHES = range(128)
_NOTE = re.compile(r"[A-Za-z0-9_-]+")


class Nsynth(official.OfficialBuilder, skip_registration=True):
  """The builder of `data.name="nsynth"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  @classmethod
  def variant(cls, data) -> str:
    return data.target

  @classmethod
  def source(cls, data) -> base.Source:
    root = official.local_directory(data.path)
    for split in SPLITS:
      _extract(root, split)
    files = archives.Tree(root)
    notes = [
      (split, f"nsynth-{split}/audio/{note}.wav", instrument, pitch, family)
      for split in SPLITS
      for note, instrument, pitch, family in read_notes(root, split)
    ]
    labels = FAMILIES
    if data.target == "pitch":
      labels = tuple(map(str, sorted({pitch for *_, pitch, _ in notes})))
    rows = (
      (*note[:3], [note[4] if data.target == "family" else str(note[3])])
      for note in notes
    )
    stamps = files.stamp(name for _, name, *_ in notes)
    return base.Source(
      name=cls.variant(data),
      identity=[stamps, notes],
      splits=official.clips(rows, files, labels, data),
      labels=labels,
      label_kind="single",
      contents=official.contents(stamps),
      kept_at=cls.kept_at(data),
    )


def read_notes(root: str, split: str) -> list[tuple[str, str, int, str]]:
  """(name, instrument, pitch, family) of a split's notes, as in its JSON."""
  path = os.path.join(root, f"nsynth-{split}", _JSON)
  try:
    with open(path, encoding="utf-8") as file:
      notes = json.load(file)
    if not (isinstance(notes, dict) and notes):
      raise ValueError("no notes in it")
    return [_note(name, note) for name, note in notes.items()]
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(
      f"{path}: cannot be read ({error}): get"
      f" nsynth-{split}.jsonwav.tar.gz again"
    ) from None


def _note(name, note):
  keys = ("instrument_str", "pitch", "instrument_family_str")
  found = [note.get(k) for k in keys] if isinstance(note, dict) else [None] * 3
  instrument, pitch, family = found
  if not (
    _NOTE.fullmatch(name)
    and isinstance(instrument, str)
    and type(pitch) is int
    and pitch in _PITCHES
    and family in FAMILIES
  ):
    raise ValueError(f"{name!r} has no valid {', '.join(keys)}")
  return name, instrument, pitch, family


def _extract(root, split):
  folder = os.path.join(root, f"nsynth-{split}")
  archive = f"{folder}.jsonwav.tar.gz"
  if os.path.exists(os.path.join(folder, _JSON)):
    return
  if not os.path.isfile(archive):
    if os.path.isdir(folder):
      return  # what is missing there is named
    raise official.missing(
      root,
      (os.path.basename(archive), f"nsynth-{split}/"),
      "put one of them there",
    )
  # `folder` is empty for the JSON, which is not in one.
  member = (
    r"(.*?/)??(?P<folder>(audio(?=/))?)/?"
    rf"(?P<file>{re.escape(_JSON)}|{_NOTE.pattern}\.wav)"
  )
  for name in archives.extract_tar(archive, folder, member):
    logging.warning("%s: unsafe member %r is left out", archive, name)
