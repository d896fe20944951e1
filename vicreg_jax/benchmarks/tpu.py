"""The recipes of FMA medium on a TPU v3-8: hours, and which side holds up.

The device's side is the TPU compiler's own estimate of a step
(`python -m vicreg_jax.aot`), the host's the CPU time of the whole input
pipeline a view on one core of this machine, over the TPU host's 96 cores.

`diagnostics_share` is what the suites' diagnostics of collapse cost: the host's
CPU time for representations and embeddings of a recipe, as a share of the
device's time between them if a tenth of the host's cores is at work.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from vicreg_jax.benchmarks import pipeline
from vicreg_jax.benchmarks.support import timing
from vicreg_jax.data.augment_config import VIEWS
from vicreg_jax.evaluation import metrics
from vicreg_jax.study import plan

RECIPES = ("vicreg_fma", "clmr_fma")
CLIPS, EPOCHS, HOST_CORES = 25_000, 1_000, 96
DIMENSIONS = {"vicreg_fma": (512, 8196), "clmr_fma": (512, 128)}
CAVEAT = (
  "Estimates, nothing was run on a TPU: device_hours is the compiler's own"
  " estimate of a step, which leaves out waiting between chips and on the host;"
  " host_hours extrapolates one core of this machine to 96 of the TPU's host,"
  " as if they were as fast and scaled without loss."
)


def add_arguments(parser):
  """The benchmark's own flags."""
  parser.add_argument("--configs", type=pathlib.Path, default="configs")
  parser.add_argument("--topology", default="v3-8")
  parser.add_argument("--clips", type=int, default=256, help="read by the host")


def run(args) -> timing.Report:
  """Both recipes."""
  if importlib.util.find_spec("libtpu") is None:
    return timing.Report({}, ["left out: there is no libtpu"])
  with tempfile.TemporaryDirectory() as directory:
    host = pipeline.one_core(directory, args.clips, 16, args.repeats)
    milliseconds = host["cpu_ms_per_view"]["median"]
    results = {"host": {"cpu_ms_per_view": host["cpu_ms_per_view"]}}
    for recipe in RECIPES:
      estimate = _compile(args.configs / f"{recipe}.py", args, directory)
      results[recipe] = combine(estimate, milliseconds)
      if "device_hours" in results[recipe]:
        results[recipe] |= diagnostics(
          DIMENSIONS[recipe], results[recipe]["device_hours"], args.repeats
        )
  return timing.Report(results, [CAVEAT])


def combine(estimate: dict, cpu_ms_per_view: float) -> dict:
  """Hours of 1,000 epochs by aot's estimate and the host's CPU time a view.

  There is none of a step that does not fit into the devices' memory, nor for
  chips that the compiler knows no times of.
  """
  if "optimal_seconds" not in estimate:
    return {"fits": bool(estimate["fits"])}
  clips = CLIPS // estimate["global_batch"] * estimate["global_batch"] * EPOCHS
  device = clips / estimate["clips_per_second"] / 3600
  host_s = clips * VIEWS * cpu_ms_per_view / 1e3
  host = host_s / HOST_CORES / 3600
  return {
    "fits": bool(estimate["fits"]),
    "step_s": estimate["optimal_seconds"],
    "device_clips_per_s": estimate["clips_per_second"],
    "host_clips_per_s": 1e3 * HOST_CORES / cpu_ms_per_view / VIEWS,
    "device_hours": device,
    "host_hours": host,
    "hours": max(device, host),
    "bottleneck": "device" if device >= host else "host",
  }


def diagnostics(dimensions, device_hours, repeats) -> dict:
  """CPU time of a recipe's diagnostics, and their share of training time.

  Args:
    dimensions: of representations and embeddings.
    device_hours: of 1,000 epochs.
    repeats: how often it is measured.
  """
  rng = np.random.default_rng(0)
  shapes = [(plan.DIAGNOSED_CLIPS, d) for d in dimensions]
  outputs = [rng.standard_normal(shape, np.float32) for shape in shapes]
  times = [
    timing.clock(lambda: [metrics.collapse(z_NxD) for z_NxD in outputs])
    for _ in range(repeats)
  ]
  cpu = timing.spread([t.cpu for t in times])
  between = device_hours * 3600 * plan.DIAGNOSED_EPOCHS / EPOCHS
  share = cpu["median"] / (HOST_CORES / 10) / between
  return {"diagnostics_cpu_s": cpu, "diagnostics_share": share}


def _compile(config, args, directory) -> dict:
  out = os.path.join(directory, f"{config.stem}.json")
  subprocess.run(
    [sys.executable, "-m", "vicreg_jax.aot", f"--config={config}"]
    + [f"--topology={args.topology}", f"--json={out}"],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=sys.stderr,
    check=True,
  )
  return json.loads(pathlib.Path(out).read_text())
