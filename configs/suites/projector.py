"""Table B.2: each method with its own and with the other's projector.

    python -m vicreg_jax.suite --suite=configs/suites/projector.py \
        --workdir=runs/study
"""

from vicreg_jax.study import figures, plan, thesis


def get_suite(scale):
  points = []
  for method in ("CLMR", "VICReg"):
    for projector in ("CLMR", "VICReg"):
      run = plan.pretrain(scale, method, projector=projector)
      labels = {"method": method, "projector": f"{projector} projector"}
      published = thesis.TABLE_B_2[method, projector]
      points.append(plan.probed(scale, labels, run, 1000, published))
  return plan.Suite("Projectors: table B.2", points, figures.score_dots)
