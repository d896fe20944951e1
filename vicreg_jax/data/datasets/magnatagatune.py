"""MagnaTagATune: 25,863 clips of 29 s with tags (Law et al., 2009).

`data.path` holds `annotations_final.csv` and the clips: `mp3.zip.001` to `003`
as they were published (they are read in place, nothing needs to be unpacked),
`mp3.zip`, or the folders `0` to `f`, there or below `mp3/`.

Labels are the 50 tags that most clips have. Folders `0` to `b` are for
training, `c` for validation and `d` to `f` for testing: 18,709, 1,825 and 5,329
clips, three empty files among them. `data.convention="all"` keeps every clip,
as CLMR did; "tagged" only those with one of the 50 tags.
"""

import hashlib
import io
import os
import re

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from vicreg_jax import files as files_lib
from vicreg_jax.data import input_pipeline
from vicreg_jax.data.datasets import archives, base, official, reports
from vicreg_jax.data.prepared import Prepared
from vicreg_jax.data.tracks import track_of

NUM_TAGS = 50
_CSV = "annotations_final.csv"
_SPLITS = {f: "train" for f in "0123456789ab"} | {"c": "valid"}
_SPLITS |= {f: "test" for f in "def"}
_PATH = re.compile(r"[0-9a-f]/[^/\\\0]+\.mp3")
_ROOTS = ("", "mp3")
_PARTS = 3  # published
# Published empty; known, so that other faults stand out.
KNOWN_FAULTS = (
  "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
  "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster"
  "-204-233.mp3",
  "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-le_petit_rien"
  "_xiveme_ordre_couperin-88-117.mp3",
)


class Magnatagatune(official.OfficialBuilder, skip_registration=True):
  """The builder of `data.name="magnatagatune"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  @classmethod
  def variant(cls, data) -> str:
    return data.convention

  def fits(self, prepared: Prepared) -> bool:
    """Whether all clips have the labels of the annotations."""
    if files_lib.is_bucket(prepared.path):
      return False  # reading labels would copy all records
    wanted = {
      clip.id: clip.labels
      for clips in self._source.splits.values()
      for clip in clips
    }
    for split in prepared.num_clips:
      ids, labels_NxK = input_pipeline.labels(prepared, split)
      for id_, labels_K in zip(ids, labels_NxK, strict=True):
        if not np.array_equal(wanted.get(id_), labels_K):
          return False
    return True

  @classmethod
  def source(cls, data) -> base.Source:
    root = official.local_directory(data.path)
    files = _files(root)
    tags, paths, labels_NxK = read_annotations(os.path.join(root, _CSV))
    rows = []
    skipped = {name: "unsafe name in the archive" for name in files.unsafe}
    for path, labels in zip(paths, labels_NxK):
      if data.convention == "tagged" and not labels.any():
        skipped[path] = f"none of the {len(tags)} tags"
      elif path in KNOWN_FAULTS:
        skipped[path] = reports.KNOWN_FAULT
      else:
        of_clip = [tag for tag, on in zip(tags, labels, strict=True) if on]
        rows.append((_SPLITS[path[0]], path, track_of(path), of_clip))
    stamps = files.stamp(paths)
    digest = hashlib.sha256(labels_NxK.tobytes()).hexdigest()
    counts = labels_NxK.sum(0).tolist()
    return base.Source(
      name=cls.variant(data),
      identity=[stamps, tags, paths, digest],
      former=[[files.former(stamps), tags, paths, counts]],
      splits=official.clips(rows, files, tags, data),
      labels=tags,
      label_kind="multi",
      skipped=skipped,
    )


def read_annotations(path):
  """(tags, paths, labels_NxK): the most frequent tags first, all clips.

  Tags with equally many clips keep the order of the file's columns.
  """
  if not tf.io.gfile.exists(path):
    raise official.missing(
      os.path.dirname(path), (_CSV,), "put the published file there"
    )
  again = "the published file"
  with archives.table(path, again, _open, delimiter="\t") as rows:
    return _annotations(rows)


def _open(path):
  with tf.io.gfile.GFile(path, "rb") as f:
    text = f.read().decode("utf-8-sig")
  # Of a line that is cut, the last cell tells.
  return io.StringIO(text.rstrip("\r\n") + "\n", newline="")


def _annotations(rows):
  header = next(rows, [])
  if len(header) < 3 or (header[0], header[-1]) != ("clip_id", "mp3_path"):
    raise ValueError(
      "the columns are not clip_id, tags and mp3_path, separated by tabs"
    )
  paths, rows_NxA = {}, []  # paths: a dict, for its order and its speed
  for row in rows:
    cells = row[1:-1]
    if len(row) != len(header) or not set(cells) <= {"0", "1"}:
      raise ValueError(
        f"not {len(header) - 2} cells of 0 or 1 between clip_id and mp3_path"
      )
    if not _PATH.fullmatch(row[-1]):
      raise ValueError(
        f"mp3_path is {row[-1]!r}, not one of the folders 0 to f and a file"
      )
    if row[-1] in paths:
      raise ValueError(f"{row[-1]!r} is there twice")
    paths[row[-1]] = None
    rows_NxA.append([cell == "1" for cell in cells])
  if not paths:
    raise ValueError("no clips in it")
  labels_NxA = np.array(rows_NxA, np.uint8)
  counts = labels_NxA.sum(0, dtype=int)
  top = np.argsort(-counts, kind="stable")[:NUM_TAGS]
  tags = tuple(header[1 + i] for i in top)
  return tags, list(paths), labels_NxA[:, top]


def _files(root):
  def path(name):
    return os.path.join(root, name)

  parts = _parts(root)
  if parts:
    numbers = [int(part[-3:]) for part in parts]
    lost = sorted(set(range(1, max(*numbers, _PARTS) + 1)) - set(numbers))
    names = ", ".join(f"mp3.zip.{number:03d}" for number in lost)
    try:
      if numbers == list(range(1, len(parts) + 1)):
        return archives.Zip.open(parts)
    except ValueError:
      if not lost:
        raise
    raise ValueError(
      f"{path('mp3.zip')}: parts {numbers} are there, {names} is missing: get"
      " mp3.zip.001, mp3.zip.002 and mp3.zip.003"
    )
  if tf.io.gfile.exists(path("mp3.zip")):
    return archives.Zip.open([path("mp3.zip")])
  for folder in _ROOTS:
    if any(os.path.isdir(os.path.join(root, folder, f)) for f in _SPLITS):
      return archives.Tree(os.path.join(root, folder))
  raise official.missing(
    root,
    ("mp3.zip.001", "mp3.zip", "0/", "mp3/"),
    "put mp3.zip.001 to 003 there, or the folders 0 to f",
  )


def _parts(root):
  # No glob: a root may have brackets.
  try:
    names = tf.io.gfile.listdir(root)
  except tf.errors.OpError:
    return []
  found = sorted(n for n in names if re.fullmatch(r"mp3\.zip\.\d{3}", n))
  return [os.path.join(root, name) for name in found]
