"""The thesis's VICReg on FMA medium: table 3.1, 25,000 clips, 1,000 epochs.

    python -m vicreg_jax.main --config=configs/vicreg_fma.py \
        --workdir=runs/vicreg_fma

Expected time: the thesis took 24 h on a TPU v3-8. Not measured here; the TPU's
compiler estimates 0.6 h (python -m vicreg_jax.aot, see BUILD_NOTES.md).
Expected result, probed on MagnaTagATune by configs/probe_mtat.py (thesis table
B.1, batch 768): ROC-AUC 87.21, PR-AUC 32.56 linear; 88.37 and 34.03 two-layer.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_pretrain()
  config.data.name = "fma"
  # As in the thesis all 25,000 clips are trained on; nothing is held out.
  config.train_splits = ("train", "valid", "test")
  config.eval_every_epochs = 0.0
  return config
