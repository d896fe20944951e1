"""The train step on this machine, against PyTorch's.

Clips a second of `steps.jit_train_step`, the very step that training runs, at
the thesis's full width, against the same architecture, loss, optimizer, batch
and number of threads in PyTorch, eager and by torch.compile, on the same card
where JAX has one;
VICReg with LARS, and NT-Xent with Adam. A step takes a batch from NumPy's
memory and ends when its loss is known. PyTorch runs the two views as the
releases of VICReg and CLMR do, a forward pass each, and the covariance in
their form, D x D; `lightly` is PyTorch eager with that package's loss.
"""

import functools
import importlib
import os

import jax
import numpy as np

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.benchmarks.support import timing
from vicreg_jax.data.augment_config import VIEWS
from vicreg_jax.training import steps

OURS = "vicreg_jax"
_STEPS_PER_EPOCH = 32  # a made-up set, long enough that the rate stays put


def add_arguments(parser):
  """The benchmark's own flags."""
  parser.add_argument("--batch", type=int, default=16, help="clips a step")
  parser.add_argument("--width", type=float, default=1.0, help="of the encoder")
  parser.add_argument(
    "--dtype", choices=("float32", "bfloat16"), default="float32"
  )
  parser.add_argument(
    "--loss", choices=("vicreg", "nt_xent"), help="one of the two recipes"
  )


def run(args) -> timing.Report:
  """Both recipes, or one."""
  results, notes = {}, []
  for base in (configs.base_pretrain(), configs.base_clmr()):
    if args.loss not in (None, base.loss.name):
      continue
    base.update(dtype=args.dtype, batch_size=args.batch)
    base.model.width = args.width
    base.optim.warmup_epochs = 0.0
    report = compare(base, args.repeats)
    for peer, figures in report.results.items():
      results[f"{base.loss.name}: {peer}"] = figures
    notes += [note for note in report.notes if note not in notes]
  return timing.Report(results, notes)


def compare(config, repeats: int) -> timing.Report:
  """One recipe: ours and every peer that is installed."""
  views_BxVxT = np.random.default_rng(0).normal(
    size=(config.batch_size, VIEWS, config.data.crop), scale=0.1
  )
  views_BxVxT = views_BxVxT.astype(np.float32)
  peers, notes = trainers(config)
  runs = {
    peer: functools.partial(step, views_BxVxT) for peer, step in peers.items()
  }
  for name, run_step in list(runs.items()):
    try:
      for _ in range(2):  # compiles
        run_step()
    except Exception as error:
      # torch.compile needs a C++ compiler, and fails in ways of its own.
      if name == OURS:
        raise
      line = (str(error).splitlines() or [""])[0]
      notes.append(f"{name} is left out: {type(error).__name__}: {line}")
      del runs[name]
  times = timing.take_turns(runs, repeats)

  def figures(taken):
    rates = timing.per_second(taken, config.batch_size, "clips")
    return rates | {"step_s": timing.spread([t.wall for t in taken])}

  return timing.Report(timing.compared(times, OURS, figures), notes)


def trainers(config) -> tuple[dict, list[str]]:
  """{peer: step}, each from the same weights; and what is left out, why.

  step(views_BxVxT) trains on a batch and gives its loss.
  """
  durations = configs.durations(config, _STEPS_PER_EPOCH * config.batch_size)
  tx = steps.make_optimizer(config, durations)
  devices = mesh.make_mesh()
  init = jax.jit(
    lambda: steps.init_state(config, tx), out_shardings=mesh.replicated(devices)
  )
  peers, notes = {OURS: _Ours(config, tx, devices, init())}, []
  try:
    from vicreg_jax.benchmarks.support import torch_twin
  except ImportError:
    return peers, ["PyTorch is not installed, so there is nothing to compare"]
  rate = float(steps.make_schedule(config, durations)(0))
  card = "cuda" if jax.default_backend() == "gpu" else "cpu"
  make = functools.partial(
    torch_twin.Trainer, config, init(), rate, device=card
  )
  torch_twin.set_threads(len(os.sched_getaffinity(0)))
  peers["torch"] = make()
  peers["torch.compile"] = make(compiled=True)
  try:
    lightly = importlib.import_module("lightly.loss")
    peers["lightly"] = make(loss=_lightly_loss(lightly, config.loss))
  except ImportError as error:
    notes.append(f"lightly is left out ({error}); pip install lightly")
  return peers, notes


class _Ours:
  def __init__(self, config, tx, devices, state):
    self._step = steps.jit_train_step(config, tx, devices)
    self._devices = devices
    self._state = state

  def __call__(self, views_BxVxT) -> float:
    batch = mesh.global_batch(self._devices, views_BxVxT)
    self._state, scalars = self._step(self._state, batch)
    loss = float(scalars["loss"])
    jax.block_until_ready(self._state)
    return loss


def _lightly_loss(lightly, loss):
  if loss.name == "nt_xent":
    return lightly.NTXentLoss(temperature=loss.temperature)
  return lightly.VICRegLoss(
    lambda_param=loss.sim_coeff,
    mu_param=loss.std_coeff,
    nu_param=loss.cov_coeff,
    eps=loss.eps,
  )
