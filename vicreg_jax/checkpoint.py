"""Saving and restoring runs, with Orbax.

A checkpoint has two items: `encoder` (parameters and BatchNorm statistics),
which is all that probing needs, and `rest` (projector, optimizer state, step).
"""

import contextlib
import importlib
import json

import jax
import orbax.checkpoint as ocp
from etils import epath

from vicreg_jax import files, mesh
from vicreg_jax.steps import TrainState

DIRECTORY = "checkpoints"


def _items(state: TrainState) -> dict:
  def part(name):
    return {
      "params": state.params[name],
      "batch_stats": state.batch_stats[name],
    }

  return {
    "encoder": part("encoder"),
    "rest": {
      "projector": part("projector"),
      "opt_state": state.opt_state,
      "step": state.step,
    },
  }


def _state(items: dict) -> TrainState:
  encoder, rest = items["encoder"], items["rest"]
  both = {"encoder": encoder, "projector": rest["projector"]}
  return TrainState(
    step=rest["step"],
    params={k: v["params"] for k, v in both.items()},
    batch_stats={k: v["batch_stats"] for k, v in both.items()},
    opt_state=rest["opt_state"],
  )


class Checkpoints:
  """The checkpoints of one workdir. A context manager: leaving it waits."""

  def __init__(self, workdir: str, keep: int):
    self._path = files.absolute(workdir) / DIRECTORY
    _check_client(self._path)
    with _explain(self._path):
      self._manager = ocp.CheckpointManager(
        self._path,
        options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
      )

  def __enter__(self):
    return self

  def __exit__(self, error_type, *unused):
    try:
      with _explain(self._path):
        self._manager.close()
    except ValueError:
      if error_type is None:  # else the first error says more
        raise

  def latest(self) -> int | None:
    """The newest step that was saved whole."""
    return self._manager.latest_step()

  def save(self, state: TrainState, step: int):
    """Starts to save; the arrays may be donated as soon as it returns."""
    items = {
      name: ocp.args.StandardSave(item) for name, item in _items(state).items()
    }
    with _explain(self._path / str(step)):
      self._manager.save(step, args=ocp.args.Composite(**items))

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The state at a step, with shapes and shardings of abstract `like`."""
    items = {
      name: ocp.args.StandardRestore(item)
      for name, item in _items(like).items()
    }
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    except (ValueError, KeyError, OSError) as e:
      raise ValueError(
        f"{self._path / str(step)}: not a checkpoint of this config"
        f" ({_first_line(e)}); use the config it was saved with, or another"
        " --workdir"
      ) from e
    return _state(restored)


def _check_client(path):
  """Orbax asks Google's own client what kind of bucket it writes to."""
  if not files.is_bucket(path):
    return
  try:
    importlib.import_module("google.cloud.storage")
  except ImportError as e:
    raise ValueError(
      f"{path}: checkpoints in a bucket need Google's client: pip install"
      " 'vicreg_jax[gcs]'"
    ) from e


def save_config(config, workdir: str):
  """Writes the config.json of a job that trains no encoder.

  Raises:
    ValueError: `workdir` is that of a pretraining, or cannot be written to.
  """
  path = epath.Path(workdir) / "config.json"
  with _explain(path):
    if files.exists(path) and _read_json(path).get("job") == "pretrain":
      raise ValueError(
        f"--workdir={workdir} is that of a pretraining: give this job another"
      )
    if mesh.is_first_host():
      files.write(path, f"{config.to_json(indent=2)}\n".encode())


def _read_json(path) -> dict:
  try:
    content = json.loads(files.read(path))
  except ValueError as e:
    raise ValueError(
      f"{path}: damaged ({_first_line(e)}); move the file away, or use another"
      " --workdir"
    ) from e
  return content if isinstance(content, dict) else {}


@contextlib.contextmanager
def _explain(path):
  """Turns an operating system's error into one that names the remedy."""
  try:
    yield
  except OSError as e:
    raise ValueError(
      f"{path}: cannot be written ({_first_line(e)}); free space or choose"
      " another --workdir, then run the same command to continue"
    ) from e


def load_config(run: str) -> dict:
  """The config of the pretraining run in workdir `run`.

  Raises:
    ValueError: the directory is not the workdir of a pretraining run.
  """
  path = files.absolute(run)
  if path.name == DIRECTORY:
    path = path.parent
  try:
    config = json.loads(files.read(path / "config.json"))
  except (OSError, ValueError) as e:
    raise ValueError(
      f"checkpoint={run}: not the workdir of a pretraining run, its"
      f" config.json cannot be read ({_first_line(e)}); name the --workdir"
      " that pretraining was given"
    ) from e
  if not isinstance(config, dict) or config.get("job") != "pretrain":
    raise ValueError(
      f"checkpoint={run}: config.json is not a pretraining's; name the"
      " --workdir that pretraining was given"
    )
  return config


def load_encoder(run: str, step: int, like: dict) -> tuple[dict, int]:
  """The encoder's variables {"params", "batch_stats"}, and their step.

  Args:
    run: workdir of the pretraining run.
    step: which checkpoint; -1 is the newest.
    like: abstract variables, with the shardings to restore to.
  """
  path = files.absolute(run)
  if path.name != DIRECTORY:
    path = path / DIRECTORY
  steps = sorted(
    int(p.name) for p in path.glob("*") if p.is_dir() and p.name.isdigit()
  )
  if not steps:
    raise ValueError(
      f"checkpoint={run}: there is no checkpoint in {path}; name the --workdir"
      " of a pretraining run that has saved one"
    )
  if step == -1:
    step = steps[-1]
  if step not in steps:
    raise ValueError(f"step={step}: {path} has {steps}; use one of them or -1")
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      return checkpointer.restore(path / str(step) / "encoder", like), step
  except (ValueError, KeyError, OSError) as e:
    raise ValueError(
      f"{path / str(step)}: the encoder cannot be restored ({_first_line(e)});"
      " use another step"
    ) from e


def abstract(tree, sharding):
  """Shapes and types of `tree` with `sharding`, to restore to."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]
