"""Figure B.1 and table B.1: VICReg's batch size, 1,000 epochs.

    python -m vicreg_jax.suite --suite=configs/suites/batch_size.py \
        --workdir=runs/study
"""

import functools

from vicreg_jax.study import figures, plan, thesis


def get_suite(scale):
  points = []
  for batch_size in plan.BATCH_SIZES:
    run = plan.pretrain(scale, "VICReg", batch_size=batch_size)
    labels = {"method": "VICReg", "batch size": scale.batch_size(batch_size)}
    published = thesis.TABLE_B_1[batch_size,]
    points.append(plan.probed(scale, labels, run, 1000, published))
  draw = functools.partial(
    figures.score_curves,
    x="batch size",
    x_label="batch size",
    group="method",
  )
  return plan.Suite("Batch size: figure B.1 and table B.1", points, draw)
