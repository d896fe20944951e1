"""Figure 4.2 and table A.2: the size of the representation, 1,000 epochs.

    python -m vicreg_jax.suite --suite=configs/suites/representation.py \
        --workdir=runs/study
"""

import functools

from vicreg_jax.study import figures, plan, thesis


def get_suite(scale):
  points = []
  for method in ("VICReg", "CLMR"):
    for size in plan.SIZES:
      run = plan.pretrain(scale, method, size=size)
      labels = {"method": method, "size": scale.width(size)}
      published = thesis.TABLE_A_2[method, size]
      points.append(plan.probed(scale, labels, run, 1000, published))
  draw = functools.partial(
    figures.score_curves,
    x="size",
    x_label="size of the representation",
    group="method",
    log_x=True,
  )
  title = "Size of the representation: figure 4.2 and table A.2"
  return plan.Suite(title, points, draw)
