"""FMA, GTZAN and MagnaTagATune from miniature archives and trees."""

import collections
import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import json
import os
import pathlib
import shutil
import tarfile
import time
import tracemalloc
import zipfile

import music
import numpy as np
import pytest
import tensorflow as tf
import warm
from etils.epath import backend, gpath, register
from music import write_tar, write_tree, write_zip
from published import (
  CROP,
  RATE,
  data,
  encoded,
  error_of,
  heard,
  labels_of,
  pitch,
  read,
  skipped,
)

from vicreg_jax import config as configs
from vicreg_jax import main
from vicreg_jax.data import audio, datasets, input_pipeline, records
from vicreg_jax.data.datasets import archives, fma, gtzan, magnatagatune
from vicreg_jax.data.prepared import SPLITS
from vicreg_jax.jobs import prepare


def faults():
  """{reason, or "" where the clip is kept: bytes} of faulty MP3s."""
  return {
    "empty file": b"",
    "not decodable": b"not music\n" * 100,
    "too short": encoded(0, seconds=0.4),
  }


def as_before(builder, section, alone=False):
  """What an earlier version has prepared; `alone`: each clip as a track."""

  class Before(builder):
    name = builder.name

    @classmethod
    def source(cls, data):
      new = builder.source(data)
      splits = {
        split: [clip._replace(track=clip.id) for clip in clips]
        for split, clips in new.splits.items()
      }
      changes = {"splits": splits} if alone else {}
      return dataclasses.replace(
        new, identity=new.former[0], former=(), **changes
      )

  return Before.get(section)


# --- FMA ---

# track id: split, subset, top genre, content. A pitch: a good clip.
FMA = {
  2: ("training", "small", "Hip-Hop", 0),
  5: ("training", "medium", "Hip-Hop", 1),
  10: ("training", "small", "Pop", 2),
  140: ("validation", "small", "Folk", 3),
  141: ("test", "medium", "Folk", 4),
  12345: ("test", "small", "Pop", 5),
  133297: ("training", "medium", "Folk", b""),  # known to be empty
  600: ("training", "medium", "Folk", "empty file"),
  601: ("training", "small", "Folk", "not decodable"),
  602: ("training", "medium", "Folk", "too short"),
  603: ("training", "medium", "Rock", None),  # in the CSV alone
  9000: ("training", "large", "", 6),
  9001: ("test", "large", "Experimental", 12),
  9002: ("test", "large", "", 13),
} | {700 + i: ("training", "medium", "Rock", 7 + i) for i in range(5)}
KEPT = {2: "train", 5: "train", 10: "train", 140: "valid", 141: "test"}
KEPT |= {12345: "test"} | {700 + i: "train" for i in range(5)}


def fma_name(track_id):
  return f"{track_id:06d}"[:3] + f"/{track_id:06d}.mp3"


def fma_clips(subsets):
  clips = {}
  for track_id, (_, subset, _, content) in FMA.items():
    if subset in subsets and content is not None:
      if isinstance(content, int):
        content = encoded(content)
      elif isinstance(content, str):
        content = faults()[content]
      clips[fma_name(track_id)] = content
  return clips


# As published: a genre's id, its title, and the top genre above it.
GENRES = {
  21: ("Hip-Hop", 21), 10: ("Pop", 10), 17: ("Folk", 17), 12: ("Rock", 12),
  66: ("Indie-Rock", 12), 85: ("Garage", 12), 38: ("Experimental", 38),
}  # fmt: skip
# Of several top genres, so `genre_top` is empty; or of none.
SEVERAL = {9000: [85, 21, 66], 9002: []}


def artist_of(track_id):
  """Two tracks each."""
  return 100 + list(FMA).index(track_id) // 2


def tracks_csv(rows=FMA):
  """The published file's dialect: three header rows, cells with newlines."""
  text = io.StringIO(newline="")
  writer = csv.writer(text, lineterminator="\n")
  groups = "album artist artist set set track track track"
  names = "title bio id split subset genre_top genres title"
  writer.writerow(["", *groups.split()])
  writer.writerow(["", *names.split()])
  writer.writerow(["track_id"] + [""] * 8)
  id_of = {title: genre for genre, (title, _) in GENRES.items()}
  for track_id, (split, subset, top, _) in rows.items():
    bio = '<p>Née "Ü",\nof Gothenburg</p>' + "x" * 200_000 * (track_id == 5)
    genres = SEVERAL.get(track_id, [id_of[top]] if top else [])
    artist = artist_of(track_id) if track_id in FMA else track_id
    writer.writerow(
      [track_id, "A, B", bio, artist, split, subset, top, genres, "T"]
    )
  return text.getvalue().encode()


def genres_csv():
  lines = ["genre_id,#tracks,parent,title,top_level"]
  lines += [f"{i},9,{top},{title},{top}" for i, (title, top) in GENRES.items()]
  return "\n".join([*lines, ""]).encode()


def fma_archives(root):
  root.mkdir()
  clips = fma_clips(["small", "medium"])
  members = {f"fma_medium/{name}": clips[name] for name in clips}
  members |= {"fma_medium/README.txt": b"", "../evil.mp3": encoded(0)}
  # As archives made on a Mac have them.
  members["__MACOSX/fma_medium/000/000002.mp3"] = b"resources"
  write_zip(root / "fma_medium.zip", members)
  # The published metadata are compressed by bzip2.
  metadata = {"fma_metadata/tracks.csv": tracks_csv()}
  metadata["fma_metadata/genres.csv"] = genres_csv()
  write_zip(root / "fma_metadata.zip", metadata, zipfile.ZIP_BZIP2)
  return root


@pytest.fixture(scope="module")
def fma_prepared(tmp_path_factory):
  tmp_path = tmp_path_factory.mktemp("fma")
  root = fma_archives(tmp_path / "official")
  return datasets.prepare(data("fma", root, tmp_path)), root, tmp_path


def test_fma_medium_from_archives(fma_prepared):
  prepared, root, _ = fma_prepared
  examples = read(prepared)
  assert set(examples) == {fma_name(i) for i in KEPT}
  for track_id, split in KEPT.items():
    example = examples[fma_name(track_id)]
    _, _, genre, number = FMA[track_id]
    assert example["split"] == split
    assert labels_of(example, prepared) == [genre]
    assert heard(example) == pytest.approx(pitch(number), abs=1)
    assert len(example["samples"]) // 2 == pytest.approx(RATE, abs=3000)
  assert prepared.labels == ("Folk", "Hip-Hop", "Pop", "Rock")
  assert prepared.label_kind == "single"
  assert skipped(prepared) == {
    "../evil.mp3": "unsafe name in the archive",
    fma_name(133297): "known fault",
    fma_name(600): "empty file",
    fma_name(601): "not decodable",
    fma_name(602): "too short",
    fma_name(603): "not found",
  }
  assert prepared.label_counts["train"] == [0, 2, 1, 5]
  table = prepared.summary().splitlines()
  assert [line.split()[:2] for line in table[1:4]] == [
    ["train", "8"], ["valid", "1"], ["test", "2"],
  ]  # fmt: skip
  assert table[-1].startswith("skipped        6  1 empty file, 1 known fault")
  assert not list(root.parent.rglob("evil*"))


def test_fma_from_a_tree_gives_the_same(fma_prepared, tmp_path):
  prepared, _, _ = fma_prepared
  root = tmp_path / "tree"
  write_tree(root / "fma_medium", fma_clips(["small", "medium"]))
  write_tree(root / "fma_metadata", {"tracks.csv": tracks_csv()})
  got = read(datasets.prepare(data("fma", root, tmp_path)))
  want = read(prepared)
  assert got.keys() == want.keys()
  for name in want:
    assert got[name]["samples"] == want[name]["samples"]
    assert got[name]["split"] == want[name]["split"]
    np.testing.assert_array_equal(got[name]["labels"], want[name]["labels"])


@pytest.fixture
def fma_large(tmp_path):
  root = tmp_path / "large"
  write_tree(root / "fma_large", fma_clips(["small", "medium", "large"]))
  tables = {"tracks.csv": tracks_csv(), "genres.csv": genres_csv()}
  write_tree(root / "fma_metadata", tables)
  return root


def test_fma_large_has_all_top_genres_of_a_clip(
  fma_large, tmp_path, monkeypatch
):
  """Of its genres two are Rock's: Garage and Indie-Rock."""
  section = data("fma", fma_large, tmp_path, subset="large")
  prepared = datasets.prepare(section)
  examples = read(prepared)
  assert prepared.label_kind == "multi"
  assert set(examples) == {fma_name(i) for i in [*KEPT, 9000, 9001, 9002]}
  for track_id, want in (
    (9000, ["Hip-Hop", "Rock"]), (9001, ["Experimental"]), (9002, []),
    (2, ["Hip-Hop"]), (141, ["Folk"]),
  ):  # fmt: skip
    assert labels_of(examples[fma_name(track_id)], prepared) == want
  # Those that have one alone; what is decoded is not decoded again.
  section.genres = "single"
  load, decoded = audio.load, set()
  monkeypatch.setattr(
    audio, "load", lambda path, rate: decoded.add(path) or load(path, rate)
  )
  single = datasets.prepare(section)
  root = fma_large / "fma_large"
  assert decoded == {f"{root}/{fma_name(i)}" for i in (600, 601, 602, 603)}
  assert single.label_kind == "single"
  assert set(read(single)) == {fma_name(i) for i in [*KEPT, 9001]}
  reasons = skipped(single)
  assert reasons[fma_name(9000)] == "no single top genre"
  assert reasons[fma_name(9002)] == "no single top genre"
  assert all(example["labels"].sum() == 1 for example in read(single).values())
  # Each is found without the source; what another version has labelled is not.
  section.path = ""
  assert datasets.prepare(section).path == single.path
  (path := pathlib.Path(single.path) / "metadata.json").write_text("{")
  section.genres = "single"
  assert f"prepared data in {path.parent} are damaged" in error_of(section)
  section.genres = "several"
  assert datasets.prepare(section).path == prepared.path
  path = pathlib.Path(prepared.path).parent
  path.rename(path.with_name("large-0123abcd"))
  assert "none is prepared (large-several-*" in error_of(section)


def test_fma_says_what_is_wrong_with_its_genres(fma_large, tmp_path):
  section = data("fma", fma_large, tmp_path, subset="large")
  path, table = fma_large / "fma_metadata/genres.csv", genres_csv()
  for faulty, message in (
    (table.replace(b"top_level", b"top"), "genres.csv line 1: no column top_l"),
    (table.replace(b"38,9,38", b"39,9,38"), "genre 38 is not listed"),
    (
      table.replace(b"38,9,38,Experimental,38\n", b""),
      "track 9001 has genre 38",
    ),
    (table.replace(b"Pop,10", b"Pop,x"), "genres.csv line 3: "),
    (table + b"1,2", "line 9: 2 cells for 5 columns"),
  ):
    path.write_bytes(faulty)
    assert message in error_of(section)
    assert "get fma_metadata.zip again" in error_of(section)
  path.unlink()
  assert "fma_metadata/genres.csv: put one of them there" in error_of(section)
  section.genres = "single"
  assert datasets.prepare(section).num_clips["test"] == 3
  tracks = fma_large / "fma_metadata/tracks.csv"
  for faulty in (
    tracks_csv().replace(b"[38]", b"38"),
    tracks_csv().replace(b",101,", b",,"),
  ):
    tracks.write_bytes(faulty)
    assert "are no genres such as [21, 66], or" in error_of(section)


def test_fma_keeps_artists_together(fma_prepared, caplog):
  prepared, *_ = fma_prepared
  examples = read(prepared)
  artists = {i: examples[fma_name(i)]["track"].decode() for i in KEPT}
  # By hand: tracks of the table in twos.
  assert artists[2] == artists[5] == "artist 100"
  assert artists[10] == artists[140] == "artist 101"
  assert len(set(artists.values())) == prepared.tracks == 6
  assert not caplog.records


def test_fma_opens_what_was_prepared_before(fma_prepared, tmp_path, caplog):
  """Of an earlier version: by its identity, and with tracks for artists."""
  _, root, _ = fma_prepared
  section = data("fma", root, tmp_path)
  state = [
    [s.length, s.mtime_nsec]
    for s in [tf.io.gfile.stat(str(root / "fma_medium.zip"))]
  ]
  rows = [
    (i, {"training": "train", "validation": "valid"}.get(split, split), genre)
    for i, (split, subset, genre, _) in FMA.items()
    if subset != "large"
  ]
  assert json.dumps(fma.Fma.source(section).former) == json.dumps(
    [[state, rows]]
  )
  before = as_before(fma.Fma, section, alone=True)
  caplog.clear()
  for path in (str(root), ""):
    section.path = path
    assert datasets.prepare(section).path == before.path
    assert "knew no artists" in caplog.text
    caplog.clear()


def test_prepared_data_open_without_the_source(fma_prepared, tmp_path):
  prepared, _, there = fma_prepared
  section = data("fma", "", there)
  assert datasets.prepare(section).path == prepared.path
  section.subset = "small"
  assert "none is prepared" in error_of(section)
  section = data("fma", "", there, crop=CROP + 1)
  message = error_of(section)
  assert "none is prepared (medium-*" in message and "data.path" in message
  for i in range(2):
    tree = tmp_path / str(i)
    write_tree(tree / "fma_medium", fma_clips(["small", "medium"]))
    write_tree(tree / "fma_metadata", {"tracks.csv": tracks_csv()})
    section = data("fma", tree, tmp_path)
    newest = datasets.prepare(section).path
  section.path = ""
  assert datasets.prepare(section).path == newest
  os.utime(f"{newest}/dataset_info.json", (0, 0))
  assert datasets.prepare(section).path != newest


def test_fma_says_what_is_missing(fma_prepared, tmp_path):
  root = tmp_path / "m"
  section = data("fma", root, tmp_path)
  assert f"'{root}' does not exist" in error_of(section)
  root.mkdir()
  assert "neither fma_medium.zip nor fma_medium/" in error_of(section)
  whole = (fma_prepared[1] / "fma_medium.zip").read_bytes()
  (root / "fma_medium.zip").write_bytes(whole[: len(whole) // 2])
  assert "fma_medium.zip: not a whole zip" in error_of(section)
  (root / "fma_medium.zip").write_bytes(whole)
  message = error_of(section)
  assert "neither fma_metadata.zip nor fma_metadata/tr" in message
  url = "https://os.unil.cloud.switch.ch/fma/fma_metadata.zip"
  assert f"curl -C - -O {url} (SHA-1 f0df49" in message
  write_tree(root, {"fma_metadata/tracks.csv": b",a\n,b\ntrack_id,\n2,x\n"})
  assert "no column set.split, set.subset" in error_of(section)
  faulty = tracks_csv({2: ("train", "small", "Pop", 0)})
  write_tree(root, {"fma_metadata/tracks.csv": faulty})
  assert "line 5: " in error_of(section) and "'train'" in error_of(section)
  (root / "fma_metadata.zip").write_bytes(b"PK")
  assert "fma_metadata.zip: not a whole zip" in error_of(section)


def test_fma_of_a_wrong_directory(tmp_path, monkeypatch):
  """A folder too high, too low, or one into which a program extracted."""
  root = tmp_path / "all/fma"
  tracks = {2: ("training", "small", "Pop", 0)}
  name = fma_name(2).replace(".mp3", ".MP3")
  write_tree(root / "fma_small/fma_small", {name: encoded(0)})
  write_tree(root / "fma_metadata", {"tracks.csv": tracks_csv(tracks)})
  for path in (root.parent, root / "fma_small", root / "fma_metadata"):
    section = data("fma", path, tmp_path, subset="small")
    assert error_of(section).endswith(f"set data.path={root}")
  monkeypatch.chdir(root / "fma_small")
  section.path = "."
  assert error_of(section).endswith(f"set data.path={root}")
  section.path = str(root)
  assert set(read(datasets.prepare(section))) == {fma_name(2)}
  shutil.rmtree(root / "fma_small/fma_small")
  message = error_of(section)
  assert f"fma, small in data.path={root}: no clip is left" in message
  assert "1 not found" in message and fma_name(2) in message
  assert "above the right one, or below" in message


def test_fma_of_an_encrypted_archive(tmp_path):
  root = fma_archives(tmp_path / "m")
  for name in ("fma_medium.zip", "fma_metadata.zip"):
    content = bytearray((root / name).read_bytes())
    at = -1
    while (at := content.find(b"PK\1\2", at + 1)) >= 0:
      content[at + 8] |= 1
    (root / name).write_bytes(content)
    message = error_of(data("fma", root, tmp_path))
    assert f"{name}: encrypted: extract" in message
    write_zip(root / name, {f"{name[:-4]}/{fma_name(2)}": encoded(0)})


def test_fma_of_tables_that_cannot_be_read(tmp_path):
  root = fma_archives(tmp_path / "m")
  (root / "fma_metadata.zip").unlink()
  section = data("fma", root, tmp_path)
  table = root / "fma_metadata/tracks.csv"
  whole = tracks_csv()
  for content, message in (
    (whole[:-2], "ends within a line"),  # in its last cell
    (whole[:-9], "cells for 9 columns"),
    (b"<html>\n<body>Not found</body>\n", "no column set.split"),
    (b"\x89PNG\r\n\x1a\n\xff", "can't decode"),
    (b"", "no column"),
    (b"\n\n\n", "no column"),
  ):
    write_tree(root, {"fma_metadata/tracks.csv": content})
    text = error_of(section)
    assert f"{table} line " in text and message in text
    assert "get fma_metadata.zip again" in text
  table.unlink()
  table.mkdir()
  assert f"{table}: [Errno 21] Is a directory" in error_of(section)
  assert "make the file readable, or get fma_meta" in error_of(section)


def test_a_disk_that_fills_up_at_the_end(tmp_path, monkeypatch):
  """While TFDS brings records into order: its errors are none of OSError."""

  class Full(tf.io.TFRecordWriter):
    def write(self, record):
      raise tf.errors.ResourceExhaustedError(None, None, "No space left")

  root = fma_archives(tmp_path / "m")
  monkeypatch.setattr(tf.io, "TFRecordWriter", Full)
  message = error_of(data("fma", root, tmp_path))
  assert f"data.dir={tmp_path}/prepared: cannot write" in message
  assert "No space left" in message and "Free disk space" in message


def test_fma_full(tmp_path):
  root = tmp_path / "fma"
  tables = {"tracks.csv": tracks_csv(), "genres.csv": genres_csv()}
  write_tree(root / "fma_metadata", tables)
  section = data("fma", root, tmp_path, crop=2187, subset="full")
  clips = {
    fma_name(i): encoded(n, seconds=0.3 + 0.1 * n)
    for n, i in enumerate((2, 140, 141, 9000, 133297))
  }
  write_tree(root / "fma_large", clips)
  assert "neither fma_full.zip nor fma_full/" in error_of(section)
  os.rename(root / "fma_large", root / "fma_full")
  prepared = datasets.prepare(section)
  assert prepared.label_kind == "multi"
  examples = read(prepared)
  # 133297 is empty as a clip: it was cut where its track has ended.
  assert set(examples) == set(clips)
  for n, name in enumerate(clips):
    assert heard(examples[name]) == pytest.approx(pitch(n), abs=3)
    seconds = len(examples[name]["samples"]) / 44_100
    assert seconds == pytest.approx(0.3 + 0.1 * n, abs=0.08)
  assert collections.Counter(skipped(prepared).values()) == {
    "not found": len(FMA) - len(clips)
  }
  # Whole tracks are no clips of 30 s.
  section.subset = "large"
  assert "neither fma_large.zip nor fma_large/" in error_of(section)
  assert fma.SHA1.keys() >= {f"fma_{s}.zip" for s in ("large", "full")}


# --- GTZAN ---


def test_gtzan_lists():
  lists = {split: gtzan.filtered(split) for split in SPLITS}
  assert {s: len(names) for s, names in lists.items()} == {
    "train": 443, "valid": 197, "test": 290,
  }  # fmt: skip
  names = sum(lists.values(), [])
  assert len(set(names)) == 930
  genres = collections.Counter(name.split("/")[0] for name in names)
  assert tuple(sorted(genres)) == gtzan.GENRES and max(genres.values()) == 100


def gtzan_numbers():
  """{name: pitch number}: a few clips of each split, and one outside."""
  picked = [n for split in SPLITS for n in gtzan.filtered(split)[::45]]
  kept = set().union(*map(gtzan.filtered, SPLITS))
  outside = next(
    name
    for number in range(100)
    if (name := f"jazz/jazz.{number:05d}") not in kept
  )
  return {name: i for i, name in enumerate([*picked, outside])}, outside


def gtzan_archive(root):
  root.mkdir()
  numbers, _ = gtzan_numbers()
  with tarfile.open(root / "genres.tar.gz", "w:gz") as tar:
    add = functools.partial(music.add, tar)
    add("genres", type=tarfile.DIRTYPE)
    add("../blues.00001.au", b"evil")
    add("/etc/blues.00001.au", b"evil")
    add("genres/blues/../../../blues.00001.au", b"evil")
    name, twice = "genres/blues/blues.00099.au", next(iter(numbers))
    add(name, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    add(name, type=tarfile.LNKTYPE, linkname="/etc/passwd")
    add(name, type=tarfile.LNKTYPE, linkname="genres/bextract.mf")
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
      add(name, type=kind, devmajor=1, devminor=5)
    add(name, type=tarfile.DIRTYPE)
    add(f"genres/{twice}.au", b"an older member of the same name")
    add("genres/bextract.mf", b"blues/blues.00000.au\tblues\n")
    for name, i in numbers.items():
      add(f"genres/{name}.au", encoded(i, "AU"))
  return root


def check_gtzan(prepared, numbers, outside):
  examples = read(prepared)
  assert set(examples) == set(numbers) - {outside}
  for name, example in examples.items():
    assert name in gtzan.filtered(example["split"])
    assert labels_of(example, prepared) == [name.split("/")[0]]
    assert heard(example) == pytest.approx(pitch(numbers[name]), abs=1)
  reasons = skipped(prepared)
  assert reasons[outside] == "fault-filtered"
  # The lists have 930 of 1,000; what is not here of them is reported.
  assert collections.Counter(reasons.values()) == {
    "fault-filtered": 70, "not found": 930 - len(examples),
  }  # fmt: skip


def test_gtzan_from_the_archive(tmp_path):
  root = gtzan_archive(tmp_path / "official")
  numbers, outside = gtzan_numbers()
  prepared = datasets.prepare(data("gtzan", root, tmp_path))
  check_gtzan(prepared, numbers, outside)
  # Of the lists most are not here, and of this many it is said.
  lost = 930 - sum(prepared.num_clips.values())
  assert f"{lost} of 1,000 clips were not found" in prepare.not_found(prepared)
  assert (prepared.labels, prepared.label_kind) == (gtzan.GENRES, "single")
  archive = root / "genres.tar.gz"
  assert archives.extract_tar(archive, tmp_path / "x", gtzan._MEMBER) == [
    "../blues.00001.au", "/etc/blues.00001.au",
    "genres/blues/../../../blues.00001.au",
  ]  # fmt: skip
  shutil.rmtree(tmp_path / "x")
  # What was extracted, and nothing else, nowhere else.
  files = {p for p in tmp_path.rglob("*") if p.suffix == ".au"}
  assert files == {root / "genres" / f"{name}.au" for name in numbers}
  assert not any(p.is_symlink() for p in tmp_path.rglob("*"))
  assert {p.name for p in root.iterdir()} == {"genres", "genres.tar.gz"}


@pytest.mark.parametrize("zipped", [False, True])
def test_gtzan_as_kaggle_has_it(tmp_path, zipped):
  numbers, outside = gtzan_numbers()
  root = tmp_path / "official"
  clips = {f"{name}.wav": encoded(i, "WAV") for name, i in numbers.items()}
  # One file is published damaged in the WAV edition.
  clips["jazz/jazz.00054.wav"] = b"damaged" * 99
  if zipped:
    root.mkdir()
    members = {f"Data/genres_original/{n}": c for n, c in clips.items()}
    members |= {"Data/features_30_sec.csv": b"filename,length\n"}
    write_zip(root / "archive.zip", members)
  else:
    write_tree(root / "genres_original", clips)
  filtered = datasets.prepare(data("gtzan", root, tmp_path))
  assert set(read(filtered)) == set(numbers) - {outside}
  full = datasets.prepare(data("gtzan", root, tmp_path, split_set="full"))
  assert set(read(full)) == set(numbers)
  assert skipped(full)["jazz/jazz.00054"] == "broken in Kaggle's copy"
  plan = gtzan.Gtzan.source(data("gtzan", root, tmp_path, split_set="full"))
  assert {s: len(clips) for s, clips in plan.splits.items()} == {
    "train": 700, "valid": 100, "test": 200,
  }  # fmt: skip


def test_gtzan_in_other_folders_and_capitals(tmp_path):
  name = gtzan.filtered("train")[0]
  for number, prefix in enumerate(("", "gtzan/data/", "genres/")):
    root = tmp_path / str(number)
    (root / "genres").mkdir(parents=True)  # empty: the archive is good
    members = {"Readme.txt": b"", f"{prefix}{name}.AU": encoded(number, "AU")}
    write_tar(root / "genres.tar.gz", members)
    (example,) = read(datasets.prepare(data("gtzan", root, tmp_path))).values()
    assert heard(example) == pytest.approx(pitch(number), abs=1)
  (tmp_path / "zip").mkdir()
  members = {f"my/own/{name}.WAV": encoded(5, "WAV"), "a.txt": b""}
  write_zip(tmp_path / "zip/archive.zip", members)
  section = data("gtzan", tmp_path / "zip", tmp_path)
  (example,) = read(datasets.prepare(section)).values()
  assert heard(example) == pytest.approx(pitch(5), abs=1)
  # Another set's archive.
  section = data("gtzan", tmp_path / "other", tmp_path)
  write_tar(tmp_path / "other/genres.tar.gz", {"notes/a.wav": b"x"})
  message = error_of(section)
  assert "genres.tar.gz: cannot be extracted" in message
  assert "no file in it belongs" in message and "'notes/a.wav'" in message


def test_what_is_extracted_or_touched_again_is_not_decoded_again(
  tmp_path, monkeypatch
):
  root, name = tmp_path / "m", gtzan.filtered("train")[0]
  write_tar(root / "genres.tar.gz", {f"{name}.au": encoded(1, "AU")})
  section = data("gtzan", root, tmp_path)
  prepared = datasets.prepare(section)
  shutil.rmtree(root / "genres")
  mtat = data("magnatagatune", mtat_archives(tmp_path / "mtat"), tmp_path)
  zipped = datasets.prepare(mtat)
  for part in (tmp_path / "mtat").iterdir():
    os.utime(part)
  archives._members.cache_clear()
  monkeypatch.delattr(audio, "load")
  monkeypatch.delattr(audio, "loads")
  assert datasets.prepare(section).path == prepared.path
  assert datasets.prepare(mtat).path == zipped.path


def hang_saying(word):
  print(word, flush=True)
  time.sleep(warm.PATIENCE)


def hung(function, word, root, tmp_path):
  """A process that has called `hang_saying`."""
  out, err = tmp_path / "out", tmp_path / "err"
  process = warm.Process(function, root, tmp_path, out=out, err=err)
  while word not in (out.read_text() if out.exists() else ""):
    assert process.poll() is None
    time.sleep(0.05)
  return process


def extract_and_hang(root, tmp_path):
  archives.shutil.copyfileobj = lambda *_: hang_saying("extracting")
  datasets.prepare(data("gtzan", root, tmp_path))


def test_one_command_extracts_and_a_killed_one_leaves_nothing(tmp_path):
  root, name = tmp_path / "m", gtzan.filtered("train")[0]
  write_tar(root / "genres.tar.gz", {f"{name}.au": encoded(1, "AU")})
  section = data("gtzan", root, tmp_path)
  process = hung(extract_and_hang, "extracting", root, tmp_path)
  assert f"{root}/genres is being written by another" in error_of(section)
  process.kill()
  process.wait()
  assert datasets.prepare(section).num_clips == {"train": 1}
  assert {p.name for p in root.iterdir()} == {"genres", "genres.tar.gz"}


def test_gtzan_says_what_is_missing(tmp_path):
  root = gtzan_archive(tmp_path / "m")
  path = root / "genres.tar.gz"
  whole = path.read_bytes()
  section = data("gtzan", root, tmp_path)
  path.write_bytes(whole[: len(whole) // 2])
  assert "genres.tar.gz: cannot be extracted" in error_of(section)
  assert [p.name for p in root.iterdir()] == ["genres.tar.gz"]
  path.unlink()
  assert "neither genres.tar.gz nor" in error_of(section)


# --- MagnaTagATune ---

TAGS = [f"tag {i}" for i in range(60)]


def mtat_clips():
  """{path: pitch number}, in all splits; two are cut from one track."""
  paths = [f"{f}/band-album-0{f}-song-0-29.mp3" for f in "0123456789abcdef"]
  paths += ["d/band-album-0d-song-29-58.mp3", "c/x-y-01-z-0-29.mp3"]
  return {path: i for i, path in enumerate(paths)}


def mtat_tags():
  """{path: tags}; "c/x-..." has only tags that are too rare."""
  rng = np.random.default_rng(0)
  common = {
    path: {t for t in TAGS[5:55] if rng.random() < 0.6} for path in mtat_clips()
  }
  return common | {"c/x-y-01-z-0-29.mp3": {"tag 1", "tag 57"}}


def annotations():
  """As published: tabs, every cell in quotes."""
  text = io.StringIO(newline="")
  writer = csv.writer(
    text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n"
  )
  writer.writerow(["clip_id", *TAGS, "mp3_path"])
  for i, (path, tags) in enumerate(mtat_tags().items()):
    writer.writerow([i, *(int(t in tags) for t in TAGS), path])
  for i, path in enumerate((magnatagatune.KNOWN_FAULTS[0], "0/text-0-29.mp3")):
    writer.writerow([i + 99, *[0] * 59, 1, path])
  return text.getvalue().encode()


def mtat_members():
  members = {path: encoded(i) for path, i in mtat_clips().items()}
  members[magnatagatune.KNOWN_FAULTS[0]] = b""
  return members | {"0/text-0-29.mp3": b"text" * 99}


def mtat_archives(root):
  write_zip(root.with_suffix(".zip"), mtat_members() | {"../x.mp3": b""})
  whole = root.with_suffix(".zip").read_bytes()
  root.mkdir()
  for i in range(3):
    part = whole[i * len(whole) // 3 : (i + 1) * len(whole) // 3]
    (root / f"mp3.zip.00{i + 1}").write_bytes(part)
  (root / "annotations_final.csv").write_bytes(annotations())
  return root


def test_magnatagatune_from_parts(tmp_path):
  root = mtat_archives(tmp_path / "official")
  prepared = datasets.prepare(data("magnatagatune", root, tmp_path))
  counts = {tag: 0 for tag in TAGS}
  for tags in mtat_tags().values():
    for tag in tags:
      counts[tag] += 1
  counts["tag 59"] += 2
  top = sorted(TAGS, key=lambda t: -counts[t])[:50]
  assert (prepared.labels, prepared.label_kind) == (tuple(top), "multi")
  examples = read(prepared)
  assert set(examples) == set(mtat_clips())
  for path, number in mtat_clips().items():
    example, folder = examples[path], path[0]
    want = "train" if folder < "c" else "valid" if folder == "c" else "test"
    assert example["split"] == want
    tags = mtat_tags()[path]
    assert labels_of(example, prepared) == [t for t in top if t in tags]
    assert heard(example) == pytest.approx(pitch(number), abs=1)
  tracks = {p: examples[p]["track"] for p in examples if p.startswith("d/")}
  assert set(tracks.values()) == {b"d/band-album-0d-song"} and len(tracks) == 2
  assert skipped(prepared) == {
    magnatagatune.KNOWN_FAULTS[0]: "known fault",
    "0/text-0-29.mp3": "not decodable",
    "../x.mp3": "unsafe name in the archive",
  }
  tagged = datasets.prepare(
    data("magnatagatune", root, tmp_path, convention="tagged")
  )
  assert tagged.labels == prepared.labels
  assert set(examples) - set(read(tagged)) == {"c/x-y-01-z-0-29.mp3"}
  # The two faulty files have a rare tag too.
  assert tagged.skipped == {
    "none of the 50 tags": 3,
    "unsafe name in the archive": 1,
  }


def test_magnatagatune_from_a_tree(tmp_path):
  for sub in ("", "mp3"):
    root = tmp_path / f"tree{sub}"
    write_tree(root / sub, mtat_members())
    (root / "annotations_final.csv").write_bytes(annotations())
    prepared = datasets.prepare(data("magnatagatune", root, tmp_path))
    assert set(read(prepared)) == set(mtat_clips())


def test_magnatagatune_says_what_is_missing(tmp_path):
  csv.field_size_limit(131_072)  # reading FMA raises it
  root = mtat_archives(tmp_path / "m")
  section = data("magnatagatune", root, tmp_path)
  path, whole = root / "annotations_final.csv", annotations()
  for faulty, message in (
    (whole.replace(b"\t", b","), "separated by tabs"),
    (whole.replace(b'"1"', b'"2"', 1), "line 2: not 60 cells of 0 or 1"),
    (whole.replace(b"0/band", b"../band"), "line 2: mp3_path is '../band"),
    (whole.replace(b"0/band", b"0/\0and", 1), "mp3_path is '0/\\x00"),
    (whole.splitlines()[0], "no clips in it"),
    (b"\xff\xfe" + whole, "final.csv: 'utf-8' codec can't decode"),
    (b'"clip_id\trock\tmp3_path\n' + b"x" * 200_000, "line 2: field larger"),
  ):
    path.write_bytes(faulty)
    assert message in error_of(section)
  path.unlink()
  assert "holds no annotations_final.csv" in error_of(section)
  parts = [root / f"mp3.zip.00{i}" for i in (1, 2, 3)]
  whole = parts[2].read_bytes()
  parts[2].write_bytes(whole[:-9])
  assert "mp3.zip.003: not a whole zip" in error_of(section)
  parts[2].unlink()
  assert "[1, 2] are there, mp3.zip.003 is missing" in error_of(section)
  parts[0].unlink()
  assert "mp3.zip.001, mp3.zip.003 is missing" in error_of(section)
  parts[1].unlink()
  assert "neither mp3.zip.001" in error_of(section)


def test_magnatagatune_of_other_annotations(tmp_path, monkeypatch):
  """With the same tags as often: each clip has those of the next one."""
  root = mtat_archives(tmp_path / "m[1]")  # brackets are no glob
  section = data("magnatagatune", root, tmp_path)
  table = root / "annotations_final.csv"
  header, *rows = annotations().decode().splitlines()
  rows = [row.split("\t") for row in rows]
  turned = [[i, *of[1:-1], path] for (i, *_, path), of in
            zip(rows, rows[1:] + rows[:1])]  # fmt: skip

  def expect(prepared, rows):
    examples = read(prepared)
    names = [cell.strip('"') for cell in header.split("\t")[1:-1]]
    for _, *cells, path in rows:
      if (path := path.strip('"')) in examples:
        tags = {n for n, on in zip(names, cells) if on == '"1"'}
        want = tags & set(prepared.labels)
        assert set(labels_of(examples[path], prepared)) == want

  before = as_before(magnatagatune.Magnatagatune, section)
  expect(before, rows)
  # What was prepared of this table by an earlier version, and not of another.
  assert datasets.prepare(section).path == before.path
  table.write_text("\n".join([header, *map("\t".join, turned), ""]))
  other = datasets.prepare(section)
  assert other.path != before.path
  expect(other, turned)
  table.write_bytes(annotations())
  assert datasets.prepare(section).path == before.path
  shutil.rmtree(before.path)
  expect(datasets.prepare(section), rows)


# --- archives ---


def test_parts_read_like_the_whole(tmp_path):
  whole = bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8))
  cuts = [0, 1, 1, 2000, 5000]  # a part may even be empty
  paths = []
  for i, (start, end) in enumerate(itertools.pairwise(cuts)):
    paths.append(str(tmp_path / str(i)))
    pathlib.Path(paths[-1]).write_bytes(whole[start:end])
  state = tuple((os.path.getsize(path), 0) for path in paths)
  parts = io.BufferedReader(
    archives._Parts(archives.Zip(tuple(paths), state)), 64
  )
  assert parts.read() == whole and parts.read() == b""
  rng = np.random.default_rng(1)
  for _ in range(200):
    start, count = rng.integers(0, 5100), int(rng.integers(0, 3000))
    parts.seek(start)
    assert parts.read(count) == whole[start : start + count]
  assert parts.seek(-10, os.SEEK_END) == 4990 and parts.read() == whole[-10:]


def test_archives_of_a_remote_file_system():
  """ram:// is TensorFlow's own; gs:// goes the same way."""
  content = io.BytesIO()
  write_zip(content, {"mp3/0/a.mp3": encoded(1), "mp3/0/bomb.mp3": b""})
  whole = content.getvalue()
  paths = ["ram://m/mp3.zip.001", "ram://m/mp3.zip.002"]
  for path, part in zip(paths, (whole[:500], whole[500:])):
    with tf.io.gfile.GFile(path, "wb") as f:
      f.write(part)
  with tf.io.gfile.GFile("ram://m/annotations_final.csv", "wb") as f:
    f.write(annotations())
  files = magnatagatune._files("ram://m")
  assert files.paths == tuple(paths)
  np.testing.assert_array_equal(
    files.load("0/a.mp3", RATE), audio.loads(encoded(1), "", RATE)
  )
  tags, *_ = magnatagatune.read_annotations("ram://m/annotations_final.csv")
  assert len(tags) == 50
  with tf.io.gfile.GFile("ram://m/fma_metadata/tracks.csv", "wb") as f:
    f.write(tracks_csv())
  rows = fma.read_tracks("ram://m", "large")
  splits = {"train": "training", "valid": "validation", "test": "test"}
  assert [(i, splits[split], genre) for i, split, genre, *_ in rows] == [
    (i, split, genre) for i, (split, _, genre, _) in FMA.items()
  ]


@pytest.fixture
def ram(monkeypatch):
  """Makes ram:// a remote file system like gs://, which is not at hand."""
  prefixes = register._URI_PREFIXES_TO_CLS
  monkeypatch.setattr(gpath, "_URI_PREFIXES", (*gpath._URI_PREFIXES, "ram://"))
  monkeypatch.setattr(gpath, "_URI_SCHEMES", gpath._URI_SCHEMES | {"ram"})
  monkeypatch.setitem(gpath._URI_MAP_ROOT, "ram://", "/ram/")
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "ram", backend.tf_backend)
  monkeypatch.setitem(prefixes, "ram://", gpath.PosixGPath)

  def rename(self, old, new):
    # ram:// cannot rename directories; gs:// does it file by file, as here.
    names = tf.io.gfile.listdir(old)
    tf.io.gfile.makedirs(new)
    for name in names:
      tf.io.gfile.rename(f"{old}/{name}", f"{new}/{name}")
    tf.io.gfile.remove(old)

  monkeypatch.setattr(type(backend.tf_backend), "rename", rename)


@pytest.mark.slow
def test_prepared_data_in_a_bucket(ram, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  root = mtat_archives(tmp_path / "official")
  here = datasets.prepare(data("magnatagatune", root, tmp_path))
  config = configs.base_prepare()
  config.data = data("magnatagatune", root, tmp_path, dir="ram://bucket/data")
  main.run(config, None)
  config.data.path = ""
  there = datasets.prepare(config.data)
  assert there.path.startswith("ram://bucket/data/magnatagatune/all-")
  for name, example in read(there).items():
    assert example["samples"] == read(here)[name]["samples"]
  names = {p.name for p in pathlib.Path(here.path).iterdir()}
  written = set(tf.io.gfile.listdir(there.path))
  assert written == names | {"prepare.png"}
  assert {p.name for p in tmp_path.iterdir()} == {
    "official", "official.zip", "prepared",
  }  # fmt: skip


def test_records_in_a_bucket_are_read_from_a_copy(ram, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  root = mtat_archives(tmp_path / "official")
  here, there = (
    datasets.prepare(data("magnatagatune", root, tmp_path, dir=directory))
    for directory in (str(tmp_path / "prepared"), "ram://bucket/copied")
  )
  where = np.array([0, 1]), np.array([[0, 5], [3, 0]]), 100
  mine, theirs = (input_pipeline.labels(p, "train") for p in (here, there))
  assert mine.ids == theirs.ids
  np.testing.assert_array_equal(mine.labels_NxK, theirs.labels_NxK)
  assert not (tmp_path / "cache").exists()  # labels alone copy nothing

  def same():
    mine, theirs = (records.Clips(p, ("train", "valid")) for p in (here, there))
    assert mine.index.id_N.tolist() == theirs.index.id_N.tolist()
    (pcm_1, skip), (pcm_2, skip_2) = mine.read(*where), theirs.read(*where)
    assert skip.tolist() == skip_2.tolist()
    for n, v in np.ndindex(*skip.shape):
      crop = slice(skip[n, v], skip[n, v] + 100)
      np.testing.assert_array_equal(pcm_1[n, v, crop], pcm_2[n, v, crop])
    return theirs.files

  copied = []
  copy = records._copy

  def spy(source, path, stat, progress):
    copied.append(os.path.basename(path))
    copy(source, path, stat, progress)

  monkeypatch.setattr(records, "_copy", spy)
  files = same()
  assert files.directory.startswith(str(tmp_path / "cache"))
  assert sorted(copied) == sorted(files.counts)
  copied.clear()
  same()
  assert not copied
  # What is torn here, or newer there, is copied again, and nothing else.
  first, *_, last = files.paths
  pathlib.Path(first).write_bytes(b"torn")
  os.utime(last, ns=(10**18, 10**18))
  same()
  assert sorted(copied) == sorted(map(os.path.basename, {first, last}))
  # Without room for it nothing is written.
  os.unlink(first)
  usage = type("Usage", (), {"free": 10})
  monkeypatch.setattr(records.shutil, "disk_usage", lambda path: usage)
  with pytest.raises(ValueError, match="XDG_CACHE_HOME"):
    same()
  assert not os.path.exists(first)
  assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize(
  "flag", ["encrypted", "compression", "bomb", "damaged"]
)
def test_odd_members_are_left_out(tmp_path, flag, monkeypatch):
  path = tmp_path / "a.zip"
  write_zip(path, {"0/b.mp3": encoded(1), "0/a.mp3": encoded(0)})
  content = bytearray(path.read_bytes())
  central = content.rindex(b"PK\1\2")
  if flag == "encrypted":
    content[central + 8] |= 1
  elif flag == "compression":
    content[central + 10] = 97  # WavPack
  elif flag == "damaged":
    content[content.rindex(b"PK\3\4") + 200] ^= 255
  else:
    content[central + 24 : central + 28] = (1 << 31).to_bytes(4, "little")
  path.write_bytes(content)
  archive = archives.Zip.open([str(path)])
  with pytest.raises(audio.AudioError) as caught:
    archive.load("0/a.mp3", RATE)
  want = "too large" if flag == "bomb" else "damaged in the archive"
  assert caught.value.reason == want


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_bombs_that_declare_little_stay_small(tmp_path, method):
  path = tmp_path / "a.zip"
  names = ("0/a.mp3", "fma_metadata/tracks.csv")
  with zipfile.ZipFile(path, "w", method) as file:
    for name in names:
      file.writestr(name, bytes(1 << 26))
  content = bytearray(path.read_bytes())
  assert len(content) < 200_000
  for i in range(2):  # both headers of both members say: 1,000 bytes
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
      start = -1
      for _ in range(i + 1):
        start = content.index(signature, start + 1)
      content[start + at : start + at + 4] = (1000).to_bytes(4, "little")
  path.write_bytes(content)
  archive = archives.Zip.open([str(path)])
  tracemalloc.start()
  try:
    with pytest.raises(audio.AudioError, match="damaged in the archive"):
      archive.load("0/a.mp3", RATE)
    with (
      archive.open_text(names[1]) as text,
      contextlib.suppress(zipfile.BadZipFile),  # the checksum is wrong too
    ):
      assert len(text.read(1000)) == 1000
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
  finally:
    tracemalloc.stop()


def test_members_of_a_zip_cannot_lead_elsewhere(tmp_path):
  path = tmp_path / "a.zip"
  link = zipfile.ZipInfo("0/link.mp3")
  link.external_attr = 0o120777 << 16
  unsafe = ["../a.mp3", "0/../../a.mp3", "/0/a.mp3"]
  with zipfile.ZipFile(path, "w") as file:
    file.writestr(link, "/etc/passwd")
    for name in (*unsafe, "0/same.mp3"):
      file.writestr(name, encoded(0))
    with pytest.warns(UserWarning, match="Duplicate name"):
      file.writestr("0/same.mp3", encoded(1))
  archive = archives.Zip.open([str(path)])
  assert list(archive.unsafe) == unsafe
  assert set(archives._members(archive)[1]) == {"0/link.mp3", "0/same.mp3"}
  # A link is its text, and no audio; of two with one name the last counts.
  assert archive.read("0/link.mp3") == b"/etc/passwd"
  assert archive.read("0/same.mp3") == encoded(1)


def test_a_member_of_a_tar_that_would_fill_the_disk(tmp_path):
  path = tmp_path / "a.tar"
  member = tarfile.TarInfo("genres/pop/pop.00001.au")
  member.size = 1 << 40
  path.write_bytes(member.tobuf() + b"x" * 9999)
  with pytest.raises(ValueError, match="1099511627776 bytes"):
    archives.extract_tar(path, tmp_path / "genres", gtzan._MEMBER)
  assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_clips_that_are_listed_twice(tmp_path):
  root = fma_archives(tmp_path / "fma")
  (root / "fma_metadata.zip").unlink()
  text = tracks_csv({2: FMA[2]}) + tracks_csv({2: FMA[2]}).split(b"\n", 3)[3]
  write_tree(root, {"fma_metadata/tracks.csv": text})
  assert "track 2 is there twice" in error_of(data("fma", root, tmp_path))
  root = mtat_archives(tmp_path / "mtat")
  path = root / "annotations_final.csv"
  path.write_bytes(annotations() + annotations().split(b"\n")[1])
  message = error_of(data("magnatagatune", root, tmp_path))
  assert f"line {len(annotations().splitlines()) + 1}: " in message
  assert "is there twice" in message


# --- through the commands ---


def prepare_and_hang(root, tmp_path):
  """Prepares GTZAN; after some clips decoding says so, and never ends."""
  load, calls = audio.load, []

  def hang(*args):
    calls.append(args)
    if len(calls) > 12:
      hang_saying("decoding")
    return load(*args)

  audio.load = hang
  datasets.prepare(data("gtzan", root, tmp_path))


def test_a_killed_preparation_leaves_nothing_that_opens(tmp_path):
  root = gtzan_archive(tmp_path / "official")
  process = hung(prepare_and_hang, "decoding", root, tmp_path)
  process.kill()
  process.wait()
  left = list((tmp_path / "prepared").rglob("*incomplete*"))
  assert left
  assert "none is prepared" in error_of(data("gtzan", "", tmp_path))
  prepared = datasets.prepare(data("gtzan", root, tmp_path))
  check_gtzan(prepared, *gtzan_numbers())
  assert not [p for p in left if p.exists()]


# --- Apache Beam ---


@pytest.mark.slow
def test_beam_gives_the_same(tmp_path):
  pytest.importorskip("apache_beam")
  root = mtat_archives(tmp_path / "official")
  plain, beam = (
    datasets.prepare(
      data("magnatagatune", root, tmp_path / options, beam=options)
    )
    for options in ("", "runner=DirectRunner")
  )
  for split in SPLITS:
    pairs = zip(
      plain.dataset(split).as_numpy_iterator(),
      beam.dataset(split).as_numpy_iterator(),
      strict=True,
    )
    for one, other in pairs:
      assert (one["id"], one["track"]) == (other["id"], other["track"])
      assert one["samples"] == other["samples"]
      np.testing.assert_array_equal(one["labels"], other["labels"])
  for name in ("skipped.csv", "clips.csv"):
    want = (pathlib.Path(plain.path) / name).read_bytes()
    assert (pathlib.Path(beam.path) / name).read_bytes() == want
  assert beam.label_counts == plain.label_counts
  assert beam.summary() == plain.summary().replace(plain.path, beam.path)
  assert not list(pathlib.Path(beam.path).glob("reports*"))


def test_beam_and_a_split_without_clips(tmp_path):
  pytest.importorskip("apache_beam")
  clips = {"train/a.mp3": encoded(0), "valid/b.mp3": b""}
  write_tree(tmp_path / "m", clips)
  section = data("folder", tmp_path / "m", tmp_path)
  section.beam = "runner=DirectRunner"
  assert "no clip is left in split 'valid'" in error_of(section)
  assert not list((tmp_path / "prepared").rglob("*.tfrecord*"))


def test_beam_below_a_directory_with_brackets(tmp_path):
  """None of the files may be looked for by a glob."""
  pytest.importorskip("apache_beam")
  root = tmp_path / "m[1]"
  write_tree(root, {"train/a.mp3": encoded(3), "train/b.mp3": b""})
  section = data("folder", root, root, beam="runner=DirectRunner")
  prepared = datasets.prepare(section)
  (example,) = read(prepared).values()
  assert heard(example) == pytest.approx(pitch(3), abs=1)
  assert skipped(prepared) == {"train/b.mp3": "empty file"}
  names = {p.name for p in pathlib.Path(prepared.path).iterdir()}
  assert not [n for n in names if n.startswith(("incomplete", "reports"))]
