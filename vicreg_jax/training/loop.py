"""The training loop of the jobs that train: resume, signals, log, checkpoints.

A job describes its training (`Training`); `run` runs it to the end, from the
newest checkpoint if there is one. A resumed run equals an unbroken one. It is
refused if its data differ, or keys that must not differ (`_check_same`).
"""

import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh

from vicreg_jax import config as configs
from vicreg_jax import mesh, plots
from vicreg_jax.training import best_checkpoint as best_lib
from vicreg_jax.training import checkpoint, steps
from vicreg_jax.training import workdir as workdirs
from vicreg_jax.training import writer as writer_lib

# A continued run may change these keys, and all keys that begin with one of
# them. The data may have moved: the key "prepared" names the data.
HARMLESS = (
  "checkpoint.every_epochs",
  "checkpoint.keep",
  "data.beam",
  "data.csv",
  "data.dir",
  "data.download",
  "data.path",
  "diagnostics",
  "encode_batch_size",
  "eval_every_epochs",
  "init_from",  # matters only before the first step
  "log_every_steps",
  "probe",
  "steps_per_epoch",
  "stop_patience",
  "valid_data",
)
LENGTH = ("epochs", "steps")


@dataclasses.dataclass(frozen=True)
class Training:
  """The training of a job.

  Attributes:
    header: the content of config.json; a run resumes only if it is the same.
    summary: printed at the start.
    durations: in steps.
    schedule: learning rate by step, for the log.
    init: the state before the first step; is traced.
    warm_start: `state -> state`, applied to the state before the first step;
      None: nothing is.
    train_step: `(state, batch) -> (state, scalars)`, jitted; the scalars
      "loss", "grad_norm" and "param_norm" must be finite.
    batches: `step -> iterator` over this host's part of all batches from a step
      on, without end.
    evaluate: `(state, step) -> {name: number}` for the log, at the steps of
      `durations`. None: there is nothing to evaluate.
    best_by: "": the last state counts. Else the best state counts and stays
      saved, by one of `best_checkpoint.MEASURES`, which `evaluate` gives.
    from_start: the state before the first step is evaluated, and may be best.
    patience: steps without a better state that end the training; 0: never.
  """

  header: dict
  summary: str
  durations: configs.Durations
  schedule: optax.Schedule
  init: Callable[[], steps.TrainState]
  train_step: Callable
  batches: Callable[[int], Iterator[Any]]
  evaluate: Callable[[steps.TrainState, int], dict[str, float]] | None
  best_by: str = ""
  from_start: bool = False
  patience: int = 0
  warm_start: Callable[[steps.TrainState], steps.TrainState] | None = None


class _Signals:
  """Notes SIGINT and SIGTERM; a second signal kills the process."""

  def __init__(self, devices):
    self.name = None
    self._on_any_host = mesh.any_host(devices)
    self._heard = False

  def __enter__(self):
    self._before = {
      s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)
    }
    return self

  def _note(self, number, frame):
    if self.name:
      raise KeyboardInterrupt
    self.name = signal.Signals(number).name

  def stop(self) -> bool:
    """Whether to stop after this step: on all hosts, or on none.

    Signals reach hosts at different steps, or reach only some hosts. So at each
    step the devices combine the signals of all hosts, and all hosts act on the
    result one step later, when they need not wait for it.
    """
    if jax.process_count() == 1:
      return bool(self.name)
    before, self._heard = self._heard, self._on_any_host(bool(self.name))
    return bool(before)

  def stopped(self) -> bool:
    """Whether any host has had a signal; waits for all hosts to ask."""
    if jax.process_count() == 1:
      return bool(self.name)
    return bool(self._on_any_host(bool(self.name)))

  def __exit__(self, *unused):
    for number, handler in self._before.items():
      signal.signal(number, handler)


def run(
  config, workdir: str, training: Training, devices: Mesh
) -> steps.TrainState:
  """Trains to the end, from the newest checkpoint in `workdir` if any.

  Returns the last state or the best (`Training.best_by`). The state of a
  complete run is only read; no batch is made.

  Args:
    config: of the job: `checkpoint`, `log_every_steps`, `batch_size`.
    workdir: gets config.json, metrics.jsonl, tb/ and checkpoints/.
    training: what to train.
    devices: the mesh.

  Raises:
    ValueError: the workdir is of another run, or the loss is not finite.
    KeyboardInterrupt: SIGINT or SIGTERM came; the run was saved.
  """
  _check_same(config, training.header, workdir)
  durations, by = training.durations, training.best_by
  keep, keep_at = config.checkpoint.keep, _steps_kept(training, workdir)
  with (
    _Signals(devices) as signals,
    workdirs.alone(workdir),
    _writer(workdir, durations) as log,
    checkpoint.Checkpoints(workdir, keep, keep_at) as saved,
  ):
    log.note(training.summary)
    log.run_header(training.header)
    fresh, start = saved.resume_step is None, saved.resume_step or 0
    _check_hosts(training.header, start, workdir)
    read_to = -1 if fresh else start
    log.truncate_after(read_to)
    best = None
    if by:
      best = best_lib.Best(workdir, by, training.patience, read_to)
      saved.keep_at({*durations.keep_at, best.step()})
    complete = start >= durations.total or (best and best.exhausted())
    if complete:
      _check_judged(best, workdir, start)
      log.note(f"{workdir}: complete, {start} steps; nothing is left to train")
    elif start:
      log.note(f"continuing from step {start}")
    last = state_at(training.init, devices, None if fresh else saved, start)
    if fresh and training.warm_start:
      last = training.warm_start(last)
    if not complete:
      loop = _Loop(config, training, devices, saved, log, best)
      last = loop.run(last, start, signals, fresh)
    state = last
    if best and best.step() != int(last.step) and not signals.stopped():
      state = state_at(training.init, devices, saved, best.step())
  if signals.stopped():
    name = signals.name or "a signal to another host"
    print(
      f"{name}: saved step {int(last.step)} of {durations.total}",
      file=sys.stderr,
    )
    raise KeyboardInterrupt
  return state


def _steps_kept(training, workdir) -> set[int]:
  """Steps whose checkpoints stay, whatever the newest are."""
  kept, saved = set(training.durations.keep_at), checkpoint.saved_steps(workdir)
  if max(saved, default=0) > training.durations.total:
    # A longer run has gone past this one's end, and keeps its own checkpoints.
    kept |= set(saved)
  if training.best_by:
    kept |= best_lib.Best(workdir, training.best_by).record_steps()
  return kept


def _check_judged(best, workdir, step):
  """Refuses a complete run if its best step is wanted and unknown."""
  if best and best.step() is None:
    raise ValueError(
      f"{workdir}/{workdirs.METRICS} has no {best.key} up to step {step}, which"
      " tells the best weights: put a copy of it in its place, or start anew"
      " with another --workdir"
    )


def header(config, prepared, durations) -> dict:
  """The content of config.json: the config, and the prepared data's name."""
  return config.to_dict() | {
    "prepared": prepared.name,
    "steps_per_epoch": durations.per_epoch,
  }


def figure(workdir: str) -> str:
  """Draws the loss and its terms over the steps; the PNG's path."""
  out = f"{workdir}/figures/loss_terms.png"
  plots.training_curves(f"{workdir}/{workdirs.METRICS}", out)
  return out


def _writer(workdir, durations):
  """A writer for the first host, and silent ones for the others."""
  if mesh.is_first_host():
    return writer_lib.Writer(workdir, total_steps=durations.total)
  return writer_lib.Silent()


def state_at(init, devices, saved=None, step=0) -> steps.TrainState:
  """The state of a saved step, or before the first step, on all devices."""
  whole = mesh.replicated(devices)
  shapes = jax.eval_shape(init)
  if saved:
    return saved.restore(step, checkpoint.abstract(shapes, whole))
  return jax.jit(init, out_shardings=jax.tree.map(lambda _: whole, shapes))()


_DIVERGED = (
  "The checkpoints before it are kept. A lower optim.learning_rate, a longer"
  " optim.warmup_epochs or dtype=float32 usually helps: go on so in another"
  " --workdir, from the last encoder that was saved, by --config.init_from=OLD"
)


class _Loop:
  """Evaluate, save, next batch, step; scalars are fetched a step late.

  JAX places batches and runs steps asynchronously. The host waits for a step
  only after it has placed the next batch and dispatched the next step. So
  reading, augmenting and transferring overlap with computing, and the devices
  always have a next step; further batches ahead would only take memory. The
  devices run dry only where a step is saved or evaluated.
  """

  def __init__(self, config, training, devices, saved, log, best):
    self._config = config
    self._training = training
    self._durations = training.durations
    self._devices = devices
    self._saved = saved
    self._log = log
    self._best = best

  def run(self, state, start, signals, fresh) -> steps.TrainState:
    if fresh and self._best and self._training.from_start:
      self._evaluate(state, 0)
      self._log.flush()
      self._saved.save(state, 0)
    total = self._durations.total
    batches = self._training.batches(start)
    pending, self._clock = None, (start, time.perf_counter())
    for step in range(start + 1, total + 1):
      batch = jax.tree.map(
        lambda rows: mesh.global_batch(self._devices, rows), next(batches)
      )
      state, scalars = self._training.train_step(state, batch)
      stop = signals.stop()
      if pending:
        self._record(*pending)
      pending = step, scalars
      save = stop or self._durations.save_due(step)
      evaluate = self._eval_due(step)
      if save or evaluate:
        self._record(*pending)
        pending = None
      if evaluate:
        save |= self._evaluate(state, step)
      if save or self._ended():
        self._log.flush()  # a run that resumes here finds its lines
        self._saved.save(state, step)
      if stop or self._ended():
        break
    return state

  def _ended(self):
    return self._best is not None and self._best.exhausted()

  def _eval_due(self, step):
    if self._training.evaluate is None:
      return False
    return self._durations.eval_due(step) or self._durations.diagnose_due(step)

  def _evaluate(self, state, step) -> bool:
    """Evaluates and logs; returns whether this is the best state so far."""
    values = self._training.evaluate(state, step)
    judged = self._best is not None and self._best.key in values
    loss = values.get("validation/loss", 0)
    if judged and not math.isfinite(loss):
      raise ValueError(
        f"step {step}: the validation loss is {loss}. {_DIVERGED}"
      )
    self._log.write(step, values)
    if not judged or not self._best.add(step, values[self._best.key]):
      return False
    self._saved.keep_at({*self._durations.keep_at, step})
    return True

  def _record(self, step, scalars):
    """Waits for a step; logs it if it is due."""
    loss = float(scalars["loss"])
    self._log.progress(step, f"loss {loss:.4g}")
    every, total = self._config.log_every_steps, self._durations.total
    # Gradient and parameters, too: they may become infinite a step before the
    # loss, and would be saved.
    norms = float(scalars["grad_norm"]) + float(scalars["param_norm"])
    if not math.isfinite(loss + norms):
      terms = {k: float(v) for k, v in scalars.items()}
      raise ValueError(
        f"step {step}: the loss, its gradient or the parameters are not finite"
        f" ({terms}). {_DIVERGED}"
      )
    if step % every and step not in (1, total):
      return
    before, then = self._clock
    now = time.perf_counter()
    rate = (step - before) * self._config.batch_size / (now - then)
    self._clock = step, now
    values = {k: float(v) for k, v in scalars.items()}
    values["learning_rate"] = float(self._training.schedule(step - 1))
    values["epoch"] = step / self._durations.per_epoch
    values["clips_per_second"] = rate
    self._log.write(step, values, prefix="train")


def _check_same(config, header, workdir):
  """Refuses to continue a run of another config or other data."""
  saved = workdirs.path_of(workdir) / workdirs.CHECKPOINTS
  if not (saved.is_dir() and any(saved.iterdir())):
    return
  before, now = (
    traverse_util.flatten_dict(tree, sep=".")
    for tree in (workdirs.load_config(workdir), _plain(header))
  )
  before = {k: v for k, v in configs.ADDED.items() if k in now} | before
  free = HARMLESS
  if config.checkpoint.get("best_by"):
    # Losses on other clips cannot be compared.
    free = tuple(key for key in free if key != "valid_data")
  if config.optim.schedule == "constant":
    free += LENGTH
  keys = [
    k
    for k in sorted(before.keys() | now.keys())
    if before.get(k) != now.get(k) and not k.startswith(free)
  ]
  if keys:
    listed = "; ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in keys)
    why = ""
    if any(k in LENGTH for k in keys):
      why = (
        ". The cosine schedule is laid out over the whole run, so its length"
        " cannot change"
      )
    raise ValueError(
      f"--workdir={workdir} holds a run of another config ({listed}){why}: use"
      " the config it was started with, or another --workdir, which begins with"
      f" the encoder of this one by --config.init_from={workdir}"
    )


def _check_hosts(header, start, workdir):
  """Raises on all hosts if they are not of one run."""
  if jax.process_count() == 1:
    return
  mesh.wait_for_hosts()  # the first one has written config.json
  try:
    same = workdirs.load_config(workdir) == _plain(header)
  except ValueError:
    same = False
  same_H, start_H = mesh.gather(same, start).T
  if not same_H.all():
    raise ValueError(
      f"hosts {np.flatnonzero(same_H == 0).tolist()} do not find their own"
      f" config in --workdir={workdir}: all hosts need the same flags, the same"
      " prepared data and a workdir that they share, such as gs://BUCKET/RUN"
    )
  if len(set(start_H)) > 1:
    raise ValueError(
      f"the hosts see different checkpoints in --workdir={workdir} (steps"
      f" {start_H.tolist()}): give a workdir that they share"
    )


def _plain(header):
  """A header as read back from config.json."""
  return json.loads(json.dumps(header))
