"""The recipes of FMA medium on a TPU v3-8: hours, and which side holds up.

The device's side is the TPU compiler's own estimate of a step
(`python -m vicreg_jax.aot`), the host's the CPU time of the whole input
pipeline a view on one core of this machine, over the TPU host's 96 cores.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from vicreg_jax import config as configs
from vicreg_jax.benchmarks import pipeline, timing

RECIPES = ("vicreg_fma", "clmr_fma")
CLIPS, EPOCHS, HOST_CORES = 25_000, 1_000, 96
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
  parser.add_argument("--clips", type=int, default=64, help="read by the host")


def run(args) -> timing.Report:
  """Both recipes."""
  for module in ("vicreg_jax.aot", "libtpu"):
    if importlib.util.find_spec(module) is None:
      return timing.Report({}, [f"left out: there is no {module}"])
  with tempfile.TemporaryDirectory() as directory:
    host = pipeline.one_core(directory, args.clips, 16, args.repeats)
    milliseconds = host["cpu_ms_per_view"]["median"]
    results = {"host": {"cpu_ms_per_view": host["cpu_ms_per_view"]}}
    for recipe in RECIPES:
      estimate = _compile(args.configs / f"{recipe}.py", args, directory)
      results[recipe] = combine(estimate, milliseconds)
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
  host_s = clips * configs.VIEWS * cpu_ms_per_view / 1e3
  host = host_s / HOST_CORES / 3600
  return {
    "fits": bool(estimate["fits"]),
    "step_s": estimate["optimal_seconds"],
    "device_clips_per_s": estimate["clips_per_second"],
    "host_clips_per_s": 1e3 * HOST_CORES / cpu_ms_per_view / configs.VIEWS,
    "device_hours": device,
    "host_hours": host,
    "hours": max(device, host),
    "bottleneck": "device" if device >= host else "host",
  }


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
