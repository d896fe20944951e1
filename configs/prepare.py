"""Decode a data set once, before any run needs it.

    python -m vicreg_jax.main --config=configs/prepare.py \
        --config.data.name=folder --config.data.path=DIR

For a run whose crop is not 59,049 samples add its --config.data.crop: shorter
clips are left out, so other crops are other data.

Expected time: about 30 MP3 clips of 30 s a second and core.
Expected result: a table of clips, hours and skipped files, and a figure.
"""

from vicreg_jax import config as configs


def get_config():
  return configs.base_prepare()
