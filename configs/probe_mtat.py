"""The thesis's evaluation: 50 tags of MagnaTagATune, linear and two-layer.

    python -m vicreg_jax.main --config=configs/probe_mtat.py \
        --workdir=runs/probe --config.checkpoint=runs/vicreg_fma

Expected time: 18,709 crops an epoch, at most 200 epochs; not measured yet.
Expected result: thesis tables 4.1, A.1 and A.2, by encoder.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_probe()
  config.data.name = "magnatagatune"
  return config
