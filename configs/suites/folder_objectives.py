"""Five objectives on a folder of music, each from scratch; three seeds.

    python -m vicreg_jax.suite --suite=configs/suites/folder_objectives.py \
        --workdir=runs/soundtracks --config.data.path=DIR

DIR holds a folder for each class. All have one encoder, as narrow as the
quickstart's, one projector, one rate and one number of clips; the rest is that
of each paper. Nothing was searched for. "logistic" is of one split; the others
are means over ten random ones, with no track in two parts. A seed has the same
splits for all. Expected time: 40 minutes on two cores for 154 clips of 30 s.
Expected result: figures for four game soundtracks are in BUILD_NOTES.md.
"""

from vicreg_jax.study import figures, plan

SEEDS = (0, 1, 2)
OBJECTIVES = {
  "VICReg": "vicreg",
  "Barlow Twins": "barlow_twins",
  "SIGReg": "sigreg",
  "NT-Xent": "nt_xent",
  "DCL": "dcl",
}
EPOCHS = 100
HEADS = ("logistic", "splits/logistic", "splits/knn")
RECIPE = {
  "data.crop": 6_561,  # 0.3 s: a third of the time of the starter's
  "model.blocks": 7,
  "model.projector": (512, 512, 512),
  "model.projector_batch_norm": True,
  "model.representation_size": 128,
  "model.width": 0.25,
  "init_from": "",
  "optim.learning_rate": 1e-3,
  "eval_every_epochs": 0.0,
  "checkpoint.best_by": "",
  "probe.heads": ("logistic", "knn"),
  "probe.splits": 10,
  "probe.start": False,
}


def get_suite(scale):
  points = []
  epochs = scale.epochs(EPOCHS * 10) if scale.smoke else EPOCHS
  for seed in SEEDS:
    for label, name in OBJECTIVES.items():
      # One run scores what does not depend on the objective.
      first = label == "VICReg"
      own = {
        "seed": seed,
        "epochs": epochs,
        "loss.name": name,
        "probe.untrained": first,
        "probe.mfcc": first,
      }
      workdir = f"runs/objective-{name}-seed{seed}"
      run = plan.Job("folder", workdir, RECIPE | own, work=epochs)
      also = {"MFCCs": "mfcc_", "untrained": "untrained_"} if first else {}
      for encoder, prefix in (also | {label: ""}).items():
        heads = {}
        for head in HEADS:
          of, slash, probe = head.rpartition("/")
          heads[head] = f"{of}{slash}{prefix}{probe}"
        points.append(plan.Point({"encoder": encoder}, (run,), heads))
  return plan.Suite(
    "Objectives on a folder of music: mean and deviation over seeds",
    points,
    figures.score_dots,
    metrics=("accuracy", "roc_auc"),
    heads=HEADS,
  )
