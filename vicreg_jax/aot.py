"""Compiles a training for a TPU, without a TPU, and estimates its cost.

    python -m vicreg_jax.aot --config=configs/vicreg_fma.py --topology=v3-8

The TPU's compiler (libtpu, `pip install -e '.[aot]'`) runs on Linux without a
TPU. It compiles the very step that training runs, for the topology's devices,
and its cost model estimates time and memory. The estimate is no measurement:
`optimal_seconds` takes each operation at the speed of the memory or of the
matrix unit, whichever is slower, so a real step takes longer.
`scheduled_cycles` are the scheduler's own, larger estimate; it covers only
fused operations.

The host augments during the step; its time assumes threads as fast as ours
(`tpu_estimate.HOST_MS_A_VIEW`). With --config.data.augment_on=device the
augmentation's program is compiled as well, and compared with the host.
"""

import json
import os
import pathlib

import jax
from absl import app, flags

from vicreg_jax import cli, config_limits
from vicreg_jax import config as configs
from vicreg_jax.data import datasets
from vicreg_jax.study import tpu_estimate

TOPOLOGY = flags.DEFINE_string(
  "topology", "v3-8", "v2-8, v3-8, v3-32, ... or the compiler's name: v3:2x2."
)
JSON = flags.DEFINE_string("json", None, "Also write one JSON object there.")
CLIPS = flags.DEFINE_integer(
  "clips", None, "Training clips; those of the data set if it is published."
)


def _clips(config):
  data, usual = config.data, configs.base_prepare().data
  variants = ("subset", "split_set", "convention", "tags", "split_number")
  clips = CLIPS.value
  entry = datasets.DATASETS.get(data.name)
  if not clips and all(data[key] == usual[key] for key in variants):
    clips = entry and entry.train_clips
  if not clips:
    raise ValueError(
      f"--clips is not set, and this variant of data.name={data.name!r} has no"
      " known size: give the number of training clips, --clips=25000"
    )
  return clips


def _check_writable(path):
  """Raises now rather than after minutes of compiling."""
  directory = os.path.dirname(os.path.abspath(path))
  if not (os.path.isdir(directory) and os.access(directory, os.W_OK)):
    raise ValueError(
      f"--json={path}: {directory} is no directory that can be written to"
    )


def run(config) -> dict:
  """Compiles, prints, and returns what `--json` writes."""
  config_limits.validate(config)
  if config.job != "pretrain":
    raise ValueError(f"job is {config.job!r}: aot compiles job=pretrain")
  topology = TOPOLOGY.value
  print("The compiler's estimate for", topology, "- not a measurement.")
  result = tpu_estimate.estimate(config, topology, _clips(config))
  print("training\n" + tpu_estimate.table(result), flush=True)
  result["embed"] = tpu_estimate.estimate_embedding(config, topology)
  print("embedding\n" + tpu_estimate.table(result["embed"]))
  return result


def _main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
  jax.config.update("jax_platforms", "cpu")  # libtpu only compiles
  # JAX cannot read cached programs for missing devices.
  jax.config.update("jax_enable_compilation_cache", False)
  with cli.errors():
    if JSON.value:
      _check_writable(JSON.value)
    result = run(cli.CONFIG.value)
    if JSON.value:
      pathlib.Path(JSON.value).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(_main, flags_parser=cli.parse)
