"""What revision 65d3f10 has left is used: prepared data, encoder and run.

The archive holds prepared data, a run of them that was stopped at step 3 of 6,
its config, and the metrics of the same run unbroken.
"""

import json
import pathlib
import runpy
import tarfile

import numpy as np
import orbax.checkpoint as ocp
import pytest

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.data import datasets
from vicreg_jax.jobs import pretrain
from vicreg_jax.training import steps
from vicreg_jax.use import encoder as encoders

pytestmark = pytest.mark.usefixtures("optimized")
ARCHIVE = pathlib.Path(__file__).parent / "fixtures/workdir_65d3f10.tar.gz"
TIMING = "train/clips_per_second"


@pytest.fixture
def old(tmp_path):
  """(the run's config, where the archive is unpacked)."""
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(tmp_path)
  config = runpy.run_path(str(tmp_path / "config.py"))["get_config"]()
  config.data.dir = str(tmp_path / "data")
  configs.validate(config)
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

  def lines(name):
    rows = map(json.loads, (root / name).read_text().splitlines())
    return [{k: v for k, v in row.items() if k != TIMING} for row in rows]

  expected = lines("unbroken.jsonl")
  assert lines("run/metrics.jsonl") == expected[:4]  # up to step 3
  state = pretrain.run(config, str(root / "run"))
  assert int(state.step) == 6
  found = lines("run/metrics.jsonl")
  for row, wanted in zip(found, expected, strict=True):
    # A line may say more than it did.
    assert {k: row[k] for k in wanted} == pytest.approx(wanted, rel=1e-4)
