"""The TFDS builder that every data set of this package shares.

A data set is described before anything is decoded, as a `Source`; the base
class decodes it once, on all cores, into TFDS records. To add one, subclass
`ClipBuilder`, set VERSION, say what there is in `source`, and put the class in
the table of `datasets/__init__.py`:

    class Tones(ClipBuilder, skip_registration=True):
      VERSION = tfds.core.Version("1.0.0")  # raise it when the clips change

      @classmethod
      def source(cls, data):  # data: the config's `data` section
        def clip(split, index):
          return Clip(
            id=f"{split}/{index}",  # unique in the data set, and stable
            track=f"{split}/{index}",  # clips of one piece share a track
            load=functools.partial(render, data.seed, split, index),
            labels=np.array([1, 0], np.uint8),  # [K] of 0 and 1
          )
        return Source(
          name="tones",
          identity={"seed": data.seed, "sizes": list(data.sizes)},
          splits={"train": [clip("train", i) for i in range(data.sizes[0])]},
          labels=("high", "low"),
          label_kind="multi",
        )

`load()` gives float32 [T] at `data.sample_rate`, or raises `AudioError`, which
skips the clip and reports it. It runs in a thread, so it must not share state.
`identity` is anything JSON can write; with sample rate and crop it names the
prepared directory, so it must hold everything the records depend on.

The records keep 16-bit PCM as bytes: TFDS's own Audio feature writes int16 as
varints, three times the size and thirteen times slower to write.
"""

import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tqdm import tqdm

from vicreg_jax import audio

# TensorFlow only reads and augments audio; accelerators are for JAX.
tf.config.set_visible_devices([], "GPU")

SPLITS = ("train", "valid", "test")
TOO_SHORT = "too short"
# Part of every prepared directory's name: raise it when the records change.
_FORMAT = 1


class Clip(NamedTuple):
  """One clip before it is decoded; see the module's docstring."""

  id: str
  track: str
  load: Callable[[], np.ndarray]
  labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set before it is decoded; see the module's docstring.

  `label_kind` is "multi", "single" or "none". `skipped` (id -> reason) holds
  what is known to be left out before anything is decoded.
  """

  name: str
  identity: Any
  splits: Mapping[str, Sequence[Clip]]
  labels: tuple[str, ...]
  label_kind: str
  skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
  path: str

  @classmethod
  def open(cls, path) -> "Prepared":
    """Opens the directory that `ClipBuilder.prepare` has written."""
    with _quiet_tfds():
      builder = tfds.builder_from_directory(path)
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
      path=os.fspath(path),
    )

  def dataset(self, split, shuffle_seed=None) -> tf.data.Dataset:
    """The examples of `split`, always in the same order.

    Each is a dict of `id`, `track` (text), `samples` (little-endian int16
    bytes: `tf.io.decode_raw(x, tf.int16)`) and `labels` uint8 [K]. `split` may
    be a TFDS slice such as "train[:50%]". With `shuffle_seed` the order of the
    record files follows the seed and they are read in turns; that is no
    substitute for a shuffle buffer.
    """
    if split.split("[")[0] not in self.num_clips:
      raise ValueError(
        f"split {split!r} is not in {self.path}: it has "
        f"{', '.join(self.num_clips)}"
      )
    options = tf.data.Options()
    options.deterministic = True
    shuffle = shuffle_seed is not None
    read_config = tfds.ReadConfig(
      options=options,
      try_autocache=False,  # raw audio rarely fits into memory
      shuffle_seed=shuffle_seed,
      shuffle_reshuffle_each_iteration=False,
      interleave_cycle_length=16 if shuffle else 1,
      interleave_block_length=1,
    )
    with _quiet_tfds():
      return self.builder.as_dataset(
        split=split, shuffle_files=shuffle, read_config=read_config
      )

  def check_probeable(self):
    """Raises ValueError unless there are labels and clips in every split."""
    if self.label_kind == "none":
      raise ValueError(
        f"the data set {self.path} has no labels, so there is nothing to probe:"
        " sort the files into a folder for each class, name a table of labels"
        " with --config.data.csv=FILE, or only pretrain with"
        " --config.probe_after=False"
      )
    missing = [s for s in SPLITS if s not in self.num_clips]
    if missing:
      raise ValueError(
        f"the data set {self.path} has no {' or '.join(missing)} clips: probing"
        " needs train, valid and test. Add clips, sort them into folders"
        " train/ valid/ test/, or only pretrain with --config.probe_after=False"
      )

  def summary(self) -> str:
    """A small table: clips and hours of each split, labels, what was left."""
    lines = [f"{'split':<8}{'clips':>8}{'hours':>9}"]
    for split, clips in self.num_clips.items():
      lines.append(f"{split:<8}{clips:>8,}{self.seconds[split] / 3600:>9.2f}")
    names = ", ".join(self.labels[:8]) + (", ..." * (len(self.labels) > 8))
    lines.append(
      f"labels  {len(self.labels):>8,}  {self.label_kind}"
      + f": {names}" * bool(names)
    )
    skipped = sum(self.skipped.values())
    if skipped:
      where = os.path.join(self.path, "skipped.csv")
      lines.append(f"skipped {skipped:>8,}  {_reasons(self.skipped)} ({where})")
    return "\n".join(lines)


class ClipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Decodes a `Source` into TFDS records; subclasses give `source`."""

  VERSION = tfds.core.Version("1.0.0")
  # TFDS looks beside the code for checksums of downloads. There are none, and
  # its search imports importlib_resources, which it does not install.
  code_path = None

  @classmethod
  def source(cls, data) -> Source:
    """What `data` (the config's section) names, without decoding it."""
    raise NotImplementedError

  def __init__(self, data):
    """Lists the source; nothing is decoded before `prepare`."""
    self._source = self.source(data)
    self._sample_rate = int(data.sample_rate)
    self._crop = int(data.crop)
    self._skipped = dict(self._source.skipped)
    self._lengths = collections.defaultdict(list)  # split -> samples of clips
    self._longest_skipped = 0
    identity = json.dumps(
      [_FORMAT, self._sample_rate, self._crop, self._source.identity],
      sort_keys=True,
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    config = tfds.core.BuilderConfig(name=f"{self._source.name}-{digest}")
    self._dir = os.path.expanduser(data.dir)
    with _quiet_tfds():
      super().__init__(data_dir=self._dir, config=config)

  def prepare(self) -> Prepared:
    """Decodes what is not prepared yet, and opens the result.

    TFDS writes to a directory of another name and renames it at the end, so
    an interrupted run leaves nothing that could be opened.
    """
    with _quiet_tfds():
      if not self.is_prepared():
        self._decode_all()
    return Prepared.open(self.data_dir)

  def _decode_all(self):
    total = sum(map(len, self._source.splits.values()))
    self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    self._progress = tqdm(
      total=total, desc=f"prepare {self.name}", unit="clip", disable=None
    )
    try:
      with self._progress:
        self.download_and_prepare()
    except (OSError, tf.errors.OpError) as error:
      # Another process may just have renamed the same data into place.
      if not (self.data_path / "dataset_info.json").exists():
        text = " ".join(str(error).split())
        raise ValueError(
          f"data.dir={self._dir}: cannot write the prepared data ({text}). Free"
          " disk space there, or give another directory"
        ) from error
    finally:
      self._pool.shutdown(cancel_futures=True)

  def _info(self):
    features = {
      "id": tfds.features.Text(),
      "track": tfds.features.Text(),
      "samples": tfds.features.Tensor(shape=(), dtype=tf.string),
      "labels": tfds.features.Tensor(
        shape=(len(self._source.labels),), dtype=np.uint8
      ),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description="Mono clips as little-endian 16-bit PCM, with labels.",
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    generators = {}
    for split, clips in self._source.splits.items():
      examples = self._generate_examples(split, clips)
      # TFDS cannot write an empty split, and whether one is empty shows only
      # when its clips have been decoded.
      first = list(itertools.islice(examples, 1))
      if first:
        generators[split] = itertools.chain(first, examples)
    if "train" not in generators:
      raise ValueError(self._empty_error(generators))
    return generators

  def _generate_examples(self, split, clips):
    for clip, result in _map_in_order(_decode, clips, self._pool):
      self._progress.update()
      if isinstance(result, audio.AudioError):
        self._skipped[clip.id] = result.reason
        continue
      num_samples = len(result) // 2
      if num_samples < self._crop:
        self._skipped[clip.id] = TOO_SHORT
        self._longest_skipped = max(self._longest_skipped, num_samples)
        continue
      self._lengths[split].append(num_samples)
      example = {
        "id": clip.id,
        "track": clip.track,
        "samples": result,
        "labels": np.asarray(clip.labels, np.uint8),
      }
      yield clip.id, example

  def _download_and_prepare(self, dl_manager, download_config):
    super()._download_and_prepare(dl_manager, download_config)
    # TFDS writes the metadata beside the records right after this.
    self.info.metadata.update(
      labels=list(self._source.labels),
      label_kind=self._source.label_kind,
      sample_rate=self._sample_rate,
      seconds={
        split: sum(lengths) / self._sample_rate
        for split, lengths in self._lengths.items()
      },
      shortest=min(map(min, self._lengths.values())),
      skipped=dict(collections.Counter(self._skipped.values())),
    )
    with open(self.data_path / "skipped.csv", "w", newline="") as f:
      writer = csv.writer(f)
      writer.writerow(["id", "reason"])
      writer.writerows(sorted(self._skipped.items()))

  def _log_download_bytes(self):
    """TFDS's banner: nothing is downloaded, and we have our own bar."""

  _log_download_done = _log_download_bytes

  def _empty_error(self, other_splits):
    reasons = collections.Counter(self._skipped.values())
    text = f"{self._source.name}: no clip is left to train on"
    if other_splits:
      text += f" (only {', '.join(other_splits)})"
    if reasons:
      text += f"; left out: {_reasons(reasons)}"
    if TOO_SHORT in reasons:
      seconds = self._longest_skipped / self._sample_rate
      text += (
        f". The longest of the short clips has {self._longest_skipped} "
        f"samples ({seconds:.2f} s at {self._sample_rate} Hz) and data.crop "
        f"is {self._crop}: lower data.crop, or use longer clips"
      )
    elif reasons:
      text += f". For example: {min(self._skipped)}"
    return text


def _decode(clip):
  """int16 bytes, or the `AudioError` that says why there are none."""
  try:
    return audio.to_int16(clip.load()).astype("<i2").tobytes()
  except audio.AudioError as error:
    return error


def _map_in_order(function, items, pool):
  """Yields (item, function(item)) in order, a few items ahead in threads.

  libsndfile and soxr release the GIL. The bound on what is decoded ahead keeps
  memory flat however many items there are.
  """
  ahead = collections.deque()
  for item in items:
    ahead.append((item, pool.submit(function, item)))
    if len(ahead) > 2 * os.cpu_count():
      item, future = ahead.popleft()
      yield item, future.result()
  for item, future in ahead:
    yield item, future.result()


def _reasons(counts):
  return ", ".join(
    f"{count:,} {reason}"
    for reason, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))
  )


@contextlib.contextmanager
def _quiet_tfds():
  """Turns off TFDS's bars and logs; ours says the same in one line."""
  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
