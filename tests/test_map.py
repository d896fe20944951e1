"""The map: its points, the page, its server, and what a browser makes of it."""

import base64
import contextlib
import csv
import http.client
import json
import os
import pathlib
import re
import socket
import struct
import threading
import time

import firefox
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from chromium import PROGRAM, Browser
from tables import call, cosines, headed, scaled, similar, write

import vicreg_jax
from vicreg_jax.library import (
  colourings,
  layout,
  neighbours,
  page,
  playlists,
  serve,
)
from vicreg_jax.library.tables import Tables
from vicreg_jax.use.heads import Heads

# Names as bad as a disk takes them; the last is no UTF-8.
HOSTILE = [
  "<script>document.title='run'</script>.wav",
  "<img src=x onerror=\"document.title='run'\">&amp;.wav",
  "two\nlines 'and' \"quotes\"{{script}}{{data}}.wav",
  "50% #1?x=y;.wav",
  "</ScRiPt>\u2028☃ 日本.wav",
  os.fsdecode(b"caf\xe9.wav"),
]


def on_disk(name):
  """A name as a table has it."""
  return os.fsencode(name).decode(errors="backslashreplace")


@pytest.fixture
def clusters(tmp_path):
  """A table of 60 tracks in three folders that are far apart."""
  rng = np.random.default_rng(0)
  centres_3xD = rng.normal(size=(3, 16))
  y_NxD = centres_3xD.repeat(20, axis=0) + 0.1 * rng.normal(size=(60, 16))
  paths = [f"music/{'abc'[i // 20]}/{i}.wav" for i in range(60)]
  return write(tmp_path / "t.parquet", y_NxD, paths)


def make(embeddings, **options):
  return layout.make(Tables([embeddings]), projection="pca", **options)


def test_what_sounds_alike_lies_together(clusters):
  made = layout.make(Tables([clusters]), projection="tsne")
  gap = made.xy_Nx2[:, None] - made.xy_Nx2
  gap_NxN = np.linalg.norm(gap, axis=-1) + 9 * np.eye(60)
  folder_N = np.arange(60) // 20
  assert (folder_N[gap_NxN.argmin(axis=1)] == folder_N).all()
  assert made.xy_Nx2.min() >= 0 and made.xy_Nx2.max() <= 1
  labels, code_N, *_ = made.colourings["folder"]
  assert [labels[code] for code in code_N] == list(
    "a" * 20 + "b" * 20 + "c" * 20
  )


@pytest.mark.parametrize("kind", ["equal", "zeros", "two", "one number"])
@pytest.mark.parametrize("scale", neighbours.SCALES)
def test_points_without_directions_have_places(tmp_path, kind, scale):
  rng = np.random.default_rng(0)
  y_NxD = {
    "equal": np.tile(rng.normal(size=8), (40, 1)),
    "zeros": np.zeros((40, 8)),
    "two": np.repeat(rng.normal(size=(2, 8)), 20, axis=0),
    "one number": rng.normal(size=(40, 1)),
  }[kind]
  tables = Tables([write(tmp_path / "t", y_NxD)])
  for projection in ("pca", "tsne"):
    made = layout.make(tables, projection=projection, scale=scale)
    assert made.xy_Nx2.min() >= 0 and made.xy_Nx2.max() <= 1
    assert (made.neighbours_Nx10 >= 0).all()


@pytest.mark.slow
def test_umap_lays_out_too(clusters, tmp_path):
  pytest.importorskip("umap")
  for other in (0, 1):  # all are equal, or all but one
    y_NxD = np.ones((40, 8)) + other * np.eye(40, 8, -39)
    equal = write(tmp_path / "equal", y_NxD)
    made = layout.make(Tables([equal]), projection="umap", scale="whiten")
    assert np.isfinite(made.xy_Nx2).all()
  xy_Nx2 = layout.make(Tables([clusters]), projection="umap").xy_Nx2
  centre_3x2 = xy_Nx2.reshape(3, 20, 2).mean(axis=1)
  far_Nx3 = np.linalg.norm(xy_Nx2[:, None] - centre_3x2, axis=-1)
  assert (far_Nx3.argmin(axis=1) == np.arange(60) // 20).all()


@pytest.mark.parametrize("scale", neighbours.SCALES)
def test_neighbours_of_passages_tracks_are_those_of_similar(
  tmp_path, capsys, scale
):
  """Tracks differ where their segments are alike."""
  rng = np.random.default_rng(0)
  spread_D = np.linspace(1, 9, 8)
  y_NxD = rng.normal(size=(20, 8)).repeat(6, axis=0) / spread_D
  y_NxD += spread_D * rng.normal(size=(120, 8)) + 1
  paths = [f"{i // 6}.ogg" for i in range(120)]
  table = write(tmp_path / "t", y_NxD, paths)
  made = make(table, scale=scale)
  tracks = y_NxD.reshape(20, 6, 8).mean(axis=1)
  expected = cosines(*[scaled(tracks, scale, y_NxD)] * 2)
  np.fill_diagonal(expected, -np.inf)
  order_NxK = np.argsort(-expected)[:, :10]
  np.testing.assert_array_equal(made.neighbours_Nx10, order_NxK)
  for i in range(0, 20, 7):
    hits = similar(capsys, table, f"{i}.ogg", f"--scale={scale}")
    found = [int(hit["path"].removesuffix(".ogg")) for hit in hits]
    np.testing.assert_array_equal(found, order_NxK[i])


def test_passages_have_their_times_and_neighbours_elsewhere(tmp_path):
  y_NxD = np.random.default_rng(0).normal(size=(12, 4))
  table = write(tmp_path / "t", y_NxD, [f"{i // 3}.wav" for i in range(12)])
  made = make(table, by="segments")
  np.testing.assert_array_equal(made.rows.start_N, [0, 1, 2] * 4)
  near = made.neighbours_Nx10
  assert (near[:, :9] // 3 != np.arange(12)[:, None] // 3).all()
  assert (near[:, 9] == -1).all() and (near[:, :9] >= 0).all()


@pytest.mark.parametrize("by", ["tracks", "segments"])
def test_pieces_of_a_track_are_apart(tmp_path, monkeypatch, by):
  """They are no neighbours, but the layout knows them."""
  monkeypatch.setattr(layout, "_project", lambda unit, near, _: (near, ""))
  names = [f"{t}-{30 * i}-{30 * i + 30}.ogg" for t in "abcde" for i in range(5)]
  if by == "segments":
    names = [name for name in names for _ in range(2)]
  y_NxD = np.random.default_rng(0).normal(size=(len(names), 8))
  table = write(tmp_path / "t", y_NxD, names)
  made = make(table, by=by)
  track_N = np.array([name[0] for name in names])
  is_own_NxN = track_N[:, None] == track_N
  np.testing.assert_array_equal(
    made.track_N[:, None] == made.track_N, is_own_NxN
  )
  expected = cosines(y_NxD, y_NxD)
  np.fill_diagonal(expected, -np.inf)
  cosine_NxK, number_NxK = made.xy_Nx2
  np.testing.assert_array_equal(number_NxK, np.argsort(-expected)[:, :15])
  np.testing.assert_allclose(
    cosine_NxK, np.take_along_axis(expected, number_NxK, 1), atol=1e-6
  )
  expected[is_own_NxN] = -np.inf
  order_Nx10 = np.argsort(-expected)[:, :10]
  np.testing.assert_array_equal(made.neighbours_Nx10, order_Nx10)
  np.testing.assert_allclose(
    made.cosine_Nx10, np.take_along_axis(expected, order_Nx10, 1), atol=1e-6
  )


@pytest.mark.parametrize(
  "umap, count, best",
  [
    (True, 50_000, "umap"),
    (True, 50_001, "pca"),
    (False, 5_000, "tsne"),
    (False, 5_001, "pca"),
  ],
)
def test_the_layout_is_one_that_takes_minutes(monkeypatch, umap, count, best):
  monkeypatch.setattr(layout.importlib.util, "find_spec", lambda _: umap)
  assert layout._best_projection(count) == best


def test_more_points_are_a_sample(clusters):
  made = make(clusters, most=25)
  assert len(set(made.rows.paths)) == 25 and made.total == 60
  assert "25 points, a sample of 60" in page.note(made)
  table = pq.read_table(clusters)
  y_NxD = np.stack(table["embedding"].to_numpy())
  at = [table["path"].to_pylist().index(path) for path in made.rows.paths]
  np.testing.assert_array_equal(made.rows.y_NxD, y_NxD[at])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_of_a_table_are_colours(clusters, tmp_path, kind):
  paths = [f"music/{'abc'[i // 20]}/{i}.wav" for i in range(0, 60, 2)]
  columns = {
    "path": paths,
    "mood": ["<b>"] * 10 + ["calm"] * 20,
    "bpm": [60.0 + i for i in range(30)],
  }
  path = tmp_path / f"columns.{kind}"
  if kind == "csv":
    rows = [list(columns), *map(list, zip(*columns.values()))]
    path.write_text("\n".join(",".join(map(str, row)) for row in rows))
  else:
    pq.write_table(pa.table(columns), path)
  found = make(clusters, table=str(path)).colourings
  labels, code_N, ordered, _ = found["mood"]
  assert labels == ["calm", "<b>", "unknown"] and not ordered
  assert [labels[c] for c in code_N[:4]] == ["<b>", "unknown"] * 2
  labels, code_N, ordered, _ = found["bpm"]
  assert ordered and labels[-1] == "unknown" and len(labels) == 7
  np.testing.assert_array_equal(np.bincount(code_N), [5] * 6 + [30])
  assert code_N[0] == 0 and code_N[58] == 5  # from low to high


def colouring(tmp_path, values):
  """By a column of a table that has these values."""
  paths = [f"{i}.ogg" for i in range(len(values))]
  embeddings = write(tmp_path / "t", np.eye(len(values)), paths)
  table = tmp_path / "columns"
  pq.write_table(pa.table({"path": paths, "x": values}), table)
  return make(embeddings, table=str(table)).colourings["x"]


@pytest.mark.parametrize(
  "values, labels",
  [
    ([1.0, np.nan, 1.0], ["1", "unknown"]),
    ([0.0] * 20 + [1.0], ["0", "1"]),
    ([np.nan] * 3, ["unknown"]),
    ([np.inf, -np.inf, np.nan], ["unknown"]),
    ([0.5, 0.25, 0.5], ["0.5", "0.25"]),
    ([0.1234567, 0.1234568], ["0.1234567", "0.1234568"]),
    ([10**16, 10**16 + 1], [f"{10**16}", f"{10**16 + 1}"]),
    (pa.array([1, 2], pa.timestamp("ns")), [
      "1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002",
    ]),
    (pa.array([b"Bj\xc3\xb6rk", None]), ["Björk", "unknown"]),
  ],
)  # fmt: skip
def test_few_values_are_classes(tmp_path, values, labels):
  found, code_N, ordered, _ = colouring(tmp_path, values)
  assert (found, ordered) == (labels, False)
  assert set(code_N) == set(range(len(labels)))


@pytest.mark.parametrize(
  "values, first, last",
  [
    (range(10**6, 10**6 + 30), "1000000 to 1000004", "1000025 to 1000029"),
    (range(2**60, 2**60 + 30), f"{2**60} to {2**60 + 4}", None),
    (range(20210101, 20210131), "20210101 to 20210105", None),
    ([1e6 + i for i in range(30)], "1000000 to 1000004", None),
    ([0.5 + i / 2**20 for i in range(30)], "0.5 to 0.500004", None),
    (pa.array(range(30), pa.date32()), "1970-01-01 to 1970-01-05", None),
    ([0] * 90 + list(range(1, 30)), "0 to 4", "25 to 29"),  # most are equal
    (pa.array(range(30), pa.duration("ns")), "0 to 4", "25 to 29"),
  ],
)
def test_ranges_have_all_digits(tmp_path, values, first, last):
  values = values if isinstance(values, pa.Array) else list(values)
  labels, code_N, ordered, _ = colouring(tmp_path, values)
  assert ordered and len(set(labels)) == 6 and labels[0] == first
  assert labels[-1] == (last or labels[-1])
  assert (np.diff(code_N) >= 0).all() and (np.bincount(code_N) >= 5).all()


def test_tags_are_those_of_each_segment_on_average(tmp_path):
  """By another rule, the mean vector, all would be "b"."""
  logits = np.array([[10, -1], [-10, -1], [-10, -1]])  # probable: .33, .27
  table = write(tmp_path / "t", logits.repeat(3, axis=0), [*"uvw"] * 3)
  out = {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)}
  heads = Heads(("a", "b"), False, "e", 0, {"linear": {"out": out}})
  labels, code_N, *_ = make(table, heads=heads, most=2).colourings["tag"]
  assert [labels[code] for code in code_N] == ["a", "a"]
  labels, code_N, *_ = make(table, heads=heads, by="segments").colourings["tag"]
  assert [labels[code] for code in code_N] == [*"aaabbbbbb"]
  # Of rows with deviations the means are read.
  y_NxD = np.concatenate([logits, -9 * logits], axis=1)
  table = write(tmp_path / "m", y_NxD, about={"pooling": "mean_std"})
  labels, code_N, *_ = make(table, heads=heads).colourings["tag"]
  assert [labels[code] for code in code_N] == ["a", "b", "b"]


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "none"])
def test_tags_of_mean_vectors_are_told(small_run, tmp_path, capsys, pooling):
  run = tmp_path / "run"
  headed(small_run, run)
  encoder = vicreg_jax.load(run)
  about = {"encoder": encoder.fingerprint(), "pooling": pooling}
  size = encoder.size * (1 + (pooling == "mean_std"))
  table = write(tmp_path / "t", np.eye(4, size), about=about)
  flags = ["--projection=pca", f"--output={tmp_path}/map.html", "--color=tag"]
  assert call("map", table, f"--model={run}", *flags) is None
  told = "tags are of the mean vector" in capsys.readouterr().err
  assert told == (pooling != "none")


def test_the_largest_of_many_folders_are_coloured():
  names = [f"{i:04}" for i in range(2_000) for _ in range(1 + (i < 16))]
  labels, code_N, _, coloured = colourings.of_values([*names, "unknown"])
  assert labels == [*(f"{i:04}" for i in range(2_000)), "unknown"]
  assert coloured == 16
  assert [labels[code] for code in code_N] == [*names, "unknown"]
  labels, code_N, *_ = colourings.of_values([f"{i:04}" for i in range(5_000)])
  assert labels[-2:] == ["3998", "others"] and (code_N == 3_999).sum() == 1_001


def test_tags_of_files_are_colours_and_text(tmp_path):
  told = {
    "artist": ["Müller", "", "فيروز", "Müller"],
    "title": ["a", "b", "", None],
    "album": [""] * 4,
    "genre": ["Rock", "Rock", "", None],
    "year": pa.array([1999, 2001, None, 1999], pa.int32()),
    "tempo": [120.0, np.nan, 60.0, None],
    "key": ["C major", "", None, ""],
  }
  table = write(tmp_path / "t", np.eye(4), [*"wxyz"], told=told)
  made = make(table, color="artist")
  found = {
    name: [c.labels[code] for code in c.code_N]
    for name, c in made.colourings.items()
    if name not in ("folder", "cluster")
  }
  unknown = "unknown"
  assert found == {
    "artist": ["Müller", unknown, "فيروز", "Müller"],
    "genre": ["Rock", "Rock", unknown, unknown],
    "key": ["C major", unknown, unknown, unknown],
    "year": ["1999", "2001", unknown, "1999"],
    "tempo": ["120", unknown, "60", unknown],
  }
  assert made.colourings["artist"].coloured == 2  # what is unknown is grey
  data = data_of(page.page(made, page.audio_of([*"wxyz"]), "", "artist"))
  assert data["tags"] == {
    "artist": ["Müller", "", "فيروز", "Müller"],
    "title": ["a", "b", "", ""],
  }


def luminance(colour):
  """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
  rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [
    c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb
  ]
  return np.dot([0.2126, 0.7152, 0.0722], linear)


@pytest.mark.parametrize("dark", [0, 1])
def test_colours_are_told_from_what_is_behind_them(dark):
  """By 3 to 1 for points and lines, 4.5 to 1 for text."""
  html = pathlib.Path(page.__file__).with_name("map_page.html").read_text()
  roots = re.findall(r":root \{(.*?)\}", html)
  styles = dict(re.findall(r"--(\w+): (#\w+);", roots[dark]))
  graphics = [pair[dark] for pair in (*page.COLOURS, *page.RANGES, page.GREY)]
  needed = dict.fromkeys([*graphics, styles["edge"], styles["accent"]], 3)
  needed |= dict.fromkeys([styles["fore"], styles["dim"]], 4.5)
  for colour, least in needed.items():
    for behind in (styles["back"], styles["panel"]):
      behind = behind if len(behind) == 7 else "#" + 2 * behind[1:]
      low, high = sorted([luminance(colour), luminance(behind)])
      assert (high + 0.05) / (low + 0.05) >= least, (colour, behind)


def data_of(html):
  text = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1]
  return json.loads(text)


def numbers(text, kind):
  return np.frombuffer(base64.b64decode(text), kind)


def test_the_page_holds_the_points_and_names_as_data(tmp_path):
  paths = [f"m/{on_disk(name)}" for name in HOSTILE]
  made = make(write(tmp_path / "t", np.eye(6) + 1, paths))
  audio = page.audio_of(made.rows.paths)
  html = page.page(made, audio, "out", "folder")
  assert len(re.findall(r"<script", html, re.IGNORECASE)) == 2
  assert len(re.findall(r"</script", html, re.IGNORECASE)) == 2
  assert not re.search(r"https?:", html)  # nothing is fetched
  data = data_of(html)
  assert data["names"] == [on_disk(name) for name in HOSTILE]
  assert data["root"] == "../m/"
  places = numbers(data["places"], "<u2").reshape(-1, 2) / 65_535
  np.testing.assert_allclose(places, made.xy_Nx2, atol=2e-5)
  near = numbers(data["neighbours"], "<i4").reshape(-1, 10)
  np.testing.assert_array_equal(near, made.neighbours_Nx10)


def test_links_name_files_and_nothing_else(tmp_path):
  """No query, and no place in a file: of folders, and of links by bytes."""
  folder = tmp_path / "a b#1?x=%41&"
  folder.mkdir()
  name = os.fsdecode(b"caf\xe9#2?%.wav")
  (folder / name).write_bytes(b"x")
  paths = [on_disk(f"{folder}/{n}") for n in ("c.wav", name)]
  made = make(write(tmp_path / "t", np.eye(2), paths))
  html = page.page(made, page.audio_of(paths), str(tmp_path), "folder")
  quoted = "a%20b%231%3Fx%3D%2541%26/"
  data = data_of(html)
  assert data["root"] == quoted
  assert data["links"] == {"1": f"{quoted}caf%E9%232%3F%25.wav"}


def test_music_that_was_moved_is_found(tmp_path, clusters, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for i in range(60):
    file = tmp_path / f"moved/{'abc'[i // 20]}/{i}.wav"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
  flags = ["--projection=pca", f"--output={tmp_path}/map.html"]
  assert call("map", clusters, *flags) is None
  assert "60 files, such as music/a/0.wav" in capsys.readouterr().err
  assert call("map", clusters, *flags, "--audio-root=moved") is None
  assert not capsys.readouterr().err
  assert data_of(pathlib.Path("map.html").read_text())["root"] == "moved/"


BAD = [
  (["--color=mood"], "folder, cluster"),
  (["--table=nowhere.csv"], "nowhere.csv"),
  (["--table=TMP/other.csv"], "no row of these tracks"),
  (["--table=TMP/pathless.csv"], "no column `path`"),
  (["--table=TMP/latin.csv"], "not UTF-8"),
  (["--table=TMP/twice.csv"], "2 columns `path`"),
  (["--table=TMP/bytes.parquet"], "column x cannot be read"),
  (["--by=segments", "--most=1"], "two"),
  (["--serve=99999999"], "cannot be had"),
  (["--output=TMP/t.parquet/map.html"], "--output"),
]


@pytest.mark.parametrize("flags, said", BAD)
def test_bad_maps_are_one_line(clusters, tmp_path, flags, said, monkeypatch):
  (tmp_path / "other.csv").write_text("path,x\nz,1\n")
  (tmp_path / "pathless.csv").write_text("name,x\nz,1\n")
  (tmp_path / "latin.csv").write_bytes(b"path,x\nz,Bj\xf6rk\n")
  (tmp_path / "twice.csv").write_text("path,path\nz,1\n")
  columns = {"path": ["music/a/0.wav"], "x": [b"Bj\xf6rk"]}
  pq.write_table(pa.table(columns), tmp_path / "bytes.parquet")
  flags = [flag.replace("TMP", str(tmp_path)) for flag in flags]
  if "--output" not in said:  # a layout takes minutes
    monkeypatch.setattr(layout, "_project", None)
  output = f"--output={tmp_path}/map.html"
  error = call("map", clusters, output, "--projection=pca", *flags)
  assert error.startswith("error: ") and said in error and "\n" not in error


def test_one_track_is_no_map(tmp_path):
  table = write(tmp_path / "t", np.eye(3)[:1])
  assert "two tracks or more" in call("map", table)


@contextlib.contextmanager
def serving(content, files):
  """The port of a server."""
  with serve.server(content, files, 0) as server:
    server.daemon_threads = False  # it is closed when they have ended
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
      yield server.server_port
    finally:
      server.shutdown()
      thread.join()


@pytest.fixture
def served(tmp_path):
  """A port on which a page and two files are served."""
  (tmp_path / "a.wav").write_bytes(bytes(range(100)))
  (tmp_path / "secret").write_bytes(b"secret")
  files = [str(tmp_path / "a.wav"), str(tmp_path / "gone.wav")]
  with serving(b"<page>", files) as port:
    yield port


def get(port, path, method="GET", **headers):
  connection = http.client.HTTPConnection("localhost", port, timeout=10)
  headers = {name.title(): value for name, value in headers.items()}
  connection.request(method, path, headers=headers)
  answer = connection.getresponse()
  content = answer.read()
  connection.close()
  return answer.status, content, answer.getheader("Content-Range")


@pytest.mark.parametrize(
  "asked, first, last",
  [
    ("bytes=10-19", 10, 19),
    ("bytes=90-", 90, 99),
    ("bytes=-5", 95, 99),
    ("bytes=50-1000", 50, 99),
    ("bytes=-1000", 0, 99),
  ],
)
def test_ranges_of_audio_are_served(served, asked, first, last):
  expected = bytes(range(first, last + 1))
  told = f"bytes {first}-{last}/100"
  assert get(served, "/audio/0", range=asked) == (206, expected, told)
  assert get(served, "/audio/0", "HEAD", range=asked)[1] == b""


@pytest.mark.parametrize("asked", ["bytes={}-", "bytes={}-5", "bytes=0-{}"])
def test_ranges_of_many_digits_are_behind_the_end(served, asked):
  status, *_ = get(served, "/audio/0", range=asked.format("9" * 5_000))
  assert status == (206 if asked == "bytes=0-{}" else 416)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:80"])
def test_a_host_needs_no_port(served, host):
  assert get(served, "/", host=host)[0] == 200
  for other in (f"{host}.example", f"a{host}", "", ":80"):
    assert get(served, "/", host=other)[0] == 403


@pytest.mark.parametrize("path", ["/", "/audio/0", "/secret"])
def test_other_pages_may_not_hold_it(served, path):
  connection = http.client.HTTPConnection("localhost", served, timeout=10)
  connection.request("GET", path)
  headers = connection.getresponse().headers
  connection.close()
  assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
  assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
  assert headers["X-Content-Type-Options"] == "nosniff"
  assert not re.search(r"\d", headers["Server"])


@pytest.mark.parametrize("kind", ["link", "pipe", "folder is a link"])
def test_what_a_file_becomes_is_not_served(tmp_path, kind):
  for name in ("m/a.wav", "other/a.wav"):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(name.encode())
  (tmp_path / "link.wav").symlink_to(tmp_path / "m/a.wav")
  files = [str(tmp_path / "m/a.wav"), str(tmp_path / "link.wav")]
  with serving(b"", files) as port:
    for i in range(2):  # what was a link before is one of the music
      assert get(port, f"/audio/{i}")[1] == b"m/a.wav"
    os.unlink(tmp_path / "m/a.wav")
    if kind == "link":
      os.symlink(tmp_path / "other/a.wav", tmp_path / "m/a.wav")
    elif kind == "pipe":
      os.mkfifo(tmp_path / "m/a.wav")
    else:
      (tmp_path / "m").rmdir()
      os.symlink(tmp_path / "other", tmp_path / "m")
    for i in range(2):
      assert get(port, f"/audio/{i}")[0] == 404


def test_who_waits_or_leaves_is_let_go(served, capsys, monkeypatch):
  monkeypatch.setattr(serve._Handler, "timeout", 0.2)
  with socket.create_connection(("localhost", served), timeout=10) as waits:
    waits.sendall(b"GET / HTTP/1.1\r\n")
    assert waits.recv(1) == b""
  with serving(b"x" * 20_000_000, []) as port:
    for request in (b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
      leaves = socket.create_connection(("localhost", port), timeout=10)
      leaves.sendall(request)
      at_once = struct.pack("ii", 1, 0)
      leaves.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
      leaves.close()
    assert get(port, "/")[0] == 200
  assert not capsys.readouterr().err


def test_what_is_not_asked_for_well(served):
  assert get(served, "/audio/0") == (200, bytes(range(100)), None)
  assert get(served, "/audio/0", range="bytes=x")[0] == 200
  assert get(served, "/audio/0", range="bytes=100-")[::2] == (
    416,
    "bytes */100",
  )
  assert get(served, "/")[1] == b"<page>"


@pytest.mark.parametrize(
  "path",
  [
    "/secret",
    "/audio/",
    "/audio/2",
    "/audio/1",
    "/audio/-1",
    "/audio/../secret",
    "/audio/0/../../secret",
    "/audio/%2e%2e/secret",
    "//secret",
    "/..%2fsecret",
  ],
)
def test_nothing_else_is_served(served, path):
  status, content, _ = get(served, path)
  assert status == 404 and b"secret" not in content.replace(path.encode(), b"")


def test_it_is_served_to_this_machine_alone(served):
  assert get(served, "/", host="evil.example:80")[0] == 403
  with pytest.raises(ValueError, match="cannot be had"):
    serve.server(b"", [], served)


@pytest.fixture
def browser(tmp_path):
  if PROGRAM is None:
    pytest.skip("there is no Chromium here")
  browser = Browser(tmp_path / "profile")
  browser.size(1200, 800)
  yield browser
  browser.close()


@pytest.fixture
def hostile(tmp_path):
  """A table of passages of files with bad names, and the names."""
  folder = tmp_path / "# music"
  folder.mkdir()
  names = [*HOSTILE, *(f"{i}.wav" for i in range(10))]
  for i, name in enumerate(names):
    x_T = 0.1 * np.sin(0.01 * (i + 3) * np.arange(4 * 8_000))
    soundfile.write(folder / "new.wav", x_T, 8_000)
    (folder / name).parent.mkdir(exist_ok=True)  # "</script>" has a slash
    os.rename(folder / "new.wav", folder / name)
  y_NxD = np.random.default_rng(0).normal(size=(2 * len(names), 8))
  paths = [on_disk(f"{folder}/{name}") for name in names for _ in range(2)]
  return write(tmp_path / "t.parquet", y_NxD, paths, seconds=1.5), names


def faults(browser):
  """What a browser has complained of, and what it has asked of others."""
  kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
  asked = [
    params["request"]["url"]
    for name, params in browser.events
    if name == "Network.requestWillBeSent"
  ]
  assert asked
  ours = ("file:", "http://localhost:", "data:", "about:")
  return [params for name, params in browser.events if name in kinds] + [
    url for url in asked if not url.startswith(ours)
  ]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "serve"])
def test_a_browser_shows_and_plays_the_map(
  hostile, browser, tmp_path, capsys, way
):
  table, names = hostile
  output = tmp_path / "out" / "map.html"
  flags = ["--by=segments", "--projection=pca", f"--output={output}"]
  assert call("map", table, *flags) is None
  server = None
  if way == "serve":
    html = output.read_text()
    paths = Tables([table]).segments()
    audio = page.audio_of([p for rows in paths for p in rows.paths])
    html = page.served(html, str(output.parent))
    server = serve.server(html.encode(), audio.files, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.open(f"http://localhost:{server.server_port}/")
  else:
    browser.open(output.as_uri())
  try:
    for i in (0, 3, 4, 7, 11):
      _check_point(browser, table, names, i, capsys)
    _check_search(browser)
    _check_keys(browser)
    _check_legend(browser)
  finally:
    if server:
      server.shutdown()
      server.server_close()
  assert browser.ask("document.title") == "Map of music"
  assert not faults(browser)


def _check_point(browser, table, names, i, capsys):
  """Clicks on it: it plays from its second, and has its neighbours."""
  name = on_disk(names[i // 2])
  # A busy machine asks late: the page notes where it has begun.
  browser.ask(
    "window.begun = -1; audio.addEventListener("
    "'seeked', () => { window.begun = audio.currentTime; }, { once: true })"
  )
  browser.click(*browser.ask(f"screen({i})"))
  browser.until("begun >= 0 && audio.currentTime > begun")
  start = 1.5 * (i % 2)
  assert browser.ask("state.selected") == i
  assert start <= browser.ask("begun") < start + 0.5
  shown = browser.ask("$('folder').textContent + $('name').textContent")
  assert shown == f"{name} at 0:0{int(start)}"
  path = on_disk(str(pathlib.Path(table).parent / "# music" / names[i // 2]))
  flags = ["--by=segments", f"--at={start + 0.7}"]
  hits = similar(capsys, table, path, *flags)
  listed = browser.ask(
    "[...document.querySelectorAll('#neighbours li')]"
    ".map(li => data.names[li.dataset.point] + '@' + at(li.dataset.point))"
  )
  assert listed == [
    f"{hit['path'].partition('# music/')[2]}@{hit['start']:g}" for hit in hits
  ]
  link = browser.ask("location.hash")
  assert browser.ask("ofHash()") == i and link.endswith(f"@{start:g}")


def _check_search(browser):
  browser.ask("$('search').focus()")
  browser.type("SCRIPT title")
  folder, name = os.path.split(HOSTILE[0])
  assert _found(browser) == [
    f"folder: {folder}",
    *(f"{name} at 0:0{s}{folder}/" for s in (0, 1)),
  ]
  for _ in range(3):
    browser.press("ArrowDown")
  browser.press("Enter")
  browser.until("state.selected === 1 && audio.currentTime > 1.5")


def _found(browser):
  """What the search has found."""
  return browser.ask("[...$('found').children].map(li => li.textContent)")


def _check_keys(browser):
  browser.until("!audio.paused")
  browser.press(" ", 32)
  browser.until("audio.paused")
  x = browser.ask("screen(state.selected)[0]")
  key = "ArrowRight" if x < 400 else "ArrowLeft"
  browser.press(key)
  browser.until("state.selected !== 1 && state.playing === state.selected")
  moved = browser.ask("screen(state.selected)[0]") - x
  assert moved > 0 if key == "ArrowRight" else moved < 0
  button = "document.querySelector('#neighbours button')"
  point = browser.ask(f"Number({button}.parentElement.dataset.point)")
  browser.ask(f"{button}.click()")
  browser.until(f"state.playing === {point} && audio.currentTime > at({point})")


def _check_legend(browser):
  browser.ask(
    "$('colouring').value = 1;$('colouring').dispatchEvent(new Event('change'))"
  )
  gone = browser.ask("colourings[1].codes.indexOf(0)")
  place = f"...screen({gone}).map(Math.round)"
  tone = f"[...context.getImageData({place}, 1, 1).data].slice(0, 3)"
  browser.ask("select(colourings[1].codes.indexOf(1), false); paint()")
  browser.ask("document.querySelector('#legend button').focus()")
  for faint in (True, False):
    browser.press(" ", 32)
    assert (browser.ask(f"nearestTo(...screen({gone}), 1)") != gone) == faint
    shown = browser.ask("document.activeElement.textContent")
    first = browser.ask("colourings[1].labels[0]")
    assert shown.startswith(first)  # the keyboard is where it was
    browser.ask("paint()")
    if faint:  # Chromium warns of a second look
      assert browser.ask(tone) == [0xDC, 0xDD, 0xE0]  # --faint


@pytest.mark.slow
def test_a_link_opens_its_track_and_lost_audio_is_told(browser, tmp_path):
  paths = [f"{tmp_path}/m/{name}.wav" for name in ("a b", "c#", "100%")]
  page = tmp_path / "map.html"
  table = write(tmp_path / "t", np.eye(3), paths)
  flags = ["--projection=pca", f"--output={page}"]
  assert call("map", table, *flags) is None
  browser.open(f"{page.as_uri()}#c%23.wav")
  assert browser.ask("$('name').textContent") == "c#.wav"
  browser.ask("play(2)")
  browser.until("$('status').textContent")
  told = browser.ask("$('status').textContent")
  assert told == "Cannot be played: 100%.wav"


@pytest.fixture
def tagged(tmp_path, browser):
  """A page that is open, of files whose names and tags are searched."""
  names = [
    "mu\u0308ller/a.wav", "m\u00fcller/b.wav", "x/ملف.wav", 'x/c, "d".wav',
    "x/song-0-30.wav", "x/song-30-60.wav", "x/Straße ø.wav",
  ]  # fmt: skip
  told = {
    "artist": ["", "", "فيروز", "=1+1", "", "", ""],
    "title": ["", "", "أغنية", "two\nlines", "", "", ""],
    "album": ["", "", "", "Ágætis byrjun", "", "", ""],
  }
  (tmp_path / "m").mkdir()
  for name in names:
    file = tmp_path / "m" / name
    file.parent.mkdir(exist_ok=True)
    soundfile.write(file, np.zeros(800), 8_000)
  y_NxD = np.random.default_rng(0).normal(size=(7, 4))
  paths = [str(tmp_path / "m" / name) for name in names]
  table = write(tmp_path / "t", y_NxD, paths, told=told)
  output = tmp_path / "map.html"
  flags = ["--projection=pca", f"--output={output}"]
  assert call("map", table, *flags) is None
  browser.open(output.as_uri())
  return browser, paths


@pytest.mark.slow
def test_names_are_found_however_they_are_written(tagged):
  browser, _ = tagged
  for typed, wanted in [
    ("muller", [0, 1]),
    ("MU\u0308LLER", [0, 1]),
    ("strasse o", [6]),
    ("agaetis", [3]),
    ("فيروز", [2]),
    ("two lines", [3]),
  ]:
    browser.ask("search.focus(); search.value = ''")
    browser.type(typed)
    points = browser.ask(
      "[...data.names.keys()].filter((i) => [...found.children].some("
      "(li) => li.textContent === named(i).textContent))"
    )
    assert points == wanted, typed
    assert browser.ask("$('hits').textContent") == f"{len(wanted)} found"
  assert browser.ask("search.ariaExpanded") == "true"
  browser.press("ArrowDown", 40)
  active = "document.getElementById(search.getAttribute('{}')).textContent"
  shown = browser.ask(active.format("aria-activedescendant"))
  assert shown.startswith("=1+1 – two\nlines")
  assert browser.ask("document.activeElement === search")
  browser.press("Escape", 27)
  assert browser.ask("found.hidden && document.activeElement === search")
  browser.ask("select(2, false)")
  places = browser.ask(
    "[...document.querySelectorAll('#name bdi, #folder bdi')].map("
    "(b) => [b.textContent, b.getBoundingClientRect().left])"
  )
  assert [text for text, _ in places] == ["فيروز", "أغنية", "x", "ملف.wav"]
  # Each reads from right to left, but they stand from left to right.
  assert places[0][1] < places[1][1] and places[2][1] < places[3][1]
  assert browser.ask("$('live').textContent").startswith("فيروز – أغنية")
  assert not faults(browser)


@pytest.mark.slow
def test_points_in_a_lasso_are_exported(tagged, tmp_path):
  browser, paths = tagged
  browser.call(
    "Browser.setDownloadBehavior",
    behavior="allow",
    downloadPath=str(tmp_path / "down"),
  )
  middle = browser.ask("[0,1,2,3,4,5,6].map((i) => screen(i))")
  left, right = sorted(range(7), key=lambda i: middle[i])[:6], 0
  right = (middle[left[-1]][0] + max(x for x, _ in middle)) / 2
  corners = [(2, 2), (right, 2), (right, 795), (2, 795), (2, 400)]
  at = {"button": "left", "modifiers": 8, "clickCount": 1}  # with shift
  for k, (x, y) in enumerate(corners):
    kind = "mouseMoved" if k else "mousePressed"
    browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **at)
  browser.call(
    "Input.dispatchMouseEvent", type="mouseReleased", x=2, y=400, **at
  )
  wanted = sorted(left)
  assert browser.ask("byName()") == wanted
  assert browser.ask("$('chosen').textContent") == "6 points, 6 files"
  for kind in ("m3u", "csv"):
    browser.ask(f"$('{kind}').click()")
  ends = time.monotonic() + 60
  files = [tmp_path / "down" / name for name in ("map.m3u8", "map.csv")]
  while not all(file.exists() and file.stat().st_size for file in files):
    assert time.monotonic() < ends
    time.sleep(0.05)
  assert playlists.read(files[0]).paths == [paths[i] for i in wanted]
  with open(files[1], newline="", encoding="utf-8") as f:
    rows = list(csv.DictReader(f))
  assert [row["path"] for row in rows] == [paths[i] for i in wanted]
  assert {"artist", "title", "album", "folder", "cluster"} < set(rows[0])
  told = {row["path"]: (row["title"], row["folder"]) for row in rows}
  for i, expected in {3: ("two\nlines", "x"), 0: ("", "mu\u0308ller")}.items():
    assert i not in wanted or told[paths[i]] == expected
  browser.press("Escape", 27)
  assert browser.ask("state.chosen.size") == 0


@pytest.mark.slow
def test_a_song_that_ends_leads_to_the_nearest_of_others(tagged):
  browser, _ = tagged
  browser.ask("select(4, true)")
  near = browser.ask("neighboursOf(4)")
  assert 5 not in near and len(near) == 5
  pieces = "[...$('pieces').children].map((li) => Number(li.dataset.point))"
  assert browser.ask(pieces) == [5]
  shown = browser.ask(
    "$('neighbours').querySelector('button > .dim').textContent"
  )
  assert shown == f"{browser.ask('cosines[4 * SHOWN] / 32767'):.2f}"
  browser.ask("audio.dispatchEvent(new Event('ended'))")
  assert browser.ask("state.selected") == 4  # unless it is asked for
  browser.ask("$('on').click()")
  seen = [4]
  for _ in range(5):
    browser.ask("audio.dispatchEvent(new Event('ended'))")
    seen.append(browser.ask("state.playing"))
  assert seen[1] == near[0]
  tracks = browser.ask("[...tracks]")
  assert len({tracks[i] for i in seen}) == 6  # each track once


@pytest.mark.slow
def test_firefox_shows_and_plays_the_map(hostile, tmp_path):
  if firefox.PROGRAM is None:
    pytest.skip("there is no Firefox here")
  table, _ = hostile
  output = tmp_path / "map.html"
  flags = ["--by=segments", "--projection=pca", f"--output={output}"]
  assert call("map", table, *flags) is None
  with contextlib.closing(firefox.Browser(tmp_path / "fox")) as fox:
    fox.size(1200, 800)
    fox.open(output.as_uri())
    assert fox.ask("$('note').textContent") == "32 points, laid out by pca"
    fox.act(keys="/")
    fox.act(keys="☃")
    enter, shift = "\ue007", "\ue008"
    fox.act(keys=enter)
    shown = "$('folder').textContent + $('name').textContent"
    assert fox.ask(shown) == on_disk(HOSTILE[4]) + " at 0:00"
    fox.until("$('audio').currentTime > 0")
    assert fox.ask("document.activeElement.id") == "canvas"
    across, down = (
      fox.ask(f"$('canvas').client{side}") - 2 for side in ("Width", "Height")
    )
    around = [(2, 2), (across, 2), (across, down), (2, down)]
    fox.act(keys=shift, line=around)
    assert fox.ask("$('chosen').textContent") == "32 points, 16 files"
    assert fox.ask("document.title") == "Map of music"
