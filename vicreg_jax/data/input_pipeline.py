"""From prepared clips to batches of views (training) and segments (probing).

Everything drawn here is a function of (seed, epoch, clip): the files' order,
the shuffle, each view's crop and augmentation. No generator state exists, so
the stream may be entered at any step, on any number of hosts and threads.
"""

import atexit
import concurrent.futures
import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vicreg_jax.data import audio, augment, records
from vicreg_jax.data.datasets import base
from vicreg_jax.data.prepared import Prepared
from vicreg_jax.data.views import VIEWS

# Numbers of the pipeline's own draws, apart from the views' (0, 1, ...).
_FILES, _SHUFFLE, _CROP = 101, 102, 103
# What each view of a clip draws from: its crop, then its augmentations.
_NUMBERS = [_CROP + v for v in range(VIEWS)] + [*range(VIEWS)]
_OPEN_FILES = 16
# Clips read in one go, by so many threads, and how many goes ahead of what
# follows.
_GROUP, _READERS, _GROUPS_AHEAD = 16, min(8, os.cpu_count()), 2
_DRAWERS = 4
# Views at work: a core that has ended one finds the next.
_CALLS = 2 * os.cpu_count()
# Clips drawn ahead, for the time that the next epoch's shuffle takes to fill.
_DRAWN_AHEAD = 4096


class Segments(NamedTuple):
  """A batch of consecutive segments; rows with mask 0 are padding."""

  x_BxT: np.ndarray
  clip_B: np.ndarray  # position of the clip in `labels`
  mask_B: np.ndarray


class LabelledCrops(NamedTuple):
  """A batch of one crop of each clip, with the clip's labels."""

  x_BxT: np.ndarray
  labels_BxK: np.ndarray  # uint8


def num_train_clips(prepared: Prepared, config) -> int:
  """Clips of the splits that the config trains on."""
  return sum(prepared.num_clips.get(s, 0) for s in config.train_splits)


def train_views(
  prepared: Prepared,
  config,
  *,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[np.ndarray]:
  """Batches `views_BxVxT` (float32) of the training clips, without end.

  Every epoch takes the clips in an order of its own and drops a short last
  batch. Of each global batch, host h of H gets rows [h B/H, (h+1) B/H).
  Starting at a step skips clips before anything is read.

  Raises ValueError, at once or while it is read, if a file of the data cannot
  be read, or not be copied from a bucket.
  """
  raw = raw_views(
    prepared,
    config,
    start_step=start_step,
    process_index=process_index,
    process_count=process_count,
  )
  batches = _view_batches(raw, config, config.batch_size // process_count)
  return raw.stream(batches)


def raw_views(prepared: Prepared, config, **where) -> "CropStream":
  """The crops of `train_views`'s views, each with the view's seed [2].

  `where`: `start_step`, `process_index` and `process_count` as there.
  """
  clips = records.Clips(prepared, config.train_splits)
  drawn = _without_end(clips, config, _NUMBERS, **where)
  return _view_crops(clips, config, drawn)


def train_crops(
  prepared: Prepared,
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
  clips = records.Clips(prepared, ("train",))
  drawn = _without_end(
    clips,
    config,
    [_CROP],
    start_step=start_step,
    process_index=process_index,
    process_count=process_count,
  )
  labels_NxK = tf.constant(clips.index.labels_NxK)
  drawn = _draw(
    clips, drawn, config.data.crop, 1, lambda clip, _: labels_NxK[clip][None]
  )
  crops = CropStream(clips, config.data.crop, drawn)
  examples = crops.map(lambda pcm_T, labels_K: (_to_float(pcm_T), labels_K))
  share = config.batch_size // process_count
  batches = _batches(examples, share, drop_remainder=True)
  for x_BxT, labels_BxK in crops.stream(batches):
    yield LabelledCrops(x_BxT, labels_BxK)


def _without_end(
  clips, config, numbers, start_step=0, process_index=0, process_count=1
) -> tf.data.Dataset:
  """`_epoch` after epoch, from a step on: one host's clips of whole batches."""
  per_epoch = len(clips.index.id_N) // config.batch_size
  epoch, step = divmod(start_step, per_epoch)
  drawn = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max).flat_map(
    lambda e: _epoch(clips, config, numbers, e).take(
      per_epoch * config.batch_size
    )
  )
  drawn = drawn.skip(step * config.batch_size)
  if process_count > 1:
    share = config.batch_size // process_count
    drawn = drawn.enumerate().filter(
      lambda i, _: i % config.batch_size // share == process_index
    )
    drawn = drawn.map(lambda _, clip: clip)
  return drawn.prefetch(_DRAWN_AHEAD)


class ValidViews:
  """Iterates over `views_BxVxT` of a split, the same views every time.

  Each pass is to be read to its end. One iterator serves them all: to build the
  graph and to start it takes seconds, and a run evaluates often. The losses are
  defined on whole batches, so a short last one is dropped.
  """

  def __init__(self, prepared: Prepared, config, split: str, batch_size: int):
    self._count = prepared.num_clips[split] // batch_size
    clips = records.Clips(prepared, (split,))
    drawn = _epoch(clips, config, _NUMBERS, tf.constant(-1, tf.int64))
    drawn = drawn.take(self._count * batch_size).repeat()
    crops = _view_crops(clips, config, drawn)
    self._batches = crops.stream(_view_batches(crops, config, batch_size))

  def __iter__(self) -> Iterator[np.ndarray]:
    return itertools.islice(self._batches, self._count)


def crops(
  prepared: Prepared,
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
    samples = example["samples"]
    start = augment.random_crop_start(
      tf.strings.length(samples) // records.SAMPLE,
      crop,
      augment.example_seed(seed, epoch, _hash(example["id"]), _CROP),
    )
    at = tf.cast(start, tf.int32) * records.SAMPLE
    return _decode(tf.strings.substr(samples, at, crop * records.SAMPLE))

  examples = prepared.dataset(split).map(
    one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  batches = _batches(examples, batch_size, drop_remainder=False)
  return _read_or_explain(records.Files.of(prepared, (split,)), batches)


def segments(
  prepared: Prepared, split: str, *, crop: int, batch_size: int
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
  place = records.Files.of(prepared, (split,))
  for x_BxT, clip_B in _read_or_explain(place, _options(rows)):
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


def labels(prepared: Prepared, split: str) -> Labels:
  """Ids and labels of every clip, in the order `crops` and `segments` use."""
  ids, rows = [], []
  keys = prepared.dataset(split).map(lambda e: (e["id"], e["labels"]))
  place = records.Files.of(prepared, (split,))
  for clip_id, row in _read_or_explain(place, keys):
    ids.append(clip_id.decode())
    rows.append(row)
  return Labels(ids, np.stack(rows))


def _epoch(clips, config, numbers, epoch) -> tf.data.Dataset:
  """All clips once, in an order of the epoch's own.

  Elements are (what `augment.begin_seed` makes of `numbers`, clip). Several
  files at a time, in an order that is drawn, give a clip each in turn; then
  clips are shuffled.
  """
  begun = augment.begin_seed(config.seed, epoch, tf.constant(numbers, tf.int64))

  def seed(number):
    return augment.example_seed(
      config.seed, epoch, tf.zeros([], tf.int64), number
    )

  counts = list(clips.files.counts.values())
  ends_F = tf.constant(np.cumsum(counts))
  begins_F = ends_F - tf.constant(counts, tf.int64)
  order_F = tf.random.experimental.stateless_shuffle(
    tf.range(len(counts)), seed(_FILES)
  )
  return (
    tf.data.Dataset.from_tensor_slices(order_F)
    .interleave(
      lambda file: tf.data.Dataset.range(begins_F[file], ends_F[file]),
      cycle_length=min(len(counts), _OPEN_FILES),
      block_length=1,
    )
    .shuffle(
      config.shuffle_buffer,
      seed=tf.cast(seed(_SHUFFLE)[0], tf.int64),
      reshuffle_each_iteration=False,
    )
    .map(lambda clip: (begun, clip))
  )


class CropStream:
  """Crops of drawn clips, without end, read ahead by Python's own threads.

  TensorFlow can call Python to read (`tf.numpy_function`). But when a dataset's
  iterator is deleted, it waits for calls that have begun and has the lock of
  the interpreter, which they need to end.
  """

  def __init__(self, clips: records.Clips, crop: int, drawn: tf.data.Dataset):
    """`drawn` has elements (clips [G], starts [G, V], anything [G, V, ...])."""
    self._clips = clips
    self._crop = crop
    self._drawn = drawn
    self._also = drawn.element_spec[2]
    types = [tf.int16, tf.int64, self._also.dtype]
    self._queue = tf.queue.FIFOQueue(_GROUPS_AHEAD, types)
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._error = None

  def map(self, function) -> tf.data.Dataset:
    """What `function` makes of each crop (int16 [T]) and what belongs to it."""

    # Converting all that is called takes as long as tracing it; there is no
    # Python in it to convert.
    @tf.autograph.experimental.do_not_convert
    def one(group, row):
      content_RxM, skip_R, also_R = group
      skip = skip_R[row]
      pcm_T = content_RxM[row, skip : skip + self._crop]
      return function(
        tf.ensure_shape(pcm_T, [self._crop]),
        tf.ensure_shape(also_R[row], self._also.shape[2:]),
      )

    # Each crop with all of its group, which is not copied, as rows would be.
    return (
      tf.data.Dataset.range(np.iinfo(np.int64).max)
      .map(lambda _: tuple(self._queue.dequeue()))
      .flat_map(
        lambda *group: tf.data.Dataset.range(
          tf.shape(group[1], tf.int64)[0]
        ).map(lambda row: (group, row))
      )
      .map(one, num_parallel_calls=_CALLS, deterministic=True)
    )

  def stream(self, dataset) -> Iterator:
    """Elements as NumPy of what is made of `map`; once for each object.

    Raises ValueError if a crop cannot be read, or is not what was indexed.
    """
    _reading.add(self)
    iterator = dataset.as_numpy_iterator()
    try:
      self._thread.start()
      with self._clips.files.explained():
        try:
          yield from iterator
        except GeneratorExit:  # perhaps at exit, when modules are gone
          raise
        except tf.errors.OpError:
          if not self._error:
            raise
        if self._error:
          raise self._error
    finally:
      # Before the iterator is deleted, which waits for what it asked for.
      self.end()

  def end(self, wait: bool = False):
    """Has the thread end. Wait only where no lock is held: not in clean-up."""
    if self._thread.is_alive():
      self._end_queue()
      if wait:
        self._thread.join()

  def _end_queue(self):
    # Whoever cleans up may be building a graph, of which this is no part.
    with tf.init_scope(), contextlib.suppress(tf.errors.CancelledError):
      self._queue.close(cancel_pending_enqueues=True)

  def _run(self):
    def read(drawn):
      clip_G, start_GxV, also_GxV = drawn
      content_GxVxM, skip_GxV = self._clips.read(clip_G, start_GxV, self._crop)
      # Copied to TensorFlow here, where others go on, rather than by `enqueue`.
      return [
        tf.constant(x.reshape(-1, *x.shape[2:]))
        for x in (content_GxVxM, skip_GxV, also_GxV)
      ]

    try:
      drawn = self._drawn.as_numpy_iterator()
      with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        for group in base.map_in_order(read, drawn, pool, _READERS):
          self._queue.enqueue(group)
    except tf.errors.CancelledError:
      pass  # the queue has ended
    except BaseException as e:
      self._error = e
    finally:
      self._end_queue()


_reading = weakref.WeakSet()  # of CropStream


@atexit.register
def _end_reading():
  """Left running at exit, threads would be stopped amid TensorFlow."""
  for crops in list(_reading):
    crops.end(wait=True)


def _view_crops(clips, config, drawn) -> CropStream:
  """Each view's crop, with the view's seed."""
  drawn = _draw(
    clips,
    drawn,
    config.data.crop,
    VIEWS,
    lambda clip, seeds: seeds[VIEWS:],
  )
  return CropStream(clips, config.data.crop, drawn)


def _draw(clips, drawn, crop, count, also) -> tf.data.Dataset:
  """Starts of so many crops of each clip, drawn by the first of its seeds.

  Elements are (clips [G], starts [G, V], [G, V, ...] that `also` makes of each
  clip and its seeds), of a group of clips.
  """
  number_N = _hash(clips.index.id_N)
  length_N = tf.constant(clips.index.size_N // records.SAMPLE)

  def draw(begun, clip):
    seeds = augment.finish_seed(begun, number_N[clip])
    starts = [
      augment.random_crop_start(length_N[clip], crop, seeds[v])
      for v in range(count)
    ]
    return clip, tf.stack(starts), also(clip, seeds)

  options = tf.data.Options()
  # There is little to tune, and what is tuned may take a minute to end.
  options.autotune.enabled = False
  return (
    drawn.map(draw, num_parallel_calls=_DRAWERS, deterministic=True)
    .batch(_GROUP)
    .with_options(options)
  )


def _view_batches(crops: CropStream, config, batch_size) -> tf.data.Dataset:
  """Whole batches [B, V, T] of the augmented views of crops.

  A view at a time, so that there is one graph of the augmentations to build.
  """
  chain = config.augment.to_dict()

  def view(pcm_T, seed):
    x_T = _to_float(pcm_T)
    return augment.augment(x_T, seed, chain, config.data.sample_rate)

  # Batched at once: clip by clip, and then batch by batch, would copy twice.
  shape = [batch_size, VIEWS, config.data.crop]
  batches = crops.map(view).batch(batch_size * VIEWS, drop_remainder=True)
  batches = batches.map(lambda x: tf.reshape(x, shape))
  return _options(batches.prefetch(tf.data.AUTOTUNE))


def _batches(examples, batch_size, drop_remainder) -> tf.data.Dataset:
  examples = examples.batch(batch_size, drop_remainder=drop_remainder)
  return _options(examples.prefetch(tf.data.AUTOTUNE))


def _options(examples):
  options = tf.data.Options()
  options.deterministic = True
  options.experimental_optimization.inject_prefetch = False
  return examples.with_options(options)


def _read_or_explain(files: records.Files, dataset):
  """Yields NumPy elements; where reading fails, names file and remedy."""
  with files.explained():
    yield from dataset.as_numpy_iterator()


def _hash(clip_id):
  """A clip's number: a stable 62-bit hash of its id."""
  return tf.strings.to_hash_bucket_fast(clip_id, 2**62)


def _decode(samples):
  """float32 [T] in [-1, 1) of raw little-endian 16-bit PCM bytes."""
  return _to_float(tf.io.decode_raw(samples, tf.int16, little_endian=True))


def _to_float(pcm):
  return tf.cast(pcm, tf.float32) / audio.INT16_SCALE
