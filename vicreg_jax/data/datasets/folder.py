"""Any tree of audio files: class folders, a table, or no labels.

`README.md` beside this module says how labels, splits and tracks are found.
"""

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import unicodedata

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from vicreg_jax.data import audio, tracks, walk
from vicreg_jax.data.datasets import base, file_hashes, labels_table
from vicreg_jax.data.prepared import SPLITS, Prepared, glob

# Ranks of keys that clips share, below a table's groups.
_NAMED, _CONTENT = 2, 3


@dataclasses.dataclass(frozen=True)
class _Source(base.Source):
  """`torn`: why it cannot be prepared; older prepared data still open."""

  torn: str = ""


class Folder(base.ClipBuilder, skip_registration=True):
  """The builder of `data.name="folder"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  @classmethod
  def source(cls, data) -> base.Source:
    root = _root(data.path)
    files, skipped = _list(root)
    mode, table, left_out = _table(data, root, files, skipped)
    kept_at = _kept_at(data, root)
    digest_of = file_hashes.digests(files, f"{kept_at}/contents.json")
    copies = collections.defaultdict(list)  # of one content
    for file in files:
      if file.id in table.tags and file.size and digest_of[file.id]:
        copies[digest_of[file.id]].append(file.id)
    if table.splits:
      left_out |= _copies_elsewhere(copies.values(), table.splits)
    kept = [f for f in files if f.id in table.tags and f.id not in left_out]
    track_of = _tracks(data, [f.id for f in kept], table, copies)
    if table.splits:
      split_of = table.splits
    else:
      split_of = _split(track_of, table)
    splits = {split: [] for split in SPLITS}
    first_of = {i: ids[0] for ids in copies.values() for i in ids[1:]}
    for file in kept:
      tags = table.tags[file.id]
      labels = np.array([name in tags for name in table.labels], np.uint8)
      load = functools.partial(audio.load, file.path, int(data.sample_rate))
      splits[split_of[file.id]].append(
        base.Clip(
          file.id, track_of[file.id], load, labels, _note(first_of.get(file.id))
        )
      )
    how = {"labels": mode, "csv": table.digest}
    chosen = _chosen(data)
    before = {
      "root": _text(str(root)),
      "files": [[f.id, f.size, f.mtime_ns] for f in files],
    }
    return _Source(
      name=re.sub(r"[^A-Za-z0-9_]+", "-", root.name).strip("-")[:40] or "audio",
      identity={"contents": [[f.id, digest_of[f.id]] for f in files]}
      | how
      | chosen,
      former=() if chosen else (before | how,),
      splits=splits,
      labels=table.labels,
      label_kind=table.label_kind,
      skipped=skipped | left_out,
      contents=digest_of,
      kept_at=kept_at,
      torn=_torn(track_of, table) if table.splits else "",
    )

  def prepare(self) -> Prepared:
    """Prepares; raises ValueError if clips of a track are in several splits.

    Older prepared data open first: other rules may have told other tracks then.
    """
    if self._source.torn and not self.is_prepared():
      raise ValueError(self._source.torn)
    return super().prepare()

  def _config_name(self):
    """The name of the prepared data, as folders are moved and renamed."""
    directory = epath.Path(self._dir) / self.name
    for identity in (self._source.identity, *self._source.former):
      name = f"*-{self._digest(identity)}"
      for found in glob(directory, f"{name}/{self.VERSION}/dataset_info.json"):
        return found.parent.parent.name
    return super()._config_name()


def _chosen(data):
  """The keys that decide the clips, without those at their defaults."""
  keys = {"folders": data.folders, "track_pattern": data.track_pattern}
  return {k: v for k, v in keys.items() if v not in ("auto", "")}


def _table(data, root, files, skipped):
  """(label mode, table, {id: reason of a file left out}).

  The table has the tags of the other clips.
  """
  csv_path, table = _csv_path(data, root), None
  if csv_path and data.labels in ("auto", "csv"):
    table = labels_table.read(csv_path, [f.id for f in files], skipped)
  if table and table.splits:
    split_of, inside = table.splits, {f.id: f.id for f in files}
  else:
    split_of, inside = _split_folders(data.folders, root, files)
  left_out = {
    f.id: "outside train, valid and test" for f in files if f.id not in inside
  }
  mode = "csv"
  if table:
    left_out |= dict.fromkeys(
      sorted(inside.keys() - table.tags.keys()), f"not in {csv_path.name}"
    )
    left_out |= table.skipped
    inside = {i: path for i, path in inside.items() if i in table.tags}
    table = table._replace(
      tags={i: table.tags[i] for i in inside}, splits=split_of
    )
  if not table or (table.label_kind == "none" and data.labels == "auto"):
    names, tags = _class_folders(data, root, inside)
    kind = "single" if names else "none"
    left_out |= dict.fromkeys(
      sorted(inside.keys() - tags.keys()), "outside the class folders"
    )
    if table:
      table = table._replace(labels=names, label_kind=kind, tags=tags)
    else:
      mode = "folders" if names else "none"
      table = labels_table.Table(names, kind, tags, split_of)
  return mode, table, left_out


def _kept_at(data, root):
  """The directory of the hashes and the sound of a root's files."""
  name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
  return os.path.join(os.path.expanduser(data.dir), Folder.name, "kept", name)


def _copies_elsewhere(copies, split_of):
  """{id: reason} of clips whose content is in a later split, too.

  Clips of train are left out, and the test stays the same. They are removed
  from `copies`.
  """
  left_out = {}
  for ids in copies:
    last = max((split_of[id_] for id_ in ids), key=SPLITS.index)
    left_out |= {i: f"also in {last}" for i in ids if split_of[i] != last}
    ids[:] = [id_ for id_ in ids if split_of[id_] == last]
  return left_out


def _note(first):
  """The note of a copy in `clips.csv`; "; " would begin another note."""
  return f"duplicate, of {first.replace('; ', ';')}" if first else ""


def _tracks(data, ids, table, copies):
  """{id: track} of clips; clips of one track, group or content share one."""
  named = tracks.tracks_of(ids, data.track_pattern)
  keys_of = {i: [*table.groups.get(i, ()), (_NAMED, named[i])] for i in ids}
  for digest, same in copies.items():
    for id_ in same:
      keys_of[id_].append((_CONTENT, digest))
  return _join(keys_of)


def _join(keys_of: dict[str, list[tuple[int, str]]]) -> dict[str, str]:
  """{id: track} of clips; those that share a key, even indirectly, share one.

  Keys are (rank, text). The track is the text of the least one.
  """
  parent = {}

  def root(key):
    while parent.setdefault(key, key) != key:
      parent[key] = key = parent[parent[key]]
    return key

  for first, *others in keys_of.values():
    for other in others:
      low, high = sorted((root(first), root(other)))
      parent[high] = low
  return {id_: root(keys[0])[1] for id_, keys in keys_of.items()}


def _torn(track_of, table) -> str:
  """The error if clips of one track are in several splits; else ""."""
  first = {}
  for id_, track in track_of.items():
    other = first.setdefault(track, id_)
    split, before = table.splits[id_], table.splits[other]
    if split != before:
      where = [table.where.get(i, repr(i)) for i in (other, id_)]
      return (
        f"{where[0]} and {where[1]} are of one track or group, {track!r}, but"
        f" in the splits {before} and {split}: give them one split, or tell"
        " them apart by a column 'group' or data.track_pattern"
      )
  return ""


def _split(track_of, table):
  """{id: split}, class by class where labels are single."""
  class_of = {}
  for id_, track in track_of.items():
    single = table.label_kind == "single"
    class_of.setdefault(track, min(table.tags[id_]) if single else "")
  split_of = tracks.split(class_of)
  return {id_: split_of[track] for id_, track in track_of.items()}


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
  found = walk.audio_files(str(root))
  if str(root) in found.left_out:
    raise ValueError(
      f"data.path={str(root)!r} cannot be listed: check its permissions"
    )

  def id_of(path):
    return _text(os.path.relpath(path, root).replace(os.sep, "/"))

  skipped = {id_of(path): why for path, why in found.left_out.items()}
  files = []
  for path in found.paths:
    try:
      status = os.stat(path)
    except OSError:
      skipped[id_of(path)] = "not readable"
    else:
      files.append(
        file_hashes.File(id_of(path), path, status.st_size, status.st_mtime_ns)
      )
  if not files:
    others = found.others + collections.Counter(skipped.values())
    has = ", ".join(f"{n} {what}" for what, n in others.most_common(5))
    raise ValueError(
      f"data.path={str(root)!r} holds no audio files; it has "
      f"{has or 'no files at all'}; readable are "
      f"{' '.join(sorted(audio.EXTENSIONS))}"
    )
  return sorted(files, key=lambda file: file.id), skipped


def _split_folders(folders, root, files):
  """({id: split}, {id: path below its split's folder}).

  If the folders are no splits, the first is empty, and the second has the whole
  ids. `folders`: `data.folders`.
  """
  whole = {file.id: file.id for file in files}
  if folders == "classes":
    return {}, whole
  split_folder, inside, others, names = {}, {}, set(), set()
  for file in files:
    head, _, rest = file.id.partition("/")
    if rest and head.lower() in labels_table.SPLIT_NAMES:
      split_folder[file.id] = labels_table.SPLIT_NAMES[head.lower()]
      inside[file.id] = rest
      names.add(head)
    else:
      others.add(head)
  found = set(split_folder.values())
  if "train" not in found:
    if folders == "splits" or (found and not others):
      raise ValueError(
        f"data.path={str(root)!r} has no folder 'train' (it has"
        f" {_few(names | others)}): add one, or say that folders are no splits"
        " with data.folders='classes'"
      )
    return {}, whole
  others = {head for head in others if head not in whole}  # folders
  if others and folders == "auto":
    text = (
      f"data.path={str(root)!r} has a folder 'train', and {_few(others)} too:"
      " data.folders='splits' leaves those out,"
      " data.folders='classes' takes all of them for classes"
    )
    if found == {"train"}:
      raise ValueError(text)
    logging.warning(
      "%s. As it has %s too, they are left out", text, _few(names)
    )
  return split_folder, inside


def _few(names):
  """Some names, for a message."""
  names = sorted(names)
  return ", ".join(map(repr, names[:5])) + (", ..." if names[5:] else "")


def _csv_path(data, root):
  """The labels file, or None if neither config nor folder has one."""
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


def _class_folders(data, root, inside):
  """(classes, {id: its class}) by folders; both empty if these are no classes.

  Few files beside folders are strays; with many the folders are no classes.
  """
  tags = {
    # macOS decomposes accents; a class has one name in either form.
    i: {unicodedata.normalize("NFC", path.split("/")[0])}
    for i, path in inside.items()
    if "/" in path
  }
  names = tuple(sorted(set().union(*tags.values())))
  strays = inside.keys() - tags.keys()
  if data.labels == "folders" and len(names) < 2:
    raise ValueError(
      "data.labels='folders' needs two class folders or more in "
      f"data.path={data.path!r}; it has {sorted(names) or 'none'}"
    )
  found = len(names) >= 2 and len(strays) < len(names)
  if not (data.labels == "folders" or (data.labels == "auto" and found)):
    return (), {i: set() for i in inside}
  if strays:
    logging.warning(
      "data.path=%r: %s outside the class folders: left out",
      str(root),
      _few(strays),
    )
  return names, tags
