"""Table 4.1: what pretraining on each data set is worth on MagnaTagATune.

    python -m vicreg_jax.suite --suite=configs/suites/transfer.py \
        --workdir=runs/study

SampleCNN with labels is trained here; the thesis only cites its scores. Rows
that are cited and not run have no figures of ours.
"""

from vicreg_jax.study import figures, plan, thesis

# Epochs of the thesis's own runs.
RUNS = (
  ("CLMR", "GTZAN", 3000),
  ("CLMR", "FMA", 300),
  ("VICReg", "GTZAN", 8000),
  ("VICReg", "MTAT", 3000),
  ("VICReg", "FMA", 8000),
)


def get_suite(scale):
  points = []
  for (method, data), scores in thesis.CITED.items():
    labels = {"method": f"{method} (cited)", "trained on": data}
    points.append(plan.Point(labels, (), thesis=scores))
  points.append(
    plan.Point(
      {"method": "SampleCNN, with labels", "trained on": "MTAT"},
      (plan.supervised(scale),),
      {"linear": "supervised"},
      thesis.TABLE_4_1["SampleCNN", "MTAT"],
    )
  )
  for method, data, epochs in RUNS:
    run = plan.pretrain(scale, method, data=data, epochs=epochs)
    labels = {"method": method, "trained on": data}
    published = thesis.TABLE_4_1[method, data]
    points.append(plan.probed(scale, labels, run, epochs, published))
  return plan.Suite("Transfer learning: table 4.1", points, figures.score_dots)
