"""Figure B.2: VICReg's three terms over 1,000 epochs, by batch size.

    python -m vicreg_jax.suite --suite=configs/suites/loss_terms.py \
        --workdir=runs/study

The runs are those of `batch_size`; nothing is probed.
"""

from vicreg_jax.study import plan, training_figures

TERMS = ("invariance", "variance", "covariance")


def last_terms(workdir, epoch):
  keys = {term: f"train/{term}" for term in TERMS}
  return plan.last_values(workdir, epoch, keys)


def draw(results, out_stem, stamp):
  runs = {
    point.labels["batch size"]: results.metrics_path(point)
    for point in results.points
  }
  training_figures.loss_terms(runs, out_stem, stamp=stamp)


def get_suite(scale):
  points = []
  for batch_size in plan.BATCH_SIZES:
    run = plan.pretrain(scale, "VICReg", batch_size=batch_size)
    labels = {"batch size": scale.batch_size(batch_size)}
    points.append(plan.Point(labels, (run,), epoch=scale.epochs(1000)))
  title = "Terms of VICReg's loss, at the end: figure B.2"
  return plan.Suite(title, points, draw, measure=last_terms)
