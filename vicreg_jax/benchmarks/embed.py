"""The `embed` job on a folder of MP3 files: decode included, and apart.

An untrained encoder of the thesis's size, float32, on this machine. Each run
is a job from its start: `folder` decodes, writes the records and embeds;
`prepared` finds the records of the run before. Both compile the encoder.
"""

import os
import tempfile

from vicreg_jax import config as configs
from vicreg_jax.benchmarks import music, timing
from vicreg_jax.data import datasets
from vicreg_jax.jobs import embed, pretrain


def add_arguments(parser):
  """The benchmark's own flags."""
  music.add_arguments(parser)
  parser.add_argument("--width", type=float, default=1.0, help="of the encoder")


def run(args) -> timing.Report:
  """Embeds the folder twice in each round."""
  with music.files(args) as paths, tempfile.TemporaryDirectory() as temporary:
    music.link(paths, f"{temporary}/music")
    checkpoint = f"{temporary}/run"
    _untrained(checkpoint, temporary, args.width)
    folder, prepared = [], []
    clips = 0
    for i in range(args.repeats):
      config = configs.base_embed()
      config.checkpoint = checkpoint
      config.data.update(
        name="folder", path=f"{temporary}/music", dir=f"{temporary}/{i}"
      )
      workdir = os.path.join(temporary, "out")
      folder.append(timing.clock(embed.run, config, workdir))
      prepared.append(timing.clock(embed.run, config, workdir))
      data = config.data.to_dict() | {
        "crop": configs.base_pretrain().data.crop,
        "sample_rate": music.RATE,
      }
      found = datasets.prepare(type(config.data)(data))
      clips = sum(found.num_clips.values())
  decode = [a.wall - b.wall for a, b in zip(folder, prepared)]
  results = {
    "folder": timing.per_second(folder, clips, "clips"),
    "prepared": timing.per_second(prepared, clips, "clips"),
    "decode and write": {"s": timing.spread(decode)},
  }
  results["folder"]["clips"] = clips
  return timing.Report(results, [])


def _untrained(workdir, directory, width):
  """A checkpoint of an encoder after one step of a tiny projector."""
  config = configs.base_clmr()
  config.data.update(name="synthetic", dir=f"{directory}/data")
  config.data.update(sizes=(2, 0, 0), clip_seconds=3.0)
  config.update(batch_size=2, steps=1, dtype="float32", eval_every_epochs=0.0)
  config.model.width = width
  pretrain.run(config, workdir)
