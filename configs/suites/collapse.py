"""Figure A.1 and section 5.1: does CLMR collapse? 8,000 epochs of both methods.

    python -m vicreg_jax.suite --suite=configs/suites/collapse.py \
        --workdir=runs/study

Losses on FMA and, every 20 epochs, on MagnaTagATune, smoothed over 50 epochs;
and, every 100, what the thesis could only guess at: the effective rank of
representations and embeddings of MagnaTagATune's validation clips, their
spectrum, spread and correlations, beside what the probes make of them.
"""

from vicreg_jax.study import plan, training_figures

DIAGNOSTICS = {
  f"{short} {figure.replace('_', ' ')}": f"{name}/{figure}"
  for name, short in (("representation", "y"), ("embedding", "z"))
  for figure in ("effective_rank", "std", "mean_abs_correlation")
}


def diagnostics(workdir, epoch):
  return plan.last_values(workdir, epoch, DIAGNOSTICS)


def get_suite(scale):
  points = []
  for method in ("CLMR", "VICReg"):
    run = plan.pretrain(scale, method, epochs=plan.EPOCHS[-1])
    for epochs in plan.EPOCHS:
      labels = {"method": method, "epochs": scale.epochs(epochs)}
      points.append(plan.probed(scale, labels, run, epochs))

  def draw(results, out_stem, stamp):
    paths = {
      point.labels["method"]: results.metrics_path(point)
      for point in results.points
    }
    training_figures.losses(
      {"CLMR": paths["CLMR"]},
      f"{out_stem}_losses",
      smooth_epochs=5 if scale.smoke else 50,
      stamp=stamp,
    )
    runs = {
      method: {
        "metrics": path,
        "spectra": plan.spectra(path),
        "scores": [
          (row["labels"]["epochs"], row["scores"])
          for row in results.rows
          if row["labels"]["method"] == method
        ],
      }
      for method, path in paths.items()
    }
    training_figures.collapse(runs, out_stem, stamp=stamp)

  title = "Collapse: figure A.1 and section 5.1"
  return plan.Suite(title, points, draw, measure=diagnostics)
