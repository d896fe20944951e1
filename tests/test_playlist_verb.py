"""Songs that are like several others, and playlists of songs."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from tables import call, cosines, scaled, similar, write

import vicreg_jax
from vicreg_jax import files
from vicreg_jax.library import playlists, songs
from vicreg_jax.library.tables import Tables

draw = np.random.default_rng(0).normal


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def unit(y_NxD):
  y_NxD = np.asarray(y_NxD, np.float64)
  return y_NxD / np.linalg.norm(y_NxD, axis=1, keepdims=True)


def touch(*paths):
  for path in paths:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    open(path, "w").close()


@pytest.mark.parametrize("scale", ["none", "standardise", "whiten"])
def test_several_songs_are_asked_for_by_their_mean(capsys, scale):
  """And away from others: by float64."""
  y_NxD = draw(size=(40, 8)) * np.linspace(1, 5, 8) + 2
  tables = [
    write("a", y_NxD[:25]),
    write("b", y_NxD[25:], [f"{i}.ogg" for i in range(25, 40)]),
  ]
  unit_NxD = unit(scaled(y_NxD, scale))
  like, unlike = [3, 30, 7], [11, 26]
  query_D = unit_NxD[like].mean(axis=0)
  for far in ([], unlike[:1], unlike):
    if far:
      query_D = unit_NxD[like].mean(axis=0) - unit_NxD[far].mean(axis=0)
    cosine_N = cosines(query_D[None], unit_NxD)[0]
    order = [i for i in np.argsort(-cosine_N) if i not in like + far][:9]
    names = [f"{i}.ogg" for i in like]
    hits = similar(
      capsys, *tables, *names, *(f"--not={i}.ogg" for i in far), "--top=9",
      f"--scale={scale}",
    )  # fmt: skip
    assert [hit["path"] for hit in hits] == [f"{i}.ogg" for i in order]
    np.testing.assert_allclose(
      [hit["similarity"] for hit in hits], cosine_N[order], atol=1e-5
    )


@pytest.mark.parametrize("query", ["music", "music/*.ogg", "l.m3u", "@l.txt"])
def test_a_folder_or_list_stands_for_its_files(capsys, query):
  paths = [*(f"music/{i}.ogg" for i in range(3)), "x.ogg", "y.ogg"]
  touch(*paths)
  with open("l.m3u", "w") as f:
    f.writelines(f"{path}\n" for path in [*paths[:3], "http://a/b"])
  with open("l.txt", "w") as f:
    f.writelines(f"{path}\n" for path in paths[:3])
  table = write("a", np.eye(5) + 1, paths)
  want = similar(capsys, table, *paths[:3])
  assert [hit["path"] for hit in want] == paths[3:]
  assert similar(capsys, table, query) == want


def test_what_of_a_folder_gives_no_audio_is_counted(capsys, small_run):
  touch("music/torn.ogg", "music/1.ogg", "only/torn.ogg")
  about = {"encoder": vicreg_jax.load(small_run).fingerprint()}
  table = write("a", draw(size=(4, 16)), ["music/1.ogg", *"bcd"], about)
  assert call("similar", table, "music", f"--model={small_run}") is None
  assert "left out: 1 empty file" in capsys.readouterr().err
  for one in ("only", "only/torn.ogg"):
    error = call("similar", table, one, f"--model={small_run}")
    assert "torn.ogg" in error and "empty file" in error


@pytest.mark.parametrize(
  "flags, said",
  [
    (["0.ogg", "1.ogg", "--by=segments"], "for one song"),
    (["0.ogg", "--not=1.ogg", "--by=segments"], "for one song"),
    (["0.ogg", "--not=0.ogg"], "--not"),
    (["0.ogg", "nowhere.ogg"], "nowhere.ogg: neither a path"),
    (["b.parquet"], "name a song"),
    (["0.ogg", "--per-artist=1"], "no column artist"),
    (["0.ogg", "--per-album=1"], "no column album"),
    (["0.ogg", "--tempo=5"], "no column tempo"),
    (["0.ogg", "--m3u=t"], "--m3u=t is what this command reads"),
    (["0.ogg", "--m3u=mine.txt"], "--overwrite"),
    (["mine.m3u"], "no audio files"),
  ],
)
def test_bad_questions_are_one_line(flags, said):
  write("b.parquet", np.eye(3))
  for name in ("mine.txt", "mine.m3u"):
    with open(name, "w") as f:
      f.write("#EXTM3U\n# mine\n")
  error = call("similar", write("t", np.eye(3)), *flags)
  assert error.startswith("error: ") and said in error and "\n" not in error


TOLD = {
  "artist": ["A", "B", "b", "B", "", "", "C"],
  "title": ["one", "two", "three", "four", "", "six", ""],
  "album": ["x", "y", "y", "Y", "y", "z", "z"],
  "duration": [9.0, 9.0, 9.0, 9.0, None, 9.0, 9.0],
  "tempo": [120.0, 100.0, 113.0, 130.0, None, 60.0, 127.0],
}


def falling(count):
  """Vectors of which each is less like the first."""
  angle_N = np.arange(count) / count
  return np.c_[np.cos(angle_N), np.sin(angle_N)]


@pytest.mark.parametrize(
  "flags, numbers",
  [
    ([], [1, 2, 3, 4, 5, 6]),
    (["--per-artist=1"], [1, 4, 5, 6]),
    (["--per-artist=2", "--top=3"], [1, 2, 4]),
    (["--per-album=1"], [1, 5]),
    (["--tempo=8"], [2, 6]),
    (["--tempo=8.4%"], [2, 3, 6]),
    (["--tempo=8", "--top=1"], [2]),
  ],
)
def test_limits(capsys, flags, numbers):
  table = write("t", falling(7), told=TOLD)
  hits = similar(capsys, table, "0.ogg", *flags)
  assert [hit["path"] for hit in hits] == [f"{i}.ogg" for i in numbers]
  assert hits[0]["artist"] == TOLD["artist"][numbers[0]]


def test_an_unknown_tempo_cannot_be_asked_for():
  table = write("t", falling(7), told=TOLD)
  assert "tempo of 4.ogg is unknown" in call(
    "similar", table, "4.ogg", "--tempo=5"
  )


def test_names_are_shown_where_they_are_known(capsys):
  old = write("old", falling(2), ["x.ogg", "y.ogg"])
  table = write("t", falling(7), told=TOLD)
  assert call("similar", table, old, "0.ogg", "--scale=standardise") is None
  lines = capsys.readouterr().out.splitlines()[1:]
  shown = {line.split()[-1]: line[10:-5].strip() for line in lines}
  assert shown["1.ogg"] == "B – two" and shown["6.ogg"] == "C"
  assert shown["5.ogg"] == "six" and shown["4.ogg"] == ""
  assert len({line.index(line.split()[-1]) for line in lines}) == 1


def test_copies_are_shown_once(capsys):
  draw = np.random.default_rng(0).normal  # the same, whatever ran before
  y_NxD = draw(size=(30, 8))
  y_NxD[10:28] = y_NxD[1] + 0.002 * draw(size=(18, 8))
  assert cosines(y_NxD[10:28], y_NxD[10:28]).min() > 0.9999
  y_NxD[28] = y_NxD[1] * 1.001  # longer
  y_NxD[29] = y_NxD[2]
  seconds = np.full(30, 60.0)
  seconds[10:28] += np.linspace(-0.3, 0.3, 18)
  seconds[28:] = 99.0
  y_NxD[28] += 0.004 * draw(size=8)
  table = write("t", y_NxD, told={"duration": seconds})
  hits = similar(capsys, table, "1.ogg", "--top=11")
  assert call("similar", table, "1.ogg", "--top=11") is None
  assert "copies, not shown: 18" in capsys.readouterr().err
  kinds = [min(int(hit["path"].split(".")[0]), 29) for hit in hits]
  # Of the 18 copies of the song itself one, the longer one, one of 2 and 29.
  assert sum(10 <= kind < 28 for kind in kinds) == 1 and 28 in kinds
  assert len({2, 29} & set(kinds)) == 1 and len(kinds) == 11


def test_copies_fill_the_answer_up(capsys):
  y_NxD = np.r_[falling(6)[:1].repeat(9, axis=0), falling(6)[1:]]
  hits = similar(capsys, write("t", y_NxD), "0.ogg", "--top=3")
  assert [h["path"] for h in hits[1:]] == ["9.ogg", "10.ogg"]


@pytest.mark.parametrize("absolute", [False, True])
def test_an_answer_is_a_playlist(capsys, absolute, here):
  odd = os.fsencode("music/") + b"bj\xf6rk.ogg"
  paths = ["music/0.ogg", "music/1.ogg", "2.ogg", "music/bj\\xf6rk.ogg"]
  touch(*paths[:3], os.fsdecode(odd))
  told = {"artist": ["A", "B", "", ""], "title": ["a", "b", "", ""],
          "duration": [1.0, 61.7, None, 9.0]}  # fmt: skip
  table = write("t", falling(4), paths, told=told)
  flags = ["--absolute"] if absolute else []
  for _ in range(2):  # and over its own
    assert call("similar", table, paths[0], "--m3u=pl/a.m3u8", *flags) is None
  err = capsys.readouterr().err
  assert "pl/a.m3u8: 3 songs" in err and "not there" not in err
  with open("pl/a.m3u8", "rb") as f:
    lines = f.read().split(b"\n")
  assert files.is_ours("pl/a.m3u8") and lines[0] == b"#EXTM3U"
  up = os.fsencode(here) if absolute else b".."
  assert lines[2:] == [
    b"#EXTINF:62,B - b", up + b"/music/1.ogg", up + b"/2.ogg",
    b"#EXTINF:9,bj\xf6rk", up + b"/" + odd, b"",
  ]  # fmt: skip
  assert playlists.read("pl/a.m3u8").left_out == 0
  os.unlink("2.ogg")
  assert call("similar", table, paths[0], "--m3u=pl/a.m3u8", "--json") is None
  assert "not there, though in the playlist: 1" in capsys.readouterr().err


def playlist(*flags):
  assert call("playlist", *flags, "--m3u=out.m3u8") is None
  return playlists.read("out.m3u8").paths


@pytest.mark.parametrize("scale", ["none", "whiten"])
def test_a_way_is_along_the_line_between_two_songs(scale):
  y_NxD = draw(size=(40, 6)) + 1
  table = write("t", y_NxD)
  flags = ["3.ogg", "8.ogg", "--length=7", f"--scale={scale}"]
  paths = playlist(table, *flags)
  unit_NxD = unit(scaled(y_NxD, scale))
  chosen = [3, 8]
  for share in np.arange(1, 6) / 6:
    point_D = (1 - share) * unit_NxD[3] + share * unit_NxD[8]
    order = np.argsort(-cosines(point_D[None], unit_NxD)[0])
    chosen.append(next(i for i in order if i not in chosen))
  assert sorted(paths) == sorted(f"{i}.ogg" for i in chosen)
  assert (paths[0], paths[-1]) == ("3.ogg", "8.ogg")
  assert paths == songs.way(
    Tables([table]), "3.ogg", "8.ogg", count=7, scale=scale
  )


def test_a_way_has_no_copies():
  y_NxD = falling(10)
  y_NxD = np.r_[y_NxD, y_NxD[:4]]
  paths = playlist(write("t", y_NxD), "0.ogg", "9.ogg")
  assert paths == [f"{i}.ogg" for i in range(10)]


def test_a_folder_is_put_in_a_smooth_order(here):
  paths = [f"music/{i}.ogg" for i in range(9)]
  touch(*paths)
  touch("music/list.m3u")
  shuffled = np.random.default_rng(0).permutation(9)
  table = write("t", falling(9)[shuffled], [paths[i] for i in shuffled])
  for arguments in (["music"], [*paths[::2], *paths[1::2]]):
    found = playlist(table, *arguments)
    assert found in (paths, paths[::-1])


def test_a_new_file_is_an_end_of_a_way(small_run):
  for name in ("a", "b", "new"):
    soundfile.write(f"{name}.wav", 0.1 * draw(size=22_050), 22_050)
  flags = [small_run, "a.wav", "b.wav", "--output=t.parquet"]
  assert call("embed", *flags) is None
  model = f"--model={small_run}"
  paths = playlist("t.parquet", "new.wav", "a.wav", model)
  assert paths == ["new.wav", "b.wav", "a.wav"]
  assert len(pq.read_table("t.parquet")) == 2


@pytest.mark.parametrize(
  "flags, said",
  [
    (["0.ogg", "./0.ogg"], "name two"),
    (["0.ogg", "1.ogg", "--length=9"], "2 to 3 songs here, and not of 9"),
    (["0.ogg", "1.ogg", "2.ogg", "--length=3"], "--length"),
    (["nowhere", "1.ogg"], "nowhere: neither a path"),
    (["b.parquet"], "name songs"),
    (["0.ogg", "1.ogg", "--m3u=song"], "--m3u=song was not written by"),
  ],
)
def test_bad_playlists_are_one_line(flags, said):
  touch("song")
  write("b.parquet", np.eye(3))
  error = call("playlist", write("t", np.eye(3)), "--m3u=o", *flags)
  assert error.startswith("error: ") and said in error and "\n" not in error
  assert not os.path.exists("o")
