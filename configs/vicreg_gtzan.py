"""The thesis's VICReg on fault-filtered GTZAN: 930 clips, 8,000 epochs.

    python -m vicreg_jax.main --config=configs/vicreg_gtzan.py \
        --workdir=runs/vicreg_gtzan

Expected time: one step an epoch, 8,000 steps; not measured yet.
Expected result, probed by configs/probe_mtat.py (thesis table 4.1): ROC-AUC
80.56, PR-AUC 23.26 linear; 81.33 and 23.32 two-layer.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_pretrain()
  config.data.name = "gtzan"
  # A batch of 768 needs more than the 443 clips of the training split.
  config.train_splits = ("train", "valid", "test")
  config.epochs = 8000
  config.eval_every_epochs = 0.0
  config.checkpoint.every_epochs = 200.0
  return config
