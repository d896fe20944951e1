"""Pretrain on your own folder of music, and probe its sub-folders as classes.

    python -m vicreg_jax.main --config=configs/folder.py --workdir=runs/mine \
        --config.data.path=DIR

Expected time: for 150 clips of 30 s 5 minutes on two cores.
Expected result: a table of all probes, trained against untrained and MFCCs,
with accuracy and intervals over tracks; figures for four game soundtracks are
in BUILD_NOTES.md.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_clmr()
  config.data.name = "folder"
  config.model.width = 0.25
  config.model.representation_size = 128
  config.model.projector = (128, 128)
  config.dtype = "float32"
  config.batch_size = 64
  config.epochs = 120
  config.loss.temperature = 0.1
  config.optim.learning_rate = 1e-3
  config.optim.schedule = "cosine"
  config.optim.warmup_epochs = 5.0
  config.augment.pitch.p = 0.0
  config.augment.reverb.p = 0.0
  config.log_every_steps = 10
  config.eval_every_epochs = 20.0
  config.checkpoint.every_epochs = 20.0
  config.probe_after = True
  config.probe.heads = ("linear", "mlp", "logistic", "knn")
  config.probe.batch_size = 32
  config.probe.distinct_crops = 16
  return config
