import itertools
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from vicreg_jax import audio, datasets
from vicreg_jax import input_pipeline as pipeline

HERE = pathlib.Path(__file__).parent


def raw_clips(prepared, split):
  """{id: float32 [T]} straight from the records."""
  return {
    e["id"].decode(): audio.from_int16(np.frombuffer(e["samples"], "<i2"))
    for e in prepared.dataset(split).as_numpy_iterator()
  }


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
  views = next(pipeline.train_views(prepared, small))
  assert views.shape == (8, 2, 243) and views.dtype == np.float32
  for a, b in views:
    assert not np.array_equal(a, b)
  crops = next(pipeline.train_views(prepared, plain(small)))
  changed = (views != crops).any(-1).mean()
  assert changed > 0.8  # polarity alone changes 80 % of the views


@pytest.mark.parametrize("start", [1, 3, 5, 7])
def test_the_stream_may_be_entered_at_any_step(small, prepared, start):
  whole = pipeline.train_views(prepared, small)
  expected = list(itertools.islice(whole, 9))[start:]
  entered = pipeline.train_views(prepared, small, start_step=start)
  for a, b in zip(expected, itertools.islice(entered, 9 - start), strict=True):
    np.testing.assert_array_equal(a, b)


def test_the_views_do_not_depend_on_cores_or_on_where_they_begin(
  small, data_dir, prepared, tmp_path
):
  """All augmentations, on one core from step 0 and on all from step 4."""
  (tmp_path / "views.py").write_text(f"""
import os, sys
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
import itertools
import numpy as np
import test_input_pipeline as t
from conftest import shrink
from vicreg_jax import config, datasets
c = t.augmented(shrink(config.base_pretrain(), {data_dir!r}))
views = t.pipeline.train_views(datasets.prepare(c.data), c)
np.save({str(tmp_path / "views.npy")!r}, list(itertools.islice(views, 8)))
""")
  subprocess.run([sys.executable, str(tmp_path / "views.py")], check=True)
  expected = np.load(tmp_path / "views.npy")
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


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 16
  path.write_bytes(content)


def cut_between_records(path):
  records = list(tf.data.TFRecordDataset(str(path)).take(20))
  with tf.io.TFRecordWriter(str(path)) as f:
    for record in records:
      f.write(record.numpy())


@pytest.mark.parametrize(
  "damage, named",
  [
    (pathlib.Path.unlink, "(missing)"),
    (lambda p: p.write_bytes(p.read_bytes()[:-9]), "(damaged)"),
    (flip, "(damaged)"),
    (cut_between_records, "(20 of 24 records)"),
  ],
)
def test_damaged_records_are_named_and_the_run_goes_on_once_repaired(
  small, prepared, tmp_path, damage, named
):
  copy = tmp_path / "1.0.0"
  shutil.copytree(prepared.path, copy)
  mine = datasets.base.Prepared.open(copy)
  (file,) = copy.glob("*-train.tfrecord*")
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
    lambda: pipeline.labels(mine, "train"),
  ):
    with pytest.raises(ValueError, match=r"cannot be read: put a copy"):
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
    with pytest.raises(
      ValueError, match=f"data in {path} are damaged .*delete"
    ):
      datasets.prepare(small.data)
    (path / name).write_bytes(content)
  assert datasets.prepare(small.data).num_clips == {"train": 2}


def test_the_seed_decides(small, prepared):
  one = next(pipeline.train_views(prepared, small))
  small.seed = 1
  other = next(pipeline.train_views(prepared, small))
  assert not np.array_equal(one, other)


def test_hosts_share_a_batch_without_overlap_or_gap(small, prepared):
  whole = pipeline.train_views(prepared, small, start_step=2)
  shares = [
    pipeline.train_views(
      prepared, small, start_step=2, process_index=h, process_count=2
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


def test_many_record_files_are_read_in_another_order_each_epoch(
  small, tmp_path
):
  files = []
  for i in range(5):
    files.append(str(tmp_path / f"{i}"))
    with tf.io.TFRecordWriter(files[-1]) as f:
      f.write(str(i))

  class Info:
    splits = {"train": type("S", (), {"filepaths": files})}
    features = type("F", (), {"deserialize_example": staticmethod(lambda x: x)})

  builder = type("B", (), {"info": Info})
  fake = type("P", (), {"builder": builder, "num_clips": {"train": 5}})
  orders = [
    [int(x) for x in pipeline._read(fake, ("train",), [0, e], lambda x: x)]
    for e in (1, 1, 2)
  ]
  assert orders[0] == orders[1] != orders[2]
  assert sorted(orders[2]) == [0, 1, 2, 3, 4]


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
        pipeline.crops(
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


def test_labels_are_those_of_the_records(prepared):
  names = pipeline.labels(prepared, "valid")
  records = {
    e["id"].decode(): e["labels"]
    for e in prepared.dataset("valid").as_numpy_iterator()
  }
  for name, row in zip(names.ids, names.labels_NxK, strict=True):
    np.testing.assert_array_equal(records[name], row)


def test_prepared_data_are_found_again(small, prepared):
  assert datasets.prepare(small.data).path == prepared.path
