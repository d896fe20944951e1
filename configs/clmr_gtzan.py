"""The thesis's CLMR on fault-filtered GTZAN: 930 clips, 3,000 epochs.

    python -m vicreg_jax.main --config=configs/clmr_gtzan.py \
        --workdir=runs/clmr_gtzan

Expected time: three steps an epoch, 9,000 steps; not measured yet.
Expected result, probed by configs/probe_mtat.py (thesis table 4.1): ROC-AUC
83.47, PR-AUC 27.20 linear; 85.02 and 28.89 two-layer.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_clmr()
  config.data.name = "gtzan"
  config.train_splits = ("train", "valid", "test")
  config.epochs = 3000
  config.eval_every_epochs = 0.0
  config.checkpoint.every_epochs = 100.0
  return config
