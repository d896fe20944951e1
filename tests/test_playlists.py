"""Playlists: as players write them, and as they come back."""

import os
import pathlib
import unicodedata

import pytest

from vicreg_jax.library import playlists

HEAD = b"#EXTM3U\n# generator: vicreg_jax\n"
ODD = [
  "a.mp3",
  "b c/d e.mp3",
  " blank before.mp3",
  "blank after ",
  "\ttabs\t",
  "#1 hit.mp3",
  "~/a.mp3",
  "~root/a.mp3",
  "../beside/a.mp3",
  unicodedata.normalize("NFC", "Björk/Jóga.mp3"),
  unicodedata.normalize("NFD", "Björk/Jóga.mp3"),
  "\ufeffmark.mp3",
  "\u3000wide.mp3",
  "lines\u2028of\x85other\x0bkinds\x1c.mp3",
  os.fsdecode(b"bj\xf6rk.mp3"),
  "AC\\DC.mp3",
  "\\before.mp3",
  "http:/a.mp3",
  "file:a.mp3",
  "C:\\a.mp3",
  "100%25.mp3",
  "[playlist]",
  "日本語/さくら.mp3",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The current directory; playlists are in pl/."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", "/home/me")
  os.makedirs("pl")
  return tmp_path


def read(content, name="pl/list.m3u"):
  pathlib.Path(name).write_bytes(content)
  return playlists.read(name)


def touch(path):
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "w"):
    pass


@pytest.mark.parametrize(
  "line, path",
  [
    (b"a.mp3", "pl/a.mp3"),
    (b"  b c.mp3 \t", "pl/b c.mp3"),
    (b"sub\\b.mp3", "pl/sub/b.mp3"),
    (b"..\\m\\b.mp3", "m/b.mp3"),
    (b"./b.mp3", "pl/b.mp3"),
    (b"/m/a.mp3", "/m/a.mp3"),
    (b"C:\\Music\\a.mp3", "C:\\Music\\a.mp3"),
    (b"d:/Music/a.mp3", "d:/Music/a.mp3"),
    (b"\\\\nas\\a.mp3", "\\\\nas\\a.mp3"),
    (b"~/a.mp3", "/home/me/a.mp3"),
    (b"file:///m/b%20c%23%C3%B6.mp3", "/m/b c#ö.mp3"),
    (b"FILE://localhost/m/a.mp3", "/m/a.mp3"),
    (b"file:/m/a.mp3", "/m/a.mp3"),
    (b"file:///m/bj%F6rk.mp3", "/m/bj\udcf6rk.mp3"),
    (b"file:///m/#1 [a]?.mp3", "/m/#1 [a]?.mp3"),
    (b"file:///C:/Music/a%20b.mp3", "C:/Music/a b.mp3"),
    (b"bj\xf6rk.mp3", "pl/bj\udcf6rk.mp3"),
    ("Jóga.mp3".encode(), "pl/Jóga.mp3"),
    (b"a%20b.mp3", "pl/a%20b.mp3"),
    (b"a\xc2\x85b\x0c.mp3", "pl/a\x85b\x0c.mp3"),
  ],
)
def test_an_entry(folder, line, path):
  for header in (b"", b"#EXTM3U\n", b"\xef\xbb\xbf#EXTM3U\n"):
    assert read(header + line + b"\n") == ([path], 0)
  pls = b"[playlist]\nFile1=" + line + b"\n"
  assert read(pls, "pl/list.txt") == ([path], 0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("name", ["list.m3u", "list.M3U8", "list.txt", "list"])
def test_m3u(folder, end, name):
  lines = [b"\xef\xbb\xbf#EXTM3U", b"#EXTINF:123,Artist - Title", b"a.mp3", b""]
  lines += [b"  # a comment", b"#EXTALB:Album", b"  ", b"b.mp3", b"a.mp3"]
  assert read(end.join(lines), f"pl/{name}") == (
    ["pl/a.mp3", "pl/b.mp3", "pl/a.mp3"],
    0,
  )


def test_what_is_on_the_network_is_left_out_and_counted(folder):
  urls = (
    b"http://a/b.mp3\nHTTPS://a\nmms://a/b\nfile://nas/b.mp3\nfile:///%00\n"
  )
  assert read(b"#EXTM3U\n" + urls + b"a.mp3") == (["pl/a.mp3"], 5)


def test_pls(folder):
  content = (
    b"\n[Playlist]\r\nNumberOfEntries=3\r\nFile10=c.mp3\r\nTitle10=File1=x\r\n"
    b"Length10=-1\r\nfile2 = b = b.mp3\r\nFile1=sub\\a.mp3\r\nVersion=2\r\n"
    b"File3=http://a/b\r\nFile4=\r\n"
  )
  paths = ["pl/sub/a.mp3", "pl/b = b.mp3", "pl/c.mp3"]
  for name in ("pl/a.pls", "pl/a.m3u", "pl/a.txt"):
    assert read(content, name) == (paths, 1)
  headless = content.replace(b"[Playlist]", b"")
  assert read(headless, "pl/a.pls") == (paths, 1)
  assert read(b"#EXTM3U\na.mp3", "pl/a.pls") == (["pl/a.mp3"], 0)


def test_a_plain_list_is_relative_to_the_current_directory(folder):
  content = b"\xef\xbb\xbfa.mp3\r\n#1.mp3\n\n b\\c.mp3\rhttp://a\nbj\xf6rk"
  names = ["a.mp3", "#1.mp3", " b\\c.mp3", "http://a", "bj\udcf6rk"]
  assert read(content, "pl/list.txt") == (names, 0)
  assert read(b"", "pl/list.txt") == read(b"") == ([], 0)


@pytest.mark.parametrize(
  "line, path",
  [
    (b" a.mp3 ", "pl/ a.mp3 "),
    (b" a.mp3 ", "pl/a.mp3"),
    (b"AC\\DC.mp3", "pl/AC\\DC.mp3"),
    (b"~/a.mp3", "pl/~/a.mp3"),
    (b"bj\xf6rk.mp3", "pl/bj\udcf6rk.mp3"),
    (b"sub\\bj\xf6rk \x80.mp3", "pl/sub/björk €.mp3"),
  ],
)
def test_of_several_readings_that_is_right_which_is_there(folder, line, path):
  touch(path)
  assert read(line) == ([path], 0)


def test_a_folder_by_a_link(folder):
  for name in ("m/b.mp3", "far/m/a.mp3", "far/pl/c.mp3"):
    touch(name)
  os.symlink("far/pl", "link")
  # The system goes up from where the link leads to; some players do not.
  paths = read(b"../m/a.mp3\n../m/b.mp3\nc.mp3", "link/a.m3u").paths
  assert paths == [f"{folder}/far/m/a.mp3", "m/b.mp3", "link/c.mp3"]
  entries = map(playlists.Entry, ["far/m/a.mp3", "m/b.mp3", "link/c.mp3"])
  content = playlists.m3u8("link/a.m3u", entries).content
  assert content == HEAD + b"../m/a.mp3\n../../m/b.mp3\nc.mp3\n"


@pytest.mark.parametrize(
  "content, word",
  [("a.mp3\n".encode("utf-16"), "UTF-16"), (b"RIFF\0\0", "NUL")],
)
def test_what_is_no_text_is_refused(folder, content, word):
  for name in ("pl/a.m3u", "pl/a.txt"):
    with pytest.raises(ValueError, match=f"{name}: .*{word}"):
      read(content, name)


def test_what_cannot_be_read_is_refused(folder):
  for name in ("pl", "pl/none.m3u"):
    with pytest.raises(ValueError, match=f"{name}: cannot be read"):
      playlists.read(name)


@pytest.mark.parametrize("relative", [True, False])
def test_odd_names_come_back(folder, relative):
  paths = [os.path.normpath(f"pl/{name}") for name in ODD]
  for path in paths:
    touch(path)
  entries = [playlists.Entry(path, 60, "A\nB", "[playlist]") for path in paths]
  made = playlists.m3u8("pl/a.m3u8", entries, relative=relative)
  assert not made.left_out
  if not relative:
    paths = [f"{folder}/{path}" for path in paths]
  assert read(made.content, "pl/a.m3u8") == (paths, 0)
  assert read(made.content, "pl/a.txt") == (paths, 0)  # by its content


def test_what_is_written(folder):
  entries = [
    playlists.Entry("pl/a.mp3", 12.6, "The\nArtist", "A\ttitle"),
    playlists.Entry("/m/b.mp3", None, "", "Title"),
    playlists.Entry("c.mp3", float("nan"), "Artist"),
    playlists.Entry("d.x.mp3", 3.0),
    playlists.Entry("e.mp3"),
    playlists.Entry("f\ng.mp3"),
    playlists.Entry("h\ri.mp3"),
  ]
  there = [
    *HEAD.decode().splitlines(),
    "#EXTINF:13,The Artist - A title", f"{folder}/pl/a.mp3",
    "#EXTINF:-1,Title", "/m/b.mp3",
    "#EXTINF:-1,Artist", f"{folder}/c.mp3",
    "#EXTINF:3,d.x", f"{folder}/d.x.mp3",
    f"{folder}/e.mp3",
  ]  # fmt: skip
  made = playlists.m3u8("pl/a.m3u8", entries, relative=False)
  assert made.content.decode().splitlines() == there
  assert made.left_out == ["f\ng.mp3", "h\ri.mp3"]
  made = playlists.m3u8(folder / "pl" / "a.m3u8", entries)
  there = [os.path.relpath(x, "pl") if x[0] == "/" else x for x in there]
  assert made.content.decode().splitlines() == there
  assert playlists.m3u8("a.m3u8", []) == (HEAD, [])
