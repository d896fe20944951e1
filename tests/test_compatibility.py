"""What earlier revisions have left is used: data, runs, tables, exports.

The archive of 65d3f10 holds prepared data, a run of them that was stopped at
step 3 of 6, its config, and the metrics of the same run unbroken. That of
8b5d1ca holds three recordings, and of them by the same run's encoder a table of
segments, an index and an export.
"""

import pathlib
import runpy
import tarfile

import numpy as np
import orbax.checkpoint as ocp
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from runs import lines_of
from tables import similar

import vicreg_jax
from vicreg_jax import config_limits, mesh
from vicreg_jax.data import datasets
from vicreg_jax.jobs import pretrain
from vicreg_jax.library import embedding
from vicreg_jax.training import steps
from vicreg_jax.use import encoder as encoders

pytestmark = pytest.mark.usefixtures("optimized")
ARCHIVE = pathlib.Path(__file__).parent / "fixtures/workdir_65d3f10.tar.gz"
LIBRARY = ARCHIVE.with_name("library_8b5d1ca.tar.gz")


@pytest.fixture
def old(tmp_path):
  """(the run's config, where the archive is unpacked)."""
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(tmp_path)
  config = runpy.run_path(str(tmp_path / "config.py"))["get_config"]()
  config.data.dir = str(tmp_path / "data")
  config_limits.validate(config)
  return config, tmp_path


def written(path):
  """When each file below `path` was."""
  return {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}


def test_the_prepared_data_are_found_and_not_made_anew(old):
  config, root = old
  before = written(root / "data")
  prepared = datasets.prepare(config.data)
  (expected,) = (root / "data/synthetic").glob("*/*")
  assert pathlib.Path(prepared.path) == expected
  assert prepared.num_clips == {"train": 8, "valid": 4, "test": 4}
  assert len(list(prepared.dataset("train").as_numpy_iterator())) == 8
  assert written(root / "data") == before


def test_the_encoder_is_the_one_that_was_saved(old):
  config, root = old
  encoder = encoders.load(str(root / "run"), devices=mesh.make_mesh())
  assert encoder.step == 3
  with ocp.StandardCheckpointer() as checkpointer:
    variables = checkpointer.restore(root / "run/checkpoints/3/encoder")
  x_BxT = np.random.default_rng(0).normal(size=(2, 243)).astype(np.float32)
  expected_BxD = steps.make_encoder(config.model, "float32").apply(
    variables, x_BxT
  )
  (y_BxD,) = encoder([x_BxT])
  np.testing.assert_allclose(y_BxD, expected_BxD, rtol=1e-5, atol=1e-6)
  assert np.std(y_BxD) > 0


@pytest.mark.slow
def test_the_run_goes_on_as_if_it_had_not_been_stopped(old):
  config, root = old

  expected = lines_of(root, "unbroken.jsonl")
  assert lines_of(root / "run") == expected[:4]  # up to step 3
  state = pretrain.run(config, str(root / "run"))
  assert int(state.step) == 6
  found = lines_of(root / "run")
  for row, wanted in zip(found, expected, strict=True):
    # A line may say more than it did.
    assert {k: row[k] for k in wanted} == pytest.approx(wanted, rel=1e-4)


@pytest.fixture
def library(tmp_path, monkeypatch):
  """The folder of a table, an index and an export, in which we are."""
  with tarfile.open(LIBRARY) as archive:
    archive.extractall(tmp_path)
  monkeypatch.chdir(tmp_path / "library")
  return tmp_path / "library"


def test_a_table_is_searched_and_goes_on(library, capsys):
  near = similar(capsys, "table.parquet", "music/0.wav")
  assert [row["path"] for row in near] == ["music/1.wav", "music/2.wav"]
  assert [row["similarity"] for row in near] == pytest.approx(
    [0.999, 0.993], abs=6e-4
  )
  table, encoder = pq.read_table("table.parquet"), vicreg_jax.load("exported")
  for path in ("music/0.wav", "music/2.wav"):
    rows = table.filter(pc.equal(table["path"], path))
    y_SxD = np.array(rows["embedding"].to_pylist())
    found = encoder.embed_segments(path)
    np.testing.assert_allclose(found.embeddings, y_SxD, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.start_seconds, rows["start"])
  paths = [f"music/{i}.wav" for i in range(3)]
  done = embedding.embed_files(encoder, paths, "table.parquet", pooling="none")
  assert (done.embedded, done.known) == (0, 3)
