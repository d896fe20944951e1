import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
import warm
from conftest import shrink

from vicreg_jax import config as configs
from vicreg_jax.data import audio, datasets, records, seeds
from vicreg_jax.data import input_pipeline as pipeline
from vicreg_jax.data.prepared import Prepared


def raw_clips(prepared, split):
  """{id: float32 [T]} straight from the records."""
  return {
    e["id"].decode(): audio.from_int16(np.frombuffer(e["samples"], "<i2"))
    for e in prepared.dataset(split).as_numpy_iterator()
  }


@pytest.fixture
def mine(prepared, tmp_path):
  """A copy of the prepared data, to be changed, without an index."""
  copy = tmp_path / "1.0.0"
  unindexed = shutil.ignore_patterns("index-*")
  shutil.copytree(prepared.path, copy, ignore=unindexed)
  return Prepared.open(copy)


def plain(config):
  """No augmentation: views are crops that can be found in their clips."""
  for op in config.augment.values():
    op.p = 0.0
  return config


def owners(views_BxVxT, clips):
  """The clip of each row, found by searching both views in all clips."""
  found = []
  for pair in views_BxVxT:
    names = set()
    for view in pair:
      places = {
        (name, start)
        for name, clip in clips.items()
        for start in np.flatnonzero(
          clip[: len(clip) - len(view) + 1] == view[0]
        )
        if np.array_equal(clip[start : start + len(view)], view)
      }
      names.add(frozenset(name for name, _ in places))
    (owner,) = names  # both views are of the same clip
    (owner,) = owner
    found.append(owner)
  return found


def test_an_epoch_has_every_clip_once_and_the_next_another_order(
  small, prepared
):
  clips = raw_clips(prepared, "train")
  views = pipeline.train_views(prepared, plain(small))
  first, second = (
    [owners(next(views), clips) for _ in range(3)] for _ in range(2)
  )
  first, second = sum(first, []), sum(second, [])
  assert sorted(first) == sorted(clips) == sorted(second)
  assert first != second


def test_a_short_last_batch_is_dropped(small, prepared):
  small.batch_size = 10
  clips = raw_clips(prepared, "train")
  views = pipeline.train_views(prepared, plain(small))
  two_epochs = [owners(next(views), clips) for _ in range(4)]
  for epoch in (two_epochs[:2], two_epochs[2:]):
    assert len(set(sum(epoch, []))) == 20


def test_the_two_views_are_cropped_and_augmented_apart(small, prepared):
  views = next(pipeline.train_views(prepared, augmented(small)))
  assert views.shape == (8, 2, 243) and views.dtype == np.float32
  for a, b in views:
    assert not np.array_equal(a, b)
  crops = next(pipeline.train_views(prepared, plain(small)))
  changed = (views != crops).any(-1).mean()
  assert changed == 1


@pytest.mark.parametrize("start", [1, 3, 5, 7])
def test_the_stream_may_be_entered_at_any_step(small, prepared, start):
  whole = pipeline.train_views(prepared, small)
  expected = list(itertools.islice(whole, 9))[start:]
  entered = pipeline.train_views(prepared, small, start_step=start)
  for a, b in zip(expected, itertools.islice(entered, 9 - start), strict=True):
    np.testing.assert_array_equal(a, b)


def on_one_core(data_dir, out):
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before tf.data
  config = augmented(shrink(configs.base_pretrain(), data_dir))
  views = pipeline.train_views(datasets.prepare(config.data), config)
  np.save(out, list(itertools.islice(views, 8)))


@pytest.mark.slow
def test_the_views_do_not_depend_on_cores_or_on_where_they_begin(
  small, data_dir, prepared, tmp_path
):
  """All augmentations, on one core from step 0 and on all from step 4."""
  out = tmp_path / "views.npy"
  process = warm.Process(
    on_one_core, data_dir, out, out=tmp_path / "o", err=tmp_path / "e"
  )
  code, _, errors = process.wait()
  assert code == 0, errors
  expected = np.load(out)
  entered = pipeline.train_views(prepared, augmented(small), start_step=4)
  found = np.stack(list(itertools.islice(entered, 4)))
  assert found.tobytes() == expected[4:].tobytes()
  crops = pipeline.train_views(prepared, plain(small), start_step=4)
  assert (next(crops) != found[0]).any(-1).all()


def augmented(config):
  """Everything in the chain, always; in a window smaller than the set."""
  for op in config.augment.values():
    op.p = 1.0
  config.shuffle_buffer = 7
  return config


def flip(path, place=None):
  """Flips a bit there, or amid the samples of a clip in the middle.

  As a disk would: the file is as old as before.
  """
  times = path.stat()
  content = bytearray(path.read_bytes())
  content[place or len(content) // 2 + len(content) // 48] ^= 16
  replace(path, content)
  os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path, content):
  """At once: a reader shall not see it empty, which would be another fault."""
  new = path.with_name("new")
  new.write_bytes(content)
  new.replace(path)


def cut_between_records(path):
  records = list(tf.data.TFRecordDataset(str(path)).take(20))
  new = path.with_name("new")
  with tf.io.TFRecordWriter(str(new)) as f:
    for record in records:
      f.write(record.numpy())
  new.replace(path)


@pytest.mark.parametrize(
  "damage, named",
  [
    (pathlib.Path.unlink, "(missing)"),
    (lambda p: replace(p, p.read_bytes()[:-9]), "(damaged)"),
    (flip, "(damaged)"),
    (cut_between_records, "(20 of 24 records)"),
  ],
)
def test_damaged_records_are_named_and_the_run_goes_on_once_repaired(
  small, prepared, mine, damage, named
):
  (file,) = pathlib.Path(mine.path).glob("*-train.tfrecord*")
  views = pipeline.train_views(prepared, plain(small))
  expected = list(itertools.islice(views, 9))
  views = pipeline.train_views(mine, small)
  np.testing.assert_array_equal(next(views), expected[0])
  damage(file)
  with pytest.raises(ValueError) as caught:  # in some later epoch
    list(itertools.islice(views, 60))
  assert f"{file} {named} cannot be read: put a copy" in str(caught.value)
  assert "\n" not in str(caught.value)
  for read in (
    lambda: list(pipeline.segments(mine, "train", crop=243, batch_size=8)),
    lambda: list(
      pipeline.probe_crops(
        mine, "train", crop=243, seed=0, epoch=0, batch_size=8
      )
    ),
  ):
    with pytest.raises(ValueError, match="put a copy"):
      read()
  shutil.copy(pathlib.Path(prepared.path) / file.name, file)
  again = pipeline.train_views(mine, small, start_step=5)
  np.testing.assert_array_equal(next(again), expected[5])


@pytest.mark.parametrize(
  "name", ["dataset_info.json", "features.json", "metadata.json"]
)
def test_damaged_metadata_are_named(small, tmp_path, name):
  small.data.dir = str(tmp_path)
  small.data.sizes = (2, 0, 0)
  path = pathlib.Path(datasets.prepare(small.data).path)
  content = (path / name).read_bytes()
  for damaged in (None, b"", content[: len(content) // 2]):
    (path / name).unlink()
    if damaged is not None:
      (path / name).write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{path} are damaged"):
      datasets.prepare(small.data)
    (path / name).write_bytes(content)
  assert datasets.prepare(small.data).num_clips == {"train": 2}


def test_hosts_share_a_batch_without_overlap_or_gap(small, prepared):
  whole = pipeline.train_views(prepared, small, start_step=2)
  shares = [
    pipeline.train_views(
      prepared, small, start_step=2, share=pipeline.Share(h, 2)
    )
    for h in range(2)
  ]
  for _ in range(3):
    joined = np.concatenate([next(share) for share in shares])
    np.testing.assert_array_equal(next(whole), joined)


def test_several_splits_make_one_stream(small, prepared):
  small.train_splits = ("train", "test")
  assert pipeline.num_train_clips(prepared, small) == 34
  clips = raw_clips(prepared, "train") | raw_clips(prepared, "test")
  small.batch_size = 17
  views = pipeline.train_views(prepared, plain(small))
  seen = owners(next(views), clips) + owners(next(views), clips)
  assert sorted(seen) == sorted(clips)


def in_files(prepared, directory, counts):
  """The same training clips in so many files, of so many clips each."""
  records_ = tf.data.TFRecordDataset(
    [str(f) for f in prepared.builder.info.splits["train"].filepaths]
  ).as_numpy_iterator()
  shutil.copytree(prepared.path, directory)
  for file in directory.glob("*-train.tfrecord*"):
    file.unlink()
  for i, count in enumerate(counts):
    name = f"synthetic-train.tfrecord-{i:05}-of-{len(counts):05}"
    with tf.io.TFRecordWriter(str(directory / name)) as f:
      for record in itertools.islice(records_, count):
        f.write(record)
  info = json.loads((directory / "dataset_info.json").read_text())
  for split in info["splits"]:
    if split["name"] == "train":
      split["shardLengths"] = [str(n) for n in counts]
  (directory / "dataset_info.json").write_text(json.dumps(info))
  return Prepared.open(directory)


def test_clips_of_many_files_come_in_an_order_of_each_epoch(
  small, prepared, tmp_path
):
  """As tf.data has them when it reads and shuffles whole records."""
  counts = (1, 5, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
  many = in_files(prepared, tmp_path / "1.0.0", counts)
  small.shuffle_buffer = 7
  small.batch_size = 24
  clips = raw_clips(many, "train")
  assert sorted(clips) == sorted(raw_clips(prepared, "train"))
  views = pipeline.train_views(many, plain(small))
  orders = [owners(next(views), clips) for _ in range(3)]
  for epoch, order in enumerate(orders):
    assert order == order_by_reading(many, small, epoch)
  assert orders[0] != orders[1] != orders[2]


def order_by_reading(prepared, config, epoch):
  """Ids of whole records, read in the order that the epoch's seeds draw."""

  def seed(number):
    zero = tf.zeros([], tf.int64)
    return seeds.example_seed(config.seed, epoch, zero, number)

  info = prepared.builder.info
  files = [str(f) for f in info.splits["train"].filepaths]
  examples = (
    tf.data.Dataset.from_tensor_slices(
      tf.random.experimental.stateless_shuffle(files, seed(101))
    )
    .interleave(tf.data.TFRecordDataset, cycle_length=16, num_parallel_calls=2)
    .map(info.features.deserialize_example)
    .shuffle(
      config.shuffle_buffer,
      seed=tf.cast(seed(102)[0], tf.int64),
      reshuffle_each_iteration=False,
    )
  )
  return [e["id"].decode() for e in examples.as_numpy_iterator()]


def test_a_flip_beside_the_samples_concerns_who_reads_it(small, mine):
  views = pipeline.train_views(mine, small)
  expected = list(itertools.islice(views, 9))
  (file,) = pathlib.Path(mine.path).glob("*-train.tfrecord*")
  flip(file, place=20)
  again = pipeline.train_views(mine, small)
  np.testing.assert_array_equal(list(itertools.islice(again, 9)), expected)
  with pytest.raises(ValueError, match="damaged"):
    list(pipeline.segments(mine, "train", crop=243, batch_size=8))


@pytest.mark.parametrize("index", [None, b"", b"PK", "flip", "other"])
def test_an_index_that_does_not_fit_is_made_anew(small, mine, index):
  expected = next(pipeline.train_views(mine, small))
  path = pathlib.Path(mine.path, "index-train.npz")
  good = path.read_bytes()
  if index == "flip":
    flip(path)
  elif index == "other":
    records.Clips(mine, ("valid",))
    shutil.copy(path.with_name("index-valid.npz"), path)
  elif index is None:
    path.unlink()
  else:
    path.write_bytes(index)
  found = next(pipeline.train_views(mine, small))
  np.testing.assert_array_equal(found, expected)
  assert path.read_bytes() == good


def test_an_index_of_records_that_were_rewritten_is_made_anew(mine):
  """At the same size, too."""
  records.Clips(mine, ("valid",))
  (path,) = pathlib.Path(mine.path).glob("*valid.tfrecord*")
  size, changed = path.stat().st_size, []
  for record in list(tf.data.TFRecordDataset(str(path))):
    example = tf.train.Example.FromString(record.numpy())
    (pcm,) = example.features.feature["samples"].bytes_list.value
    example.features.feature["samples"].bytes_list.value[0] = pcm[::-1]
    changed.append(example.SerializeToString(deterministic=True))
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in changed:
      writer.write(record)
  assert path.stat().st_size == size
  expected = raw_clips(mine, "valid")
  clips = records.Clips(mine, ("valid",))
  for clip, name in enumerate(clips.index.id_N):
    samples = audio.from_int16(clips.part(clip, 3, 900))
    np.testing.assert_array_equal(samples, expected[name.decode()][3:900])


def test_an_index_is_not_needed_on_disk(small, prepared, mine, monkeypatch):
  """Others' data, or a full disk."""
  expected = next(pipeline.train_views(prepared, small))

  def write(path, content):
    raise OSError(28, "No space left on device")

  scans, scan = [], records._scan
  monkeypatch.setattr(records.files, "write", write)
  monkeypatch.setattr(records, "_scan", lambda *a: scans.append(a) or scan(*a))
  found = next(pipeline.train_views(mine, small))
  np.testing.assert_array_equal(found, expected)
  pipeline.labels(mine, "train")
  assert len(scans) == 1  # not over again each time


@pytest.mark.parametrize("content", [b"\xff", b"", b"no clip"])
def test_records_that_are_no_clips_are_named(mine, content):
  (path,) = pathlib.Path(mine.path).glob("*valid.tfrecord*")
  with tf.io.TFRecordWriter(str(path)) as writer:
    for _ in range(mine.num_clips["valid"]):
      writer.write(content)
  message = f"{path} has a record that is no clip"
  with pytest.raises(ValueError, match=re.escape(message)):
    records.Clips(mine, ("valid",))


@pytest.mark.parametrize("crop", [1, 5_000, 8_192, 59_049, 100_000])
def test_crops_read_are_those_of_the_clip(small, tmp_path, crop):
  """From the first sample to the last, whole blocks and parts of them."""
  small.data.update(
    dir=str(tmp_path), sizes=(3, 0, 0), clip_seconds=5.0, crop=crop
  )
  prepared = datasets.prepare(small.data)
  clips = records.Clips(prepared, ("train",))
  names = [i.decode() for i in clips.index.id_N]
  whole = raw_clips(prepared, "train")
  assert names == pipeline.labels(prepared, "train").ids
  last = len(whole[names[0]]) - crop
  start_NxV = np.array([[0, last], [last // 2, 8_191], [1, last - 1]])
  pcm_NxVxM, skip_NxV = clips.read(np.array([2, 0, 1]), start_NxV, crop)
  for n, clip in enumerate((2, 0, 1)):
    for v in range(2):
      skip, start = skip_NxV[n, v], start_NxV[n, v]
      np.testing.assert_array_equal(
        audio.from_int16(pcm_NxVxM[n, v, skip : skip + crop]),
        whole[names[clip]][start : start + crop],
      )


def test_nothing_is_tuned(small, mine, monkeypatch):
  """TensorFlow's thread for it may take a minute to end, and is waited for."""
  begin, tuned = tf.data.Dataset.__iter__, []

  def begun(dataset):
    tuned.append(dataset.options().autotune.enabled)
    return begin(dataset)

  monkeypatch.setattr(tf.data.Dataset, "__iter__", begun)
  size = dict(crop=243, batch_size=8)
  for stream in (
    pipeline.train_views(mine, small),
    pipeline.ValidViews(mine, small, "valid", 8),
    pipeline.labelled_crops(mine, small),
    pipeline.probe_crops(mine, "train", seed=0, epoch=0, **size),
    pipeline.segments(mine, "train", **size),
    pipeline.tracks(mine, "train"),
    pipeline.samples(mine, "train"),
  ):
    next(iter(stream))
  (file,) = pathlib.Path(mine.path).glob("*-train.tfrecord*")
  flip(file)
  with pytest.raises(ValueError, match="damaged"):
    list(pipeline.samples(mine, "train"))
  assert len(tuned) > 9 and set(tuned) == {False}


def test_streams_that_are_dropped_end_their_threads(small, prepared):
  def threads():
    return {t for t in threading.enumerate() if "_run" in t.name}

  before = threads()
  for number in (0, 1, 9):
    views = pipeline.train_views(prepared, small)
    list(itertools.islice(views, number))
    assert len(threads() - before) == (number > 0)
    del views
    for thread in threads() - before:
      thread.join(120)
      assert not thread.is_alive()


def first_views(data_dir):
  """What a process does that ends with a stream open; prints "one"."""
  config = shrink(configs.base_pretrain(), data_dir)
  views = pipeline.train_views(datasets.prepare(config.data), config)
  next(views)
  print("one", flush=True)
  return views


# Forks once all is imported; each child ends as the interpreter does.
ENDS = """
import os, sys
import preloaded
from test_input_pipeline import first_views
out, data_dir, *ends = sys.argv[1:]
for i, end in enumerate(ends):
  if not (child := os.fork()):
    for number, name in ((1, "out"), (2, "err")):
      os.dup2(os.open(f"{out}/{name}{i}", os.O_WRONLY | os.O_CREAT), number)
    views = first_views(data_dir)
    exec(end)
    break
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_a_process_may_end_while_a_stream_is_open(data_dir, prepared, tmp_path):
  codes = {"": 0, "sys.exit(3)": 3, "1 / 0": 1, "del views": 0}
  done = subprocess.run(
    [sys.executable, "-c", ENDS, tmp_path, data_dir, *codes],
    capture_output=True,
    text=True,
    timeout=warm.PATIENCE,
  )
  assert done.returncode == 0, done.stderr
  for i, end in enumerate(codes):
    errors = (tmp_path / f"err{i}").read_text()
    assert (tmp_path / f"out{i}").read_text() == "one\n", (end, errors)
    assert "Exception ignored" not in errors, end
  assert list(map(int, done.stdout.split())) == list(codes.values())


def test_validation_views_are_the_same_every_time(small, prepared):
  views = pipeline.ValidViews(prepared, small, "valid", 4)
  first, again = list(views), list(views)
  anew = list(pipeline.ValidViews(prepared, small, "valid", 4))
  assert [len(b) for b in first] == [4, 4]  # of nine clips
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(first, anew)


def test_segments_count_every_clip_once(prepared):
  crop, clips = 243, raw_clips(prepared, "test")
  batches = list(pipeline.segments(prepared, "test", crop=crop, batch_size=8))
  assert all(b.x_BxT.shape == (8, crop) for b in batches)
  mask = np.concatenate([b.mask_B for b in batches]) > 0
  x_MxT = np.concatenate([b.x_BxT for b in batches])[mask]
  clip_M = np.concatenate([b.clip_B for b in batches])[mask]
  names = pipeline.labels(prepared, "test").ids
  assert sorted(names) == sorted(clips)
  for n, name in enumerate(names):
    whole = len(clips[name]) // crop * crop
    np.testing.assert_array_equal(
      x_MxT[clip_M == n].reshape(-1), clips[name][:whole]
    )


def test_crops_are_one_of_each_clip_in_the_order_of_labels(prepared):
  clips, names = raw_clips(prepared, "test"), pipeline.labels(prepared, "test")
  draw = [
    np.concatenate(
      list(
        pipeline.probe_crops(
          prepared, "test", crop=243, seed=3, epoch=e, batch_size=4
        )
      )
    )
    for e in (0, 0, 1)
  ]
  assert len(draw[0]) == len(names.ids) == 10
  for crop, name in zip(draw[0], names.ids, strict=True):
    windows = np.lib.stride_tricks.sliding_window_view(clips[name], 243)
    assert (windows == crop).all(-1).any()
  np.testing.assert_array_equal(draw[0], draw[1])
  assert not np.array_equal(draw[0], draw[2])


def test_labels_are_those_of_the_records(prepared, tmp_path):
  many = in_files(prepared, tmp_path / "1.0.0", (1, 16, 2, 5))
  names = pipeline.labels(many, "train")
  examples = list(many.dataset("train").as_numpy_iterator())
  assert names.ids == [e["id"].decode() for e in examples]
  expected = [e["labels"] for e in examples]
  np.testing.assert_array_equal(names.labels_NxK, expected)
