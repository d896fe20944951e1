"""Figure B.1 and table B.1: VICReg's batch size, 1,000 epochs.

    python -m vicreg_jax.suite --suite=configs/suites/batch_size.py \
        --workdir=runs/study
"""

import functools

from vicreg_jax import study, suite_plots, thesis


def get_suite(scale):
  points = []
  for batch_size in study.BATCH_SIZES:
    run = study.pretrain(scale, "VICReg", batch_size=batch_size)
    labels = {"method": "VICReg", "batch size": scale.batch_size(batch_size)}
    published = thesis.TABLE_B_1[batch_size,]
    points.append(study.probed(scale, labels, run, 1000, published))
  draw = functools.partial(
    study.draw_rows,
    suite_plots.score_curves,
    x="batch size",
    x_label="batch size",
    group="method",
  )
  return study.Suite("Batch size: figure B.1 and table B.1", points, draw)
