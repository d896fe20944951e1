"""Similar tracks: the tables that are read, and the exact search in them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from tables import call, cosines, scaled, similar, write

from vicreg_jax.library import neighbours
from vicreg_jax.library.tables import Tables

draw = np.random.default_rng(0).normal


@pytest.mark.parametrize("kind", neighbours.SCALES)
def test_neighbours_are_those_of_float64(kind, monkeypatch):
  monkeypatch.setattr(neighbours, "_QUERIES", 64)
  monkeypatch.setattr(neighbours, "_BLOCK", 128)
  y_NxD = draw(size=(300, 24)) * np.linspace(1, 9, 24) + 3
  y_NxD[:, 1] += y_NxD[:, 0]
  scaling = neighbours.fit(np.split(y_NxD, 3), 24, kind)
  group_N = np.arange(300, dtype=np.int32) // 2
  _, found = neighbours.of_all(y_NxD.astype(np.float32), group_N, scaling, 7)
  expected = cosines(scaled(y_NxD, kind), scaled(y_NxD, kind))
  expected[group_N[:, None] == group_N] = -np.inf
  np.testing.assert_array_equal(
    found, np.argsort(-expected, axis=1, kind="stable")[:, :7]
  )


def test_similar_tracks_are_those_of_float64(tmp_path, capsys, monkeypatch):
  """Of two tables, of passages whose tracks are torn apart by reading."""
  monkeypatch.setattr("vicreg_jax.library.tables._ROWS", 7)
  y_NxD = draw(size=(60, 8)) + 1
  paths = [f"{i // 3}.ogg" for i in range(60)]
  tables = [
    write(tmp_path / "a", y_NxD[:30], paths[:30]),
    write(tmp_path / "b", y_NxD[30:], paths[30:]),
  ]
  hits = similar(capsys, *tables, "4.ogg", "--top=5")
  tracks = y_NxD.reshape(20, 3, 8).mean(axis=1)
  expected = cosines(tracks[4:5], tracks)[0]
  order = [i for i in np.argsort(-expected) if i != 4][:5]
  assert [hit["path"] for hit in hits] == [f"{i}.ogg" for i in order]
  np.testing.assert_allclose(
    [hit["similarity"] for hit in hits], expected[order], atol=1e-6
  )
  assert {(hit["start"], hit["end"]) for hit in hits} == {(0.0, 3.0)}


@pytest.fixture
def torn(tmp_path, monkeypatch):
  """Tables whose tracks have rows here and there, under several spellings.

  Returns them, the vectors [60, 8], and each one's track: row i is of i % 5.
  """
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("vicreg_jax.library.tables._ROWS", 7)
  spellings = ["{}", f"{tmp_path}/{{}}", "./{}", ".//y/../{}", "{}"]
  y_NxD, track_N = draw(size=(60, 8)) + 1, np.arange(60) % 5
  paths = [spellings[i // 5 % 5].format(f"x/{i % 5}.ogg") for i in range(60)]
  tables = [
    write(tmp_path / "a", y_NxD[:31], paths[:31]),
    write(tmp_path / "b", y_NxD[31:], paths[31:]),
  ]
  return tables, y_NxD, track_N


def test_a_track_is_one_whatever_its_spelling(torn, capsys, tmp_path):
  tables, y_NxD, track_N = torn
  tracks = np.stack([y_NxD[track_N == t].mean(axis=0) for t in range(5)])
  expected = cosines(tracks[2:3], tracks)[0]
  order = [i for i in np.argsort(-expected) if i != 2]
  for path in ("x/2.ogg", f"{tmp_path}/x/2.ogg", "./y/..//x/2.ogg"):
    hits = similar(capsys, *tables, path)
    assert [hit["path"] for hit in hits] == [f"x/{i}.ogg" for i in order]
    found = [hit["similarity"] for hit in hits]
    np.testing.assert_allclose(found, expected[order], atol=1e-6)
  hits = similar(capsys, *tables, "x/2.ogg", "--by=segments", "--top=60")
  assert len(hits) == 48 and {h["path"] for h in hits} == {
    f"x/{i}.ogg" for i in (0, 1, 3, 4)
  }


@pytest.mark.parametrize("others", [0, 9])
def test_several_tracks_are_read_at_once(torn, tmp_path, others):
  """Few are looked for in another way than many."""
  tables, y_NxD, track_N = torn
  names = ["x/2.ogg", f"{tmp_path}/x/4.ogg", "./y/..//x/0.ogg"]
  found = Tables(tables).of_each([*names, *(f"no/{i}" for i in range(others))])
  assert list(found) == names
  for track, rows in zip((2, 4, 0), found.values()):
    want = y_NxD[track_N == track].astype(np.float32)
    assert sorted(rows.y_NxD.tolist()) == sorted(want.tolist())
    assert set(rows.paths) == {f"x/{track}.ogg"}
  assert Tables(tables).of_each([]) == {}


def test_a_passage_of_two_tables_is_one(torn, capsys, tmp_path):
  (table, _), *_ = torn
  copy = tmp_path / "copy"
  copy.write_bytes((tmp_path / "a").read_bytes())
  for by in ("tracks", "segments"):
    one, two = (
      similar(capsys, *tables, "x/2.ogg", f"--by={by}", "--scale=whiten")
      for tables in ([table], [table, f"./{copy.name}", "a"])
    )
    assert one == two


def test_one_spelling_of_another_directory_is_as_it_was(
  tmp_path, monkeypatch, capsys
):
  (tmp_path / "x").mkdir()
  monkeypatch.chdir(tmp_path / "x")
  table = write(tmp_path / "a", np.eye(3) + 1, ["../y/a", "../y/b", "../x/c"])
  hits = similar(capsys, table, "c")
  assert {hit["path"] for hit in hits} == {"../y/a", "../y/b"}


def test_passages_are_found_with_their_times(tmp_path, capsys):
  y_NxD = draw(size=(40, 8))
  y_NxD[33] = 2 * y_NxD[6]  # seconds 3 to 4 of track 8, 1 to 2 of track 1
  paths = [f"{i // 5}.ogg" for i in range(30)]
  paths += [f"{6 + i // 5}.ogg" for i in range(10)]
  table = write(tmp_path / "a", y_NxD, paths)
  best, *_ = hits = similar(capsys, table, "6.ogg", "--by=segments", "--top=9")
  assert best["path"] == "1.ogg" and best["similarity"] > 0.999
  assert (best["start"], best["query_start"], best["query_end"]) == (1, 3, 4)
  expected = cosines(y_NxD[30:35], y_NxD).max(axis=0)
  expected[30:35] = -np.inf
  np.testing.assert_allclose(
    [hit["similarity"] for hit in hits], np.sort(expected)[:-10:-1], atol=1e-6
  )
  one = similar(capsys, table, "6.ogg", "--by=segments", "--at=0.4")
  assert {hit["query_start"] for hit in one} == {0.0}


def test_pieces_of_the_track_are_left_out(tmp_path, capsys):
  paths = ["x/s-0-30.ogg", "x/s-30-60.ogg", "y/s-0-30.ogg", "x/t-0-30.ogg"]
  table = write(tmp_path / "a", np.eye(4) + 1, paths)
  every = similar(capsys, table, paths[0])
  assert {hit["path"] for hit in every} == set(paths[1:])
  other = similar(capsys, table, paths[0], "--other-tracks")
  assert {hit["path"] for hit in other} == set(paths[2:])


@pytest.mark.parametrize(
  "asked, others, pieces",
  [
    ("BWV-1001-1006", ["BWV-1007-1012"], []),  # are works
    ("a_seg0", ["b_seg0"], ["a_seg2"]),
    ("s_0-30", ["y/s_30-60"], ["s", "s_30-60", "./y/../s_60-90"]),
  ],
)
def test_pieces_are_those_of_a_data_set(
  tmp_path, capsys, asked, others, pieces, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  paths = [f"{name}.ogg" for name in (asked, *others, *pieces)]
  tables = [
    write(tmp_path / "a", np.eye(8)[: len(paths)] + 1, paths),
    write(tmp_path / "b", np.eye(8)[:1], ["z.ogg"]),
  ]
  expected = {"z.ogg", *(f"{name}.ogg" for name in others)}
  hits = similar(capsys, *tables, paths[0], "--other-tracks")
  assert {hit["path"] for hit in hits} == expected


@pytest.mark.parametrize("pooling", ["none", "mean", "mean_std"])
def test_a_new_file_is_embedded(small_run, tmp_path, capsys, pooling):
  for name in ("a", "b", "new"):
    x_T = 0.1 * draw(size=22_050)
    soundfile.write(tmp_path / f"{name}.wav", x_T, 22_050)
  table = tmp_path / "t.parquet"
  names = [tmp_path / f"{n}.wav" for n in "ab"]
  flags = [f"--output={table}", f"--pooling={pooling}"]
  assert call("embed", small_run, *names, *flags) is None
  model = f"--model={small_run}"
  hits = similar(capsys, table, tmp_path / "new.wav", model)
  assert {hit["path"] for hit in hits} == set(map(str, names))
  (tmp_path / "new.wav").write_bytes((tmp_path / "b.wav").read_bytes())
  best, *_ = similar(capsys, table, tmp_path / "new.wav", model)
  assert best["path"] == str(names[1]) and best["similarity"] > 0.9999
  error = call("similar", table, tmp_path / "new.wav")
  assert "--model" in error and "starter" in error


def test_a_table_is_printed(tmp_path, capsys):
  table = write(tmp_path / "a", [[1, 0], [1, 1], [0, 1]], ["a", "b\n<b>", "c"])
  assert call("similar", table, "a") is None
  lines = capsys.readouterr().out.splitlines()
  assert lines[1:] == ["     0.707  b\\n<b>", "     0.000  c"]


def _lacks_path(path):
  pq.write_table(pa.table({"embedding": [1.0]}), path)


BAD = {
  "two encoders": lambda p: [write(p / "b", np.eye(3), about={"encoder": "f"})],
  "of 4 numbers": lambda p: [write(p / "b", np.eye(4))],
  "no column path": lambda p: [_lacks_path(p / "b") or p / "b"],
  "list of one fixed size": lambda p: [_lists(p / "b")],
  "cannot be read": lambda p: [p / "nowhere.parquet"],
  "nothing in them": lambda p: [_nulls(p / "b")],
  "UTF8": lambda p: [_no_text(p / "b")],
  "not finite": lambda p: [write(p / "b", [[1, 2, np.nan]], ["n"])],
}


def _lists(path):
  columns = {c: [0.0] for c in ("start", "end")}
  pq.write_table(
    pa.table({"path": ["a"], "embedding": [[1.0]]} | columns), path
  )
  return path


def _with_paths(path, paths):
  table = pq.read_table(write(path, np.eye(3)))
  at = table.schema.get_field_index("path")
  pq.write_table(table.set_column(at, "path", paths), path)
  return path


def _nulls(path):
  return _with_paths(path, pa.array(["a", None, "b"]))


def _no_text(path):
  names = pa.array([b"a", b"\xe9", b"b"])
  return _with_paths(path, names.view(pa.string()))


@pytest.mark.parametrize("fault", BAD)
def test_bad_tables_are_one_line(tmp_path, fault):
  good = write(tmp_path / "a", np.eye(3))
  error = call("similar", good, *BAD[fault](tmp_path), "0.ogg")
  assert error.startswith("error: ") and fault in error and "\n" not in error


@pytest.mark.parametrize("apart", [False, True])
def test_memory_does_not_grow_with_the_table(tmp_path, monkeypatch, apart):
  """Of 64 MB, in row groups of 1, no more than some groups stay."""
  monkeypatch.setattr("vicreg_jax.library.tables._ROWS", 1_000)
  y_NxD = draw(size=(1_000, 256)).astype(np.float32)
  paths = [f"{i}.ogg" for i in range(len(y_NxD))]
  table = pq.read_table(write(tmp_path / "a", y_NxD, paths))
  with pq.ParquetWriter(tmp_path / "b", table.schema) as writer:
    for k in range(64):
      new = [k + 0.0] * 1_000 if apart else [f"{k}/{path}" for path in paths]
      field = table.field(int(apart))  # "start" or "path"
      writer.write_table(table.set_column(int(apart), field, [new]))
  before, held = pa.total_allocated_bytes(), []
  for _ in Tables([str(tmp_path / "b")]).segments():
    held.append(pa.total_allocated_bytes() - before)
  assert len(held) == 64 and max(held) < 32e6


def test_a_table_without_rows_is_one_line(tmp_path):
  table = write(tmp_path / "a", np.eye(3)[:0])
  assert "there are no rows" in call("similar", table, "0.ogg")
  assert "is a directory" in call("similar", tmp_path, "0.ogg")


@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1e19, 1e37])
@pytest.mark.parametrize("scale", neighbours.SCALES)
def test_vectors_of_any_length_have_their_cosines(
  tmp_path, capsys, factor, scale
):
  y_NxD = factor * draw(size=(12, 8))
  table = write(tmp_path / "a", y_NxD)
  hits = similar(capsys, table, "3.ogg", f"--scale={scale}", "--top=11")
  y_NxD = scaled(y_NxD, scale)
  expected = cosines(y_NxD[3:4], y_NxD)[0]
  found = {int(h["path"].split(".")[0]): h["similarity"] for h in hits}
  assert len(found) == 11
  np.testing.assert_allclose(
    list(found.values()), expected[list(found)], atol=1e-5
  )


@pytest.mark.parametrize("scale", neighbours.SCALES)
@pytest.mark.parametrize("value", [0, 0.1, 1e-20, 1e19])
def test_equal_vectors_have_an_answer(tmp_path, capsys, scale, value):
  y_NxD = np.full((40, 8), value) * np.arange(1, 9) / 7
  hits = similar(
    capsys, write(tmp_path / "a", y_NxD), "0.ogg", f"--scale={scale}"
  )
  expected = 1.0 if value and scale == "none" else 0.0
  # The others are copies of the first.
  assert [hit["similarity"] for hit in hits] == pytest.approx([expected])


@pytest.mark.parametrize(
  "text", ["[1]", "1", "{", "\xff", '{"hop": "x"}', "[" * 9**5]
)
def test_what_a_table_says_of_itself_must_be_embed_s(tmp_path, text):
  table = pq.read_table(write(tmp_path / "a", np.eye(3)))
  table = table.replace_schema_metadata({b"vicreg_jax": text.encode("latin-1")})
  pq.write_table(table, tmp_path / "a")
  error = call("similar", tmp_path / "a", "0.ogg")
  assert "says of itself" in error and "\n" not in error


@pytest.mark.parametrize(
  "flags, said",
  [
    (["nowhere.ogg"], "neither a path"),
    (["0.ogg", "--at=1"], "--by=segments"),
    (["0.ogg", "--by=segments", "--at=1.5"], "from 0 to 1 seconds"),
  ],
)
def test_bad_questions_are_one_line(tmp_path, flags, said):
  error = call("similar", write(tmp_path / "a", np.eye(3)), *flags)
  assert error.startswith("error: ") and said in error


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_passages_need_a_table_of_them(tmp_path, pooling):
  table = write(tmp_path / "a", np.eye(3), about={"pooling": pooling})
  error = call("similar", table, "0.ogg", "--by=segments")
  assert "--pooling=none" in error


def test_a_track_alone_is_similar_to_nothing(tmp_path):
  table = write(tmp_path / "a", np.eye(3)[:1])
  assert "nothing else" in call("similar", table, "0.ogg")
  assert Tables([table]).size == 3
