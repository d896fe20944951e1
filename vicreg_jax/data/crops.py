"""Random crops of clips, for trainings and probes.

Three steps, each ahead of the next:

  draw    a start for each crop, by its own seed. `order` is a dataset of pairs
          (`begin(...)`, position of a clip): the clips to crop.
  read    the samples of the crop, and no more of the clip (`records.py`), by
          Python's threads.
  use     crops as batches in memory (`batches`), or one by one in tf.data
          (`Queue`), which augments them.
"""

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vicreg_jax.data import audio, records, seeds
from vicreg_jax.data.prepared import reading
from vicreg_jax.data.threads import map_in_order

# For a queue: clips that are read together, threads, and groups that are read
# ahead.
_GROUP, _READERS, _GROUPS_AHEAD = 16, min(8, os.cpu_count()), 2
_BATCHES_AHEAD = 4
_DRAWERS = 4
# Crops at work: a core that has ended one finds the next.
_CALLS = 2 * os.cpu_count()


class Drawn(NamedTuple):
  """The crops of a group of clips (G), V of each, before they are read."""

  clip_G: np.ndarray  # position of the clip in `records.Clips.index`
  start_GxV: np.ndarray  # first sample of the crop
  seed_GxVx2: np.ndarray  # for the augmentations of the crop


def begin(seed: int, epoch, views: int) -> tf.Tensor:
  """The part of the seeds that all clips of an epoch share, by view."""
  numbers = [seeds.CROP + v for v in range(views)] + [*range(views)]
  return seeds.begin_seed(seed, epoch, tf.constant(numbers, tf.int64))


def random_start(num_samples, crop: int, seed) -> tf.Tensor:
  """Start of a crop, uniform over 0 ... num_samples - crop (int64 scalar).

  A clip shorter than the crop raises an InvalidArgumentError.
  """
  num_samples = tf.cast(num_samples, tf.int64)
  check = tf.debugging.assert_greater_equal(
    num_samples,
    tf.constant(crop, tf.int64),
    message=f"The clip is shorter than the crop of {crop} samples.",
  )
  with tf.control_dependencies([check] if check is not None else []):
    last = num_samples - crop
  return tf.random.stateless_uniform(
    [], seeds.op_seed(seed, "crop"), 0, last + 1, tf.int64
  )


@tf.autograph.experimental.do_not_convert
def _draw(clips, order, crop, group) -> tf.data.Dataset:
  """A dataset of `Drawn`, of `group` clips each."""
  # A clip's number: a stable 62-bit hash of its id.
  number_N = tf.strings.to_hash_bucket_fast(clips.index.id_N, 2**62)
  length_N = tf.constant(clips.index.size_N // records.SAMPLE)

  def draw(begun, clip):
    drawn = seeds.finish_seed(begun, number_N[clip])
    crop_Vx2, view_Vx2 = tf.split(drawn, 2)
    starts = [
      random_start(length_N[clip], crop, crop_Vx2[v])
      for v in range(crop_Vx2.shape[0])
    ]
    return Drawn(clip, tf.stack(starts), view_Vx2)

  return (
    order.map(draw, num_parallel_calls=_DRAWERS)
    .batch(group)
    .with_options(reading())
  )


def _read(clips, drawn, crop, function, ahead) -> Iterator:
  """Yields function(blocks, skip, drawn) of each group; see `Clips.read`.

  The reading threads also call the function.
  """

  def read(group):
    blocks_GxVxM, skip_GxV = clips.read(group.clip_G, group.start_GxV, crop)
    return function(blocks_GxVxM, skip_GxV, group)

  return map_in_order(read, drawn.as_numpy_iterator(), _READERS, ahead)


def batches(
  clips: records.Clips, order: tf.data.Dataset, crop: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields float32 crops `x_BxT`, one of each clip, and its position `clip_B`.

  The last batch may be shorter. Raises ValueError if a crop cannot be read, or
  differs from its checksum.
  """

  def cut(blocks_Bx1xM, skip_Bx1, drawn):
    pcm = [
      blocks_1xM[0, skip : skip + crop]
      for blocks_1xM, (skip,) in zip(blocks_Bx1xM, skip_Bx1, strict=True)
    ]
    return audio.from_int16(np.stack(pcm)), drawn.clip_G

  drawn = _draw(clips, order, crop, batch_size)
  with clips.files.explained():
    yield from _read(clips, drawn, crop, cut, _BATCHES_AHEAD)


class Queue:
  """Crops in the order of their clips, without end, for tf.data to work on.

  TensorFlow could call Python to read (`tf.numpy_function`). But when a
  dataset's iterator is deleted, it holds the interpreter's lock and waits for
  running calls, which need the lock to end. So a Python thread fills a queue of
  TensorFlow's.
  """

  def __init__(self, clips: records.Clips, order: tf.data.Dataset, crop: int):
    self._clips = clips
    self._crop = crop
    self._drawn = _draw(clips, order, crop, _GROUP)
    types = [tf.int16, tf.int64, tf.int64]
    self._queue = tf.queue.FIFOQueue(_GROUPS_AHEAD, types)
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._error = None

  # AutoGraph's conversion takes as long as tracing, and nothing here needs it.
  # The same holds wherever the decorator stands.
  @tf.autograph.experimental.do_not_convert
  def map(self, function: Callable) -> tf.data.Dataset:
    """Maps each crop (int16 [T]) and its seed [2] by `function`.

    The V crops of a clip follow each other.
    """

    def one(group, row):
      blocks_RxM, skip_R, seed_Rx2 = group
      skip = skip_R[row]
      pcm_T = blocks_RxM[row, skip : skip + self._crop]
      return function(
        tf.ensure_shape(pcm_T, [self._crop]),
        tf.ensure_shape(seed_Rx2[row], [2]),
      )

    # Each crop comes with its whole group: rows would be copied.
    return (
      tf.data.Dataset.range(np.iinfo(np.int64).max)
      .map(lambda _: tuple(self._queue.dequeue()))
      .flat_map(
        lambda *group: tf.data.Dataset.range(
          tf.shape(group[1], tf.int64)[0]
        ).map(lambda row: (group, row))
      )
      .map(one, num_parallel_calls=_CALLS)
    )

  def stream(self, dataset: tf.data.Dataset) -> Iterator:
    """Elements, as NumPy, of a dataset made by `map`; call it once.

    Raises ValueError if a crop cannot be read, or differs from its checksum.
    """
    _running.add(self)
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
      # Before the iterator is deleted, which waits for its requests.
      self.end()

  def end(self, wait: bool = False):
    """Ends the thread. Wait only where no lock is held: not in clean-up."""
    if self._thread.is_alive():
      self._end_queue()
      if wait:
        self._thread.join()

  def _end_queue(self):
    # Clean-up may happen while a graph is built, and must stay out of it.
    with tf.init_scope(), contextlib.suppress(tf.errors.CancelledError):
      self._queue.close(cancel_pending_enqueues=True)

  def _run(self):
    def rows(blocks_GxVxM, skip_GxV, drawn):
      # Copy to TensorFlow here, in parallel, rather than in `enqueue`.
      return [
        tf.constant(x.reshape(-1, *x.shape[2:]))
        for x in (blocks_GxVxM, skip_GxV, drawn.seed_GxVx2)
      ]

    try:
      for group in _read(self._clips, self._drawn, self._crop, rows, _READERS):
        self._queue.enqueue(group)
    except tf.errors.CancelledError:
      pass  # the queue has ended
    except BaseException as e:
      self._error = e
    finally:
      self._end_queue()


_running = weakref.WeakSet()  # of Queue


@atexit.register
def _end_all():
  """Ends all threads at exit: else they would stop inside TensorFlow."""
  for queue in list(_running):
    queue.end(wait=True)
