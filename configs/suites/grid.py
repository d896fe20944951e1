"""Figure B.3: batch size by size of the representation, VICReg, 1,000 epochs.

    python -m vicreg_jax.suite --suite=configs/suites/grid.py \
        --workdir=runs/study

45 runs, of which `batch_size` and `representation` share 13.
"""

import functools

from vicreg_jax.study import figures, plan


def get_suite(scale):
  points = []
  for batch_size in scale.axis(plan.BATCH_SIZES):
    for size in scale.axis(plan.SIZES):
      run = plan.pretrain(scale, "VICReg", batch_size=batch_size, size=size)
      labels = {
        "batch size": scale.batch_size(batch_size),
        "representation size": scale.width(size),
      }
      points.append(plan.probed(scale, labels, run, 1000))
  draw = functools.partial(
    figures.heat_maps,
    x="representation size",
    y="batch size",
  )
  title = "Batch size and size of the representation: figure B.3"
  return plan.Suite(title, points, draw)
