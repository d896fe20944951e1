"""Any tree of audio files: class folders, a CSV of tags, or no labels.

Labels (`data.labels`):
  folders  the first folder below `data.path` (below train/, valid/, test/
           where these exist) is the class: one label a clip.
  csv      `data.csv`, or `labels.csv` in `data.path`: any number of tags a
           clip. UTF-8 with commas, paths relative to `data.path`. Either a
           header row and a cell of 0 or 1 for every tag:
               path,guitar,drums
               a/one.ogg,1,0
           or no header and the names of the clip's tags:
               a/one.ogg,guitar
           Files that are not in it are left out.
  none     no labels: enough for pretraining.
  auto     csv where there is one; else folders, if all files lie in two or
           more of them; else none.

Splits: where there is a folder `train`, the folders `train`, `valid` (or
`validation`, `val`) and `test` are the splits. Otherwise tracks are put into
the order of their SHA-256 and the first 20 % are for testing, the next 10 % for
validation, at least one track each where there are three; class by class, for
with a plain threshold on the hash a small class could lack test clips. So a
track's split depends on the names in its own class alone; adding a track moves
at most one track across each boundary. Clips that are named as cut from one
track (`name-0-30.ogg`, `name-30-60.ogg`) stay together.

Hidden files are ignored, links are followed, no directory is read twice.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import posixpath
import re

import numpy as np
import tensorflow_datasets as tfds

from vicreg_jax.data import audio
from vicreg_jax.data.datasets import base
from vicreg_jax.data.prepared import SPLITS
from vicreg_jax.data.track_names import track_of

LABEL_MODES = ("auto", "folders", "csv", "none")
_SPLIT_FOLDERS = {
  "train": "train",
  "valid": "valid",
  "validation": "valid",
  "val": "valid",
  "test": "test",
}


@dataclasses.dataclass(frozen=True)
class _File:
  """An audio file; `id` is its path below the root, as text with slashes."""

  id: str
  path: str
  size: int
  mtime_ns: int

  @property
  def track(self):
    return track_of(self.id)


class Folder(base.ClipBuilder, skip_registration=True):
  """The builder of `data.name="folder"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  @classmethod
  def source(cls, data) -> base.Source:
    root = _root(data.path)
    files, skipped = _list(root)
    split_folder, inside = _split_folders(files)
    csv_path = _csv_path(data, root)
    mode = _label_mode(data, csv_path, inside)

    csv_digest = ""
    if mode == "csv":
      names, tags, csv_digest = _read_csv(csv_path, [f.id for f in files])
      label_kind = "multi"
      without = f"not in {csv_path.name}"
    elif mode == "folders":
      tags = {i: {inside[i].split("/")[0]} for i in inside if "/" in inside[i]}
      names = sorted(set().union(*tags.values()))
      label_kind = "single"
      without = "outside the class folders"
    else:
      tags, names = {f.id: set() for f in files}, []
      label_kind, without = "none", ""

    kept = []
    for file in files:
      if file.id not in inside:
        skipped[file.id] = "outside train, valid and test"
      elif file.id not in tags:
        skipped[file.id] = without
      else:
        kept.append(file)

    if split_folder:
      split_of = {f.track: split_folder[f.id] for f in kept}
    else:
      classes = collections.defaultdict(set)
      for file in kept:
        stratum = inside[file.id].split("/")[0] if mode == "folders" else ""
        classes[stratum].add(file.track)
      split_of = {}
      for tracks in classes.values():
        split_of |= base.split_tracks(tracks)

    splits = {split: [] for split in SPLITS}
    for file in kept:
      labels = np.array([name in tags[file.id] for name in names], np.uint8)
      load = functools.partial(audio.load, file.path, int(data.sample_rate))
      splits[split_of[file.track]].append(
        base.Clip(file.id, file.track, load, labels)
      )
    return base.Source(
      name=re.sub(r"[^A-Za-z0-9_]+", "-", root.name).strip("-")[:40] or "audio",
      identity={
        "root": _text(str(root)),
        "files": [[f.id, f.size, f.mtime_ns] for f in files],
        "labels": mode,
        "csv": csv_digest,
      },
      splits=splits,
      labels=tuple(names),
      label_kind=label_kind,
      skipped=skipped,
    )


def _text(path):
  """A path as text that can be written: names may be any bytes."""
  return os.fsencode(path).decode("utf-8", "backslashreplace")


def _root(path):
  if not path:
    raise ValueError(
      "data.path is empty: set it to the folder that holds the audio files"
    )
  # os.path has an answer for any text, where pathlib raises.
  directory = os.path.expanduser(path)
  if not os.path.exists(directory):
    raise ValueError(f"data.path={path!r} does not exist")
  if not os.path.isdir(directory):
    raise ValueError(
      f"data.path={path!r} is a file: give the folder that holds it"
    )
  return pathlib.Path(directory).resolve()


def _list(root):
  """The audio files below root, by id, and {id: reason} of others."""
  files, skipped, others = [], {}, collections.Counter()
  seen, folders = set(), [str(root)]
  while folders:
    folder = folders.pop()
    try:
      status = os.stat(folder)
      if (status.st_dev, status.st_ino) in seen:  # a link back up, or twice
        continue
      seen.add((status.st_dev, status.st_ino))
      entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
      raise ValueError(
        f"data.path: cannot list {folder}: {error.strerror}"
      ) from None
    for entry in entries:
      if entry.name.startswith("."):
        continue
      suffix = os.path.splitext(entry.name)[1].lower()
      if os.path.isdir(entry.path):  # entry.is_dir() raises on some links
        folders.append(entry.path)
        continue
      id_ = _text(os.path.relpath(entry.path, root).replace(os.sep, "/"))
      if suffix not in audio.EXTENSIONS:
        others[suffix or "without extension"] += 1
        if suffix in audio.UNREAD:
          skipped[id_] = f"unread suffix {suffix}"
      else:
        try:
          status = entry.stat()
        except OSError:
          skipped[id_] = "not found"
        else:
          files.append(
            _File(id_, entry.path, status.st_size, status.st_mtime_ns)
          )
  if not files:
    found = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(5))
    raise ValueError(
      f"data.path={str(root)!r} holds no audio files; it has "
      f"{found or 'no files at all'}; readable are "
      f"{' '.join(sorted(audio.EXTENSIONS))}"
    )
  return sorted(files, key=lambda file: file.id), skipped


def _split_folders(files):
  """({id: split}, {id: path below its split's folder}).

  The first is empty, and the second has the whole ids, without a train folder.
  """
  split_folder, inside = {}, {}
  for file in files:
    head, _, rest = file.id.partition("/")
    if rest and head.lower() in _SPLIT_FOLDERS:
      split_folder[file.id] = _SPLIT_FOLDERS[head.lower()]
      inside[file.id] = rest
  if "train" not in split_folder.values():
    return {}, {file.id: file.id for file in files}
  return split_folder, inside


def _csv_path(data, root):
  """The labels file, or None where the config and the folder have none."""
  if data.labels not in LABEL_MODES:
    raise ValueError(
      f"data.labels={data.labels!r} is unknown; use one of {LABEL_MODES}"
    )
  if data.csv and data.labels in ("folders", "none"):
    raise ValueError(
      f"data.csv={data.csv!r} has no use with data.labels={data.labels!r}; "
      "use data.labels='csv', or leave data.csv empty"
    )
  path = root / "labels.csv"
  if data.csv:
    path = pathlib.Path(os.path.expanduser(data.csv))
  if os.path.isfile(path):
    return path
  if data.csv:
    raise ValueError(f"data.csv={data.csv!r} is not a file")
  if data.labels == "csv":
    raise ValueError(
      f"data.labels='csv', but there is no {path}; write it, or set data.csv"
    )
  return None


def _label_mode(data, csv_path, inside):
  folders = {path.split("/")[0] for path in inside.values() if "/" in path}
  if data.labels == "folders" and len(folders) < 2:
    raise ValueError(
      "data.labels='folders' needs two class folders or more in "
      f"data.path={data.path!r}; it has {sorted(folders) or 'none'}"
    )
  if data.labels != "auto":
    return data.labels
  if csv_path:
    return "csv"
  all_in_folders = all("/" in path for path in inside.values())
  return "folders" if all_in_folders and len(folders) >= 2 else "none"


def _read_csv(path, ids):
  """(tag names, {id: its tags}, digest) of a labels file; see the module."""
  try:
    content = path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"{path}: cannot be read ({error.strerror}); check its permissions"
    ) from None
  try:
    text = content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = content[: error.start].count(b"\n") + 1
    raise ValueError(
      f"{path} line {line}: not UTF-8; save the file as UTF-8"
    ) from None
  reader = csv.reader(io.StringIO(text, newline=""), strict=True)
  ids = set(ids)
  header, tags, lines = None, {}, {}
  try:
    for row in reader:
      where = f"{path} line {reader.line_num}"
      cells = [cell.strip() for cell in row]
      if not any(cells):
        continue
      if header is None and not tags and cells[0].lower() == "path":
        header = cells[1:]
        if "" in header or len(set(header)) < len(header):
          raise ValueError(f"{where}: tag names must differ and not be empty")
        continue
      id_ = posixpath.normpath(cells[0])
      if posixpath.isabs(id_) or id_.split("/")[0] == "..":
        raise ValueError(
          f"{where}: {cells[0]!r} is outside data.path; give paths below it"
        )
      if id_ not in ids:
        raise ValueError(
          f"{where}: no audio file {cells[0]!r} below data.path (columns are "
          "separated by commas; a header row must start with 'path')"
        )
      if id_ in tags:
        raise ValueError(
          f"{where}: {cells[0]!r} was listed in line {lines[id_]} already"
        )
      lines[id_] = reader.line_num
      tags[id_] = _row_tags(where, header, cells[1:])
  except csv.Error as error:
    raise ValueError(f"{path} line {reader.line_num}: {error}") from None
  names = sorted(set().union(*tags.values())) if header is None else header
  if not tags or not names:
    raise ValueError(f"{path}: no {'tags' if tags else 'clips'} in it")
  return names, tags, hashlib.sha256(content).hexdigest()


def _row_tags(where, header, cells):
  if header is None:
    return {cell for cell in cells if cell}
  if len(cells) != len(header):
    raise ValueError(
      f"{where}: {len(cells)} cells for {len(header)} tags; give 0 or 1 for "
      "each tag of the header"
    )
  for name, cell in zip(header, cells):
    if cell not in ("0", "1"):
      raise ValueError(f"{where}: {cell!r} for tag {name!r}; use 0 or 1")
  return {name for name, cell in zip(header, cells) if cell == "1"}
