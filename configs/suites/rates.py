"""VICReg's base learning rate, 0.1 to 1.6, by epochs and warm-up.

    python -m vicreg_jax.suite --suite=configs/suites/rates.py \
        --workdir=runs/study

Section 5.4.1 of the thesis expects more of larger rates over more epochs, and
leaves rate and schedule to others. Its own are 0.2, with 10 epochs of warm-up:
those runs are of `convergence`. Not measured yet.
"""

import dataclasses
import functools

from vicreg_jax import config as configs
from vicreg_jax.study import figures, plan

RATES = (0.1, 0.2, 0.4, 0.8, 1.6)
SCHEDULES = ((300, 10), (1000, 10), (3000, 10), (1000, 50))  # epochs, warm-up
SMOKE_RATES, SMOKE_SCHEDULES = RATES[1::2], SCHEDULES[:2]


def pretrain(scale, rate, epochs, warmup):
  job = plan.pretrain(scale, "VICReg", epochs=epochs)
  usual, overrides, name = configs.base_pretrain().optim, {}, job.workdir
  if rate != usual.learning_rate:
    overrides["optim.learning_rate"] = rate
    name += f"-r{rate}"
  if warmup != usual.warmup_epochs:
    overrides["optim.warmup_epochs"] = float(warmup)
    name += f"-w{warmup}"
  return dataclasses.replace(
    job, workdir=name, overrides=job.overrides | overrides
  )


def get_suite(scale):
  points = []
  for epochs, warmup in SMOKE_SCHEDULES if scale.smoke else SCHEDULES:
    for rate in SMOKE_RATES if scale.smoke else RATES:
      run = pretrain(scale, rate, epochs, warmup)
      name = str(scale.epochs(epochs))
      if warmup != SCHEDULES[0][1]:
        name += f", warm-up {warmup}"
      labels = {"epochs": name, "base rate": rate}
      points.append(plan.probed(scale, labels, run, epochs))
  draw = functools.partial(
    figures.score_curves,
    x="base rate",
    x_label="base learning rate (lines: epochs)",
    group="epochs",
    log_x=True,
  )
  title = "Learning rates and schedules: section 5.4.1"
  return plan.Suite(title, points, draw)
