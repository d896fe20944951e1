"""Random numbers without state: seeds as functions of their purpose.

Each random number of a clip is a function of the run's seed, the epoch, the
clip and the number of its purpose. So a stream of clips may start anywhere, and
order, threads and hosts do not matter.
"""

import tensorflow as tf

# Purposes of `example_seed`. The augmentations of view 0, 1, ... of a clip have
# the number of the view, the crop of a view has CROP + view. The order of an
# epoch belongs to no clip; it is drawn as if for clip 0.
FILES, SHUFFLE, CROP = 101, 102, 103

# Purposes of `op_seed`: a view's augmentations, and its crop. An augmentation's
# number is its row in the table of uniform numbers, too.
# Append only: changing a number changes every view ever drawn.
OPS = {
  "polarity": 0,
  "noise": 1,
  "gain": 2,
  "filter": 3,
  "delay": 4,
  "pitch": 5,
  "reverb": 6,
  "crop": 7,
}

_GAMMA = 0x9E3779B97F4A7C15  # of SplitMix64


def example_seed(seed, epoch, example, view):
  """Seed (int64 [2]) of one view of one example in one epoch of one run.

  `seed`, `epoch`, `example` (number or 64-bit hash) and `view` are integers
  or integer tensors; each is absorbed by one SplitMix64 step. Of tensors [...]
  the seeds are [..., 2].
  """
  return finish_seed(begin_seed(seed, epoch, view), example)


def begin_seed(seed, epoch, view):
  """The part of `example_seed` without the example, once for many examples.

  Returns the state (uint64, of the arguments' common shape [...]) after three
  of its SplitMix64 steps, for `finish_seed`.
  """
  h = _u64(0)
  for value in (seed, epoch, view):
    h = _absorb(h, value)
  return h


def finish_seed(begun, example):
  """The `example_seed` (int64 [..., 2]) of an example; `begun` is [...]."""
  h = _absorb(begun, example)
  pair = [_splitmix(h + _u64(_GAMMA)), _splitmix(h + _u64(2 * _GAMMA))]
  return tf.bitcast(tf.stack(pair, axis=-1), tf.int64)


def op_seed(seed, op):
  """Seed of one op (a key of the config, or "crop"), from a view's seed [2]."""
  seed = tf.convert_to_tensor(seed)
  number = tf.constant(OPS[op], seed.dtype)
  return tf.random.experimental.stateless_fold_in(seed, number)


def _absorb(h, value):
  return _splitmix(tf.bitwise.bitwise_xor(h, _u64(value)) + _u64(_GAMMA))


def _splitmix(z):
  """Output function of SplitMix64 (Steele, Lea & Flood 2014) on uint64."""
  z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _u64(30)))
  z *= _u64(0xBF58476D1CE4E5B9)
  z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _u64(27)))
  z *= _u64(0x94D049BB133111EB)
  return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _u64(31)))


def _u64(value):
  if tf.is_tensor(value):
    return tf.bitcast(tf.cast(value, tf.int64), tf.uint64)
  return tf.constant(int(value) % 2**64, tf.uint64)
