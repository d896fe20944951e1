"""The thesis's supervised SampleCNN, trained with MagnaTagATune's 50 tags.

    python -m vicreg_jax.main --config=configs/supervised_mtat.py \
        --workdir=runs/supervised_mtat

Expected time: 389 steps an epoch, until 20 epochs have brought no lower
validation loss, at most 200; not measured yet.
Expected result (thesis table 4.1, SampleCNN*, which the thesis cites): ROC-AUC
88.6, PR-AUC 34.4.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_supervised()
  config.data.name = "magnatagatune"
  return config
