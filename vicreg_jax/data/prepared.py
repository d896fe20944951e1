"""A data set that has been decoded, on disk and ready to be read.

`datasets/` makes such sets, `records.py` and `input_pipeline.py` read them.
"""

import contextlib
import dataclasses
import glob as glob_lib
import os
import pathlib
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from google.protobuf import json_format

from vicreg_jax.data.tracks import SPLITS

# TensorFlow only reads and augments audio; accelerators are for JAX.
tf.config.set_visible_devices([], "GPU")
# Clips are many and small, so one thread an op: waking more threads would cost
# more than it gains.
tf.config.threading.set_intra_op_parallelism_threads(1)


def reading() -> tf.data.Options:
  """Options of all readers: in order, no injected ops, no tuning.

  The tuning thread may miss its cancellation and sleep for up to a minute, and
  the deletion of an iterator waits for it.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  options.deterministic = True
  options.experimental_optimization.inject_prefetch = False
  return options


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A data set on disk, ready to be read. Splits without clips are absent."""

  builder: tfds.core.DatasetBuilder
  labels: tuple[str, ...]
  label_kind: str
  sample_rate: int
  num_clips: Mapping[str, int]
  seconds: Mapping[str, float]
  shortest: int  # samples of the shortest clip
  skipped: Mapping[str, int]  # reason -> number of clips left out
  noted: Mapping[str, int]  # note -> number of clips with it
  label_counts: Mapping[str, Sequence[int]]  # split -> clips of each label
  tracks: int  # number of tracks; 0: unknown
  path: str

  @classmethod
  def open(cls, path) -> "Prepared":
    """Opens the directory that `ClipBuilder.prepare` has written."""
    with quiet_tfds(), explain_damage(path):
      builder = tfds.builder_from_directory(path)
      return cls._of(builder, path)

  @classmethod
  def _of(cls, builder, path):
    metadata = builder.info.metadata
    splits = [s for s in SPLITS if s in builder.info.splits]
    return cls(
      builder=builder,
      labels=tuple(metadata["labels"]),
      label_kind=metadata["label_kind"],
      sample_rate=metadata["sample_rate"],
      num_clips={s: builder.info.splits[s].num_examples for s in splits},
      seconds={s: metadata["seconds"][s] for s in splits},
      shortest=metadata["shortest"],
      skipped=dict(metadata["skipped"]),
      noted=dict(metadata.get("noted", {})),  # older data have none
      label_counts={s: metadata["label_counts"][s] for s in splits},
      tracks=metadata.get("tracks", 0),
      path=os.fspath(path),
    )

  @property
  def name(self) -> str:
    """Data set, options and version: the end of the path."""
    return "/".join(pathlib.PurePosixPath(self.path).parts[-3:])

  def dataset(self, split) -> tf.data.Dataset:
    """The examples of `split`, always in the same order.

    Each is a dict of `id`, `track` (text), `samples` (little-endian int16
    bytes: `tf.io.decode_raw(x, tf.int16)`) and `labels` uint8 [K]. `split` may
    be a TFDS slice such as "train[:50%]".
    """
    if split.split("[")[0] not in self.num_clips:
      raise ValueError(
        f"split {split!r} is not in {self.path}: it has "
        f"{', '.join(self.num_clips)}"
      )
    read_config = tfds.ReadConfig(
      options=reading(),
      try_autocache=False,  # raw audio rarely fits into memory
      interleave_cycle_length=1,
    )
    with quiet_tfds():
      return self.builder.as_dataset(split=split, read_config=read_config)

  def check_labelled(self, purpose: str, otherwise: str = ""):
    """Raises ValueError unless there are labels and clips in every split.

    The message says that `purpose` needs labels, and what to do `otherwise`.
    """
    if self.label_kind == "none":
      raise ValueError(
        f"the data set {self.path} has no labels, which {purpose} needs: sort"
        " the files into a folder for each class (files beside such folders are"
        " left out with --config.data.labels=folders), or name a table of"
        f" labels with --config.data.csv=FILE{otherwise}"
      )
    missing = [s for s in SPLITS if s not in self.num_clips]
    if missing:
      raise ValueError(
        f"the data set {self.path} has no {' or '.join(missing)} clips:"
        f" {purpose} needs train, valid and test. Add clips, or sort them into"
        f" folders train/ valid/ test/{otherwise}"
      )

  def summary(self) -> str:
    """A small table: clips and hours of each split, labels, clips left out."""
    lines = [f"{'split':<8}{'clips':>8}{'hours':>9}"]
    for split, clips in self.num_clips.items():
      lines.append(f"{split:<8}{clips:>8,}{self.seconds[split] / 3600:>9.2f}")
    lines.append(f"labels  {len(self.labels):>8,}  {self.label_kind}")
    if self.labels:
      names = self.labels[:8] + (("...",) if len(self.labels) > 8 else ())
      lines[-1] += f": {', '.join(names)}"
    if self.tracks:
      files = sum(self.num_clips.values())
      lines.append(f"tracks  {self.tracks:>8,}  in {files:,} files")
    for what, counts, file in (
      ("noted", self.noted, "clips.csv"),
      ("skipped", self.skipped, "skipped.csv"),
    ):
      if counts:
        total, where = sum(counts.values()), os.path.join(self.path, file)
        lines.append(f"{what:<8}{total:>8,}  {reasons(counts)} ({where})")
    return "\n".join(lines)


def reasons(counts) -> str:
  """Numbers of clips by reason or note, the most frequent first."""
  return ", ".join(
    f"{count:,} {reason}"
    for reason, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))
  )


def glob(directory, pattern: str) -> list[epath.Path]:
  """The paths below a directory, which may have brackets in its name."""
  return list(epath.Path(glob_lib.escape(os.fspath(directory))).glob(pattern))


@contextlib.contextmanager
def explain_damage(path):
  """Names prepared data that TFDS cannot open, and the remedy."""
  try:
    yield
  except (OSError, ValueError, KeyError, json_format.ParseError) as error:
    raise ValueError(
      f"the prepared data in {path} are damaged"
      f" ({' '.join(str(error).split())}): delete that directory to have them"
      " prepared anew, then run the same command to continue"
    ) from error


@contextlib.contextmanager
def quiet_tfds():
  """Turns off TFDS's bars and logs; one line of ours replaces them."""
  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
