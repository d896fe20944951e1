"""The recipe of the encoder that `vicreg_jax.load("starter")` gives.

    python launch/starter_corpus.py --output=DIR
    python -m vicreg_jax.main --config=configs/starter.py \
        --workdir=runs/starter --config.data.path=DIR/audio
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_clmr()
  config.data.name = "folder"
  config.model.width = 0.5
  config.model.representation_size = 512
  config.batch_size = 256
  config.epochs = 600
  config.loss.temperature = 0.1
  config.optim.learning_rate = 1e-3
  config.optim.schedule = "cosine"
  config.optim.warmup_epochs = 10.0
  config.augment.filter.p = 0.3
  config.augment.pitch.p = 0.0
  config.augment.reverb.p = 0.0
  config.eval_every_epochs = 50.0
  config.checkpoint.every_epochs = 50.0
  return config
