"""Reads and writes a workdir's config.json, and locks the workdir.

`training/loop.py` decides whether a run may resume with another config.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket

from etils import epath

from vicreg_jax import config as configs
from vicreg_jax import files, mesh

CONFIG, METRICS = "config.json", "metrics.jsonl"
CHECKPOINTS, LOCK = "checkpoints", "lock"


def path_of(run) -> epath.Path:
  """The workdir of a run; `run` may also name its checkpoints/."""
  path = files.absolute(run)
  return path.parent if path.name == CHECKPOINTS else path


def write_config(config: dict, workdir: str):
  """Writes config.json, whole or not at all.

  Raises:
    ValueError: JSON cannot hold the config, or the disk refuses.
  """
  try:
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
  except (TypeError, ValueError) as e:
    raise ValueError(
      f"the config cannot be written as JSON ({e}): keep numbers, strings,"
      " booleans, lists and dicts in it"
    ) from e
  path = f"{workdir}/{CONFIG}"
  with files.explained(path):
    files.write(path, f"{text}\n".encode())


def save_config(config, workdir: str):
  """Writes the config.json of a job that trains no encoder.

  Raises:
    ValueError: `workdir` is that of a training, or cannot be written to.
  """
  path = f"{workdir}/{CONFIG}"
  with files.explained(path):
    before = files.read(path) if files.exists(path) else b"{}"
  try:
    before = json.loads(before)
  except ValueError as e:
    raise ValueError(
      f"{path}: damaged ({e}); move the file away, or use another --workdir"
    ) from e
  if _is_training(before):
    raise ValueError(
      f"--workdir={workdir} is that of a training: give this job another"
    )
  if mesh.is_first_host():
    write_config(config.to_dict(), workdir)


def load_config(run: str) -> dict:
  """The config of the training run in workdir `run`.

  Raises:
    ValueError: `run` is not the workdir of a run that trains an encoder.
  """
  try:
    config = json.loads(files.read(path_of(run) / CONFIG))
  except (OSError, ValueError) as e:
    raise ValueError(
      f"checkpoint={run}: not the workdir of a training run, its"
      f" {CONFIG} cannot be read ({e}); name the --workdir that the training"
      " was given"
    ) from e
  if not _is_training(config):
    raise ValueError(
      f"checkpoint={run}: {CONFIG} is not a training's; name the --workdir that"
      " the training was given"
    )
  return config


def _is_training(config) -> bool:
  return isinstance(config, dict) and config.get("job") in configs.TRAINING


@contextlib.contextmanager
def alone(workdir: str):
  """Keeps other processes out of a workdir, until this one leaves or dies.

  A bucket has no locks. The hosts of one run share a workdir: the first host
  holds the lock.

  Raises:
    ValueError: another process holds it; names the host and the process.
  """
  if not mesh.is_first_host() or files.is_bucket(workdir):
    yield
    return
  path = pathlib.Path(workdir, LOCK)
  with files.explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise ValueError(
        f"--workdir={workdir} is in use by {file.read().strip()}: wait for that"
        " run or end it, or use another --workdir"
      ) from None
    with files.explained(path):
      file.truncate(0)
      file.write(f"host {socket.gethostname()}, process {os.getpid()}\n")
      file.flush()
    yield
