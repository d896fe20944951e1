"""Any tree of audio files: labels, splits, faults, and what is on disk."""

import csv
import dataclasses
import errno
import glob
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import threading
import types

import music
import numpy as np
import published
import pytest
import soundfile

from vicreg_jax import config as configs
from vicreg_jax.data import audio, datasets, input_pipeline, threads, tracks
from vicreg_jax.data.datasets import base, file_hashes, folder, pcm_cache
from vicreg_jax.jobs import prepare
from vicreg_jax.library import audio_paths

RATE = 8_000
CROP = 2_000


def tone(index, num_samples=2400):
  t = np.arange(num_samples) / RATE
  return 0.5 * np.sin(2 * np.pi * (200 + 10 * index) * t)


def write_tree(root, names, num_samples=2400):
  """One short tone a name; the pitch says which. Of a sample: noise."""
  for i, name in enumerate(names):
    sound = tone(i, num_samples)
    if num_samples == 1:  # else all of them would be copies of one
      sound = np.random.default_rng([*name.encode()]).uniform(-0.5, 0.5, 8)
    music.write(root / name, sound, RATE)


@pytest.fixture
def root(tmp_path):
  return tmp_path / "m"


def config(root, tmp_path, **changes):
  values = dict(
    name="folder", path=str(root), dir=str(tmp_path / "prepared"),
    sample_rate=RATE, crop=CROP, labels="auto", csv="", folders="auto",
    track_pattern="", seed=0, sizes=(1, 1, 1), clip_seconds=1.0, beam="",
  )  # fmt: skip
  return types.SimpleNamespace(**(values | changes))


def source(root, tmp_path, **changes):
  """The plan alone: what there is to decode, without decoding it."""
  return folder.Folder.source(config(root, tmp_path, **changes))


def split_of(plan, key="id"):
  return {
    getattr(clip, key): split
    for split, clips in plan.splits.items()
    for clip in clips
  }


def labels_of(plan):
  return {
    clip.id: {n for n, on in zip(plan.labels, clip.labels) if on}
    for clips in plan.splits.values()
    for clip in clips
  }


def read(prepared, split):
  return list(prepared.dataset(split).as_numpy_iterator())


# --- what is on disk ---


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Class folders in three encodings, and one file of every fault."""
  tmp_path = tmp_path_factory.mktemp("prepared")
  root = tmp_path / "my music"
  names = [f"rock/r{i}.wav" for i in range(10)]
  names += [f"jazz/j{i}.flac" for i in range(10)]
  names += [f"folk/f{i}.ogg" for i in range(4)]
  write_tree(root, names)
  stereo = np.stack([tone(0, 4800 * 6), np.zeros(4800 * 6)], 1)
  soundfile.write(root / "folk/stereo48k.wav", stereo, 48_000)
  (root / "rock/empty.wav").touch()
  (root / "rock/text.mp3").write_text("not music\n" * 100)
  soundfile.write(root / "jazz/short.wav", tone(0, CROP - 1), RATE)
  soundfile.write(root / "jazz/enough.wav", tone(0, CROP), RATE)
  (root / "jazz/gone.wav").symlink_to(root / "nowhere.wav")
  (root / "jazz/.hidden.wav").touch()
  (root / "jazz/cover.jpg").touch()
  return datasets.prepare(config(root, tmp_path)), root, names, tmp_path


def test_every_readable_clip_is_there_once_with_its_samples(prepared):
  data, root, names, _ = prepared
  examples = [e for split in data.num_clips for e in read(data, split)]
  ids = [e["id"].decode() for e in examples]
  want = names + ["folk/stereo48k.wav", "jazz/enough.wav"]
  assert sorted(ids) == sorted(want)
  for e in examples:
    path = root / e["id"].decode()
    samples = np.frombuffer(e["samples"], "<i2")
    if path.suffix == ".wav" and path.name != "stereo48k.wav":
      # An own reading of the file: 16-bit PCM after 44 bytes of header. The
      # scale is 32767 here and 32768 in a WAV.
      pcm = np.frombuffer(path.read_bytes()[44:], "<i2")
      np.testing.assert_allclose(samples, pcm, atol=1)
    name = path.relative_to(root).parts[0]
    want_labels = [label == name for label in ("folk", "jazz", "rock")]
    np.testing.assert_array_equal(e["labels"], want_labels)
    assert e["labels"].dtype == np.uint8
    assert e["track"].decode() == os.path.splitext(e["id"].decode())[0]
  stereo = next(e for e in examples if b"stereo" in e["id"])
  samples = np.frombuffer(stereo["samples"], "<i2").astype(float) / 32767
  assert len(samples) == 4800
  spectrum = np.abs(np.fft.rfft(samples[:4000] * np.hanning(4000)))
  # Mean of a tone and silence; at 48 kHz its pitch is six times higher.
  assert np.argmax(spectrum) * RATE / 4000 == 6 * 200
  assert np.abs(samples[500:-500]).max() == pytest.approx(0.25, abs=0.01)


def test_metadata_and_report(prepared):
  data, _, names, _ = prepared
  assert data.labels == ("folk", "jazz", "rock")
  assert (data.label_kind, data.sample_rate) == ("single", RATE)
  # rock and jazz: 12 tracks each, 9/1/2; folk: 5, 3/1/1. The split comes before
  # the decoding, which finds two faults in train and one in valid.
  assert data.num_clips == {"train": 19, "valid": 2, "test": 5}
  total = (len(names) * 2400 + 4800 + CROP) / RATE
  assert sum(data.seconds.values()) == pytest.approx(total)
  assert data.shortest == CROP
  assert data.skipped == {
    "empty file": 1, "not decodable": 1, "too short": 1, "not found": 1,
  }  # fmt: skip
  assert published.skipped(data) == {
    "jazz/gone.wav": "not found",
    "jazz/short.wav": "too short",
    "rock/empty.wav": "empty file",
    "rock/text.mp3": "not decodable",
  }
  clips = published.rows(data, "clips.csv")
  assert len(clips) == 26 and data.noted == {}
  # A sine of amplitude 0.5; and the mean of one and silence.
  *_, seconds, dbfs, note = clips["jazz/j0.flac"].values()
  assert (seconds, dbfs, note) == ("0.300", "-9.03", "")
  dbfs = float(clips["folk/stereo48k.wav"]["dbfs"])
  assert dbfs == pytest.approx(-15.1, abs=0.1)
  assert sum(map(np.array, data.label_counts.values())).tolist() == [5, 11, 10]
  assert pathlib.Path(data.path).parts[-3:-1][0] == "folder"
  assert pathlib.Path(data.path).parts[-2].startswith("my-music-")
  summary = data.summary()
  assert "tracks        26  in 26 files" in summary
  assert "folk, jazz, rock" in summary and "1 too short" in summary
  assert [line.split()[:2] for line in summary.splitlines()[1:4]] == [
    ["train", "19"], ["valid", "2"], ["test", "5"],
  ]  # fmt: skip


def test_clips_that_are_odd_are_noted(root, tmp_path):
  write_tree(root, ["plain.wav", "touches.wav"])
  soundfile.write(root / "silent.wav", np.zeros(2400), RATE)
  for name, sound in (
    ("loud", 4 * tone(0)),
    ("integers", 30_000 * tone(0)),
    ("touches", 2.0001 * tone(1)),
  ):
    soundfile.write(root / f"{name}.wav", sound, RATE, "FLOAT")
  soundfile.write(root / "cut.flac", tone(0, 40 * 4096), RATE)
  content = (root / "cut.flac").read_bytes()
  (root / "cut.flac").write_bytes(content[: len(content) // 2])
  (root / "old.ra").write_bytes(b"RealAudio")
  data = datasets.prepare(config(root, tmp_path))
  assert sum(data.num_clips.values()) == 5
  assert data.noted == {"clipped": 1, "damaged": 1, "digital silence": 1}
  assert data.skipped == {"over full scale": 1, "unread suffix .ra": 1}
  by_id = published.rows(data, "clips.csv")
  # A sine of amplitude 2, 40 samples a period: 26 of these are above 1.
  assert by_id["loud.wav"]["note"] == "clipped, 65.0% of its samples"
  assert by_id["silent.wav"]["note"] == "digital silence"
  assert by_id["silent.wav"]["dbfs"] == "-120.00"
  assert by_id["plain.wav"]["note"] == by_id["touches.wav"]["note"] == ""
  cut = by_id["cut.flac"]
  share = 1 - float(cut["seconds"]) * RATE / (40 * 4096)
  assert 0.4 < share < 0.6
  assert cut["note"] == f"damaged, {share:.1%} lost"
  summary = data.summary()
  assert "1 clipped, 1 damaged, 1 digital silence" in summary


def test_long_clips_are_decoded_one_at_a_time(root, tmp_path, monkeypatch):
  write_tree(root, [f"{i}.wav" for i in range(12)])
  want = datasets.prepare(config(root, tmp_path))
  load, whole = audio.load, []

  def watched(*args):
    samples = load(*args)
    whole.append(threading.current_thread() is threading.main_thread())
    return samples

  monkeypatch.setattr(audio, "load", watched)
  monkeypatch.setattr(base, "_AHEAD_SECONDS", 0.1)
  got = datasets.prepare(config(root, tmp_path, dir=str(tmp_path / "again")))
  assert whole == 12 * [True]
  for split in want.num_clips:
    for one, other in zip(read(got, split), read(want, split), strict=True):
      assert one["id"] == other["id"] and one["samples"] == other["samples"]


def test_many_threads_keep_the_order():
  def slow_first(i):
    if i % 3 == 0:
      sum(range(20_000))
    return -i

  pulled = []
  items = (pulled.append(i) or i for i in range(200))
  results = threads.map_in_order(slow_first, items, threads=4, ahead=5)
  assert next(results) == 0
  # What is decoded ahead is bounded.
  assert len(pulled) == 5 + 1
  assert list(results) == [-i for i in range(1, 200)]


def test_work_that_is_dropped_ends_its_threads():
  before = threading.active_count()
  results = threads.map_in_order(str, itertools.count(), threads=4, ahead=5)
  assert next(results) == "0"
  results.close()
  assert threading.active_count() == before


def test_the_directory_follows_the_inputs(root, tmp_path):
  write_tree(root, ["a/1.wav", "a/2.wav", "b/1.wav"])
  write_tree(tmp_path / "other" / "m", ["a/1.wav", "a/2.wav", "b/1.wav"])

  def directory(**changes):
    return folder.Folder(config(root, tmp_path, **changes)).data_dir

  first = directory()
  assert directory() == first
  assert directory(seed=7, path=f"{root}/../m/") == first
  assert directory(path=str(tmp_path / "other" / "m")) == first
  os.utime(root / "a/1.wav", ns=(0, 0))
  assert directory() == first
  changed = [
    directory(sample_rate=16_000),
    directory(crop=CROP + 1),
    directory(labels="none"),
    directory(folders="classes"),
    directory(track_pattern="(.).*"),
  ]
  content = (root / "a/1.wav").read_bytes()
  (root / "a/1.wav").write_bytes(content[:-1] + b"x")
  changed.append(directory())
  write_tree(root, ["b/2.wav"])
  changed.append(directory())
  (root / "labels.csv").write_text("a/1.wav,x\na/2.wav,y\nb/1.wav,x\n")
  changed.append(directory())
  (root / "labels.csv").write_text("a/1.wav,x\na/2.wav,x\nb/1.wav,y\n")
  changed.append(directory())
  assert len({first, *changed}) == 1 + len(changed)


def test_what_was_moved_or_touched_is_the_same(tmp_path, monkeypatch):
  tmp_path = tmp_path / "a [b] *"  # which must be taken as it is
  root, moved = tmp_path / "m", tmp_path / "elsewhere/other name"
  write_tree(root, ["a.wav", "b.wav", "c.wav"])
  want = datasets.prepare(config(root, tmp_path))
  monkeypatch.setattr(audio, "load", lambda *a: pytest.fail("decoded again"))
  read, digest = [], file_hashes._digest

  def watched(file):
    read.append(file.id)
    return digest(file)

  monkeypatch.setattr(file_hashes, "_digest", watched)
  moved.parent.mkdir()
  root.rename(moved)
  for expected in ["a.wav", "b.wav", "c.wav"], [], ["b.wav"], []:
    if expected == ["b.wav"]:
      os.utime(moved / "b.wav", ns=(0, 0))
    read.clear()
    got = datasets.prepare(config(moved, tmp_path))
    assert dataclasses.replace(got, builder=None) == dataclasses.replace(
      want, builder=None
    )
    assert sorted(read) == expected


def test_what_an_older_version_has_prepared_is_found(
  root, tmp_path, monkeypatch
):
  write_tree(root, ["x/a.wav", "y/b.wav", "y/c.wav"])
  new = pathlib.Path(datasets.prepare(config(root, tmp_path)).path)
  stat = {n: os.stat(root / n) for n in ("x/a.wav", "y/b.wav", "y/c.wav")}
  identity = {
    "csv": "",
    "files": [[n, s.st_size, s.st_mtime_ns] for n, s in stat.items()],
    "labels": "folders",
    "root": str(root),
  }
  text = json.dumps([2, RATE, CROP, identity])
  name = f"m-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
  old = new.parents[1] / name
  new.parent.rename(old)
  monkeypatch.setattr(audio, "load", lambda *a: pytest.fail("decoded again"))
  data = datasets.prepare(config(root, tmp_path))
  assert data.path == str(old / new.name)
  assert sum(data.num_clips.values()) == 3


@pytest.mark.parametrize("fault", ["damaged", "other", "no room"])
def test_digests_need_not_be_kept(tmp_path, monkeypatch, fault):
  root, kept = tmp_path / "m", tmp_path / "prepared/folder/kept"
  write_tree(root, ["a.wav", "b.wav"])
  expected = source(root, tmp_path).identity
  assert expected["contents"] == [
    [n, hashlib.sha256((root / n).read_bytes()).hexdigest()]
    for n in ("a.wav", "b.wav")
  ]
  (file,) = kept.glob("*/contents.json")
  file.write_text("{" if fault == "damaged" else '{"a.wav": 3, "c": []}')
  if fault == "no room":

    def fail(*args):
      raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_hashes.files_lib, "write", fail)
  assert source(root, tmp_path).identity == expected


def test_copies_are_never_in_two_splits(root, tmp_path):
  names = [f"{c}/{i}.wav" for c in ("jazz", "rock") for i in range(20)]
  write_tree(root, names)
  copies = [(f"jazz/{i}.wav", f"rock/copy; {i}.wav") for i in range(20)]
  for one, other in copies:
    shutil.copyfile(root / one, root / other)
  for name in ("e1.wav", "e2.wav"):
    (root / "rock" / name).touch()
  plan = source(root, tmp_path)
  of_clip = split_of(plan)
  assert all(of_clip[one] == of_clip[other] for one, other in copies)
  assert len(split_of(plan, "track")) == 42
  assert labels_of(plan)["rock/copy; 3.wav"] == {"rock"}
  data = datasets.prepare(config(root, tmp_path))
  assert data.noted == {"duplicate": 20} and data.tracks == 40
  assert "noted         20  20 duplicate (" in data.summary()
  clips = published.rows(data, "clips.csv")
  assert clips["rock/copy; 3.wav"]["note"] == "duplicate, of jazz/3.wav"
  assert clips["jazz/3.wav"]["note"] == ""


def test_copies_in_one_s_own_splits_are_left_to_the_later(root, tmp_path):
  write_tree(root, ["train/a.wav", "train/b.wav", "valid/c.wav", "test/d.wav"])
  for one, other in (
    ("train/a.wav", "test/copy.wav"),
    ("train/a.wav", "valid/copy.wav"),
    ("train/b.wav", "train/copy.wav"),
    ("valid/c.wav", "train/another.wav"),
  ):
    shutil.copyfile(root / one, root / other)
  plan = source(root, tmp_path)
  assert split_of(plan) == {
    "train/b.wav": "train", "train/copy.wav": "train", "valid/c.wav": "valid",
    "test/copy.wav": "test", "test/d.wav": "test",
  }  # fmt: skip
  assert plan.skipped == {
    "train/a.wav": "also in test", "valid/copy.wav": "also in test",
    "train/another.wav": "also in valid",
  }  # fmt: skip
  notes = {c.id: c.note for clips in plan.splits.values() for c in clips}
  assert {i for i, note in notes.items() if note} == {"train/copy.wav"}


def everything(prepared):
  """What is prepared, as bytes."""
  names = ("clips.csv", "skipped.csv", "contents.csv", "metadata.json")
  path = pathlib.Path(prepared.path)
  tables = [(path / name).read_bytes() for name in names]
  records = [p.read_bytes() for p in sorted(path.glob("*.tfrecord*"))]
  assert records
  return tables + records


@pytest.fixture
def loaded(monkeypatch):
  """Names of the files that are decoded; the n-th is not, if n is put first."""
  names, load = [], audio.load

  def watched(path, rate):
    names.append(os.path.basename(path))
    if names[0] == len(names):
      raise KeyboardInterrupt
    return load(path, rate)

  monkeypatch.setattr(audio, "load", watched)
  return names


@pytest.mark.parametrize("damage", ["", "sound", "line"])
def test_what_a_killed_run_has_decoded_is_used(
  root, tmp_path, loaded, monkeypatch, damage
):
  write_tree(root, [f"{i}.wav" for i in range(30)])
  soundfile.write(root / "silent.wav", np.zeros(2400), RATE)
  soundfile.write(root / "loud.wav", 3 * tone(1), RATE, "FLOAT")
  loaded.append(25)
  monkeypatch.setattr(os, "cpu_count", lambda: 2)
  with pytest.raises(KeyboardInterrupt):
    datasets.prepare(config(root, tmp_path))
  kept = tmp_path / "prepared/folder/kept"
  (lines,) = kept.glob("*/decoded-*.jsonl")
  written = (tmp_path / "prepared").rglob("*tfrecord*")
  assert not [path for path in written if path.is_file()]
  count = lines.read_bytes().count(b"\n")
  # Of each of three splits, a few are decoded ahead of what is kept.
  assert count >= 24 - 3 * (2 * 2 + 1)
  if damage == "sound":
    with open(lines.with_suffix(".pcm"), "r+b") as file:
      file.seek(100)
      file.write(b"x")
  elif damage == "line":
    lines.write_bytes(lines.read_bytes()[:-9])
  loaded[:] = [0]
  got = datasets.prepare(config(root, tmp_path))
  assert len(loaded) - 1 == 32 - count + bool(damage)
  assert not list(kept.glob("*/decoded-*"))
  loaded[:] = [0]
  want = datasets.prepare(config(root, tmp_path, dir=str(tmp_path / "anew")))
  assert len(loaded) - 1 == 32
  assert everything(got) == everything(want)


@pytest.mark.parametrize("damage", ["", "records", "table"])
def test_of_an_earlier_version_only_what_is_new_is_decoded(
  tmp_path, loaded, damage
):
  tmp_path = tmp_path / "a [b] *"  # which must be taken as it is
  root = tmp_path / "m"
  write_tree(root, [f"{c}/{i}.wav" for c in "xy" for i in range(10)])
  soundfile.write(root / "x/loud.wav", 3 * tone(1), RATE, "FLOAT")
  loaded.append(0)
  for rate in (4000, RATE):
    section = config(root, tmp_path, sample_rate=rate, crop=1000)
    old = pathlib.Path(datasets.prepare(section).path)
  assert len(loaded) - 1 == 2 * 21
  if damage == "records":
    (file,) = old.glob("*train.tfrecord*")
    file.write_bytes(b"x" + file.read_bytes()[1:])
  elif damage == "table":
    (old / "contents.csv").write_text("id,split\n")
  write_tree(root, ["x/0-0-30.wav"], CROP + 7)
  os.rename(root / "y/3.wav", root / "x/moved.wav")
  shutil.copyfile(root / "y/4.wav", root / "y/copy.wav")
  (root / "y/5.wav").unlink()
  loaded[:] = [0]
  section = config(root, tmp_path, crop=1000)
  got = datasets.prepare(section)
  if damage:
    assert "0-0-30.wav" in loaded and "loud.wav" in loaded
  else:
    assert loaded[1:] == ["0-0-30.wav"]
  section.dir = str(tmp_path / "anew")
  assert everything(got) == everything(datasets.prepare(section))


def test_no_sound_is_kept_where_there_is_no_room(tmp_path, monkeypatch):
  sound = pcm_cache.Sound(b"1234", -3.0, "")
  usage = shutil.disk_usage(tmp_path)
  for free, kept in ((3 * 4 * 10, True), (3 * 4 * 10 - 1, False)):
    monkeypatch.setattr(
      shutil, "disk_usage", lambda path, free=free: usage._replace(free=free)
    )
    store = pcm_cache.Store(tmp_path, {"rate": RATE}, 10)
    for name in "abc":
      store.add(name, sound)
    found = pcm_cache.Store(tmp_path, {"rate": RATE}, 10).get("b")
    assert found == (sound if kept else None)
    assert pcm_cache.Store(tmp_path, {"rate": 1}, 10).get("b") is None
    assert bool(list(tmp_path.iterdir())) == kept
    pcm_cache.Store(tmp_path, {}, 10).remove()
    assert not list(tmp_path.iterdir())


def test_without_labels(root, tmp_path):
  write_tree(root, [f"{i}.wav" for i in range(3)])
  data = datasets.prepare(config(root, tmp_path))
  assert (data.labels, data.label_kind) == ((), "none")
  assert data.num_clips == {"train": 1, "valid": 1, "test": 1}
  assert read(data, "train")[0]["labels"].shape == (0,)


# --- labels ---


def test_strays_beside_class_folders_are_left_out(root, tmp_path, caplog):
  write_tree(root, ["rock/1.wav", "jazz/2.wav", "jazz/3.wav", "intro.mp3"])
  plan = source(root, tmp_path)
  assert (plan.labels, plan.label_kind) == (("jazz", "rock"), "single")
  assert plan.skipped == {"intro.mp3": "outside the class folders"}
  assert set(labels_of(plan)) == {"rock/1.wav", "jazz/2.wav", "jazz/3.wav"}
  assert "'intro.mp3' outside the class folders" in caplog.text
  # As many of them as there are folders: "auto" does not guess.
  write_tree(root, ["outro.wav"])
  assert source(root, tmp_path).label_kind == "none"
  plan = source(root, tmp_path, labels="folders")
  assert len(labels_of(plan)) == 3 and len(plan.skipped) == 2


@pytest.mark.parametrize(
  "text, names",
  [
    ("path,slow,fast\na.wav,1,0\ns/b.wav,1,1\nc.wav,0,0\n", ("slow", "fast")),
    ("\ufeffPath, slow ,fast\r\n./a.wav,1,0\r\n\r\ns/b.wav,1,1\r\nc.wav,0,0",
     ("slow", "fast")),
    ("a.wav,slow\ns/b.wav,slow,fast\nc.wav\n", ("fast", "slow")),
    ('"a.wav","slow",\ns/b.wav, fast,slow\nc.wav,,\n', ("fast", "slow")),
  ],
)  # fmt: skip
def test_csv_dialects(root, tmp_path, text, names):
  write_tree(root, ["a.wav", "s/b.wav", "c.wav", "s/unlisted.wav"])
  (root / "labels.csv").write_bytes(text.encode())
  plan = source(root, tmp_path)
  assert (plan.labels, plan.label_kind) == (names, "multi")
  assert labels_of(plan) == {
    "a.wav": {"slow"}, "s/b.wav": {"slow", "fast"}, "c.wav": set(),
  }  # fmt: skip
  assert plan.skipped == {"s/unlisted.wav": "not in labels.csv"}
  elsewhere = tmp_path / "tags.csv"
  elsewhere.write_text("a.wav,other\n")
  plan = source(root, tmp_path, csv=str(elsewhere))
  assert plan.labels == ("other",)
  assert plan.skipped["c.wav"] == "not in tags.csv"


@pytest.mark.parametrize(
  "text, labels, kind, expected",
  [
    ("path,genre\na.wav,rock\nb.wav,jazz\nc.wav,rock\n", "jazz rock",
     "single", "rock|jazz|rock"),
    ("path,genre\na.wav,rock\nb.wav,\nc.wav,80\n", "80 rock", "single",
     "rock||80"),
    ("path,genre,mood\na.wav,rock,calm\nb.wav,calm,\nc.wav,,\n", "calm rock",
     "multi", "rock calm|calm|"),
    ("path,vocal,genre\na.wav,1,rock\nb.wav,0,jazz\nc.wav,0,\n",
     "vocal jazz rock", "multi", "vocal rock|jazz|"),
    ("path,x,y\na.wav,1,0\nb.wav,0,0\nc.wav,1,1\n", "x y", "multi", "x||x y"),
    # As pandas, R, spreadsheets and people write truth.
    ("path,x,y\na.wav,True,False\nb.wav,False,False\nc.wav,True,True\n", "x y",
     "multi", "x||x y"),
    ("path,x\na.wav,TRUE\nb.wav,false\nc.wav,1\n", "x", "multi", "x||x"),
    ("path,x,y\na.wav,1.0,yes\nb.wav,0.0,no\nc.wav,1.0,Yes\n", "x y", "multi",
     "x y||x y"),
    ("path,sung\na.wav,yes\nb.wav,no\nc.wav,perhaps\n", "no perhaps yes",
     "single", "yes|no|perhaps"),
    # As they write that there is no value.
    ("path,genre\na.wav,rock\nb.wav,NA\nc.wav,none\n", "none rock", "single",
     "rock||none"),
    ("path,genre,mood,group\na.wav,rock,nan,NA\nb.wav,null,calm,NA\n"
     "c.wav,N/A,<NA>,NA\n", "calm rock", "multi", "rock|calm|"),
    ("a.wav,rock,None\nb.wav,NaN\nc.wav,calm\n", "calm rock", "multi",
     "rock||calm"),
    ("path,genre\na.wav,Caf\u00e9\nb.wav,Cafe\u0301\nc.wav,rock\n",
     "Caf\u00e9 rock", "single", "Caf\u00e9|Caf\u00e9|rock"),
  ],
)  # fmt: skip
def test_names_in_cells(root, tmp_path, text, labels, kind, expected):
  write_tree(root, ["a.wav", "b.wav", "c.wav"], 1)
  (root / "labels.csv").write_text(text)
  plan = source(root, tmp_path)
  assert (plan.labels, plan.label_kind) == (tuple(labels.split()), kind)
  found = labels_of(plan)
  assert len(split_of(plan, "track")) == len(found)  # no group of "NA"
  for name, tags in zip("abc", expected.split("|"), strict=True):
    if kind == "single" and not tags:
      assert plan.skipped == {f"{name}.wav": "no genre in labels.csv"}
    else:
      assert found[f"{name}.wav"] == set(tags.split())


def test_a_table_that_is_read_in_another_way_is_prepared_again(root, tmp_path):
  """Under its digest versions before have other labels."""
  write_tree(root, ["a.wav", "b.wav"], 1)

  def is_of_the_file(text):
    (root / "labels.csv").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return source(root, tmp_path).identity["csv"] == digest

  assert is_of_the_file("path,x\na.wav,1\nb.wav,0\n")
  assert is_of_the_file("path,genre\na.wav,rock\nb.wav,none\n")
  assert not is_of_the_file("path,x\na.wav,True\nb.wav,False\n")
  assert not is_of_the_file("path,genre\na.wav,rock\nb.wav,NA\n")


def test_a_table_that_cannot_be_read(tmp_path, monkeypatch):
  def refuse(path):
    raise PermissionError(errno.EACCES, "Permission denied")

  write_tree(tmp_path / "m", ["a.wav"], 1)
  (tmp_path / "m/labels.csv").write_text("path,x\na.wav,1\n")
  monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
  with pytest.raises(ValueError, match=r"labels.csv.*Perm"):
    source(tmp_path / "m", tmp_path)


def test_class_folders_have_one_name_however_it_is_written(root, tmp_path):
  composed, apart = "Caf\u00e9", "Cafe\u0301"
  names = [f"train/{composed}/1.wav", f"test/{apart}/2.wav", "test/x/3.wav"]
  write_tree(root, names, 1)
  plan = source(root, tmp_path)
  assert plan.labels == (composed, "x")
  assert labels_of(plan)[f"test/{apart}/2.wav"] == {composed}
  assert len(split_of(plan)) == 3


def test_a_class_of_a_table_is_split_as_folders_are(root, tmp_path):
  names = [f"{i}.wav" for i in range(33)]
  write_tree(root, names, 1)
  (root / "labels.csv").write_text(
    "path,genre\n"
    + "".join(
      f"{n},{'rare' if i < 3 else 'usual'}\n" for i, n in enumerate(names)
    )
  )
  of_clip = split_of(source(root, tmp_path))
  assert sorted(of_clip[n] for n in names[:3]) == ["test", "train", "valid"]
  assert [*of_clip.values()].count("test") == 1 + 6


def test_rows_without_a_file_are_left_out(root, tmp_path):
  write_tree(root, ["a.wav"])
  (root / "notes.mid").touch()
  (root / "labels.csv").write_text(
    "path,x\ngone.wav,1\n./a.wav,1\nalso/gone.mp3,0\nnotes.mid,0\n"
  )
  data = datasets.prepare(config(root, tmp_path))
  assert data.num_clips == {"train": 1} and data.labels == ("x",)
  assert data.skipped == {
    "in labels.csv, but not found": 2, "unread suffix .mid": 1,
  }  # fmt: skip
  assert "gone.wav" in published.skipped(data)


def test_accents_are_one_name_however_they_are_written(root, tmp_path):
  composed, apart = "Caf\u00e9.wav", "Cafe\u0301.wav"
  write_tree(root, [apart], 1)
  table = root / "labels.csv"
  table.write_text(f"path,x\n{composed},1\n")
  assert labels_of(source(root, tmp_path)) == {apart: {"x"}}
  table.write_text(f"path,x\n{composed},1\n{apart},0\n")
  with pytest.raises(ValueError, match="line 2 already"):
    source(root, tmp_path)
  # Where both are there, each is its own.
  write_tree(root, [composed], 1)
  assert labels_of(source(root, tmp_path)) == {composed: {"x"}, apart: set()}


@pytest.mark.parametrize(
  "content, line, message",
  [
    (b"path,x\na.wav,1\nb.wav,1\nnope,1\n", 4, "no audio file 'nope'"),
    (b"path,x\nnope.wav,1\nno.mp3,0\n", None, "none of its 2 files is there"),
    (b"path,x\na.wav,1\nb.wav,hm\n", 3, "'hm' for tag 'x'; use 0 or 1"),
    (b"path,x\na.wav,True\nb.wav,rock\n", 3, "'rock' for tag 'x'"),
    (b"path,x\na.wav,1.0\nb.wav,NA\n", 3, "'' for tag 'x'"),
    (b"a.wav,True\nb.wav,False\n", None, "'False' and 'True' are no tags"),
    (b"a.wav,1,0\nb.wav,0,0\n", None, "give the table a header"),
    (b"path\tgenre\na.wav\trock\n", 1, "separated by commas"),
    ("path,x\na.wav,1\n".encode("utf-16"), 1, "save the file as UTF-8"),
    ("path,x\na.wav,1\n".encode("utf-16-le"), 1, "save the file as UTF-8"),
    (b"path,genre\na.wav,ro\0ck\n", 2, "a zero byte"),
    (b"path,x,split\na.wav,1,dev\n", 2, "'dev' in the column of splits; use"),
    (b"path,x,split\na.wav,1,\n", None, "no clips"),
    (b"path,Group,group\na.wav,1,1\n", None, "two columns are called 'group'"),
    (b"a.wav,x\n../m/b.wav,x\n", 2, "outside data.path"),
    (b"/etc/passwd,x\n", 1, "outside data.path"),
    (b"s/../../m/a.wav,x\n", 1, "outside data.path"),
    (b"a.wav,x\n./a.wav,y\n", 2, "listed in line 1 already"),
    (b"path,x,y\na.wav,1,2\n", 2, "'2' for tag 'y'; use 0 or 1"),
    (b"path,x,y\na.wav,1,\n", 2, "'' for tag 'y'"),
    (b"path,x,y\na.wav,1\n", 2, "1 cells for 2 columns"),
    (b"path,x,x\na.wav,1,0\n", 1, "tag names must differ"),
    (b"file,x\na.wav,1\n", 1, "must start with 'path'"),
    (b"a.wav;x\n", 1, "separated by commas"),
    (b"a.wav,x\nb.wav,caf\xe9\n", 2, "UTF-8"),
    (b'a.wav,"x\n', 1, "unexpected end"),
    (b"", None, "no clips"),
    (b"path,x\n", None, "no clips"),
    (b"path\na.wav\n", None, "no tags"),
    (b"a.wav\n", None, "no tags"),
  ],
)
def test_csv_errors_name_the_line(root, tmp_path, content, line, message):
  write_tree(root, ["a.wav", "b.wav"])
  (root / "labels.csv").write_bytes(content)
  with pytest.raises(ValueError) as error:
    source(root, tmp_path)
  assert message in str(error.value) and "labels.csv" in str(error.value)
  assert "\n" not in str(error.value)
  if line:
    assert f"line {line}:" in str(error.value)


# --- splits ---


def test_split_folders(root, tmp_path):
  names = ["train/x/1.wav", "train/y/2.wav", "Validation/x/3.wav"]
  write_tree(root, names + ["test/y/4.wav", "extra/y/5.wav"])
  plan = source(root, tmp_path)
  assert split_of(plan) == {
    "train/x/1.wav": "train", "train/y/2.wav": "train",
    "Validation/x/3.wav": "valid", "test/y/4.wav": "test",
  }  # fmt: skip
  assert plan.labels == ("x", "y")
  assert labels_of(plan)["test/y/4.wav"] == {"y"}
  assert plan.skipped == {"extra/y/5.wav": "outside train, valid and test"}


@pytest.mark.parametrize(
  "names, folders, message",
  [
    (["test/a.wav", "valid/b.wav"], "auto",
     "no folder 'train' (it has 'test', 'valid'): add one"),
    (["Val/a.wav"], "auto", "data.folders='classes'"),
    (["rock/a.wav", "b.wav"], "splits",
     "no folder 'train' (it has 'b.wav', 'rock')"),
    (["train/a.wav", "car/b.wav", "plane/c.wav"], "auto",
     "'car', 'plane' too: data.folders='splits' leaves those out"),
  ],
)  # fmt: skip
def test_folders_that_could_be_splits_or_classes(
  root, tmp_path, names, folders, message
):
  write_tree(root, names, 1)
  with pytest.raises(ValueError, match=r"^data.path=") as error:
    source(root, tmp_path, folders=folders)
  assert message in str(error.value)
  plan = source(root, tmp_path, folders="classes")
  assert set(split_of(plan)) == set(names)
  heads = {name.split("/")[0] for name in names if "/" in name}
  assert set(plan.labels) == (heads if len(heads) > 1 else set())


def test_folders_that_are_called_splits(root, tmp_path, caplog):
  write_tree(root, ["train/a.wav", "car/b.wav"], 1)
  plan = source(root, tmp_path, folders="splits")
  assert split_of(plan) == {"train/a.wav": "train"}
  assert plan.skipped == {"car/b.wav": "outside train, valid and test"}
  assert not caplog.text
  write_tree(root, ["test/a.wav"], 1)
  assert set(split_of(source(root, tmp_path))) == {"train/a.wav", "test/a.wav"}
  assert "data.folders='classes' takes all of them" in caplog.text
  # Classes with names of splits among others, without train: as ever.
  write_tree(tmp_path / "n", ["test/a.wav", "car/b.wav"], 1)
  assert source(tmp_path / "n", tmp_path).labels == ("car", "test")


def test_splits_of_a_table(root, tmp_path):
  names = ["a.wav", "b.wav", "c.wav", "d.wav", "test/e.wav"]
  write_tree(root, names, 1)
  (root / "labels.csv").write_text(
    "path,genre,Split\na.wav,rock,Train\nb.wav,jazz,val\nc.wav,rock,test\n"
    "d.wav,rock,\ntest/e.wav,jazz,validation\n"
  )
  plan = source(root, tmp_path)
  assert split_of(plan) == {
    "a.wav": "train", "b.wav": "valid", "c.wav": "test", "test/e.wav": "valid",
  }  # fmt: skip
  assert plan.skipped == {"d.wav": "no split in labels.csv"}
  assert (plan.labels, plan.label_kind) == (("jazz", "rock"), "single")


def test_a_table_without_labels_leaves_them_to_folders(root, tmp_path):
  write_tree(root, ["x/1.wav", "y/2.wav"], 1)
  (root / "labels.csv").write_text("path,split\nx/1.wav,train\ny/2.wav,test\n")
  plan = source(root, tmp_path)
  assert labels_of(plan) == {"x/1.wav": {"x"}, "y/2.wav": {"y"}}
  assert split_of(plan) == {"x/1.wav": "train", "y/2.wav": "test"}
  plan = source(root, tmp_path, labels="csv")
  assert plan.label_kind == "none" and len(split_of(plan)) == 2


@pytest.mark.parametrize(
  "columns", [("group",), ("Track",), ("track", "group")]
)
def test_groups_of_a_table_are_never_in_two_splits(root, tmp_path, columns):
  names = [f"{i}.wav" for i in range(60)]
  write_tree(root, names, 1)
  # 20 groups; where there are two columns, those are joined by threes.
  rows = [
    [n, *(str(i // (3 if c == columns[0] else 9)) for c in columns)]
    for i, n in enumerate(names)
  ]
  rows[59][1:] = [""] * len(columns)
  with open(root / "labels.csv", "w", newline="") as f:
    csv.writer(f).writerows([["path", *columns], *rows])
  plan = source(root, tmp_path)
  of_clip, size = split_of(plan), 3 if len(columns) == 1 else 9
  groups = [
    {of_clip[n] for n in names[i : i + size]} for i in range(0, 59, size)
  ]
  assert all(len(splits) == 1 for splits in groups[:-1])
  assert set.union(*groups) == {"train", "valid", "test"}
  assert len(split_of(plan, "track")) == {1: 21, 2: 8}[len(columns)]


def test_splits_and_groups_that_contradict(root, tmp_path):
  write_tree(root, ["a.wav", "b.wav", "train/c.wav", "test/d.wav"], 1)
  (root / "labels.csv").write_text(
    "path,split,group\na.wav,train,X\ntest/d.wav,train,Y\nb.wav,test,X\n"
  )
  with pytest.raises(ValueError, match=r"csv line 2 and .*csv line 4 ") as e:
    datasets.prepare(config(root, tmp_path))
  assert "'X', but in the splits train and test" in str(e.value)
  (root / "labels.csv").write_text("path,group\ntrain/c.wav,X\ntest/d.wav,X\n")
  with pytest.raises(ValueError, match=r"line 3 and .* line 2 "):
    datasets.prepare(config(root, tmp_path))


def cuts(names, count=3):
  return [
    f"{n}-{30 * i}-{30 * i + 30}.wav" for n in names for i in range(count)
  ]


def test_splits_are_stratified_by_class_and_whole_by_track(root, tmp_path):
  names = cuts([f"big/t{i}" for i in range(100)])
  names += cuts([f"small/t{i}" for i in range(3)], 5)
  names += cuts([f"pair/t{i}" for i in range(2)])
  write_tree(root, names, num_samples=1)
  plan = source(root, tmp_path)
  of_clip, of_track = split_of(plan), split_of(plan, "track")
  assert len(of_clip) == len(names) and len(of_track) == 105
  for name in names:  # the track's name worked out without the code's regex
    assert of_clip[name] == of_track[name.split("-")[0]]

  def count(prefix):
    splits = [s for t, s in of_track.items() if t.startswith(prefix)]
    return {s: splits.count(s) for s in sorted(set(splits))}

  assert count("big") == {"test": 20, "train": 70, "valid": 10}
  assert count("small") == {"test": 1, "train": 1, "valid": 1}
  assert count("pair") == {"train": 2}


def test_splits_are_stable(root, tmp_path):
  write_tree(root, [f"{c}/{i}.wav" for c in "ab" for i in range(40)], 1)
  before = split_of(source(root, tmp_path))
  assert split_of(source(root, tmp_path)) == before
  # Another place, another class, another clip of the same track: nothing moves.
  write_tree(root, [f"c/{i}.wav" for i in range(40)] + ["a/0-30-60.wav"], 1)
  root = root.rename(tmp_path / "elsewhere")
  after = split_of(source(root, tmp_path))
  assert {k: after[k] for k in before} == before
  assert after["a/0-30-60.wav"] == before["a/0.wav"]
  # A track in the same class moves at most one across each boundary.
  write_tree(root, ["a/new.wav"], 1)
  after = split_of(source(root, tmp_path))
  assert sum(after[k] != before[k] for k in before) <= 2


# --- the tree ---


def test_links_and_odd_names(root, tmp_path):
  write_tree(root, ["a/1.wav", "b/ü ,2.WAV", ".trash/3.wav", "b/._4.wav"])
  (root / "a/up").symlink_to(root)
  (root / "b/again").symlink_to(root / "a")
  bad = os.fsencode(root) + b"/b/\xff.wav"
  soundfile.write(bad, tone(0), RATE, format="WAV")
  ids = set(split_of(source(root, tmp_path)))
  assert len(ids) == 3 and {"b/ü ,2.WAV", "b/\\xff.wav"} < ids
  data = datasets.prepare(config(root, tmp_path, labels="none"))
  assert {
    e["id"].decode() for s in data.num_clips for e in read(data, s)
  } == ids


def test_loops_pipes_and_devices_are_no_clips(root, tmp_path):
  write_tree(root, ["a.wav", "new\nline.wav", "$x_{.wav"])
  (root / "loop.wav").symlink_to("loop.wav")
  (root / "one.wav").symlink_to("other.wav")
  (root / "other.wav").symlink_to("one.wav")
  (root / "zero.wav").symlink_to("/dev/zero")
  (root / "here").symlink_to(".")
  os.mkfifo(root / "pipe.wav")
  data = datasets.prepare(config(root, tmp_path))
  assert data.skipped == {"not found": 3, "not a file": 2}
  ids = {e["id"].decode() for s in data.num_clips for e in read(data, s)}
  assert ids == {"a.wav", "new\nline.wav", "$x_{.wav"}
  assert os.path.getsize(prepare.figure(data)) > 10_000


@pytest.fixture
def locked(monkeypatch):
  """Folders of this name cannot be listed; root may list those that can be."""
  scandir = os.scandir

  def refuse(path):
    if os.path.basename(path) == "locked":
      raise PermissionError(errno.EACCES, "Permission denied")
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_cannot_be_listed_is_left_out(tmp_path, locked):
  root = tmp_path / "music"
  write_tree(root, ["a.wav", "locked/b.wav", "c/locked/d.wav"])
  plan = source(root, tmp_path)
  assert list(split_of(plan)) == ["a.wav"]
  assert plan.skipped == {
    "locked": "folder not readable", "c/locked": "folder not readable",
  }  # fmt: skip
  for call in (audio.load, audio.check):
    with pytest.raises(audio.AudioError, match="Permission denied") as error:
      call(root / "locked")
    assert error.value.reason == "folder not readable"
  with pytest.raises(ValueError, match=r"data.path=.*permissions"):
    source(root / "locked", tmp_path)
  (root / "a.wav").unlink()
  with pytest.raises(ValueError, match="2 folder not readable"):
    source(root, tmp_path)


def test_a_folder_is_the_same_for_verbs_and_for_the_data_set(
  tmp_path, locked, monkeypatch
):
  root, outside = tmp_path / "m [1] *", tmp_path / "other disk"
  names = ["a/1.wav", "b/2.MP3", "b/._2.mp3", ".trash/3.wav", "b/.4.wav"]
  for name in [*names, "locked/5.wav", "b/notes.mid", "b/cover.jpg", "plain"]:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(name)
  write_tree(outside, ["6.wav", "deep/7.wav"], 1)
  for link, target in (
    ("linked", outside), ("a/back", root), ("0", root / "a"), ("b/0", "0"),
    ("gone.ogg", "nowhere"), ("b/same.wav", root / "a/1.wav"),
  ):  # fmt: skip
    (root / link).symlink_to(target)
  os.mkfifo(root / "b/pipe.mp3")
  readable = {
    "a/1.wav", "b/2.MP3", "b/same.wav", "linked/6.wav", "linked/deep/7.wav"
  }  # fmt: skip
  left_out = {
    "b/notes.mid": "unread suffix .mid", "b/pipe.mp3": "not a file",
    "gone.ogg": "not found", "locked": "folder not readable",
  }  # fmt: skip
  plan = source(root, tmp_path, labels="none")
  assert set(split_of(plan)) == readable and plan.skipped == left_out

  monkeypatch.chdir(tmp_path)
  every = readable | set(left_out)

  def expand(arguments):
    return audio_paths.look(arguments).paths

  assert set(expand([root.name])) == {f"{root.name}/{name}" for name in every}
  # What a glob finds is as if it were named.
  escaped = glob.escape(root.name)
  assert set(expand([f"{escaped}/[bl]*"])) == {
    f"{root.name}/{name}" for name in every if name[0] in "bl"
  }
  assert expand([f"{escaped}/lin*", f"{root.name}/plain"])[1:] == [
    f"{root.name}/linked/deep/7.wav", f"{root.name}/plain"
  ]  # fmt: skip


@pytest.mark.parametrize("path", ["~nobody_here/m", "\0", "x" * 5000, "loop"])
def test_roots_that_cannot_be(tmp_path, path):
  (tmp_path / "loop").symlink_to("loop")
  if path == "loop":
    path = str(tmp_path / "loop")
  with pytest.raises(ValueError, match=r"^data.path="):
    source(path, tmp_path)
  write_tree(tmp_path / "m", ["a.wav"])
  with pytest.raises(ValueError, match=r"^data.csv="):
    source(tmp_path / "m", tmp_path, csv=path)


def test_two_clips_of_one_name(root, tmp_path):
  # A name that is no UTF-8, and another that is what it is written as.
  write_tree(root, ["\\xff.wav"])
  soundfile.write(os.fsencode(root) + b"/\xff.wav", tone(0), RATE, format="WAV")
  with pytest.raises(ValueError, match="2 clips are called"):
    datasets.prepare(config(root, tmp_path))


def test_errors_of_the_folder(tmp_path):
  def error(path, **changes):
    with pytest.raises(ValueError) as info:
      datasets.prepare(config(path, tmp_path, **changes))
    assert "\n" not in str(info.value)
    return str(info.value)

  empty, text, good = (tmp_path / n for n in ("empty", "text", "good"))
  for root in (empty, text, good):
    root.mkdir()
  for name in ("a.txt", "b.txt", "c.pdf"):
    (text / name).touch()
  write_tree(good, ["x/a.wav", "x/b.wav"])
  assert "data.path is empty" in error("")
  assert f"'{tmp_path}/nix' does not exist" in error(tmp_path / "nix")
  assert "is a file: give the folder" in error(good / "x/a.wav")
  assert "no files at all" in error(empty)
  message = error(text)
  assert "2 .txt, 1 .pdf" in message and ".flac" in message
  assert "two class folders or more" in error(good, labels="folders")
  assert "['x']" in error(good, labels="folders")
  assert f"no {good}/labels.csv" in error(good, labels="csv")
  assert "'nix.csv' is not a file" in error(good, csv="nix.csv")
  assert "has no use" in error(good, csv="nix.csv", labels="none")
  assert str(sorted(datasets.DATASETS)) in error(good, name="nix")


def test_errors_when_nothing_is_left(tmp_path):
  def error(root, **changes):
    with pytest.raises(ValueError) as info:
      datasets.prepare(config(root, tmp_path, **changes))
    return str(info.value)

  short, bad = tmp_path / "short", tmp_path / "bad"
  write_tree(short, ["a.wav", "b.wav", "c.wav"], num_samples=1000)
  message = error(short)
  assert "3 too short" in message and "1000 samples (0.12 s" in message
  assert f"data.crop is {CROP}: lower data.crop" in message
  bad.mkdir()
  (bad / "x.mp3").write_text("text" * 100)
  (bad / "y.wav").touch()
  message = error(bad)
  assert "1 empty file, 1 not decodable" in message and "x.mp3" in message
  assert not list((tmp_path / "prepared").rglob("*.tfrecord*"))


def test_what_there_is_can_be_embedded_without_a_clip_to_train_on(tmp_path):
  root = tmp_path / "mixed"
  write_tree(root, ["test/a.wav"])
  write_tree(root, ["train/b.wav"], num_samples=10)
  prepared = datasets.prepare(config(root, tmp_path))
  assert prepared.num_clips == {"test": 1}
  with pytest.raises(ValueError, match="1 too short"):
    input_pipeline.num_train_clips(prepared, configs.base_pretrain())


@pytest.mark.parametrize(
  "name, track",
  [
    ("a/name-0-30.ogg", "a/name"),
    ("a/track01-30-60.mp3", "a/track01"),
    ("x/000123-120-150.ogg", "x/000123"),
    ("2021-03-14.mp3", "2021-03-14"),
    ("2021-11-14.mp3", "2021-11-14"),
    ("disc-1-03.mp3", "disc-1-03"),
    ("b/name-30-10.ogg", "b/name-30-10"),
    ("new\nline-0-30.ogg", "new\nline"),
  ],
)
def test_only_cuts_are_taken_off_a_track_s_name(name, track):
  assert tracks.track_of(name) == track


@pytest.mark.parametrize(
  "names, expected",
  [
    # Of one name: seconds from the start, in steps of their length, adjacent.
    (["a-0-30", "a-90-99"], "a a"),
    (["a-30-60", "a-90-120"], "a a"),
    (["a-29-58", "a-58-87", "b-58-87"], "a a b"),
    (["a-31-61", "a-61-90"], "a a"),
    (["x/a-0-30", "y/a-30-60"], "x/a y/a"),
    (["a_0-30", "a_30-60", "b 0-30", "b 60-90"], "a a b b"),
    (["a-000-030", "a-030-060", "a-990-1020"], "a a a"),
    (["a-030-060", "a-060-090"], "a a"),
    (["a-00-05", "a-05-10"], "a a"),
    # Titles: works, years, numbers, dates.
    (["a-03-06", "a-06-09", "2021_03-06"], "a-03-06 a-06-09 2021_03-06"),
    (["disc-1-03", "disc-1-006"], "disc-1-03 disc-1-006"),
    (["BWV-1001-1006"], "BWV-1001-1006"),
    (["BWV-1001-1006", "BWV-1007-1012"], "BWV-1001-1006 BWV-1007-1012"),
    (["Hits-1970-1980", "Hits-1980-1990"], "Hits-1970-1980 Hits-1980-1990"),
    (["op-33-34", "op-76-77"], "op-33-34 op-76-77"),
    (["h-31-41", "h-55-61"], "h-31-41 h-55-61"),
    # Pieces that are counted.
    (["t_seg0", "t_seg1", "u_seg0", "t_seg10"], "t t u_seg0 t"),
    (["t", "t part 2"], "t t"),
    (["T-Chunk-01", "T-Chunk-02", "T-Slice-1"], "T T T-Slice-1"),
    (["a (part 1)", "a (part 2)", "b (Part 1)"], "a a b (Part 1)"),
    (["a, Pt. 1", "a, Pt. 2", "a [pt 1]", "a [pt 2]"], "a a a a"),
    (["a_pt1", "a_pt2", "a"], "a a a"),
    (["opt1", "opt2", "part 1", "part 2"], "opt1 opt2 part 1 part 2"),
    (["blues.00000", "blues.00001", "seg0", "seg1"],
     "blues.00000 blues.00001 seg0 seg1"),
  ],
)  # fmt: skip
def test_pieces_are_told_from_titles(names, expected):
  names = [f"{name}.wav" for name in names]
  found = tracks.tracks_of(names).values()
  assert " ".join(found) == expected


@pytest.mark.parametrize("table", [False, True])
def test_what_other_rules_have_prepared_still_opens(
  root, tmp_path, monkeypatch, table
):
  """By these, clips of one track are in two splits, which a new one refuses."""
  names = ["a_0-30.wav", "a_30-60.wav", *(f"{i}.wav" for i in range(8))]
  write_tree(root, names)
  if table:
    rows = [f"{n},{'test' if i % 2 else 'train'}" for i, n in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["path,split", *rows]))
  with monkeypatch.context() as patch:
    patch.setattr(tracks, "_CUT", re.compile(r"(?!)"))
    before = datasets.prepare(config(root, tmp_path))
  assert before.tracks == 10
  after = datasets.prepare(config(root, tmp_path))
  assert (after.tracks, after.num_clips) == (10, before.num_clips)
  if table:
    with pytest.raises(ValueError, match="'a'"):
      datasets.prepare(config(root, tmp_path / "new"))


def test_a_pattern_tells_tracks(root, tmp_path):
  names = [f"c/t{i}_{n}.wav" for i in range(9) for n in range(4)]
  write_tree(root, names + ["c/other.wav"], 1)
  plan = source(root, tmp_path, track_pattern=r"(.+)_\d+")
  of_track = split_of(plan, "track")
  assert set(of_track) == {f"c/t{i}" for i in range(9)} | {"c/other"}
  of_clip = split_of(plan)
  assert all(of_clip[n] == of_track[n.rsplit("_")[0]] for n in names)
  assert source(root, tmp_path).identity != plan.identity


@pytest.mark.parametrize(
  "pattern, message",
  [
    ("(", "no regular expression"),
    ("a{9999999999999999999}(b)", "no regular expression"),
    (".+", "with 0 groups"),
    ("(.+)_(.+)", "with 2 groups"),
    ("(no)", "none of the 1 files matches: it has to match all of 'a'"),
  ],
)
def test_errors_of_patterns(tmp_path, pattern, message):
  write_tree(tmp_path / "m", ["a.wav"])
  with pytest.raises(ValueError, match=r"^data.track_pattern is ") as error:
    source(tmp_path / "m", tmp_path, track_pattern=pattern)
  assert message in str(error.value)
