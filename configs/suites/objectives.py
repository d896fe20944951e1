"""Five objectives of one encoder: VICReg, Barlow Twins, SIGReg, NT-Xent, DCL.

    python -m vicreg_jax.suite --suite=configs/suites/objectives.py \
        --workdir=runs/study

All have VICReg's projector and 1,000 epochs of FMA. What learns without
negatives has the recipe of VICReg, what contrasts has that of CLMR, with the
values of its paper for the rest: nothing was searched for. VICReg is a run of
`convergence`, NT-Xent one of `projector`.

Beside the probes' scores stand the effective ranks (RankMe) of representations
(y) and embeddings (z), and a second figure has ranks, spread and correlations
over the epochs, and the spectra at the end. Not measured yet.
"""

from vicreg_jax.study import figures, plan, training_figures

METHODS = {
  "VICReg": "VICReg",
  "Barlow Twins": "Barlow Twins",
  "SIGReg": "SIGReg",
  "NT-Xent": "CLMR",
  "DCL": "DCL",
}
EPOCHS = 1000
RANKS = {
  "y RankMe": "representation/effective_rank",
  "z RankMe": "embedding/effective_rank",
}


def ranks(workdir, epoch):
  return plan.last_values(workdir, epoch, RANKS)


def draw(results, out_stem, stamp):
  runs = {}
  for point, row in zip(results.points, results.rows):
    path = results.metrics_path(point)
    spectra = plan.spectra(path)
    runs[point.labels["objective"]] = {
      "metrics": path,
      "spectra": {e: spectra[e] for e in sorted(spectra)[-1:]},
      "scores": [(point.epoch, row["scores"])],
    }
  training_figures.collapse(runs, f"{out_stem}_spectra", stamp=stamp)
  figures.score_dots(results, out_stem, stamp=stamp)


def get_suite(scale):
  points = []
  for name, method in METHODS.items():
    run = plan.pretrain(scale, method, projector="VICReg")
    labels = {"objective": name}
    points.append(plan.probed(scale, labels, run, EPOCHS))
  title = "Objectives: probes, ranks and spectra"
  return plan.Suite(title, points, draw, measure=ranks)
