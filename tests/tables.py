"""Tables of embeddings, what is asked of them, and the answers by float64."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vicreg_jax
from vicreg_jax import __main__ as command
from vicreg_jax.use import heads as heads_lib


def write(path, y_NxD, paths=None, about=None, seconds=1.0, told=None):
  """A table, as `embed` writes them, of rows a second long.

  `told`: {column: values} besides.
  """
  paths = [f"{i}.ogg" for i in range(len(y_NxD))] if paths is None else paths
  start_N = [seconds * paths[:i].count(p) for i, p in enumerate(paths)]
  flat = pa.array(np.asarray(y_NxD, np.float32).ravel())
  embedding = pa.FixedSizeListArray.from_arrays(flat, np.shape(y_NxD)[1])
  table = pa.table(
    {
      "path": pa.array(paths, pa.string()),
      "start": pa.array(start_N, pa.float64()),
      "end": pa.array([s + seconds for s in start_N], pa.float64()),
      "embedding": embedding,
    }
    | (told or {})
  )
  said = {"encoder": "e", "pooling": "none", "hop": 22_050} | (about or {})
  metadata = {b"vicreg_jax": json.dumps(said).encode()}
  pq.write_table(table.replace_schema_metadata(metadata), path)
  return str(path)


def call(*flags):
  """What is the error of a command; None if there is none."""
  with pytest.raises(SystemExit) as end:
    command.main([str(flag) for flag in flags])
  return end.value.code or None


def similar(capsys, *flags):
  capsys.readouterr()
  assert call("similar", *flags, "--json") is None
  return json.loads(capsys.readouterr().out)


def cosines(a_NxD, b_MxD):
  """By float64."""
  unit = [
    np.asarray(y, np.float64) / np.linalg.norm(y, axis=1, keepdims=True)
    for y in (np.asarray(a_NxD, np.float64), np.asarray(b_MxD, np.float64))
  ]
  return unit[0] @ unit[1].T


def scaled(y_NxD, kind, rows=None):
  """Vectors, scaled by these rows or by themselves."""
  y_NxD = np.asarray(y_NxD, np.float64)
  rows = y_NxD if rows is None else np.asarray(rows, np.float64)
  if kind == "none":
    return y_NxD
  centred = rows - rows.mean(axis=0)
  if kind == "standardise":
    return (y_NxD - rows.mean(axis=0)) / rows.std(axis=0)
  # By singular values, and turned: the cosines are the same.
  _, spread_D, directions = np.linalg.svd(centred, full_matrices=False)
  variance_D = spread_D**2 / len(rows)
  root_D = 1 / np.sqrt(variance_D + variance_D.mean())
  return (y_NxD - rows.mean(axis=0)) @ (directions.T * root_D) @ directions


def headed(small_run, run, names=("rock", "jazz", "folk"), hidden=8):
  """Makes a workdir with the run's encoder and two heads; gives the heads."""
  run.mkdir()
  for path in ("config.json", "checkpoints"):
    (run / path).symlink_to(f"{small_run}/{path}")
  draw = np.random.default_rng(0).normal

  def dense(inputs, outputs):
    return {"kernel": draw(size=(inputs, outputs)), "bias": draw(size=outputs)}

  params = {
    "linear": {"out": dense(16, len(names))},
    "mlp": {"hidden": dense(16, hidden), "out": dense(hidden, len(names))},
  }
  weights = vicreg_jax.load(small_run).fingerprint()
  heads = heads_lib.Heads(names, True, weights, 3, params)
  heads_lib.save(heads, str(run))
  return heads
