"""From prepared clips to batches: views, labelled crops, crops and segments.

Clips are put into an order, cropped (`crops.py`), augmented (`augment.py`) and
batched. All random numbers are a function of (seed, epoch, clip): the files'
order, the shuffle, each view's crop and augmentation. There is no generator
state: a stream may start at any step, on any number of hosts and threads.
"""

import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vicreg_jax import files
from vicreg_jax.data import audio, augment, crops, records, seeds
from vicreg_jax.data.augment_config import VIEWS
from vicreg_jax.data.prepared import Prepared, reading

_OPEN_FILES = 16
# Clips ordered ahead, while the next epoch's shuffle fills.
_ORDERED_AHEAD = 4096
_BATCHES_AHEAD = 2
_CUT = min(16, os.cpu_count())  # whole clips in memory


class Share(NamedTuple):
  """A host's part of each batch: rows [index B/count, (index + 1) B/count)."""

  index: int = 0
  count: int = 1


_WHOLE = Share()


class Crops(NamedTuple):
  """A batch for augmentation on the device (`device_augment`).

  `draws` are those of `draw_for_device` for each view, arrays [B, V, ...].
  """

  pcm_BxVxT: np.ndarray  # int16
  draws: dict[str, dict[str, np.ndarray]]


class LabelledCrops(NamedTuple):
  """A batch of one crop of each clip, with the clip's labels."""

  x_BxT: np.ndarray
  labels_BxK: np.ndarray  # uint8


class Segments(NamedTuple):
  """A batch of consecutive segments; rows with mask 0 are padding."""

  x_BxT: np.ndarray
  clip_B: np.ndarray  # position of the clip in `labels`
  mask_B: np.ndarray


class Labels(NamedTuple):
  """The clips of a split in the pipeline's order."""

  ids: list[str]
  labels_NxK: np.ndarray  # uint8


# --- training ----------------------------------------------------------------


def num_train_clips(prepared: Prepared, config) -> int:
  """Number of training clips of a config; ValueError if there are none."""
  count = sum(prepared.num_clips.get(s, 0) for s in config.train_splits)
  if not count:
    left_out = [f"{n} {reason}" for reason, n in prepared.skipped.items()]
    raise ValueError(
      f"the data set {prepared.path} has no clip to train on, in"
      f" {' or '.join(config.train_splits)} (left out:"
      f" {', '.join(left_out) or 'none'}; skipped.csv there lists them): add"
      " clips, or lower data.crop if they are too short"
    )
  return count


def train_views(
  prepared: Prepared, config, *, start_step: int = 0, share: Share = _WHOLE
) -> Iterator[np.ndarray | Crops]:
  """Batches `views_BxVxT` (float32) of the training clips, without end.

  Or `Crops`, if `data.augment_on` is "device". Every epoch has another order of
  clips, and drops a short last batch. A host gets its share of each global
  batch. Starting at a step skips clips without reading them.

  Raises ValueError, at once or later, if a file of the data cannot be read, or
  cannot be copied from a bucket.
  """
  clips = records.Clips(prepared, config.train_splits)
  order = _order_without_end(clips, config, VIEWS, start_step, share)
  queue = crops.Queue(clips, order, config.data.crop)
  batches = _batches(queue, config, config.batch_size // share.count)
  return queue.stream(batches)


class ValidViews:
  """Iterates over batches of a split, as `train_views`; all passes are equal.

  Read each pass to its end. One iterator serves all passes, as a new one takes
  seconds to start. Losses need whole batches: a short last one is dropped.
  """

  def __init__(self, prepared: Prepared, config, split: str, batch_size: int):
    self._count = prepared.num_clips[split] // batch_size
    clips = records.Clips(prepared, (split,))
    order = _order(clips, config, VIEWS, tf.constant(-1, tf.int64))
    order = order.take(self._count * batch_size).repeat()
    queue = crops.Queue(clips, order, config.data.crop)
    self._batches = queue.stream(_batches(queue, config, batch_size))

  def __iter__(self) -> Iterator[np.ndarray | Crops]:
    return itertools.islice(self._batches, self._count)


def labelled_crops(
  prepared: Prepared,
  config,
  *,
  chosen: np.ndarray | None = None,
  start_step: int = 0,
  share: Share = _WHOLE,
) -> Iterator[LabelledCrops]:
  """Endless batches of a random crop of each training clip, and its labels.

  Orders, shares and steps are as in `train_views`; nothing is augmented.
  `probe_crops` draws the same crops for the same seed and epoch. With `chosen`,
  positions in `labels`, there are only these clips.
  """
  clips = records.Clips(prepared, ("train",))
  order = _order_without_end(clips, config, 1, start_step, share, chosen)
  batch_size = config.batch_size // share.count
  for x_BxT, clip_B in crops.batches(
    clips, order, config.data.crop, batch_size
  ):
    yield LabelledCrops(x_BxT, clips.index.labels_NxK[clip_B])


@tf.autograph.experimental.do_not_convert
def _order_without_end(
  clips, config, views, start_step, share, chosen=None
) -> tf.data.Dataset:
  """`_order` for all epochs, from a step on: a share of whole batches."""
  batch_size = config.batch_size
  count = len(clips.index.id_N) if chosen is None else len(chosen)
  per_epoch = count // batch_size
  epoch, step = divmod(start_step, per_epoch)
  order = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max).flat_map(
    lambda e: _order(clips, config, views, e, chosen).take(
      per_epoch * batch_size
    )
  )
  order = order.skip(step * batch_size)
  if share.count > 1:
    rows = batch_size // share.count
    order = order.enumerate().filter(
      lambda i, _: i % batch_size // rows == share.index
    )
    order = order.map(lambda _, clip: clip)
  return order.prefetch(_ORDERED_AHEAD)


@tf.autograph.experimental.do_not_convert
def _order(clips, config, views, epoch, chosen=None) -> tf.data.Dataset:
  """All clips, or those chosen, once, in the epoch's order.

  Elements are as for `crops`. Several files at a time, in random order, give a
  clip each in turn; then clips are shuffled.
  """
  begun = crops.begin(config.seed, epoch, views)

  def seed(number):
    return seeds.example_seed(
      config.seed, epoch, tf.zeros([], tf.int64), number
    )

  counts = list(clips.files.counts.values())
  ends_F = tf.constant(np.cumsum(counts))
  begins_F = ends_F - tf.constant(counts, tf.int64)
  order_F = tf.random.experimental.stateless_shuffle(
    tf.range(len(counts)), seed(seeds.FILES)
  )
  order = tf.data.Dataset.from_tensor_slices(order_F).interleave(
    lambda file: tf.data.Dataset.range(begins_F[file], ends_F[file]),
    cycle_length=min(len(counts), _OPEN_FILES),
    block_length=1,
  )
  if chosen is not None:
    is_chosen_N = tf.constant(np.isin(np.arange(sum(counts)), chosen))
    order = order.filter(lambda clip: is_chosen_N[clip])
  return order.shuffle(
    config.shuffle_buffer,
    seed=tf.cast(seed(seeds.SHUFFLE)[0], tf.int64),
    reshuffle_each_iteration=False,
  ).map(lambda clip: (begun, clip))


def draw_for_device(seed, chain) -> dict[str, dict[str, tf.Tensor]]:
  """The draws in `Crops` for a view, by its seed [2] and `config.augment`."""
  draws = augment.draw(seed, chain)
  if "noise" in draws:
    draws["noise"]["seed"] = tf.bitcast(seed, tf.uint32)[:, 0]
  return draws


def _batches(queue: crops.Queue, config, batch_size) -> tf.data.Dataset:
  """Whole batches `views_BxVxT`, or `Crops`, of a queue's crops.

  Views are augmented one at a time, by one graph.
  """
  chain = config.augment.to_dict()

  def view(pcm_T, seed):
    x_T = _to_float(pcm_T)
    return augment.augment(x_T, seed, chain, config.data.sample_rate)

  def crop(pcm_T, seed):
    return Crops(pcm_T, draw_for_device(seed, chain))

  def by_clip(x):
    return tf.reshape(x, [batch_size, VIEWS, *x.shape[1:]])

  # Batched at once: clip by clip, and then batch by batch, would copy twice.
  rows = queue.map(crop if config.data.augment_on == "device" else view)
  batches = rows.batch(batch_size * VIEWS, drop_remainder=True)
  batches = batches.map(lambda rows: tf.nest.map_structure(by_clip, rows))
  return batches.prefetch(_BATCHES_AHEAD).with_options(reading())


# --- probing and embedding ---------------------------------------------------


def labels(prepared: Prepared, split: str) -> Labels:
  """Ids and labels of every clip, in the order of all functions below."""
  if files.is_bucket(prepared.path):  # an index would copy all records
    dataset = prepared.dataset(split).map(lambda e: (e["id"], e["labels"]))
    id_N, rows = zip(*_read(prepared, split, dataset), strict=True)
    labels_NxK = np.stack(rows)
  else:
    id_N, labels_NxK, *_ = records.Clips(prepared, (split,)).index
  return Labels([clip_id.decode() for clip_id in id_N], labels_NxK)


def tracks(prepared: Prepared, split: str) -> list[str]:
  """The track of every clip, in the order of `labels`."""
  dataset = prepared.dataset(split).map(lambda example: example["track"])
  return [track.decode() for track in _read(prepared, split, dataset)]


def samples(prepared: Prepared, split: str) -> Iterator[bytes]:
  """The 16-bit PCM of every clip, little-endian, in the order of `labels`."""
  dataset = prepared.dataset(split).map(lambda example: example["samples"])
  return _read(prepared, split, dataset)


def probe_crops(
  prepared: Prepared,
  split: str,
  *,
  crop: int,
  seed: int,
  epoch: int,
  batch_size: int,
  chosen: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
  """One random crop `x_BxT` of each clip, in the order of `labels`.

  The last batch may be shorter. With `chosen`, positions of clips, there are
  only these clips, with the same crops.
  """
  clips = records.Clips(prepared, (split,))
  begun = crops.begin(seed, epoch, 1)
  if chosen is None:
    chosen = np.arange(len(clips.index.id_N))
  order = tf.data.Dataset.from_tensor_slices(chosen)
  order = order.map(lambda clip: (begun, clip))
  for x_BxT, _ in crops.batches(clips, order, crop, batch_size):
    yield x_BxT


def segments(
  prepared: Prepared, split: str, *, crop: int, batch_size: int, most: int = 0
) -> Iterator[Segments]:
  """Each clip cut into consecutive segments, a shorter rest dropped.

  `most`: how many segments a clip at most, evenly spread; 0: all.

  All batches have `batch_size` rows; the last is padded and masked. Every
  segment of every clip comes exactly once, in the order of `labels`.
  """

  def cut(index, example):
    pcm = tf.io.decode_raw(example["samples"], tf.int16, little_endian=True)
    count = tf.shape(pcm)[0] // crop
    pcm_SxT = tf.reshape(pcm[: count * crop], [count, crop])
    if most:
      kept = tf.minimum(count, most)
      pcm_SxT = tf.gather(pcm_SxT, tf.range(kept) * count // kept)
      count = kept
    return _to_float(pcm_SxT), tf.fill([count], tf.cast(index, tf.int32))

  rows = prepared.dataset(split).enumerate().map(cut, num_parallel_calls=_CUT)
  rows = rows.unbatch().batch(batch_size).prefetch(_BATCHES_AHEAD)
  for x_BxT, clip_B in _read(prepared, split, rows):
    n = len(clip_B)
    pad = batch_size - n
    yield Segments(
      np.pad(x_BxT, ((0, pad), (0, 0))),
      np.pad(clip_B, (0, pad)),
      np.pad(np.ones(n, np.float32), (0, pad)),
    )


def _read(prepared, split, dataset) -> Iterator:
  """Yields NumPy elements; where reading fails, names file and remedy."""
  with records.Files.of(prepared, (split,)).explained():
    yield from dataset.as_numpy_iterator()


def _to_float(pcm):
  """float32 in [-1, 1] of 16-bit PCM."""
  return tf.cast(pcm, tf.float32) / audio.INT16_SCALE
