"""The `embed` job: representations of every clip of a data set, as one file.

The verb `embed MODEL FILES`, for any audio files, is in `library/embedding.py`.
"""

import io

import numpy as np

from vicreg_jax import files, mesh
from vicreg_jax.data import input_pipeline
from vicreg_jax.evaluation import metrics, representations
from vicreg_jax.training import workdir as workdirs
from vicreg_jax.use import encoder as encoders

FILE = "embeddings.npz"


def main(config, workdir: str):
  """Embeds, and prints the path of the result."""
  path = run(config, workdir)
  if mesh.is_first_host():
    print("embeddings:", path)


def run(config, workdir: str) -> str:
  """Writes `embeddings.npz`, and returns its path.

  For each split: `<split>_y` [N, D], mean over a clip's segments;
  `<split>_ids` [N]; `<split>_labels` [N, K]; and the names in `labels`.
  """
  devices = mesh.make_mesh()
  encoder = encoders.load(
    config.checkpoint, step=config.step, epoch=config.epoch, devices=devices
  )
  path = f"{workdir}/{FILE}"
  # In a workdir of this job, the file is ours.
  with files.explained(path):
    ours = files.exists(f"{workdir}/{workdirs.CONFIG}")
  files.output(path, "--workdir", overwrite=None, ours=ours)
  prepared = representations.data_for(encoder, config.data)
  workdirs.save_config(config, workdir)
  arrays = {"labels": np.array(prepared.labels, str)}
  for split, count in prepared.num_clips.items():
    y_MxD, clip_M = representations.segments(
      encoder, prepared, split, batch_size=config.batch_size, progress=True
    )
    y_NxD = metrics.mean_over_clip(y_MxD, clip_M, count)
    names = input_pipeline.labels(prepared, split)
    arrays[f"{split}_y"] = y_NxD.astype(np.float32)
    arrays[f"{split}_ids"] = np.array(names.ids)
    arrays[f"{split}_labels"] = names.labels_NxK
  if mesh.is_first_host():
    content = io.BytesIO()
    np.savez(content, **arrays)
    with files.explained(path):
      files.write(path, content.getvalue())
  return path
