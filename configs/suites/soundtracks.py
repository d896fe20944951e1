"""VICReg, CLMR, labels, MFCCs and no training, on a folder of music, 3 seeds.

    python -m vicreg_jax.suite --suite=configs/suites/soundtracks.py \
        --workdir=runs/soundtracks --config.data.path=DIR

DIR holds a folder for each class. The same quarter-width encoder of 0.9 s sees
as many clips in every training: 120 epochs, 64 clips each. Each run's log has
intervals over tracks, and means over ten random splits. Expected time: half an
hour on two cores for 154 clips of 30 s. Expected result: figures for four game
soundtracks are in BUILD_NOTES.md.
"""

from vicreg_jax.study import figures, plan

SEEDS = (0, 1, 2)
HEADS = ("linear", "mlp", "logistic", "knn")
EPOCHS = 120
# A third of the thesis's crop, so that nine runs take a laptop no hours.
SHORT = {"data.crop": 19_683, "model.blocks": 8}
SCRATCH = {
  "init_from": "",
  "model.width": 0.25,
  "model.representation_size": 128,
  "model.projector": (128, 128),
  "model.projector_batch_norm": False,
  "optim.learning_rate": 1e-3,
  "augment.filter.p": 0.8,
  "eval_every_epochs": 20.0,
  "checkpoint.every_epochs": 20.0,
  "checkpoint.best_by": "",
  "probe.heads": HEADS,
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


def get_suite(scale):
  points = []
  epochs = scale.epochs(EPOCHS * 10) if scale.smoke else EPOCHS

  def job(name, config, seed, overrides):
    overrides = {"seed": seed, "epochs": epochs} | SHORT | overrides
    workdir = f"runs/{name}-seed{seed}"
    return plan.Job(config, workdir, overrides, work=epochs)

  def add(label, run, heads):
    points.append(plan.Point({"encoder": label}, (run,), heads))

  heads = {head: head for head in HEADS}
  scratch = SCRATCH | {"probe.splits": 10}
  for seed in SEEDS:
    clmr = job("clmr", "folder", seed, scratch)
    add("untrained", clmr, {head: f"untrained_{head}" for head in HEADS})
    add("MFCCs", clmr, {head: f"mfcc_{head}" for head in ("logistic", "knn")})
    labels = job("supervised", "supervised_mtat", seed, LABELS)
    add("with labels", labels, {"linear": "supervised"})
    add("CLMR", clmr, heads)
    vicreg = job("vicreg", "folder", seed, scratch | VICREG)
    add("VICReg", vicreg, heads)

  metrics = ("accuracy", "roc_auc", "pr_auc")
  title = "A folder of music: mean and standard deviation over seeds"
  return plan.Suite(
    title, points, figures.score_dots, metrics=metrics, heads=HEADS
  )
