"""Tags of audio files against ffprobe, and damaged and special files."""

import json
import os
import shutil
import struct
import subprocess

import music
import numpy as np
import pytest

from vicreg_jax.data import audio, file_tags

TOLD = {
  "artist": "Björk", "album": "Post; Live", "title": "Jóga “Ø” 日本",
  "track": "3/12", "date": "2003-05-01", "genre": "Trip Hop",
  "album_artist": "Various",
}  # fmt: skip
FORMATS = {
  "v3.mp3": ("-id3v2_version", "3"),
  "v4.mp3": ("-id3v2_version", "4"),
  "a.flac": (),
  "a.ogg": ("-c:a", "libvorbis"),
  "a.opus": (),
  "a.m4a": (),
  "a.wav": (),
  "a.aiff": ("-write_id3v2", "1"),
  "a.mka": (),
  "a.wma": (),
  "a.wv": (),
}


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
  """{name: path} of the formats, with all tags, without any, and of others."""
  if not shutil.which("ffmpeg"):
    pytest.skip("ffmpeg not installed")
  root = tmp_path_factory.mktemp("tagged")
  music.write(root / "noise.wav", music.noise(44_100), 44_100)
  bare = ["-map_metadata", "-1", "-fflags", "+bitexact"]
  bare += ["-flags:a", "+bitexact"]
  command = ["ffmpeg", "-v", "error", "-i", root / "noise.wav"]
  for name, options in FORMATS.items():
    told = [x for k, v in TOLD.items() for x in ("-metadata", f"{k}={v}")]
    command += [*told, *options, root / name]
    command += [*bare, *options, root / f"bare-{name}"]
  others = {
    "album.ogg": ("album_artist=Them", "date=1999", "track=07"),
    "dirty.ogg": ("ARTIST=\x01 a\n\tb \x7f\u2028c ", "TITLE=\x02", "track=A1"),
    "zero.flac": ("YEAR=0000", "DATE=01/05/1987", "TRACKNUMBER=0/0"),
  }
  for name, pairs in others.items():
    told = [x for pair in pairs for x in ("-metadata", pair)]
    command += [*bare, *told, root / name]
  subprocess.run(command, check=True)
  return {path.name: path for path in root.iterdir()}


def by_ffprobe(path):
  """Seconds, and {key in small letters: value} of container and stream."""
  command = ["ffprobe", "-v", "error", "-print_format", "json"]
  command += ["-show_format", "-show_streams", path]
  done = subprocess.run(command, capture_output=True, check=True)
  told = json.loads(done.stdout)
  tags = told["streams"][0].get("tags", {}) | told["format"].get("tags", {})
  tags = {key.lower(): value for key, value in tags.items()}
  return float(told["format"]["duration"]), tags


@pytest.mark.parametrize("name", FORMATS)
def test_tags_are_those_of_ffprobe(tagged, name):
  seconds, tags = by_ffprobe(tagged[name])
  found = file_tags.read(tagged[name])
  assert found.seconds == pytest.approx(seconds, abs=0.05)  # of an encoder
  assert found.seconds == pytest.approx(1, abs=0.1)
  for key in ("artist", "album", "title", "genre"):
    assert getattr(found, key) == tags[key] == TOLD[key]
  assert tags["track"] == "3/12" and found.track == 3
  assert tags["date"] == "2003-05-01" and found.year == 2003


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_tags(tagged, name):
  found = file_tags.read(tagged[f"bare-{name}"])
  assert found._replace(seconds=None) == ("", "", "", None, None, "", None)
  assert found.seconds == pytest.approx(1, abs=0.1)


def test_other_tags(tagged):
  def told(name):
    return file_tags.read(tagged[name])[:-1]

  assert told("album.ogg") == ("Them", "", "", 7, 1999, "")
  assert told("dirty.ogg") == ("a b c", "", "", None, None, "")
  assert told("zero.flac") == ("", "", "", None, 1987, "")


def id3v1(tmp_path, tagged, artist):
  """An MP3 with a tag of 128 bytes at its end."""
  fields = b"Title", artist, b"Album", b"1997", b"", 0, 5, 8
  tag = struct.pack("3s30s30s30s4s28sBBB", b"TAG", *fields)
  path = tmp_path / "v1.mp3"
  path.write_bytes(tagged["bare-v3.mp3"].read_bytes() + tag)
  return path


def test_id3v1(tmp_path, tagged):
  path = id3v1(tmp_path, tagged, b"Artist")
  found = file_tags.read(path)
  assert found[:-1] == ("Artist", "Album", "Title", 5, 1997, "Jazz")
  _, tags = by_ffprobe(path)
  assert [found.artist, found.genre] == [tags["artist"], tags["genre"]]


def test_text_that_is_no_utf8(tmp_path, tagged):
  path = id3v1(tmp_path, tagged, b"Bj\xf6rk")
  assert file_tags.read(path).artist == "Bj\ufffdrk"
  for name in ("a.flac", "a.wav", "a.mka"):
    path = tmp_path / name
    content = tagged[name].read_bytes().replace("ö".encode(), b"\xf6\xf6")
    path.write_bytes(content)
    assert file_tags.read(path).artist == "Bj\ufffd\ufffdrk"


@pytest.mark.parametrize(
  "date, year",
  [
    ("2003", 2003),
    ("20030501", 2003),
    ("May 1, 2003", 2003),
    ("2003-05-01T00:00:00Z", 2003),
    ("03", None),
    ("unknown", None),
    ("²³⁴⁵", None),
  ],
)
def test_years(date, year):
  assert file_tags._told({"date": date}).year == year


@pytest.mark.parametrize(
  "text, track",
  [("3", 3), ("03/12", 3), ("3 of 12", 3), ("", None), ("B2", None),
   ("9" * 5000, None), ("0", None)],
)  # fmt: skip
def test_tracks(text, track):
  assert file_tags._told({"track": text}).track == track


def test_what_gives_no_sound(tmp_path, tagged):
  os.mkfifo(tmp_path / "pipe.mp3")  # to open it would wait for a writer
  (tmp_path / "empty.mp3").touch()
  (tmp_path / "text.mp3").write_text("#EXTM3U\n" + str(tagged["a.flac"]))
  (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(20_000))
  for name, reason in {
    "none.mp3": "not found",
    "pipe.mp3": "not a file",
    ".": "not a file",
    "empty.mp3": "empty file",
    "text.mp3": "not decodable",
    "noise.mp3": "not decodable",
  }.items():
    with pytest.raises(audio.AudioError, match=name) as raised:
      file_tags.read(tmp_path / name)
    assert raised.value.reason == reason, name


def test_a_name_that_is_no_utf8_or_looks_like_a_url(tmp_path, tagged):
  for name in (os.fsdecode(b"bj\xf6rk"), "concat:a|b", "pipe:0"):
    path = tmp_path / name
    path.write_bytes(tagged["a.flac"].read_bytes())
    assert file_tags.read(path).artist == TOLD["artist"]


def test_a_damaged_header_is_quiet(tmp_path, tagged, capfd):
  """Some of these send the reader to where no file has anything."""
  content = tagged["a.wma"].read_bytes()
  path = tmp_path / "a.wma"
  for at in range(40, 60):  # the size of an object
    path.write_bytes(content[:at] + b"\x20" + content[at + 1 :])
    try:
      file_tags.read(path)
    except audio.AudioError as error:
      assert error.reason == "not decodable"
  assert capfd.readouterr().err == ""


def test_little_of_a_file_is_read(tmp_path, monkeypatch):
  read = []

  class Counted(file_tags._File):
    def read(self, size=-1):
      read.append(size)
      return super().read(size)

  monkeypatch.setattr(file_tags, "_File", Counted)
  music.write(tmp_path / "a.wav", music.noise(3_000_000), 44_100)
  file_tags.read(tmp_path / "a.wav")
  assert 0 < sum(read) < 500_000
