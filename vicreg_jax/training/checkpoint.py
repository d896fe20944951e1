"""Saving and restoring runs, with Orbax.

A checkpoint has two items: `encoder` (parameters and BatchNorm statistics),
which suffices for probing, and `rest` (projector or head, optimizer state,
step). Orbax makes a save all or nothing, but does not notice flipped bytes of
an array. So a manifest beside the items has each file's size and CRC-32. It is
written before Orbax commits: a checkpoint without a manifest is not whole.
"""

import contextlib
import importlib
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Collection

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import (
  preservation_policy as policy,
)

from vicreg_jax import files
from vicreg_jax.training import failed_save
from vicreg_jax.training import workdir as workdirs
from vicreg_jax.training.steps import TrainState

MANIFEST = "manifest.json"
# Orbax writes these while it commits, after the manifest; they hold no state.
_COMMITTED = "commit_success.txt"
_UNHASHED = (MANIFEST, "_CHECKPOINT_METADATA", _COMMITTED)
_CHUNK = 1 << 24  # bytes


def _items(state: TrainState) -> dict:
  parts = {
    name: {"params": params, "batch_stats": state.batch_stats[name]}
    for name, params in state.params.items()
  }
  encoder = parts.pop("encoder")
  rest = {**parts, "opt_state": state.opt_state, "step": state.step}
  return {"encoder": encoder, "rest": rest}


def _state(items: dict) -> TrainState:
  rest = dict(items["rest"])
  step, opt_state = rest.pop("step"), rest.pop("opt_state")
  parts = {"encoder": items["encoder"], **rest}
  return TrainState(
    step=step,
    params={k: v["params"] for k, v in parts.items()},
    batch_stats={k: v["batch_stats"] for k, v in parts.items()},
    opt_state=opt_state,
  )


class _Steps(policy.PreservationPolicy):
  """Keeps the checkpoints of some steps, which may change."""

  def __init__(self, steps):
    self.steps = set(steps)

  def should_preserve(self, checkpoints, *, context):
    return [c.step in self.steps for c in checkpoints]


class Checkpoints:
  """The checkpoints of one workdir. A context manager: leaving it waits.

  A damaged checkpoint is reported on stderr and renamed to `<step>.damaged`.
  Then only whole ones count for `keep`, and the step can be saved again.

  Attributes:
    resume_step: the newest step whose checkpoint was whole at the start, from
      which a run resumes; None if there was none.

  Args:
    workdir: of the run.
    keep: number of newest checkpoints to keep.
    keep_at: steps whose checkpoints are kept as well.

  Raises:
    ValueError: all checkpoints are damaged (then nothing is changed); or, here
      and in every method, the disk refuses.
  """

  def __init__(self, workdir: str, keep: int, keep_at: Collection[int] = ()):
    self._path = _directory(workdir)
    _check_client(self._path)
    self._saving = None
    self._keep_at = _Steps(keep_at)
    self.resume_step = _agree(
      self._path, lambda: _choose_resume_step(self._path, keep, keep_at)
    )
    with self._explain():
      self._manager = ocp.CheckpointManager(
        self._path,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=policy.AnyPreservationPolicy(
            [policy.LatestN(keep), self._keep_at]
          ),
          create=True,
          cleanup_tmp_directories=True,  # of killed runs
          async_options=ocp.AsyncOptions(
            post_finalization_callback=self._write_manifest
          ),
        ),
      )

  def __enter__(self):
    return self

  def __exit__(self, error_type, *unused):
    try:
      with self._explain():
        self._close(failed=bool(error_type))
    except ValueError:
      if error_type is None:  # else the first error says more
        raise

  def _close(self, failed):
    """Closes Orbax, even half-open after a failed save."""
    errors = []
    for _ in range(3):  # `close` ends at the first error, but raises each once
      try:
        self._manager.close()
        break
      except Exception as e:
        errors.append(e)
    if failed or errors:
      failed_save.join_threads()
    if errors:
      raise errors[0]

  def keep_at(self, steps: Collection[int]):
    """Keeps the checkpoints of these steps, from the next save on."""
    self._keep_at.steps = set(steps)

  def save(self, state: TrainState, step: int):
    """Starts to save; the arrays may be donated once this returns.

    Raises:
      ValueError: this save cannot start, or the one before it has failed.
    """
    items = {
      name: ocp.args.StandardSave(item) for name, item in _items(state).items()
    }
    with self._explain():
      # The callback knows no step, and the save before may still need its own.
      self._manager.wait_until_finished()
      self._saving = step
      saved = self._manager.save(step, args=ocp.args.Composite(**items))
    assert saved, step

  def _write_manifest(self):
    """Runs in Orbax's thread on process 0, when all hosts have written."""
    step = str(self._saving)
    (path,) = (
      p
      for p in self._path.iterdir()
      # A bucket has no rename: there Orbax writes to the final name.
      if p.name == step or p.name.startswith(f"{step}.orbax-checkpoint-tmp")
    )
    measured = {name: _measure(path / name) for name in _files(path)}
    (path / MANIFEST).write_text(json.dumps(measured, indent=1) + "\n")

  @contextlib.contextmanager
  def _explain(self):
    """One line for Orbax's errors, without the tracebacks of its threads."""
    failed_save.quieten()
    try:
      with files.os_errors(self._path):
        yield
    except (OSError, ValueError, RuntimeError) as e:
      raise ValueError(
        f"{self._path}: a checkpoint cannot be written ({_first_line(e)}); the"
        " ones before it are kept. Free space or choose another --workdir, then"
        " run the same command to continue"
      ) from e

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The state at a step, with shapes and shardings of abstract `like`.

    Raises:
      ValueError: the checkpoint is missing, damaged, or of another config.
    """
    with self._explain():
      self._manager.wait_until_finished()
    if step != self.resume_step:  # which has been examined already
      _agree(self._path, lambda: self._examine(step))
    return _state(_restore(self._path / str(step), _items(like)))

  def _examine(self, step):
    if step not in _steps(self._path):
      raise ValueError(
        f"{self._path}: the checkpoint of step {step} is not there any more:"
        " put a copy of it in its place, or start anew with another --workdir"
      )
    return _examine(self._path, [step], 1)[0][0]


def _check_client(path):
  """Checks for Google's client, which Orbax asks for the kind of a bucket."""
  if not files.is_bucket(path):
    return
  try:
    importlib.import_module("google.cloud.storage")
  except ImportError as e:
    raise ValueError(
      f"{path}: checkpoints in a bucket need Google's client: pip install"
      " 'vicreg_jax[gcs]'"
    ) from e


def load_encoder(run: str, step: int, like: dict) -> tuple[dict, int]:
  """The encoder's variables {"params", "batch_stats"}, and their step.

  Only the encoder's files are read, and must be whole.

  Args:
    run: workdir of the run.
    step: which checkpoint; -1 is the newest whole one.
    like: abstract variables, with the shardings to restore to.
  """
  path = _directory(run)
  steps = _steps(path)
  if not steps:
    raise ValueError(
      f"checkpoint={run}: there is no checkpoint in {path}; name the --workdir"
      " of a training run that has saved one"
    )
  if step not in (-1, *steps):
    raise ValueError(f"step={step}: {path} has {steps}; use one of them or -1")
  candidates = steps if step == -1 else [step]
  step = _agree(path, lambda: _examine(path, candidates, 1, "encoder/")[0][0])
  return _restore(path / str(step), {"encoder": like})["encoder"], step


def _restore(path, like: dict) -> dict:
  """Items of the checkpoint in `path`, whose files are intact."""
  try:
    with files.os_errors(path), ocp.StandardCheckpointer() as checkpointer:
      return {
        name: checkpointer.restore(path / name, item)
        for name, item in like.items()
      }
  except (ValueError, KeyError, OSError) as e:
    raise ValueError(
      f"{path}: not a checkpoint of this config ({_first_line(e)}); use the"
      " config it was saved with, or another checkpoint"
    ) from e


def _directory(run) -> epath.Path:
  """The directory of a run's checkpoints, which `run` may name itself."""
  return workdirs.path_of(run) / workdirs.CHECKPOINTS


def saved_steps(run: str) -> list[int]:
  """Steps of the checkpoints in workdir `run`, the oldest first."""
  return _steps(_directory(run))


def _steps(path) -> list[int]:
  """Steps that are committed, or copied from elsewhere, the oldest first."""
  with _readable(path):
    if not path.exists():
      return []
    found = ocp.path.step.standard_name_format().find_all(path)
    steps = {metadata.step for metadata in found}
    if files.is_bucket(path):
      # In a bucket Orbax commits by a file, which copies from a disk lack.
      steps |= {
        int(p.name)
        for p in path.iterdir()
        if p.name.isdecimal() and (p / MANIFEST).exists()
      }
  return sorted(steps)


@contextlib.contextmanager
def _readable(path):
  """Raises ValueError if the disk or the bucket does not answer."""
  try:
    with files.os_errors(path):
      yield
  except OSError as e:
    raise ValueError(
      f"{path}: the checkpoints cannot be read ({_first_line(e)}): see to it"
      " that they can, then run the same command again"
    ) from e


def _choose_resume_step(path, keep, keep_at) -> int | None:
  """Decides which checkpoint a run resumes from: the newest whole one.

  The newest `keep` whole ones stay, and those of steps `keep_at`. Damaged ones
  are renamed. Older ones, which a killed run left and which may lack files, are
  deleted.
  """
  steps = _steps(path)
  if not steps:
    return None
  whole, damaged = _examine(path, steps, keep)
  with files.explained(path):
    for step in damaged:
      names = (f"{step}.damaged{n or ''}" for n in itertools.count())
      free = next(path / name for name in names if not (path / name).exists())
      (path / str(step)).rename(free)
    for step in set(steps) - set(whole) - set(damaged) - set(keep_at):
      (path / str(step)).rmtree()
    if files.is_bucket(path):
      for step in set(_steps(path)) - set(damaged):
        _commit(path / str(step))
  return whole[0]


def _commit(path):
  """Writes the file without which Orbax ignores a copy from a disk."""
  for directory in (path, *(p for p in path.iterdir() if p.is_dir())):
    if not (directory / _COMMITTED).exists():
      (directory / _COMMITTED).write_text("copied\n")


def _examine(path, steps, enough, item="") -> tuple[list[int], list[int]]:
  """The newest whole steps, and the damaged ones among them; warns of these.

  Args:
    path: of the checkpoints.
    steps: to choose from, the oldest first.
    enough: how many whole ones to look for.
    item: only files whose names start with `item` matter.

  Raises:
    ValueError: none is whole.
  """
  whole, faults = [], {}
  for step in reversed(steps):
    if len(whole) == enough:
      break
    fault = _fault(path / str(step), item)
    if fault:
      faults[step] = f"{path / str(step)} is damaged: {fault}"
    else:
      whole.append(step)
  if not whole:
    raise ValueError(
      f"no checkpoint is whole ({'; '.join(faults.values())}). Nothing was"
      " changed: put a copy of one in its place, or start anew with another"
      " --workdir"
    )
  for fault in faults.values():
    print(f"warning: {fault}; using step {whole[0]} instead", file=sys.stderr)
  return whole, list(faults)


def _fault(path, item) -> str:
  """The first fault of a checkpoint, or "" if its files are intact.

  Args:
    path: of a checkpoint.
    item: only files whose names start with `item` are examined.
  """
  try:
    manifest = json.loads((path / MANIFEST).read_text())
  except FileNotFoundError:
    return f"{MANIFEST} is missing"
  except ValueError:
    return f"{MANIFEST} is damaged"
  except OSError as e:
    return f"{MANIFEST} cannot be read ({_first_line(e)})"
  for name, saved in manifest.items():
    if not name.startswith(item):
      continue
    try:
      found = _measure(path / name)
    except FileNotFoundError:
      return f"{name} is missing"
    except OSError as e:
      return f"{name} cannot be read ({_first_line(e)})"
    if found[0] != saved[0]:
      return f"{name} has {found[0]} bytes of {saved[0]}"
    if found != saved:
      return f"{name} has other bytes than were saved"
  return ""


def _files(path, prefix="") -> list[str]:
  """All files below a checkpoint's directory, except those written last."""
  names = []
  for child in sorted(path.iterdir()):
    if child.is_dir():
      names += _files(child, f"{prefix}{child.name}/")
    elif prefix + child.name not in _UNHASHED:
      names.append(prefix + child.name)
  return names


def _measure(path) -> list[int]:
  """[size, CRC-32] of a file."""
  size, crc = 0, 0
  with path.open("rb") as f:
    while chunk := f.read(_CHUNK):
      size, crc = size + len(chunk), zlib.crc32(chunk, crc)
  return [size, crc]


def _agree(path, find):
  """The result of `find()` on process 0, on all processes; it may be None.

  The others wait for process 0, so any error of `find` ends all processes.
  """
  step, error = -1, None
  if jax.process_index() == 0:
    try:
      with _readable(path):
        found = find()
      step = -1 if found is None else found
    except Exception as e:
      step, error = -2, e
  step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
  if step == -2:
    raise error or ValueError(
      f"{path}: the first host found no checkpoint to use; its own error says"
      " why"
    )
  return None if step == -1 else step


def abstract(tree, sharding):
  """Shapes and types of `tree` with `sharding`, to restore to."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def _first_line(error: Exception) -> str:
  # TensorStore names data and place before the reason.
  code = re.search(r"os_error_code='(\d+)'", str(error))
  if code:
    return os.strerror(int(code[1]))
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]
