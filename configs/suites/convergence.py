"""Figure 4.1 and table A.1: how both methods go on with more epochs.

    python -m vicreg_jax.suite --suite=configs/suites/convergence.py \
        --workdir=runs/study

VICReg's cosine is laid out over a run, so there is a run for each length. CLMR
trains at a constant rate, so one run has all lengths in it.
"""

import functools

from vicreg_jax.study import figures, plan, thesis


def get_suite(scale):
  points = []
  for method in ("CLMR", "VICReg"):
    for epochs in plan.EPOCHS:
      length = plan.EPOCHS[-1] if method == "CLMR" else epochs
      run = plan.pretrain(scale, method, epochs=length)
      labels = {"method": method, "epochs": scale.epochs(epochs)}
      published = thesis.TABLE_A_1[method, epochs]
      points.append(plan.probed(scale, labels, run, epochs, published))
  draw = functools.partial(
    figures.score_curves,
    x="epochs",
    x_label="epochs of pretraining",
    group="method",
  )
  title = "Convergence: figure 4.1 and table A.1"
  return plan.Suite(title, points, draw)
