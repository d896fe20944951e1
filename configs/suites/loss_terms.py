"""Figure B.2: VICReg's three terms over 1,000 epochs, by batch size.

    python -m vicreg_jax.suite --suite=configs/suites/loss_terms.py \
        --workdir=runs/study

The runs are those of `batch_size`; nothing is probed.
"""

from vicreg_jax import study, suite_plots

TERMS = ("invariance", "variance", "covariance")


def last_terms(workdir, epoch):
  keys = {term: f"train/{term}" for term in TERMS}
  return study.last_values(workdir, epoch, keys)


def draw(results, out_stem, stamp):
  runs = {
    point.labels["batch size"]: study.metrics_path(results, point)
    for point in results.points
  }
  suite_plots.loss_terms(runs, out_stem, stamp=stamp)


def get_suite(scale):
  points = []
  for batch_size in study.BATCH_SIZES:
    run = study.pretrain(scale, "VICReg", batch_size=batch_size)
    labels = {"batch size": scale.batch_size(batch_size)}
    points.append(study.Point(labels, (run,), epoch=scale.epochs(1000)))
  title = "Terms of VICReg's loss, at the end: figure B.2"
  return study.Suite(title, points, draw, measure=last_terms)
