"""Makes a workdir of foreign weights, which every job takes as a checkpoint."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax import files, mesh
from vicreg_jax.training import checkpoint, steps
from vicreg_jax.training import workdir as workdirs
from vicreg_jax.use import clmr
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import heads as heads_lib

STEP = 1  # of the one checkpoint


def import_weights(path: str, workdir: str) -> str:
  """Writes encoder, projector and heads of CLMR's weights as a training does.

  Args:
    path: a file of CLMR's weights.
    workdir: an empty or new directory.

  Returns:
    The weights that the file holds, in a line.

  Raises:
    ValueError: the file holds no encoder, or the workdir is in use or cannot be
      written.
  """
  weights = clmr.read(path)
  encoder = encoders.of_clmr(path, weights, mesh.make_mesh())
  with files.explained(workdir):
    empty = files.is_empty(workdir)
  if not empty:
    raise ValueError(f"--workdir={workdir} is not empty: give a new directory")
  config = encoders.clmr_config().to_dict()
  config |= {"imported": os.path.basename(path), "prepared": "", "steps": STEP}
  parts = {"encoder": encoder.variables}
  if weights.projector:
    widths = [layer["kernel"].shape[1] for layer in weights.projector.values()]
    config["model"]["projector"] = widths
    parts["projector"] = {"params": weights.projector, "batch_stats": {}}
  state = steps.TrainState(
    step=jnp.asarray(STEP, jnp.int32),
    params={name: part["params"] for name, part in parts.items()},
    batch_stats={name: part["batch_stats"] for name, part in parts.items()},
    opt_state={},
  )
  state = jax.tree.map(jnp.asarray, state)
  workdirs.write_config(config, workdir)
  with checkpoint.Checkpoints(workdir, 1) as saved:
    saved.save(state, STEP)
  found = ["encoder"]
  if weights.projector:
    found.append(f"projector to {widths[-1]}")
  if encoder.heads:
    heads_lib.save(encoder.heads, workdir)
    found.append(f"head of {len(encoder.heads.labels)} tags")
  count = sum(np.size(x) for x in jax.tree.leaves(encoder.variables["params"]))
  return f"{weights.source}: {', '.join(found)}; {count:,} parameters"
