"""The recipe of the encoder that `vicreg_jax.load("starter")` gives.

    python launch/starter_corpus.py --output=DIR
    python -m vicreg_jax.main --config=configs/starter.py \
        --workdir=runs/starter --config.data.path=DIR/audio

Expected time: 4 minutes on an H200 and 16 cores that train three other encoders
besides, at 2,700 clips/s; two cores take 4.5 hours, at 35 clips/s.
Expected result: what vicreg_jax/use/starter/README.md says.
"""

from vicreg_jax import config as configs


def get_config():
  config = configs.base_clmr()
  config.data.name = "folder"
  # Renderings of a piece, TRACK.1-0-30 and TRACK.2-0-30, are one track.
  config.data.track_pattern = r"(.+?)(?:\.\d)?-\d+-\d+"
  config.data.crop = 19_683  # 0.9 s
  config.model.blocks = 8
  config.model.width = 0.5
  config.model.representation_size = 512
  config.batch_size = 256
  config.steps = 2100  # 175 epochs
  config.loss.temperature = 0.1
  config.optim.learning_rate = 1e-3
  config.optim.schedule = "cosine"
  config.optim.warmup_epochs = 4.0  # 48 steps
  config.augment.filter.p = 0.3
  config.augment.pitch.p = 0.0
  config.augment.reverb.p = 0.0
  config.eval_every_epochs = 0.0
  config.log_every_steps = 10
  config.checkpoint.every_epochs = 20.0
  return config
