"""The `pretrain` job: views in, checkpoints and metrics out."""

import json
import math
import pathlib
import signal
import sys
import time

import jax
import numpy as np
from etils import epath

from vicreg_jax import checkpoint, datasets, input_pipeline, mesh, plots, steps
from vicreg_jax import config as configs
from vicreg_jax import writer as writer_lib

# Keys, or how they start, that may change between a run and its continuation.
# Where data come from is free: "prepared" says which they are.
HARMLESS = (
  "checkpoint",
  "data.beam",
  "data.dir",
  "data.download",
  "data.path",
  "eval_every_epochs",
  "log_every_steps",
  "probe",
)
LENGTH = ("epochs", "steps")


class _Signals:
  """Notes SIGINT and SIGTERM instead of dying of them; a second one kills."""

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

    Signals reach hosts at different steps, or only some of them. So at each
    step the devices combine what the hosts have heard, and all act on it one
    step later, when it is there without waiting.
    """
    if jax.process_count() == 1:
      return bool(self.name)
    before, self._heard = self._heard, self._on_any_host(bool(self.name))
    return bool(before)

  def stopped(self) -> bool:
    """Whether any host has heard a signal; waits for all to ask."""
    if jax.process_count() == 1:
      return bool(self.name)
    return bool(self._on_any_host(bool(self.name)))

  def __exit__(self, *unused):
    for number, handler in self._before.items():
      signal.signal(number, handler)


def run(config, workdir: str) -> steps.TrainState:
  """Trains to the end, from the newest checkpoint in `workdir` if any.

  Args:
    config: a validated config of job "pretrain".
    workdir: gets config.json, metrics.jsonl, tb/ and checkpoints/.

  Raises:
    ValueError: no run can follow from this config, or the loss is not finite.
    KeyboardInterrupt: SIGINT or SIGTERM came; the run was saved.
  """
  devices = mesh.make_mesh()
  mesh.check_batch(config.batch_size, devices)
  prepared = datasets.prepare(config.data)
  if config.probe_after:
    prepared.check_probeable()  # now rather than after the training
  _check_same(config, prepared, workdir)
  durations = configs.durations(
    config, input_pipeline.num_train_clips(prepared, config)
  )
  tx = steps.make_optimizer(config, durations)
  header = _header(config, prepared)
  with (
    _Signals(devices) as signals,
    checkpoint.alone(workdir),
    _writer(workdir, durations) as log,
    checkpoint.Checkpoints(workdir, config.checkpoint.keep) as saved,
  ):
    log.note(prepared.summary())
    log.run_header(header)
    start = saved.latest() or 0
    _check_hosts(header, start, workdir)
    if start:
      log.note(f"continuing from step {start}")
    log.truncate_after(start)
    state = _first_state(config, tx, devices, saved, start)
    loop = _Loop(config, prepared, durations, tx, devices, saved, log)
    state = loop.run(state, start, signals)
  if signals.stopped():
    name = signals.name or "a signal to another host"
    print(
      f"{name}: saved step {int(state.step)} of {durations.total}",
      file=sys.stderr,
    )
    raise KeyboardInterrupt
  return state


def figure(workdir: str) -> str:
  """Draws the loss terms over the steps; the PNG's path."""
  out = f"{workdir}/figures/loss_terms.png"
  plots.loss_terms(f"{workdir}/metrics.jsonl", out)
  return out


def _writer(workdir, durations):
  """What is written once is written by the first host."""
  if mesh.is_first_host():
    return writer_lib.Writer(workdir, total_steps=durations.total)
  return writer_lib.Silent()


def _first_state(config, tx, devices, saved, start) -> steps.TrainState:
  whole = mesh.replicated(devices)
  shapes = jax.eval_shape(lambda: steps.init_state(config, tx))
  if start:
    return saved.restore(start, checkpoint.abstract(shapes, whole))
  return jax.jit(
    lambda: steps.init_state(config, tx),
    out_shardings=jax.tree.map(lambda _: whole, shapes),
  )()


class _Loop:
  """Evaluate, save, next batch, step; scalars are fetched a step late.

  Both placing a batch on the devices and a step return before they are done,
  and the host waits for a step only when the batch after it has been placed and
  the step after it dispatched. So reading, augmenting and transferring overlap
  with computing, and the devices always have a next step to begin; a batch kept
  further ahead would gain nothing and hold more memory. Only where a step is
  saved or evaluated do the devices run dry.
  """

  def __init__(self, config, prepared, durations, tx, devices, saved, log):
    self._config = config
    self._prepared = prepared
    self._durations = durations
    self._devices = devices
    self._saved = saved
    self._log = log
    self._schedule = steps.make_schedule(config, durations)
    self._train_step = steps.jit_train_step(config, tx, devices)
    self._eval_step = steps.jit_eval_step(config, devices)
    self._eval_batch = self._find_eval_batch()

  def _find_eval_batch(self) -> int:
    """The largest batch of validation clips that the devices can share."""
    size = self._devices.size
    clips = self._prepared.num_clips.get("valid", 0)
    batch = min(self._config.batch_size, clips // size * size)
    return batch if batch >= 2 and self._durations.eval_every else 0

  def run(self, state, start, signals) -> steps.TrainState:
    total = self._durations.total
    views = input_pipeline.train_views(
      self._prepared,
      self._config,
      start_step=start,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    pending, self._clock = None, (start, time.perf_counter())
    for step in range(start + 1, total + 1):
      batch = mesh.global_batch(self._devices, next(views))
      state, scalars = self._train_step(state, batch)
      stop = signals.stop()
      if pending:
        self._record(*pending)
      pending = step, scalars
      due = step % self._durations.checkpoint_every == 0 or step == total
      if due or stop or self._eval_due(step):
        self._record(*pending)
        pending = None
        if self._eval_due(step):
          self._evaluate(state, step)
      if due or stop:
        self._log.flush()  # a run that resumes here finds its lines
        self._saved.save(state, step)
      if stop:
        break
    return state

  def _eval_due(self, step):
    every = self._durations.eval_every
    last = step == self._durations.total
    return bool(self._eval_batch) and (last or step % every == 0)

  def _record(self, step, scalars):
    """Waits for a step; logs it if it is due."""
    loss = float(scalars["loss"])
    self._log.progress(step, f"loss {loss:.4g}")
    every, total = self._config.log_every_steps, self._durations.total
    # The gradient and the parameters too: they may fail a step before the loss
    # does, and would be saved.
    norms = float(scalars["grad_norm"]) + float(scalars["param_norm"])
    if not math.isfinite(loss + norms):
      terms = {k: float(v) for k, v in scalars.items()}
      raise ValueError(
        f"step {step}: the loss, its gradient or the parameters are not finite"
        f" ({terms}). The checkpoints before it are kept. A lower"
        " optim.learning_rate, a longer optim.warmup_epochs or dtype=float32"
        " usually helps"
      )
    if step % every and step not in (1, total):
      return
    before, then = self._clock
    now = time.perf_counter()
    rate = (step - before) * self._config.batch_size / (now - then)
    self._clock = step, now
    values = {k: float(v) for k, v in scalars.items()}
    values["learning_rate"] = float(self._schedule(step - 1))
    values["epoch"] = step / self._durations.per_epoch
    values["clips_per_second"] = rate
    self._log.write(step, values, prefix="train")

  def _evaluate(self, state, step):
    batches = input_pipeline.valid_views(
      self._prepared, self._config, "valid", self._eval_batch
    )
    rows = []
    for views in batches:
      batch = mesh.share_batch(self._devices, views)
      rows.append(self._eval_step(state, batch))
    means = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
    self._log.write(step, means, prefix="validation")


def _header(config, prepared) -> dict:
  """What config.json holds: the config, and which prepared data it is of."""
  data = pathlib.PurePosixPath(prepared.path)
  return config.to_dict() | {"prepared": "/".join(data.parts[-3:])}


def _check_same(config, prepared, workdir):
  """Refuses to continue a run of another config or other data."""
  saved = epath.Path(workdir) / checkpoint.DIRECTORY
  if not (saved.is_dir() and any(saved.iterdir())):
    return
  before = _flat(checkpoint.load_config(workdir))
  now = _flat(_plain(_header(config, prepared)))
  free = HARMLESS
  if config.optim.schedule == "constant":
    free += LENGTH
  keys = [
    k
    for k in sorted(before.keys() | now.keys())
    if before.get(k) != now.get(k) and not k.startswith(free)
  ]
  if keys:
    listed = "; ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in keys)
    why = (
      ". The cosine schedule is laid out over the whole run, so its length"
      " cannot change"
    )
    raise ValueError(
      f"--workdir={workdir} holds a run of another config ({listed})"
      + why * any(k in LENGTH for k in keys)
      + ": use the config it was started with, or another --workdir"
    )


def _check_hosts(header, start, workdir):
  """Refuses hosts that are not of one run, on all of them alike."""
  if jax.process_count() == 1:
    return
  mesh.wait_for_hosts()  # the first one has written config.json
  try:
    same = checkpoint.load_config(workdir) == _plain(header)
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
  """As config.json gives it back."""
  return json.loads(json.dumps(header))


def _flat(tree, prefix=""):
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat
