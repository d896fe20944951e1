"""The map: its points, the page, its server, and what a browser makes of it."""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import socket
import struct
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from chromium import PROGRAM, Browser
from test_neighbours import call, cosines, scaled, similar, write
from test_verbs import headed

import vicreg_jax
from vicreg_jax.library import layout, neighbours, page, serve
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
  labels, code_N, _ = made.colourings["folder"]
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


def test_neighbours_are_those_of_similar(clusters, capsys):
  made = make(clusters)
  for i in (0, 33):
    hits = similar(capsys, clusters, made.rows.paths[i])
    expected = [made.rows.paths.index(hit["path"]) for hit in hits]
    np.testing.assert_array_equal(made.neighbours_Nx10[i], expected)


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
  labels, code_N, ordered = found["mood"]
  assert labels == ["calm", "<b>", "unknown"] and not ordered
  assert [labels[c] for c in code_N[:4]] == ["<b>", "unknown"] * 2
  labels, code_N, ordered = found["bpm"]
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
  found, code_N, ordered = colouring(tmp_path, values)
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
  labels, code_N, ordered = colouring(tmp_path, values)
  assert ordered and len(set(labels)) == 6 and labels[0] == first
  assert labels[-1] == (last or labels[-1])
  assert (np.diff(code_N) >= 0).all() and (np.bincount(code_N) >= 5).all()


def test_tags_are_those_of_each_segment_on_average(tmp_path):
  """By another rule, the mean vector, all would be "b"."""
  logits = np.array([[10, -1], [-10, -1], [-10, -1]])  # probable: .33, .27
  table = write(tmp_path / "t", logits.repeat(3, axis=0), [*"uvw"] * 3)
  out = {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)}
  heads = Heads(("a", "b"), False, "e", 0, {"linear": {"out": out}})
  labels, code_N, _ = make(table, heads=heads, most=2).colourings["tag"]
  assert [labels[code] for code in code_N] == ["a", "a"]
  labels, code_N, _ = make(table, heads=heads, by="segments").colourings["tag"]
  assert [labels[code] for code in code_N] == [*"aaabbbbbb"]
  # Of rows with deviations the means are read.
  y_NxD = np.concatenate([logits, -9 * logits], axis=1)
  table = write(tmp_path / "m", y_NxD, about={"pooling": "mean_std"})
  labels, code_N, _ = make(table, heads=heads).colourings["tag"]
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


def test_rare_labels_are_others():
  names = [f"{i:02}" for i in range(40) for _ in range(40 - i)]
  labels, code_N, _ = layout.of_values(names)
  assert labels == [*(f"{i:02}" for i in range(15)), "others"]
  assert (code_N == 15).sum() == sum(range(1, 26))


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


def test_bytes_that_are_no_text_are_found_and_linked(tmp_path):
  name = HOSTILE[-1]
  (tmp_path / "m").mkdir()
  for each in (name, "a.wav"):
    (tmp_path / "m" / each).write_bytes(b"x")
  paths = [str(tmp_path / "m" / "a.wav"), on_disk(str(tmp_path / "m" / name))]
  made = make(write(tmp_path / "t", np.eye(2), paths))
  audio = page.audio_of(made.rows.paths)
  assert not audio.missing()
  html = page.page(made, audio, str(tmp_path), "folder")
  assert data_of(html)["links"] == {"1": "m/caf%E9.wav"}


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


def test_a_picture_is_written(clusters, tmp_path):
  path = tmp_path / "map.svg"
  page.picture(make(clusters), str(path), "folder")
  text = path.read_text()
  assert all(text.count(colour[0]) >= 20 for colour in page.COLOURS[:3])


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
    html = page.served(html)
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
  shown = browser.ask(
    "[...document.querySelectorAll('#found span')].map(s => s.textContent)"
  )
  folder, name = os.path.split(HOSTILE[0])
  assert shown == [f"{name} at 0:0{s}{folder}/" for s in (0, 1)]
  browser.press("ArrowDown")
  browser.press("ArrowDown")
  browser.press("Enter")
  browser.until("state.selected === 1 && audio.currentTime > 1.5")


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
  browser.ask("document.querySelector('#legend button').click()")
  gone = browser.ask("colourings[1].codes.indexOf(0)")
  assert browser.ask(f"nearestTo(...screen({gone}), 1)") != gone
  browser.ask("document.querySelector('#legend button').click()")
  assert browser.ask(f"nearestTo(...screen({gone}), 1)") == gone


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
