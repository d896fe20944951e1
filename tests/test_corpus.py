"""Collections become tables: whole, once each, and on from where they were."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

import vicreg_jax
from vicreg_jax import __main__ as command
from vicreg_jax import config as configs
from vicreg_jax import files
from vicreg_jax.jobs import embed as job
from vicreg_jax.library import audio_paths, embedding, store

RATE, CROP = 22_050, 243
TAGS = ["artist", "album", "title", "genre", "track", "year", "duration"]


@pytest.fixture(scope="module")
def encoder(small_run):
  return vicreg_jax.load(small_run)


def write(path, seconds=0.1, seed=0):
  x = np.random.default_rng(seed).normal(size=int(seconds * RATE)) * 0.1
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, x, RATE, subtype="FLOAT")


@pytest.fixture
def music(tmp_path):
  """Seven good files of several lengths, and three bad ones."""
  for i in range(7):
    write(tmp_path / "music" / f"{'ab'[i % 2]}" / f"{i}.wav", 0.03 + i / 40, i)
  (tmp_path / "music" / "noise.mp3").write_bytes(b"no audio" * 99)
  (tmp_path / "music" / "empty.ogg").touch()
  (tmp_path / "music" / "torn.flac").write_bytes(b"fLaC")
  (tmp_path / "music" / "cover.jpg").write_bytes(b"x")
  return tmp_path / "music"


def named(arguments):
  return audio_paths.look(arguments).paths


def run(encoder, music, output, **options):
  paths = named([str(music)])
  return embedding.embed_files(encoder, paths, str(output), **options)


def rows(path):
  return {row["path"]: row for row in pq.read_table(path).to_pylist()}


def listed(path):
  with open(f"{path}.files.csv", newline="") as f:
    return {row["path"]: row for row in csv.DictReader(f)}


def test_every_file_has_its_mean_and_bad_ones_their_reason(
  encoder, music, tmp_path
):
  (music / "song.MID").write_bytes(b"MThd")
  summary = run(encoder, music, tmp_path / "out.parquet")
  assert (summary.embedded, summary.known, summary.damaged) == (7, 0, 0)
  assert summary.left_out == {
    "not decodable": 2, "empty file": 1, "unread suffix .mid": 1
  }  # fmt: skip
  found = rows(tmp_path / "out.parquet")
  assert len(found) == 7
  for path, row in found.items():
    want = encoder.embed(path)
    np.testing.assert_allclose(row["embedding"], want, rtol=1e-6, atol=1e-7)
    seconds = soundfile.info(path).frames // CROP * CROP / RATE
    assert (row["start"], row["end"]) == (0, pytest.approx(seconds))
  status = listed(tmp_path / "out.parquet")
  assert status[str(music / "empty.ogg")]["reason"] == "empty file"
  assert status[str(music / "a/0.wav")]["rows"] == "2"
  schema = pq.read_schema(tmp_path / "out.parquet")
  assert schema.names == ["path", "start", "end", "embedding", *TAGS]
  assert str(schema.field("embedding").type) == (
    "fixed_size_list<element: float>[16]"
  )
  assert not os.path.exists(tmp_path / "out.parquet.parts")


def test_rows_have_the_tags_of_their_file(encoder, music, tmp_path):
  path = str(music / "tagged.flac")
  with soundfile.SoundFile(path, "w", RATE, 1) as f:
    f.artist, f.album, f.title, f.genre = "Björk", "Post", "Jóga", "Pop"
    f.tracknumber, f.date = "3", "1997-09-01"
    f.write(np.random.default_rng(0).normal(size=RATE // 4) * 0.1)
  for kind in ("parquet", "npz"):
    out = tmp_path / f"out.{kind}"
    run(encoder, music, out, pooling="none", format=kind)
    table = pq.read_table(
      tmp_path / "out.npz.parquet" if kind == "npz" else out
    )
    types = [str(table.schema.field(name).type) for name in TAGS]
    assert types == ["string"] * 4 + ["int32"] * 2 + ["double"]
    for row in table.to_pylist():
      want = ["", "", "", "", None, None]
      if row["path"] == path:
        want = ["Björk", "Post", "Jóga", "Pop", 3, 1997]
      assert [row[name] for name in TAGS[:-1]] == want
      assert row["duration"] == pytest.approx(
        soundfile.info(row["path"]).duration, abs=1e-3
      )
  arrays = np.load(out)
  assert set(arrays) == set(table.column_names)
  np.testing.assert_array_equal(
    arrays["year"], [np.nan if y is None else y for y in
                     table["year"].to_pylist()]
  )  # fmt: skip
  assert arrays["title"].tolist() == table["title"].to_pylist()


def test_a_table_without_tags_goes_on(encoder, music, tmp_path, monkeypatch):
  out = tmp_path / "out"
  run(encoder, music, out)
  table = pq.read_table(out)
  pq.write_table(table.drop_columns(TAGS), out)
  before = out.read_bytes()
  assert run(encoder, music, out).embedded == 0
  assert out.read_bytes() == before
  write(music / "new.wav")

  def read(path):
    raise audio_error

  audio_error = embedding.audio.AudioError("new.wav", "not decodable")
  monkeypatch.setattr(embedding.file_tags, "read", read)
  assert run(encoder, music, out).embedded == 1
  after = pq.read_table(out)
  assert after.schema.names == table.schema.names and len(after) == 8
  for row in after.to_pylist():
    assert [row[t] for t in TAGS] == ["", "", "", "", None, None, None]


def test_files_are_described(encoder, tmp_path, monkeypatch):
  monkeypatch.setattr(embedding, "_DESCRIBED_SECONDS", 10.0)
  t = np.arange(10 * RATE) / RATE
  chord = sum(np.sin(2 * np.pi * hertz * t) for hertz in (392, 493.9, 587.3))
  beats = np.exp(-20 * (t % (60 / 100))) * 0.2 * chord  # G major, 100 a minute
  later = np.random.default_rng(0).normal(size=10 * RATE) * 0.3
  song, flags = tmp_path / "song.wav", {"describe": True, "hop_seconds": 1.0}
  soundfile.write(song, np.concatenate([beats, later]), RATE, subtype="FLOAT")
  soundfile.write(tmp_path / "short.wav", np.zeros(RATE), RATE)
  run(encoder, tmp_path / "*.wav", tmp_path / "out", **flags)
  schema = pq.read_schema(tmp_path / "out")
  assert schema.names[-2:] == ["tempo", "key"]
  assert [str(t) for t in schema.types[-2:]] == ["double", "string"]
  found = rows(tmp_path / "out")
  assert found[str(song)]["tempo"] == pytest.approx(100, rel=0.005)
  assert found[str(song)]["key"] == "G major"
  short = found[str(tmp_path / "short.wav")]
  assert (short["tempo"], short["key"]) == (None, "")
  # Without the flag what is there stays, and the rest has none.
  write(tmp_path / "new.wav")
  del flags["describe"]
  run(encoder, tmp_path / "*.wav", tmp_path / "out", **flags)
  new = rows(tmp_path / "out")
  assert new.pop(str(tmp_path / "new.wav"))["tempo"] is None
  assert new == found
  # A table without the columns gets them.
  write(tmp_path / "newer.wav")
  table = pq.read_table(tmp_path / "out").drop_columns(["tempo", "key"])
  pq.write_table(table, tmp_path / "out")
  run(encoder, tmp_path / "*.wav", tmp_path / "out", describe=True, **flags)
  assert rows(tmp_path / "out")[str(song)]["key"] == ""


def test_a_row_of_mean_and_deviation(encoder, tmp_path):
  write(tmp_path / "one.wav", 1.5 * CROP / RATE)
  write(tmp_path / "many.wav", 0.1)
  out = tmp_path / "out"
  run(encoder, tmp_path / "*.wav", out, pooling="mean_std")
  for path, row in rows(out).items():
    y_SxD = encoder.embed_segments(path).embeddings.astype(np.float64)
    mean_D = y_SxD.sum(0) / len(y_SxD)
    std_D = np.sqrt(((y_SxD - mean_D) ** 2).sum(0) / len(y_SxD))
    want = np.concatenate([mean_D, std_D])
    np.testing.assert_allclose(row["embedding"], want, rtol=1e-5, atol=1e-6)
    got = encoder.embed(path, pooling="mean_std")
    np.testing.assert_array_equal(row["embedding"], got)
    assert std_D.any() == got[16:].any() == path.endswith("many.wav")
  about = json.loads(pq.read_schema(out).metadata[b"vicreg_jax"])
  assert about["pooling"] == "mean_std" and about["size"] == 32
  with pytest.raises(ValueError, match="pooling is 'max'"):
    encoder.embed(str(tmp_path / "one.wav"), pooling="max")


def test_damaged_files_say_what_is_lost(encoder, tmp_path):
  path = tmp_path / "cut.flac"
  x = np.random.default_rng(0).normal(size=40 * 4096) * 0.1
  soundfile.write(path, x, RATE)
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  out = tmp_path / "out"
  summary = run(encoder, path, out, pooling="none")
  assert (summary.left_out, summary.damaged) == ({}, 1)
  row = listed(out)[str(path)]
  assert pq.read_metadata(out).num_rows == int(row["rows"])
  share = 1 - int(row["rows"]) * CROP / len(x)
  assert 0.45 < share < 0.55
  prefix, suffix = "damaged, ", "% lost"
  said = row["reason"].removeprefix(prefix).removesuffix(suffix)
  assert float(said) / 100 == pytest.approx(share, abs=0.003)
  assert run(encoder, path, out, pooling="none").embedded == 0


def test_segments_have_their_times(encoder, music, tmp_path):
  hop = 100 / RATE
  run(encoder, music, tmp_path / "out", pooling="none", hop_seconds=hop)
  table = pq.read_table(tmp_path / "out").to_pydict()
  for path in sorted(set(table["path"])):
    want = encoder.embed_segments(path, hop_seconds=hop)
    of = [i for i, name in enumerate(table["path"]) if name == path]
    assert of == list(range(of[0], of[0] + len(want.embeddings)))
    np.testing.assert_array_equal(
      [table["embedding"][i] for i in of], want.embeddings
    )
    np.testing.assert_allclose(
      [table["start"][i] for i in of], want.start_seconds
    )
    np.testing.assert_allclose([table["end"][i] for i in of], want.end_seconds)


def test_only_what_is_new_or_changed_is_embedded(encoder, music, tmp_path):
  out = tmp_path / "out.parquet"
  run(encoder, music, out)
  before = rows(out)
  write(music / "c" / "new.wav", 0.1, 99)
  write(music / "a" / "2.wav", 0.08, 100)
  os.utime(music / "a" / "0.wav", (1, 1))  # touched: the same content
  summary = run(encoder, music, out)
  assert (summary.embedded, summary.known) == (2, 6)
  after = rows(out)
  changed = {p for p in after if before.get(p) != after[p]}
  assert changed == {str(music / "c/new.wav"), str(music / "a/2.wav")}
  assert len(pq.read_table(out)) == 8  # the changed file's old row is gone
  assert run(encoder, music, out).embedded == 0


def test_a_killed_run_goes_on(small_run, encoder, music, tmp_path, monkeypatch):
  out = tmp_path / "out.parquet"
  monkeypatch.setattr(store, "_PART_ROWS", 1)
  added = []

  class Killed(BaseException):
    pass

  def add(self, file, made, original=store.Store.add):
    if len(added) == 5:
      raise Killed
    added.append(file.path)
    original(self, file, made)

  with monkeypatch.context() as patch:
    patch.setattr(store.Store, "add", add)
    with pytest.raises(Killed):
      run(encoder, music, out)
  assert not out.exists()
  parts = tmp_path / "out.parquet.parts"
  # Killed between a part and its list, and while it wrote a part.
  (parts / f"{9:020}-{7:08x}.parquet").write_bytes(b"torn")
  summary = run(encoder, music, out)
  assert summary.embedded + summary.known == 7
  assert 4 <= summary.known <= 5
  run(encoder, music, tmp_path / "unbroken")
  assert rows(out) == rows(tmp_path / "unbroken")


def test_killed_between_table_and_list_nothing_counts_twice(
  encoder, music, tmp_path, monkeypatch
):
  out = tmp_path / "out.parquet"
  replace = os.replace

  def dies(source, target):
    replace(source, target)
    if str(target) == str(out):
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
      run(encoder, music, out)
  assert out.exists() and not os.path.exists(f"{out}.files.csv")
  summary = run(encoder, music, out)
  assert summary.embedded == 0
  assert len(pq.read_table(out)) == 7 and len(listed(out)) == 10


@pytest.mark.parametrize(
  "change, said",
  [
    (dict(hop_seconds=0.01), "hop 243 -> 220"),
    (dict(pooling="none"), "pooling mean -> none"),
    (dict(pooling="mean_std"), "size 16 -> 32, pooling mean -> mean_std"),
  ],
)
def test_a_table_of_something_else_is_refused(
  encoder, music, tmp_path, change, said
):
  out = tmp_path / "out.parquet"
  run(encoder, music, out)
  before = out.read_bytes()
  with pytest.raises(ValueError, match=said):
    run(encoder, music, out, **change)
  assert out.read_bytes() == before
  run(encoder, music, out, overwrite=True, **change)
  assert out.read_bytes() != before


def test_a_table_of_another_encoder_is_refused(encoder, music, tmp_path):
  run(encoder, music, tmp_path / "out")
  variables = jax.tree.map(lambda x: x * 1.001, encoder._variables)
  with pytest.raises(ValueError, match=r"encoder [0-9a-f]{64} -> "):
    run(encoder.with_variables(variables), music, tmp_path / "out")


@pytest.mark.parametrize("kind", ["parquet", "npz", "npy"])
def test_outputs_replace_nobody_elses_files(encoder, music, tmp_path, kind):
  out, options = tmp_path / f"out.{kind}", {"format": kind}
  theirs = {
    "array": b"\x93NUMPY of somebody's",
    "arrays": b"PK of somebody's",
    "sound": (music / "a" / "0.wav").read_bytes(),
    "empty": b"",
  }
  pq.write_table(pa.table({"theirs": [1, 2]}), tmp_path / "theirs")
  theirs["table"] = (tmp_path / "theirs").read_bytes()
  for content in theirs.values():
    out.write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=f"{out} was not .* --overwrite"):
      run(encoder, music, out, **options)
    assert out.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == before
  run(encoder, music, out, overwrite=True, **options)
  made = out.read_bytes()
  assert run(encoder, music, out, **options).known == 7
  assert out.read_bytes() == made


def test_what_lies_beside_a_table_is_nobody_elses(
  encoder, music, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  listed_ = tmp_path / "out.files.csv"
  listed_.write_text("of,somebody\n")
  with pytest.raises(ValueError, match=f"{listed_} was not"):
    run(encoder, music, out)
  listed_.unlink()
  parts = tmp_path / "out.parts"
  parts.mkdir()
  for name in ("notes.csv", "x.parquet"):
    (parts / name).touch()
  for overwrite in (False, True):
    with pytest.raises(ValueError, match=r"other files, .*notes\.csv: move"):
      run(encoder, music, out, overwrite=overwrite)
  assert {p.name for p in parts.iterdir()} == {"notes.csv", "x.parquet"}
  shutil.rmtree(parts)
  parts.touch()
  monkeypatch.setattr(embedding.audio, "blocks", lambda *_: 1 / 0)
  with pytest.raises(ValueError, match="Move the file away"):
    run(encoder, music, out)  # before any is decoded
  assert not out.exists()


def test_the_job_replaces_nobody_elses_file(small_run, tmp_path):
  config = configs.base_embed()
  config.checkpoint = small_run
  theirs = tmp_path / "embeddings.npz"
  theirs.write_bytes(b"PK of somebody's")
  with pytest.raises(ValueError, match=f"{theirs} was not"):
    job.run(config, str(tmp_path))
  assert os.listdir(tmp_path) == ["embeddings.npz"]
  # Where a job has worked before, the file is its own.
  (tmp_path / "config.json").write_text('{"job": "embed"}')
  with pytest.raises(ValueError, match="is unknown"):
    job.run(config, str(tmp_path))


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_what_is_read_is_never_replaced(encoder, music, tmp_path, kind):
  song, linked = music / "a" / "0.wav", tmp_path / "link"
  linked.symlink_to(song)
  before = song.read_bytes()
  for out in (song, linked):
    with pytest.raises(ValueError, match="is what this command reads"):
      run(encoder, music, out, format=kind, overwrite=True)
  assert song.read_bytes() == before and linked.is_symlink()


def test_arrays_of_the_version_before_are_known(encoder, music, tmp_path):
  """They have no mark, and the table beside them tells."""
  out = tmp_path / "out.npz"
  run(encoder, music, out, format="npz")
  arrays = dict(np.load(out))
  np.savez(out, **arrays)
  os.remove(music / "a" / "0.wav")
  write(music / "new.wav")
  assert run(encoder, music, out, format="npz").embedded == 1
  (tmp_path / "out.npz.parquet").unlink()
  assert run(encoder, music, out, format="npz").embedded == 7
  np.savez(out, **arrays)
  (tmp_path / "out.npz.parquet").unlink()
  with pytest.raises(ValueError, match="was not written by"):
    run(encoder, music, out, format="npz")


def test_outputs_lie_where_links_lead(encoder, music, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "disk").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
  run(encoder, music, "~/link")
  assert (tmp_path / "link").is_symlink()
  assert set(os.listdir(tmp_path / "disk")) == {"out", "out.files.csv"}
  assert run(encoder, music, tmp_path / "link").known == 7


def test_what_cannot_be_an_output(encoder, music, tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for out in (tmp_path, tmp_path / "pipe", "-", ""):
    with pytest.raises(ValueError, match=f"output={out} is no file"):
      run(encoder, music, out, overwrite=True)
  with pytest.raises(ValueError, match="written to a local disk"):
    run(encoder, music, "gs://bucket/out")
  (tmp_path / "file").touch()
  with pytest.raises(ValueError, match=r"Not a directory.* Move") as e:
    run(encoder, music, tmp_path / "file" / "out")
  assert "disk space" not in str(e.value)


@pytest.mark.parametrize(
  "name, remedy",
  [
    ("ENOSPC", "Free disk space"),
    ("EDQUOT", "Free disk space"),
    ("EACCES", "Allow"),
    ("EROFS", "Mount"),
    ("EISDIR", "Name a file"),
    ("ENOTDIR", "Move the file"),
    ("EIO", "Use another directory"),
  ],
)
def test_an_error_of_the_disk_has_its_own_remedy(name, remedy):
  number = getattr(errno, name)
  said = rf"cannot write a/b: {os.strerror(number)}\. {remedy}.* \(--to\)"
  with (
    pytest.raises(ValueError, match=said) as error,
    files.explained("a/b", "--to"),
  ):
    raise OSError(number, os.strerror(number))
  assert ("disk space" in str(error.value)) == remedy.startswith("Free")


def test_two_commands_do_not_write_one_table(encoder, music, tmp_path):
  out = tmp_path / "out"
  with (
    files.lock(out),
    pytest.raises(ValueError, match="out is being written"),
  ):
    run(encoder, music, out)
  run(encoder, music, out)
  assert not os.path.exists(f"{out}.lock")


def test_a_pipe_among_the_music_is_left_out(encoder, music, tmp_path):
  os.mkfifo(music / "pipe.mp3")
  summary = run(encoder, music, tmp_path / "out")
  assert summary.left_out["not a file"] == 1 and summary.embedded == 7
  # In the place of an empty file, whose size is the same.
  (music / "empty.ogg").unlink()
  os.mkfifo(music / "empty.ogg")
  assert run(encoder, music, tmp_path / "out").left_out["not a file"] == 2


def test_a_table_that_was_deleted_is_made_anew(encoder, music, tmp_path):
  out = tmp_path / "out.parquet"
  run(encoder, music, out)
  before = rows(out)
  out.unlink()  # and not its list
  assert run(encoder, music, out).known == 0
  assert rows(out) == before


def test_a_damaged_part_is_named_and_can_be_deleted(
  encoder, music, tmp_path, monkeypatch
):
  out = tmp_path / "out.parquet"
  monkeypatch.setattr(store, "_PART_ROWS", 1)
  with monkeypatch.context() as patch:
    patch.setattr(store.Store, "finish", lambda store: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(encoder, music, out)
  part = sorted((tmp_path / "out.parquet.parts").glob("*.parquet"))[2]
  content = part.read_bytes()
  for damaged in (content[:-9], content[:4] + bytes(99) + content[103:]):
    part.write_bytes(damaged)
    with pytest.raises(ValueError, match="delete it") as error:
      run(encoder, music, out)
    assert str(part) in str(error.value) and "\n" not in str(error.value)
    assert not out.exists()
  part.unlink()
  assert run(encoder, music, out).embedded == 1
  run(encoder, music, tmp_path / "whole")
  assert rows(out) == rows(tmp_path / "whole")


def test_a_full_disk_loses_nothing(encoder, music, tmp_path, monkeypatch):
  out = tmp_path / "out.parquet"
  monkeypatch.setattr(store, "_PART_ROWS", 1)
  written, write_ = [], files.write

  def full(path, content):
    if len(written) == 6:
      raise OSError(28, "No space left on device")
    written.append(path)
    write_(path, content)

  with monkeypatch.context() as patch:
    patch.setattr(files, "write", full)
    with pytest.raises(ValueError, match="No space left") as error:
      run(encoder, music, out)
  assert "\n" not in str(error.value) and not out.exists()
  assert "another directory (--output)" in str(error.value)
  assert run(encoder, music, out).known >= 3


@pytest.mark.parametrize("wrong", [{"pooling": "max"}, {"format": "csv"}])
def test_other_options_are_refused(encoder, music, tmp_path, wrong):
  (key, value), *_ = wrong.items()
  with pytest.raises(ValueError, match=f"{key} is '{value}'"):
    run(encoder, music, tmp_path / "out", **wrong)


def test_arrays_for_numpy(encoder, music, tmp_path):
  run(encoder, music, tmp_path / "out.npz", format="npz")
  run(encoder, music, tmp_path / "out.npy", format="npy")
  arrays = np.load(tmp_path / "out.npz")
  want = rows(tmp_path / "out.npz.parquet")
  for path, y_D in zip(arrays["path"], arrays["embedding"], strict=True):
    np.testing.assert_array_equal(y_D, want[path]["embedding"])
  np.testing.assert_array_equal(
    np.load(tmp_path / "out.npy"), arrays["embedding"]
  )
  for name in ("a", "b"):
    shutil.rmtree(music / name)
  run(encoder, music, tmp_path / "none.npy", format="npy")
  assert np.load(tmp_path / "none.npy").shape == (0, 16)


def test_an_error_in_a_thread_ends_the_run(
  encoder, music, tmp_path, monkeypatch
):
  def blocks(path, rate):
    raise MemoryError("none left")
    yield

  monkeypatch.setattr(embedding.audio, "blocks", blocks)
  with pytest.raises(MemoryError, match="none left"):
    run(encoder, music, tmp_path / "out")


def test_shares_are_apart_and_whole():
  paths = [f"music/{i}.mp3" for i in range(60)]
  shares = [audio_paths.share(paths, i, 3) for i in range(3)]
  assert sorted(sum(shares, [])) == sorted(paths)
  assert all(10 < len(some) < 30 for some in shares)


def test_what_arguments_stand_for(music, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "list.txt").write_text("music/a/0.wav\n\nmusic/b/1.wav\n")
  assert len(named(["music"])) == 10
  assert named(["music/*/1.wav"]) == ["music/b/1.wav"]
  assert named(["@list.txt", "./music/a/0.wav"]) == [
    "music/a/0.wav",
    "music/b/1.wav",
  ]
  assert named(["music/cover.jpg"]) == ["music/cover.jpg"]
  for text in ("\ufeffa\x0bb.mp3\r\n\r\nc.mp3", "a\x0bb.mp3\nc.mp3\n"):
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert named(["@list.txt"]) == ["a\x0bb.mp3", "c.mp3"]
  for content in ("a.mp3\n".encode("utf-16"), b"a.mp3\0b.mp3\0"):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"^list.txt: .* save it as UTF-8"):
      named(["@list.txt"])
  for wrong in ("nowhere", "*.xyz", "@nowhere"):
    with pytest.raises(ValueError, match=wrong.strip("@*")):
      named([wrong])
  (tmp_path / "none").mkdir()
  with pytest.raises(ValueError, match="no audio files"):
    named(["none"])


def test_lists_may_be_playlists_with_folders_and_globs(
  small_run, music, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (music / "mix.m3u8").write_text(
    "#EXTM3U\n#EXTINF:1,x\na\n./b/[13].wav\nhttp://radio/1\nb/../gone.mp3\n"
  )
  want = ["music/b/1.wav", "music/b/3.wav", "music/gone.mp3"]
  want = [f"music/a/{i}.wav" for i in (0, 2, 4, 6)] + want
  for argument in ("@music/mix.m3u8", "music/mix.m3u8", "music/*.m3u8"):
    assert named([argument]) == want
  (tmp_path / "plain").write_text("music/b\nmusic/a/*.wav\n")
  assert len(named(["@plain"])) == 7
  pls = tmp_path / "LIST.PLS"
  pls.write_text("[playlist]\nFile1=music/a/0.wav\n")
  assert named([str(pls)]) == [f"{tmp_path}/music/a/0.wav"]
  flags = ("music/mix.m3u8", "--output=out")
  assert call(small_run, *flags) == 3
  said = capsys.readouterr().out
  assert "6 files embedded, 0 known, 2 left out" in said
  assert "left out: 1 not found\nleft out: 1 on the network\n" in said
  assert "is what this command reads" in call(
    small_run, "music/mix.m3u8", "--output=music/mix.m3u8", "--overwrite"
  )
  pls.write_text("[playlist]\nFile1=http://radio/1\n")
  with pytest.raises(ValueError, match=r"no audio files \(1 .* network"):
    named([str(pls)])


def test_what_moved_keeps_its_rows_and_is_not_decoded(
  encoder, music, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  run(encoder, music, out, pooling="none")
  before, count = rows(out), len(pq.read_table(out))
  os.rename(music / "a", music / "new")
  os.rename(music / "b" / "1.wav", music / "\xf6.wav")
  shutil.copy(music / "b" / "3.wav", music / "copy.wav")  # is there twice
  decoded = []
  blocks = embedding.audio.blocks

  def seen(path, rate):
    decoded.append(os.path.basename(path))
    return blocks(path, rate)

  monkeypatch.setattr(embedding.audio, "blocks", seen)
  summary = run(encoder, music, out, pooling="none")
  assert "copy.wav" in decoded and not {"0.wav", "\xf6.wav"} & set(decoded)
  assert (summary.embedded, summary.known, summary.moved) == (1, 7, 5)
  after = rows(out)
  names = {f"a/{i}.wav": f"new/{i}.wav" for i in (0, 2, 4, 6)}
  for old, new in (names | {"b/1.wav": "\xf6.wav"}).items():
    assert str(music / old) not in after
    want = before[str(music / old)] | {"path": str(music / new)}
    assert after[str(music / new)] == want
  copies = sum(name.endswith("copy.wav") for name in
               pq.read_table(out)["path"].to_pylist())  # fmt: skip
  assert len(pq.read_table(out)) == count + copies
  assert {p for p, f in listed(out).items() if f["rows"] != "0"} == set(after)
  assert run(encoder, music, out, pooling="none").moved == 0


def test_what_is_gone_stays_until_it_is_pruned(
  small_run, music, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for name in ("noise.mp3", "empty.ogg", "torn.flac"):
    (music / name).unlink()
  write(tmp_path / "other" / "8.wav")
  (tmp_path / "list").write_text("music/b/1.wav\nmusic/a/0.wav\n")
  flags = (small_run, "music", "other", "--output=out")
  assert call(*flags) == 0
  whole = rows("out")
  (music / "a" / "0.wav").unlink()
  capsys.readouterr()
  assert call(*flags) == 0
  assert "gone: 1 files of the table, whose rows are kept" in (
    capsys.readouterr().out
  )
  # Other folders and other files are not looked through.
  for other in ("other", "music/b", "music/a/2.wav", "music/b/*.wav"):
    assert call(small_run, other, "--output=out", "--prune") == 0
  assert "gone" not in capsys.readouterr().out and rows("out") == whole
  # What a list names and is gone has its rows, too.
  assert call(small_run, "@list", "--output=out") == 0
  assert rows("out") == whole
  assert call(small_run, "music/*/*.wav", "--output=out", "--prune") == 0
  assert "gone: 1 files of the table, whose rows are dropped" in (
    capsys.readouterr().out
  )
  del whole["music/a/0.wav"]
  assert rows("out") == whole
  assert set(listed("out")) == set(whole)
  shutil.rmtree("other")
  assert "no such file" in call(*flags)
  assert "of other all 1 files" in call(*flags, "--prune")
  os.makedirs("other")  # where a disk is mounted
  assert "of other all 1 files" in call(*flags, "--prune")
  assert "nowhere: there is no" in call(
    *flags[:1], "nowhere", *flags[1:], "--prune=all"
  )
  os.rmdir("other")
  assert "other: there is no" in call(*flags, "--prune=all", "--overwrite")
  assert rows("out") == whole
  assert call(*flags, "--prune=all") == 0
  del whole["other/8.wav"]
  assert rows("out") == whole
  assert call(small_run, "--prune", "music", "--output=out") == 2
  assert "nowhere: there is no" in call(
    small_run, "nowhere", "--output=new", "--prune=all"
  )
  assert set(os.listdir()) == {"music", "list", "out", "out.files.csv"}


def test_a_folder_that_cannot_be_seen_is_not_gone(music, monkeypatch):
  assert audio_paths.is_gone(str(music / "x" / "0.wav"))
  assert audio_paths.is_gone(str(music / "cover.jpg" / "0.wav"))
  name = os.fsdecode(b"bj\xf6rk.wav")
  (music / name).touch()
  assert not audio_paths.is_gone(audio_paths.utf8(music / name))

  def stat(path, **_):
    raise PermissionError(errno.EACCES, "Permission denied")

  monkeypatch.setattr(os, "stat", stat)
  assert not audio_paths.is_gone(str(music / "x" / "0.wav"))


def test_a_file_has_one_row_by_any_path(encoder, music, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run(encoder, "music", "out")
  before = rows("out")
  assert run(encoder, music, "out").known == 7
  monkeypatch.chdir(music)
  # From here the table's paths lead nowhere.
  summary = run(encoder, "../music", tmp_path / "out")
  assert (summary.embedded, summary.moved) == (0, 7)
  monkeypatch.chdir(tmp_path)
  assert run(encoder, "music", "out").moved == 7
  assert rows("out") == before
  write(music / "a" / "0.wav", 0.1, 50)
  assert run(encoder, music, "out").embedded == 1
  after = rows("out")
  assert set(after) == set(before) and len(pq.read_table("out")) == 7
  assert after["music/a/0.wav"] != before["music/a/0.wav"]
  run(encoder, music, "absolute")
  monkeypatch.chdir(music)
  assert run(encoder, "a", tmp_path / "absolute").known == 4
  assert len(pq.read_table(tmp_path / "absolute")) == 7


def test_a_place_is_written_by_one_at_a_time(tmp_path):
  place = tmp_path / "new" / "out"
  code = (
    "import sys; from vicreg_jax import files\n"
    "with files.lock(sys.argv[1]):\n"
    "  print('held', flush=True); sys.stdin.read()"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code, place],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as other:
    assert other.stdout.readline() == b"held\n"
    with (
      pytest.raises(ValueError, match=f"{place} is being written .* --to"),
      files.lock(place, "--to"),
    ):
      pass
    other.kill()  # which leaves the lock's file
    other.wait()
    with files.lock(place):
      (tmp_path / "link").symlink_to(place)
      with (
        pytest.raises(ValueError, match="link is being written"),
        files.lock(tmp_path / "link"),
      ):
        pass
      with files.lock(tmp_path / "else"), files.lock("gs://bucket/x"):
        pass
  assert {p.name for p in tmp_path.iterdir()} == {"new", "link"}
  assert not list(place.parent.iterdir())


def call(*flags):
  """The exit code of `embed`, or its error."""
  with pytest.raises(SystemExit) as end:
    command.main(["embed", *map(str, flags)])
  return end.value.code


@pytest.mark.slow
def test_beam_gives_the_rows_of_a_plain_embed(
  small_run, music, tmp_path, capsys
):
  pytest.importorskip("apache_beam")
  assert call(small_run, music, f"--output={tmp_path / 'plain'}") == 3
  plain = capsys.readouterr().out.splitlines()[1:]
  out = tmp_path / "out.parquet"
  flags = (small_run, music, f"--output={out}", "--shards=2")
  beam = "--beam=runner=DirectRunner"
  assert call(*flags, beam) == 3
  assert capsys.readouterr().out.splitlines()[-len(plain) :] == plain
  tables = [tmp_path / f"out-0000{i}-of-00002.parquet" for i in range(2)]
  shares = [rows(table) for table in tables]
  assert min(map(len, shares)) > 0
  assert sum(map(len, shares)) == 7
  assert shares[0] | shares[1] == rows(tmp_path / "plain")
  assert sum(len(listed(table)) for table in tables) == 10
  # What is there is not embedded again; a share's error is the command's.
  before = [table.stat().st_mtime_ns for table in tables]
  assert call(*flags, beam) == 3
  assert before == [table.stat().st_mtime_ns for table in tables]
  error = call(*flags, beam, "--pooling=none")
  assert error.startswith(f"error: {beam}: {tmp_path / 'out-0000'}")
  assert "pooling mean -> none" in error and "\n" not in error


def test_beam_that_is_not_installed(small_run, music, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  monkeypatch.setitem(sys.modules, "apache_beam.options", None)
  flags = (small_run, music, f"--output={tmp_path / 'out'}", "--beam=x=y")
  assert "--beam='x=y' needs Apache Beam: pip install" in call(*flags)


def test_the_command(small_run, music, tmp_path, capsys):
  out = str(tmp_path / "out.parquet")
  assert call(small_run, str(music), f"--output={out}") == 3
  said = capsys.readouterr().out
  assert (
    "7 files embedded, 0 known, 3 left out" in said
    and "2 not decodable" in said
  )
  about = json.loads(pq.read_schema(out).metadata[b"vicreg_jax"])
  assert about["size"] == 16 and about["hop"] == CROP
  for name in ("noise.mp3", "empty.ogg", "torn.flac"):
    (music / name).unlink()
  assert call(small_run, str(music), f"--output={out}") == 0
  assert call(small_run, str(music), f"--output={out}", "--shard=1/2") == 0
  assert (tmp_path / "out-00001-of-00002.parquet").exists()
  assert "error: nowhere" in call(small_run, "nowhere", f"--output={out}")
  shutil.rmtree(music)


def test_killed_after_a_move_nothing_is_lost(
  encoder, music, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  run(encoder, music, out)
  os.rename(music / "a", music / "new")
  with monkeypatch.context() as patch:
    patch.setattr(store, "_write_list", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(encoder, music, out)
  summary = run(encoder, music, out)
  assert (summary.embedded, summary.known) == (0, 7)
  assert len(pq.read_table(out)) == 7
  assert set(rows(out)) == {
    p for p, f in listed(out).items() if f["rows"] > "0"
  }
