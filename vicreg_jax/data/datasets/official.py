"""Published data sets, which are the same wherever their files lie."""

import abc
import contextlib
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from absl import logging
from etils import epath

from vicreg_jax import files
from vicreg_jax.data.datasets import archives, base
from vicreg_jax.data.prepared import SPLITS, Prepared, explain_damage, glob


class OfficialBuilder(base.ClipBuilder, skip_registration=True):
  """A published data set, which is the same wherever its files lie.

  Subclasses name its variants, and prepared directories start with this name.
  So another machine can open prepared data without the source files.
  """

  @classmethod
  @abc.abstractmethod
  def variant(cls, data) -> str:
    """The part of the prepared directory's name that the options decide."""

  @classmethod
  def kept_at(cls, data) -> str:
    """The directory for sound of killed preparations; see `Source`."""
    directory = os.path.expanduser(data.dir)
    return os.path.join(directory, cls.name, "kept", cls.variant(data))

  @classmethod
  def get(cls, data) -> Prepared:
    """Opens the newest set that fits if `data.path` is empty; else prepares."""
    if data.path:
      return super().get(data)
    directory = epath.Path(os.path.expanduser(data.dir)) / cls.name
    pattern = f"{cls.variant(data)}-*/{cls.VERSION}"
    found = []
    for path in sorted(glob(directory, pattern)):
      with explain_damage(path):
        prepared = json.loads((path / "metadata.json").read_text())
        how = prepared["sample_rate"], prepared["crop"]
      if how == (data.sample_rate, data.crop):
        found.append(path)
    if not found:
      raise ValueError(
        f"data.path is empty, and in {directory} none is prepared ({pattern}, "
        f"data.sample_rate={data.sample_rate}, data.crop={data.crop}): set "
        "data.path to the directory with the official files"
      )
    newest = max(found, key=_made)
    if len(found) > 1:
      logging.warning(
        "%d prepared sets fit; the newest is taken, %s", len(found), newest
      )
    return Prepared.open(newest)

  def fits(self, prepared: Prepared) -> bool:
    """Whether data prepared by an earlier version are valid."""
    return True

  def _config_name(self):
    """The name of the prepared data, perhaps by an earlier version."""
    new = super()._config_name()
    here = epath.Path(self._dir) / self.name
    names = [
      f"{self._source.name}-{self._digest(identity)}"
      for identity in self._source.former
    ]
    if not _is_prepared(here / new / str(self.VERSION)):
      for name in names:
        path = here / name / str(self.VERSION)
        if _is_prepared(path) and self.fits(Prepared.open(path)):
          return name
    return new


def _is_prepared(path) -> bool:
  return (path / "dataset_info.json").exists()


def _made(path) -> float:
  """When a set was, in seconds; in a bucket in whole ones, as epath has."""
  info = path / "dataset_info.json"
  in_bucket = files.is_bucket(str(info))
  return info.stat().mtime if in_bucket else os.stat(info).st_mtime


def clips(
  rows: Iterable[tuple[str, str, str, Collection[str]]],
  files: archives.Tree | archives.Zip,
  labels: Sequence[str],
  data,
) -> dict[str, list[base.Clip]]:
  """{split: clips} of rows: the split, the file's name, the track, its labels.

  `data` is the config's section.
  """
  splits = {split: [] for split in SPLITS}
  label_of = functools.cache(
    lambda tags: np.array([label in tags for label in labels], np.uint8)
  )
  for split, name, track, tags in rows:
    load = functools.partial(files.load, name, int(data.sample_rate))
    clip = base.Clip(name, track, load, label_of(frozenset(tags)))
    splits[split].append(clip)
  return splits


def contents(stamps: Sequence[list]) -> dict[str, str]:
  """`Source.contents` of files that are there, by their stamps.

  Hashing the files of a tree would read hundreds of gigabytes.
  """
  return {
    stamp[0]: hashlib.sha256(json.dumps(stamp).encode()).hexdigest()
    for stamp in stamps
  }


def missing(root: str, names: Sequence[str], remedy: str) -> ValueError:
  """The error of a directory without any of `names`, and where they are.

  `data.path` is often the directory above the right one, or below.
  """
  what = (
    f"neither {' nor '.join(names)}" if len(names) > 1 else f"no {names[0]}"
  )
  text = f"data.path={root!r} holds {what}"
  if "://" not in root:
    place = pathlib.Path(root).resolve()
    near = [place.parent]
    with contextlib.suppress(OSError):
      near += sorted(p for p in place.iterdir() if p.is_dir())
    for other in near:
      for name in names:
        with contextlib.suppress(OSError):
          if (other / name).exists():
            return ValueError(
              f"{text}, but {other} has {name}: set data.path={other}"
            )
  return ValueError(f"{text}: {remedy}")


def tree(path: str) -> archives.Tree:
  """The files below `path`, or below a folder of its own name in it.

  Into that programs extract an archive that has such a folder.
  """
  inner = os.path.join(path, os.path.basename(path))
  return archives.Tree(inner if os.path.isdir(inner) else path)


def local_directory(path: str) -> str:
  """`data.path` as a directory that exists; gs:// is left as it is."""
  if "://" in path:
    return path
  directory = os.path.expanduser(path)
  if not os.path.isdir(directory):
    what = "is a file" if os.path.exists(directory) else "does not exist"
    raise ValueError(
      f"data.path={path!r} {what}: give the directory with the official files"
    )
  return directory
