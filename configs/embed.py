"""Representations of every clip of a data set, for your own analysis.

    python -m vicreg_jax.main --config=configs/embed.py --workdir=runs/embed \
        --config.checkpoint=runs/quickstart --config.data.name=synthetic

Expected time: seconds for some hundred clips.
Expected result: runs/embed/embeddings.npz, with `<split>_y` [N, D] (mean over a
clip's segments), `<split>_ids`, `<split>_labels` and `labels`.
"""

from vicreg_jax import config as configs


def get_config():
  return configs.base_embed()
