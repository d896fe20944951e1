"""The index of LanceDB: what it finds, and when it is built anew."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_neighbours import call, cosines, draw, scaled, similar, write

from vicreg_jax import files
from vicreg_jax.library import index as indexes
from vicreg_jax.library.tables import Tables


def test_without_lancedb_it_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "lancedb", None)
  table = write(tmp_path / "a", np.eye(3))
  error = call("similar", table, "0.ogg", f"--index={tmp_path}/index")
  assert "pip install 'vicreg_jax[index]'" in error and "\n" not in error
  assert not (tmp_path / "index").exists()


@pytest.fixture
def index(tmp_path):
  """The flag of a directory that is not there yet."""
  pytest.importorskip("lancedb")
  return f"--index={tmp_path}/index"


@pytest.mark.parametrize("scale", ["none", "whiten"])
def test_few_rows_have_the_neighbours_of_float64(
  tmp_path, capsys, index, scale
):
  y_NxD = draw(size=(90, 8)) * np.linspace(1, 5, 8) + 1
  table = write(tmp_path / "a", y_NxD, [f"'{i // 3}\n.ogg" for i in range(90)])
  flags = [table, "'4\n.ogg", "--top=5", f"--scale={scale}"]
  exact, built, hits = (
    similar(capsys, *flags, *more) for more in ([], [index], [index])
  )
  assert built == hits
  tracks = y_NxD.reshape(30, 3, 8).mean(axis=1)
  tracks = scaled(tracks, scale, y_NxD)
  expected = cosines(tracks[4:5], tracks)[0]
  order = [i for i in np.argsort(-expected) if i != 4][:5]
  assert [hit["path"] for hit in hits] == [f"'{i}\n.ogg" for i in order]
  for hit, other in zip(hits, exact, strict=True):
    assert hit.pop("similarity") == pytest.approx(
      other.pop("similarity"), abs=1e-5
    )
    assert hit == other


def test_passages_and_pieces_of_the_track_are_as_without(
  tmp_path, capsys, index
):
  """Also where all that is nearest is left out."""
  y_NxD = draw(size=(60, 8))
  y_NxD[:40] = y_NxD[0] + 0.1 * y_NxD[:40]
  paths = [f"s-{i // 5}-{i // 5 + 1}.ogg" for i in range(40)]
  table = write(tmp_path / "a", y_NxD, paths + ["t.ogg"] * 10 + ["u.ogg"] * 10)
  for flags in (
    ["s-0-1.ogg", "--by=segments", "--top=3"],
    ["s-0-1.ogg", "--by=segments", "--top=3", "--other-tracks"],
    ["s-0-1.ogg", "--other-tracks"],
  ):
    exact, hits = (similar(capsys, table, *flags, *f) for f in ([], [index]))
    assert len(hits) == len(exact) > 0
    for hit, other in zip(hits, exact):
      assert hit["path"] == other["path"]
      assert hit["start"] == other["start"]
      assert hit.get("query_start") == other.get("query_start")


def test_most_neighbours_of_clusters_are_found(
  tmp_path, capsys, index, monkeypatch
):
  """In 3,000 vectors, compressed; and recall is what float64 makes it."""
  monkeypatch.setattr(indexes, "_FEWEST", 2_000)
  monkeypatch.setattr(indexes, "_CANDIDATES", 40)  # so that some are missed
  monkeypatch.setattr(indexes, "_PROBES", 1)
  y_NxD = draw(size=(30, 32)).repeat(100, axis=0) + 0.5 * draw(size=(3_000, 32))
  table = write(tmp_path / "a", y_NxD)
  found = indexes.of_tables(
    f"{tmp_path}/index", Tables([table]), "tracks", "none"
  )
  (record,) = _records(tmp_path).values()
  assert record["rows"] == found.count == 3_000
  assert found._table.list_indices()
  y_NxD = np.asarray(y_NxD, np.float32)
  chosen = np.random.default_rng(1).choice(3_000, 100, replace=False)
  expected = cosines(y_NxD[chosen], y_NxD)
  expected[np.arange(100), chosen] = -np.inf
  right = 0
  for i, cosine_N in zip(chosen, expected):
    hits = found.search(y_NxD[i : i + 1], f"{i}.ogg".__eq__, 10)
    numbers = [int(hit.path.removesuffix(".ogg")) for hit in hits]
    assert len(set(numbers)) == 10 and i not in numbers
    np.testing.assert_allclose(
      [hit.similarity for hit in hits], cosine_N[numbers], atol=1e-5
    )
    right += len({*numbers} & {*np.argsort(-cosine_N)[:10]})
  assert right / 1_000 >= 0.9
  assert abs(record["recall_at_10"] - right / 1_000) < 0.05
  assert "of the 10 nearest" in capsys.readouterr().err


def _records(tmp_path):
  return json.loads((tmp_path / "index/index.json").read_text())["vicreg_jax"]


def test_it_is_kept_until_the_table_changes(tmp_path, capsys, index):
  table = write(tmp_path / "a", np.eye(4) + 1)
  said = []
  for y_NxD in (None, None, np.eye(5)[:, ::-1] + 1):
    if y_NxD is not None:
      os.unlink(table)
      write(table, y_NxD)
    capsys.readouterr()
    assert call("similar", table, "0.ogg", index) is None
    out, err = capsys.readouterr()
    said.append(err)
  assert "none of them" in said[0] and not said[1]
  assert "have changed" in said[2] and len(out.splitlines()) == 5
  os.utime(table, ns=(0, 0))  # of the same size
  assert call("similar", table, "0.ogg", index) is None
  assert "have changed" in capsys.readouterr().err
  assert call("similar", table, "0.ogg", index, "--scale=whiten") is None
  assert set(_records(tmp_path)) == {"tracks-none", "tracks-whiten"}


def test_it_is_of_one_encoder(tmp_path, capsys, index):
  """The table has the size and the time of before."""
  table = write(tmp_path / "a", np.eye(4) + 1)
  before = os.stat(table)
  assert call("similar", table, "0.ogg", index) is None
  write(table, np.eye(4)[::-1] + 1, about={"encoder": "f"})
  os.utime(table, ns=(before.st_mtime_ns,) * 2)
  assert os.stat(table).st_size == before.st_size
  capsys.readouterr()
  assert call("similar", table, "0.ogg", index) is None
  assert "have changed" in capsys.readouterr().err


def test_an_older_index_of_rows_apart_is_built_anew(tmp_path, capsys, index):
  """It has a row for each run of them; others are as they were."""
  for paths, kept in (("aabbcc", True), ("abcabc", False)):
    table = write(tmp_path / "a", draw(size=(6, 4)), list(paths))
    assert call("similar", table, "a", index) is None
    where = tmp_path / "index/index.json"
    content = json.loads(where.read_text())
    del content["vicreg_jax"]["tracks-none"]["joined_in"]
    where.write_text(json.dumps(content))
    capsys.readouterr()
    assert call("similar", table, "a", index) is None
    assert ("building" in capsys.readouterr().err) != kept


def test_an_index_knows_where_paths_were_joined(
  tmp_path, capsys, index, monkeypatch
):
  paths = ["a", f"{tmp_path}/a", "b"]
  table = write(tmp_path / "t", np.eye(3) + 1, paths)
  for where, count in ((tmp_path, 1), (tmp_path.parent, 2)):
    monkeypatch.chdir(where)
    assert len(similar(capsys, table, "b", index)) == count


def test_one_command_builds_at_a_time(tmp_path, capsys, index):
  """The second is refused; who only asks is answered."""
  table, where = write(tmp_path / "a", np.eye(4) + 1), tmp_path / "index"
  with files.lock(where, "--index", directory=True):
    error = call("similar", table, "0.ogg", index)
    assert str(where) in error and "another command" in error
    assert not list(where.iterdir())
  one = similar(capsys, table, "0.ogg", index)
  with files.lock(where, "--index", directory=True):
    assert similar(capsys, table, "0.ogg", index) == one
    assert "another" in call("similar", table, "0.ogg", index, "--scale=whiten")


def test_what_another_command_has_just_built_is_taken(
  tmp_path, capsys, index, monkeypatch
):
  table, lock = write(tmp_path / "a", np.eye(4) + 1), files.lock

  def late(*args, **kwargs):
    monkeypatch.setattr(files, "lock", lock)
    assert call("similar", table, "0.ogg", index) is None
    return lock(*args, **kwargs)

  monkeypatch.setattr(files, "lock", late)
  assert call("similar", table, "0.ogg", index) is None
  assert capsys.readouterr().err.count("building") == 1


@pytest.mark.slow
def test_a_build_that_is_killed_is_begun_anew(tmp_path, capsys, index):
  table = write(tmp_path / "a", np.eye(4) + 1)
  code = f"""
import os, lancedb
from vicreg_jax.library import index
from vicreg_jax.library.tables import Tables
index.Index.recall = lambda *_: os._exit(9)
tables = Tables([{table!r}])
index.of_tables({str(tmp_path / "index")!r}, tables, "tracks", "none")
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert (
    done.returncode == 9 and (tmp_path / "index/tracks-none.lance").exists()
  )
  assert _records(tmp_path) == {}
  assert len(similar(capsys, table, "0.ogg", index)) == 3
  assert set(_records(tmp_path)) == {"tracks-none"}


def test_other_directories_are_left_alone(tmp_path, index):
  table = write(tmp_path / "a", np.eye(3))
  mine = tmp_path / "index" / "tracks-none.lance"
  mine.mkdir(parents=True)
  (mine / "notes").write_text("mine")
  assert "other files" in call("similar", table, "0.ogg", index)
  (tmp_path / "index/index.json").write_text('{"a": 1}')
  assert "no directory of an index" in call("similar", table, "0.ogg", index)
  assert "no directory" in call("similar", table, "0.ogg", f"--index={table}")
  assert (mine / "notes").read_text() == "mine"


def test_a_damaged_index_is_one_line(tmp_path, index):
  table = write(tmp_path / "a", np.eye(3))
  assert call("similar", table, "0.ogg", index) is None
  for kind in ("data/*", "_versions/*.manifest"):
    for path in (tmp_path / "index/tracks-none.lance").glob(kind):
      path.write_bytes(b"x" * 64)
    error = call("similar", table, "0.ogg", index)
    assert error.startswith("error: ") and "built anew" in error
    assert "\n" not in error


def test_a_bad_row_ends_the_build(tmp_path, index):
  table = write(tmp_path / "a", [[1, 2], [np.nan, 1]])
  error = call("similar", table, "0.ogg", index)
  assert error.startswith(f"error: {table}: the embedding of 1.ogg is not")
  assert "Traceback" not in error
  assert _records(tmp_path) == {}


def test_a_full_disk_is_one_line(tmp_path, index, monkeypatch):
  import lancedb

  def full(*_, **__):
    raise RuntimeError("lance error: No space left on device (os error 28)")

  monkeypatch.setattr(lancedb.db.LanceDBConnection, "create_table", full)
  table = write(tmp_path / "a", np.eye(3))
  error = call("similar", table, "0.ogg", index)
  assert "free disk space" in error and _records(tmp_path) == {}


def test_lancedb_is_given_the_name_of_a_bucket(tmp_path, index, monkeypatch):
  """No bucket is asked: only what would be."""
  import lancedb

  asked = []

  def connect(place):
    asked.append(place)
    raise RuntimeError("no network")

  monkeypatch.setattr(lancedb, "connect", connect)
  monkeypatch.setattr(indexes, "_records", lambda _: {})
  monkeypatch.setattr(
    indexes.files, "write", lambda path, _: asked.append(path)
  )
  monkeypatch.setattr(indexes.files, "remove_tree", asked.append)
  table = write(tmp_path / "a", np.eye(3))
  assert "no network" in call("similar", table, "0.ogg", "--index=gs://b/i")
  assert asked == [
    "gs://b/i/index.json",
    "gs://b/i/tracks-none.npz",
    "gs://b/i/tracks-none.lance",
    "gs://b/i",
  ]
