"""The thesis's VICReg on MagnaTagATune's training clips: 3,000 epochs.

    python -m vicreg_jax.main --config=configs/vicreg_mtat.py \
        --workdir=runs/vicreg_mtat

Expected time: 24 steps an epoch, 72,000 steps; not measured yet.
Expected result, probed by configs/probe_mtat.py (thesis table 4.1): ROC-AUC
87.86, PR-AUC 34.84 linear; 88.87 and 35.28 two-layer.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_pretrain()
  config.data.name = "magnatagatune"
  config.epochs = 3000
  return config
