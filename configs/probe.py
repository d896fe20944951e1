"""Probe a pretrained encoder on any labelled data set.

    python -m vicreg_jax.main --config=configs/probe.py --workdir=runs/probe \
        --config.checkpoint=runs/quickstart --config.data.name=synthetic

Expected time: on two cores, 30 clips a second and epoch of a narrow encoder
that reads 0.9 s; at most 200 epochs of the training split.
Expected result: runs/probe/probe.json, and a table of the trained against the
untrained encoder and MFCCs, with intervals over tracks.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_probe()
  config.probe.heads = ("linear", "mlp", "logistic", "knn")
  return config
