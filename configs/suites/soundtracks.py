r"""Encoders of a folder of music: starter, adapted, from scratch; three seeds.

    python -m vicreg_jax.suite --suite=configs/suites/soundtracks.py \
        --workdir=runs/soundtracks --config.data.path=DIR \
        '--config.data.track_pattern=(.+?)(?:_guitar|_song)?-\d+-\d+'

DIR holds a folder for each class. The pattern says what a song is, where two
files are of one song: here X_guitar-0-30.ogg and X_song-30-60.ogg. The starter
is scored as it is, adapted by configs/folder.py, and trained with the labels; a
quarter-width encoder of the same crop begins from scratch. "linear" and
"logistic" are of one split; the others are means over ten random ones, with no
track in two parts. Their test clips may have been any, so no weights are chosen
by labels: those of the last epoch are taken. With a table that
launch/musicnn_table.py has made, `--config.probe.others=musicnn=TABLE` gives
MusiCNN's row. Expected time: 2.5 hours on two cores for 154 clips of 30 s.
Expected result: figures for four game soundtracks are in BUILD_NOTES.md.
"""

from vicreg_jax.study import figures, plan

SEEDS = (0, 1, 2)
SPLIT = ("linear", "logistic")
SPLITS = ("splits/logistic", "splits/knn")
EPOCHS, LABEL_EPOCHS, ADAPT_EPOCHS = 120, 120, 160
# The starter's: a third of the thesis's crop.
SHORT = {"data.crop": 19_683, "model.blocks": 8}
PROBES = {
  "probe.splits": 10,
  "probe.untrained": False,
  "probe.start": False,
  "probe.mfcc": False,
  # The splits test on clips whose labels would have chosen the weights.
  "checkpoint.best_by": "",
  "eval_every_epochs": 0.0,
}
SCRATCH = {
  "init_from": "",
  "model.width": 0.25,
  "model.representation_size": 128,
  "model.projector": (128, 128),
  "model.projector_batch_norm": False,
  "optim.learning_rate": 1e-3,
  "augment.filter.p": 0.8,
}
VICREG = {
  "loss.name": "vicreg",
  "model.projector": (512, 512, 512),
  "model.projector_batch_norm": True,
}
# 64 clips an epoch; 30 seconds of each of the held-out clips every fourth.
LABELS = {
  "data.name": "folder",
  "dtype": "float32",
  "model.width": 0.25,
  "model.representation_size": 128,
  "batch_size": 32,
  "eval_every_epochs": 4.0,
  "stop_patience": 0,
}
# The head learns alone for ten epochs, then the encoder at a tenth of its rate.
LABELS_FROM_STARTER = LABELS | {
  "init_from": "starter",
  "freeze_epochs": 10.0,
  "optim.encoder_scale": 0.1,
  "model.width": 0.5,
  "model.representation_size": 512,
}


def get_suite(scale):
  points = []

  def job(name, config, seed, epochs, overrides):
    epochs = scale.epochs(epochs * 10) if scale.smoke else epochs
    overrides = {"seed": seed, "epochs": epochs} | SHORT | overrides
    workdir = f"runs/{name}-seed{seed}"
    return plan.Job(config, workdir, overrides, work=epochs)

  def add(label, run, prefix="", heads=(*SPLIT, *SPLITS)):
    parts = (head.rpartition("/") for head in heads)
    names = [f"{of}{slash}{prefix}{head}" for of, slash, head in parts]
    heads = dict(zip(heads, names))
    points.append(plan.Point({"encoder": label}, (run,), heads))

  for seed in SEEDS:
    others = PROBES | {"probe.start": True, "probe.mfcc": True}
    adapted = job("adapted-clmr", "folder", seed, ADAPT_EPOCHS, others)
    add("MFCCs", adapted, "mfcc_", ("logistic", *SPLITS))
    add("MusiCNN", adapted, "musicnn_", ("logistic", *SPLITS))
    scratch = SCRATCH | PROBES
    untrained = scratch | {"probe.untrained": True}
    clmr = job("clmr", "folder", seed, EPOCHS, untrained)
    add("untrained", clmr, "untrained_")
    add("CLMR", clmr)
    vicreg = job("vicreg", "folder", seed, EPOCHS, scratch | VICREG)
    add("VICReg", vicreg)
    add("starter", adapted, "start_")
    add("starter, then CLMR", adapted)
    by_vicreg = PROBES | {"loss.name": "vicreg"}
    adapted = job("adapted-vicreg", "folder", seed, ADAPT_EPOCHS, by_vicreg)
    add("starter, then VICReg", adapted)
    for label, overrides in (
      ("labels", LABELS),
      ("starter, then labels", LABELS_FROM_STARTER),
    ):
      name = label.replace(", then ", "-")
      run = job(name, "supervised_mtat", seed, LABEL_EPOCHS, overrides)
      points.append(
        plan.Point({"encoder": label}, (run,), {"linear": "supervised"})
      )

  title = "A folder of music: mean and standard deviation over seeds"
  return plan.Suite(
    title,
    points,
    figures.score_dots,
    metrics=("accuracy", "roc_auc"),
    heads=(*SPLIT, *SPLITS),
  )
