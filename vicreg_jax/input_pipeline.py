"""From prepared clips to batches of views (training) and segments (probing).

Everything drawn here is a function of (seed, epoch, clip): the files' order,
the shuffle, each view's crop and augmentation. No generator state exists, so
the stream may be entered at any step, on any number of hosts and threads.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vicreg_jax import audio, augment
from vicreg_jax import config as configs
from vicreg_jax.datasets import base

# Numbers of the pipeline's own draws, apart from the views' (0, 1, ...).
_FILES, _SHUFFLE, _CROP = 101, 102, 103
_OPEN_FILES = 16
# Clips, so that what follows need not wait where an epoch fills its shuffle.
_READ_AHEAD = 64
_BYTES = 2  # a sample is 16-bit PCM


class Segments(NamedTuple):
  """A batch of consecutive segments; rows with mask 0 are padding."""

  x_BxT: np.ndarray
  clip_B: np.ndarray  # position of the clip in `labels`
  mask_B: np.ndarray


class LabelledCrops(NamedTuple):
  """A batch of one crop of each clip, with the clip's labels."""

  x_BxT: np.ndarray
  labels_BxK: np.ndarray  # uint8


def num_train_clips(prepared: base.Prepared, config) -> int:
  """Clips of the splits that the config trains on."""
  return sum(prepared.num_clips.get(s, 0) for s in config.train_splits)


def train_views(
  prepared: base.Prepared,
  config,
  *,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[np.ndarray]:
  """Batches `views_BxVxT` (float32) of the training clips, without end.

  Every epoch takes the clips in an order of its own and drops a short last
  batch. Of each global batch, host h of H gets rows [h B/H, (h+1) B/H).
  Starting at a step skips clips before anything is augmented.
  """
  clips = _without_end(
    num_train_clips(prepared, config),
    config.batch_size,
    lambda epoch: raw_crops(prepared, config, config.train_splits, epoch),
    start_step,
    process_index,
    process_count,
  )
  share = config.batch_size // process_count
  batches = _view_batches(clips, config, share)
  return _read_or_explain(prepared, batches)


def train_crops(
  prepared: base.Prepared,
  config,
  *,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[LabelledCrops]:
  """Batches of a random crop of each training clip, and its labels, for ever.

  Orders, crops, hosts and steps as in `train_views`; nothing is augmented. A
  clip's crop is the one that `crops` draws for the same seed and epoch.
  """

  def epoch_of(epoch):
    def cut(example):
      key = _crop_seed(config.seed, epoch, example)
      raw = _random_crops(example["samples"], config.data.crop, [key])[0]
      return raw, example["labels"]

    return _epoch(prepared, config, ("train",), epoch, cut)

  def decode(raw, labels_K):
    return tf.ensure_shape(_decode(raw), [config.data.crop]), labels_K

  clips = _without_end(
    prepared.num_clips["train"],
    config.batch_size,
    epoch_of,
    start_step,
    process_index,
    process_count,
  ).map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  share = config.batch_size // process_count
  batches = _batches(clips, share, drop_remainder=True)
  for x_BxT, labels_BxK in _read_or_explain(prepared, batches):
    yield LabelledCrops(x_BxT, labels_BxK)


def _without_end(
  num_clips, batch_size, epoch_of, start_step, process_index, process_count
) -> tf.data.Dataset:
  """Epoch after epoch, from a step on: one host's clips, of whole batches.

  Args:
    num_clips: of an epoch; those of a short last batch are dropped.
    batch_size: of all hosts together.
    epoch_of: gives the clips of an epoch, which is a tensor.
    start_step, process_index, process_count: as in `train_views`.
  """
  per_epoch = num_clips // batch_size
  epoch, step = divmod(start_step, per_epoch)
  clips = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max).flat_map(
    lambda e: epoch_of(e).take(per_epoch * batch_size)
  )
  clips = clips.skip(step * batch_size)
  if process_count > 1:
    share = batch_size // process_count
    clips = clips.enumerate().filter(
      lambda i, _: i % batch_size // share == process_index
    )
    clips = clips.map(lambda _, clip: clip)
  return clips.prefetch(_READ_AHEAD)


class ValidViews:
  """Iterates over `views_BxVxT` of a split, the same views every time.

  Each pass is to be read to its end. One iterator serves them all: to build the
  graph and to start it takes seconds, and a run evaluates often. The losses are
  defined on whole batches, so a short last one is dropped.
  """

  def __init__(
    self, prepared: base.Prepared, config, split: str, batch_size: int
  ):
    clips = raw_crops(prepared, config, (split,), tf.constant(-1, tf.int64))
    passes = _view_batches(clips, config, batch_size, repeat=True)
    self._batches = _read_or_explain(prepared, passes)
    self._count = prepared.num_clips[split] // batch_size

  def __iter__(self) -> Iterator[np.ndarray]:
    return itertools.islice(self._batches, self._count)


def crops(
  prepared: base.Prepared,
  split: str,
  *,
  crop: int,
  seed: int,
  epoch: int,
  batch_size: int,
) -> Iterator[np.ndarray]:
  """One random crop `x_BxT` of each clip, in the order of `labels`.

  The last batch is as short as it comes out.
  """

  def one(example):
    key = _crop_seed(seed, epoch, example)
    return _decode(_random_crops(example["samples"], crop, [key])[0])

  examples = prepared.dataset(split).map(
    one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  batches = _batches(examples, batch_size, drop_remainder=False)
  return _read_or_explain(prepared, batches)


def segments(
  prepared: base.Prepared, split: str, *, crop: int, batch_size: int
) -> Iterator[Segments]:
  """Each clip cut into consecutive segments, a shorter rest dropped.

  All batches have `batch_size` rows; the last is padded and masked. Every
  segment of every clip comes exactly once, in the order of `labels`.
  """

  def cut(index, example):
    x_T = _decode(example["samples"])
    count = tf.shape(x_T)[0] // crop
    x_SxT = tf.reshape(x_T[: count * crop], [count, crop])
    return x_SxT, tf.fill([count], tf.cast(index, tf.int32))

  rows = (
    prepared.dataset(split)
    .enumerate()
    .map(cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  )
  rows = rows.unbatch().batch(batch_size).prefetch(tf.data.AUTOTUNE)
  for x_BxT, clip_B in _read_or_explain(prepared, _options(rows)):
    n = len(clip_B)
    pad = batch_size - n
    yield Segments(
      np.pad(x_BxT, ((0, pad), (0, 0))),
      np.pad(clip_B, (0, pad)),
      np.pad(np.ones(n, np.float32), (0, pad)),
    )


class Labels(NamedTuple):
  """The clips of a split in the pipeline's order."""

  ids: list[str]
  labels_NxK: np.ndarray  # uint8


def labels(prepared: base.Prepared, split: str) -> Labels:
  """Ids and labels of every clip, in the order `crops` and `segments` use."""
  ids, rows = [], []
  keys = prepared.dataset(split).map(lambda e: (e["id"], e["labels"]))
  for clip_id, row in _read_or_explain(prepared, keys):
    ids.append(clip_id.decode())
    rows.append(row)
  return Labels(ids, np.stack(rows))


def raw_crops(prepared, config, splits, epoch) -> tf.data.Dataset:
  """The clips of one epoch, in its order, cut to the views' raw crops.

  Elements are (bytes of each view's crop [V], each view's seed [V, 2]): all
  that the views are made of.
  """
  views = list(range(configs.VIEWS))
  # The seeds of crops and of views in one go: a graph's small ops cost as much
  # as their calls, not as their numbers.
  numbers = tf.constant([_CROP + v for v in views] + views, tf.int64)
  begun = augment.begin_seed(config.seed, epoch, numbers)

  def cut(example):
    seeds = augment.finish_seed(begun, _hash(example["id"]))
    crop_seeds = [seeds[v] for v in views]
    raw_V = _random_crops(example["samples"], config.data.crop, crop_seeds)
    return raw_V, seeds[configs.VIEWS :]

  return _epoch(prepared, config, splits, epoch, cut)


def _epoch(prepared, config, splits, epoch, cut) -> tf.data.Dataset:
  """What `cut` leaves of each clip, in an order of the epoch's own.

  Crops are shuffled rather than whole clips: they are a tenth of the size.
  """

  def seed(number):
    return augment.example_seed(
      config.seed, epoch, tf.zeros([], tf.int64), number
    )

  return _read(prepared, splits, seed(_FILES), cut).shuffle(
    config.shuffle_buffer,
    seed=tf.cast(seed(_SHUFFLE)[0], tf.int64),
    reshuffle_each_iteration=False,
  )


def _read(prepared, splits, seed, cut) -> tf.data.Dataset:
  """What `cut` leaves of each example of some splits.

  Their files come in an order drawn from a seed tensor, several at a time;
  TFDS's own reader takes only a Python seed, for all epochs the same. A record
  is cut by the thread that has read it, while it is in its cache.
  """
  info = prepared.builder.info
  files = [
    str(f)
    for s in splits
    if s in prepared.num_clips
    for f in info.splits[s].filepaths
  ]
  order = tf.random.experimental.stateless_shuffle(files, seed)
  clips = tf.data.Dataset.from_tensor_slices(order).interleave(
    lambda file: tf.data.TFRecordDataset(file).map(
      lambda record: cut(info.features.deserialize_example(record))
    ),
    cycle_length=min(len(files), _OPEN_FILES),
    block_length=1,
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  # A file cut between two records reads well; the stream would shift.
  count = sum(prepared.num_clips.get(s, 0) for s in splits)
  return clips.apply(tf.data.experimental.assert_cardinality(count))


def _view_batches(clips, config, batch_size, repeat=False) -> tf.data.Dataset:
  """Whole batches [B, V, T] of views of the clips; on `repeat`, for ever.

  A view at a time, so that there is one graph of the augmentations to build.
  """
  chain = config.augment.to_dict()

  # Converting all that is called takes as long as tracing it; there is no
  # Python in it to convert.
  @tf.autograph.experimental.do_not_convert
  def view(raw, seed):
    x_T = tf.ensure_shape(_decode(raw), [config.data.crop])
    return augment.augment(x_T, seed, chain, config.data.sample_rate)

  views = clips.unbatch().map(
    view, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  # Batched at once: clip by clip, and then batch by batch, would copy twice.
  shape = [batch_size, configs.VIEWS, config.data.crop]
  batches = views.batch(batch_size * configs.VIEWS, drop_remainder=True)
  batches = batches.map(lambda x: tf.reshape(x, shape))
  batches = batches.repeat() if repeat else batches
  return _options(batches.prefetch(tf.data.AUTOTUNE))


def _batches(examples, batch_size, drop_remainder) -> tf.data.Dataset:
  examples = examples.batch(batch_size, drop_remainder=drop_remainder)
  return _options(examples.prefetch(tf.data.AUTOTUNE))


def _options(examples):
  options = tf.data.Options()
  options.deterministic = True
  options.experimental_optimization.inject_prefetch = False
  return examples.with_options(options)


def _read_or_explain(prepared, dataset):
  """Yields NumPy elements; where reading fails, names file and remedy."""
  try:
    yield from dataset.as_numpy_iterator()
  except tf.errors.OpError as e:
    raise ValueError(
      f"{_damaged_file(prepared) or f'{prepared.path} ({e.message})'} cannot be"
      " read: put a copy of it in its place, or delete the directory"
      f" {prepared.path} to have the data prepared anew; then run the same"
      " command to continue"
    ) from e


def _damaged_file(prepared) -> str:
  """The first record file that is not as it was written, and its fault."""
  for split in prepared.num_clips:
    info = prepared.builder.info.splits[split]
    for file, count in zip(info.filepaths, info.shard_lengths, strict=True):
      try:
        found = sum(1 for _ in tf.data.TFRecordDataset(str(file)))
      except tf.errors.NotFoundError:
        return f"{file} (missing)"
      except tf.errors.OpError:
        return f"{file} (damaged)"
      if found != count:
        return f"{file} ({found} of {count} records)"
  return ""


def _crop_seed(seed, epoch, example):
  """The seed of where a clip's first view, or only crop, starts."""
  return augment.example_seed(seed, epoch, _hash(example["id"]), _CROP)


def _hash(clip_id):
  """A clip's number: a stable 62-bit hash of its id."""
  return tf.strings.to_hash_bucket_fast(clip_id, 2**62)


def _random_crops(samples, crop, seeds):
  """`crop` samples of raw PCM bytes for each seed, which draws their start."""
  count = tf.strings.length(samples) // _BYTES
  starts = tf.stack([augment.random_crop_start(count, crop, s) for s in seeds])
  starts = tf.cast(starts, tf.int32) * _BYTES
  return tf.strings.substr(
    samples, starts, tf.fill(starts.shape, crop * _BYTES)
  )


def _decode(samples):
  """float32 [T] in [-1, 1) of raw little-endian 16-bit PCM bytes."""
  pcm = tf.io.decode_raw(samples, tf.int16, little_endian=True)
  return tf.cast(pcm, tf.float32) / audio.INT16_SCALE
