"""Adapt the starter encoder to your own folder of music, and probe both.

    python -m vicreg_jax.main --config=configs/folder.py --workdir=runs/mine \
        --config.data.path=DIR

By NT-Xent; `--config.loss.name=vicreg` adapts by VICReg. Every 40 epochs
neighbours tell the classes of the clips to validate on, and the weights that
they do best with are kept: those of the starter, if none are better. A folder
without classes needs `--config.checkpoint.best_by=loss` and
`--config.probe_after=False`.

Expected time: for 150 clips of 30 s 10 minutes on two cores, for a thousand an
hour; `--config.epochs=20` makes that as short again.
Expected result: a table of all probes, of the sub-folders as classes: adapted,
starter ("start"), untrained and MFCCs, with intervals over tracks. Labels of
the test clips have no part in the choice of the weights; so random splits, by
`--config.probe.splits=10`, draw the tracks that they test from these alone.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_clmr()
  config.init_from = "starter"
  config.data.name = "folder"
  config.data.crop = 19683  # crop and model are the starter's
  config.model.blocks = 8
  config.model.width = 0.5
  config.model.representation_size = 512
  config.model.projector = (512, 512)  # wide, and normed, for VICReg
  config.model.projector_batch_norm = True
  config.dtype = "float32"
  config.batch_size = 64
  config.epochs = 160
  config.loss.temperature = 0.1
  # Below the starter's: what it knows is to be bent, not forgotten.
  config.optim.learning_rate = 3e-4
  config.optim.schedule = "cosine"
  config.optim.warmup_epochs = 5.0
  config.augment.filter.p = 0.3
  config.augment.pitch.p = 0.0
  config.augment.reverb.p = 0.0
  config.log_every_steps = 10
  config.eval_every_epochs = 40.0
  config.checkpoint.every_epochs = 40.0
  config.checkpoint.best_by = "knn"
  config.probe_after = True
  config.probe.heads = ("linear", "logistic", "knn")
  config.probe.batch_size = 32
  config.probe.distinct_crops = 16
  return config
