"""How few labels are enough: 1 to 100 % of MagnaTagATune's labelled tracks.

    python -m vicreg_jax.suite --suite=configs/suites/label_efficiency.py \
        --workdir=runs/study

An encoder that was trained once without any label, the same untrained, and
MFCCs learn the tags of a share of the tracks by regression and neighbours. With
labels from scratch, SampleCNN is trained on the same share; its own head, a
regression too, stands in that column. Each share lies within the next, and the
clips to validate on and to test are always all of them. Not measured yet.
"""

import dataclasses
import functools

from vicreg_jax import config as configs
from vicreg_jax.study import figures, plan

PERCENT = (1, 5, 10, 25, 100)
SMOKE_PERCENT = (25, 50, 100)  # there is a batch in each, of so few clips
EPOCHS = 3000
HEADS = ("logistic", "knn")  # MFCCs have these


def probe(scale, run, percent):
  job = plan.probed(scale, {}, run, EPOCHS).jobs[-1]
  overrides = {
    "probe.heads": HEADS,
    "probe.untrained": True,
    "probe.label_fraction": percent / 100,
  }
  return dataclasses.replace(
    job,
    workdir=f"{run.workdir}/labels-{percent}",
    overrides=job.overrides | overrides,
  )


def from_scratch(scale, percent):
  """As many steps whatever the share, so the more epochs the smaller it is."""
  job, base = plan.supervised(scale), configs.base_supervised()
  if percent == 100:
    return job
  times = 100 / percent
  overrides = {
    "train_fraction": percent / 100,
    "epochs": round(job.overrides.get("epochs", base.epochs) * times),
    "stop_patience": round(base.stop_patience * times),
    "eval_every_epochs": base.eval_every_epochs * times,
    "checkpoint.every_epochs": base.checkpoint.every_epochs * times,
  }
  return dataclasses.replace(
    job,
    workdir=f"{job.workdir}-labels-{percent}",
    overrides=job.overrides | overrides,
  )


def get_suite(scale):
  run = plan.pretrain(scale, "VICReg", data="MTAT", epochs=EPOCHS)
  points = []
  for percent in SMOKE_PERCENT if scale.smoke else PERCENT:

    def add(encoder, jobs, heads, percent=percent):
      labels = {"encoder": encoder, "labels (%)": percent}
      points.append(plan.Point(labels, jobs, heads))

    jobs = run, probe(scale, run, percent)
    for encoder, prefix in (
      ("VICReg", ""),
      ("untrained", "untrained_"),
      ("MFCCs", "mfcc_"),
    ):
      add(encoder, jobs, {head: prefix + head for head in HEADS})
    scratch = (from_scratch(scale, percent),)
    add("with labels", scratch, {"logistic": "supervised"})
  draw = functools.partial(
    figures.score_curves,
    x="labels (%)",
    x_label="labelled tracks (%)",
    group="encoder",
    log_x=True,
  )
  title = "Label efficiency: scores over the share of the labels"
  return plan.Suite(title, points, draw, heads=HEADS)
