"""Estimates of a training by the TPU's compiler, without a TPU.

`vicreg_jax/aot.py` explains the compiler's figures.
"""

import dataclasses
import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.data import device_augment
from vicreg_jax.data.augment_config import VIEWS
from vicreg_jax.training import checkpoint, steps
from vicreg_jax.use import encoder as encoders

# For libtpu: no search for a TPU on this machine, and no lock on the library,
# which a second compilation may need.
SETTINGS = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v3-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
GIB = 2**30
# The host's side: threads of a v3-8's host, and CPU time of one of ours.
HOST_THREADS_A_DEVICE, HOST_MS_A_VIEW = 12, 2.7
NO_ESTIMATE = "the compiler has none for this chip"


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of JAX device. On v2 to v4 it is a core, half a chip.

  From the pages "TPU v2" to "TPU v6e" of cloud.google.com/tpu/docs: memory and
  bfloat16 peak of a chip, halved where a chip has two devices.
  """

  hbm_gib: float
  peak_tflops: float


CHIPS = {
  "TPU v2": Chip(8, 22.5),
  "TPU v3": Chip(16, 61.5),
  "TPU v4": Chip(16, 137.5),
  "TPU v5 lite": Chip(16, 197.0),
  "TPU v5": Chip(95, 459.0),
  "TPU v6 lite": Chip(32, 918.0),
}
# {Google Cloud's name: the compiler's name}.
TOPOLOGIES = {
  "v2-8": "v2:2x2",
  "v3-8": "v3:2x2",
  "v3-32": "v3:4x4",
  "v4-8": "v4:2x2x1",
  "v5e-8": "v5e:2x4",
  "v5p-8": "v5p:2x2x1",
  "v6e-8": "v6e:2x4",
}


def devices_of(topology: str) -> Mesh:
  """The mesh of a topology's devices, which are descriptions only.

  Raises:
    ValueError: libtpu is missing, or knows no such topology.
  """
  os.environ.update(SETTINGS)
  name = TOPOLOGIES.get(topology, topology)
  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=name
    ).devices
  except (RuntimeError, ValueError) as e:
    if "INVALID_ARGUMENT" in str(e):
      raise ValueError(
        f"--topology={topology}: the compiler has no such topology; use one of"
        f" {', '.join(TOPOLOGIES)}, or a name as v3:4x4"
      ) from e
    raise ValueError(
      "the TPU's compiler cannot be loaded"
      f" ({str(e).splitlines()[0][:200]}): pip install -e '.[aot]', on Linux"
    ) from e
  return Mesh(np.asarray(described), ("data",))


def train_program(config, clips: int, devices: Mesh):
  """The lowered train step of a config on a mesh."""
  durations = configs.durations(config, clips)
  tx = steps.make_optimizer(config, durations)
  state = checkpoint.abstract(
    jax.eval_shape(lambda: steps.init_state(config, tx)),
    mesh.replicated(devices),
  )
  shape = config.batch_size, VIEWS, config.data.crop
  views = jax.ShapeDtypeStruct(
    shape, jnp.float32, sharding=mesh.batch_sharding(devices)
  )
  return steps.jit_train_step(config, tx, devices).lower(state, views)


def augment_program(config, devices: Mesh):
  """The lowered augmentation of a batch, ahead of the train step."""
  import tensorflow as tf

  from vicreg_jax.data import input_pipeline

  draw = functools.partial(
    input_pipeline.draw_for_device, chain=config.augment.to_dict()
  )
  specs = tf.function(draw).get_concrete_function(tf.TensorSpec([2], tf.int64))

  def batched(type_, shape):
    return jax.ShapeDtypeStruct(
      (config.batch_size, VIEWS, *shape),
      type_,
      sharding=mesh.batch_sharding(devices),
    )

  draws = jax.tree.map(
    lambda spec: batched(spec.dtype.as_numpy_dtype, spec.shape),
    specs.structured_outputs,
  )
  pcm_BxVxT = batched(jnp.int16, [config.data.crop])
  return device_augment.jit_augment(config, devices).lower((pcm_BxVxT, draws))


def embed_program(config, devices: Mesh):
  """The lowered step of embedding, on crops as in probing."""
  batch = config.probe.encode_batch_size
  x_BxT = jax.ShapeDtypeStruct(
    (batch, config.data.crop),
    jnp.float32,
    sharding=mesh.batch_sharding(devices),
  )
  variables = encoders.abstract_encoder(config, devices)
  return encoders.jit_encode(config, devices).lower(variables, x_BxT)


def report(lowered, devices: Mesh, batch: int) -> dict:
  """The compiler's estimates for a program with `batch` clips a call."""
  kind = devices.devices.flat[0].device_kind
  if kind not in CHIPS:
    raise ValueError(f"--topology: no figures for {kind} in tpu_estimate.CHIPS")
  chip = CHIPS[kind]
  about = {
    "devices": devices.size,
    "device_kind": kind,
    "global_batch": batch,
    "hbm_bytes": int(chip.hbm_gib * GIB),
  }
  try:
    program = lowered.compile()
  except RuntimeError as e:
    found = re.search(r"Used ([\d.]+)([MG]) of [\d.]+[MG] hbm", str(e))
    if not found:
      raise
    used = float(found[1]) * (GIB if found[2] == "G" else 2**20)
    return about | {"fits": False, "peak_bytes": int(used)}
  cost, peak = program.cost_analysis(), peak_bytes(program)
  seconds = cost["optimal_seconds"]
  cycles = re.findall(r'"estimated_cycles":"(\d+)"', program.as_text())
  about |= {
    "fits": peak <= about["hbm_bytes"],
    "peak_bytes": peak,
    "scheduled_cycles": sum(map(int, cycles)),
    "flops": cost["flops"],
    "bytes_accessed": cost["bytes accessed"],
  }
  if seconds <= 0:  # for some chips the compiler adds up marks of "unknown"
    return about
  return about | {
    "optimal_seconds": seconds,
    "clips_per_second": batch / seconds,
    "share_of_peak": cost["flops"] / seconds / (chip.peak_tflops * 1e12),
  }


def peak_bytes(program) -> int:
  """A device's memory for a compiled program and its arguments."""
  memory = program.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )


def estimate(config, topology: str, clips: int) -> dict:
  """The reports of training and of embedding, as one object."""
  devices = devices_of(topology)
  mesh.check_batch(config.batch_size, devices)
  durations = configs.durations(config, clips)
  result = {"topology": topology, "clips": clips, "steps": durations.total}
  lowered = train_program(config, clips, devices)
  result |= report(lowered, devices, config.batch_size)
  threads = HOST_THREADS_A_DEVICE * devices.size
  cpu_seconds = config.batch_size * VIEWS * HOST_MS_A_VIEW / 1e3
  result["host_seconds"] = cpu_seconds / threads
  if "optimal_seconds" in result:
    result["hours"] = result["optimal_seconds"] * durations.total / 3600
  if config.data.augment_on == "device":
    found = estimate_augmentation(config, devices, result)
    result["augmentation"] = found
    if "device_seconds" in found:
      result["hours"] = found["device_seconds"] * durations.total / 3600
  return result


def estimate_augmentation(config, devices: Mesh, step: dict) -> dict:
  """The time and memory that augmentation adds to the step of a report.

  Has the augmentation's seconds, the seconds from step to step, and the faster
  side: the host augments during the step. The memory is that of both programs.
  If it does not fit, or the compiler cannot estimate the chip, the report has
  only the memory.
  """
  whole = report(augment_program(config, devices), devices, config.batch_size)
  peak = whole["peak_bytes"] + step["peak_bytes"]
  found = {"peak_bytes": peak, "fits": peak <= step["hbm_bytes"]}
  if not {"optimal_seconds"} <= whole.keys() & step.keys():
    return found
  # The compiler counts a loop's body once. With half as many views a round,
  # half of this count is missing.
  fewer = config.copy_and_resolve_references()
  for op in device_augment.LOOPS:
    fewer.augment[op].p /= 2
  half = report(augment_program(fewer, devices), devices, config.batch_size)
  once = 2 * (whole["optimal_seconds"] - half["optimal_seconds"])
  seconds = whole["optimal_seconds"] + (device_augment.GOES - 1) * once
  sides = {
    "device": step["optimal_seconds"] + seconds,
    "host": max(step["optimal_seconds"], step["host_seconds"]),
  }
  return found | {
    "optimal_seconds": seconds,
    "device_seconds": sides["device"],
    "faster": min(sides, key=sides.get),
  }


def estimate_embedding(config, topology: str) -> dict:
  """The report of embedding crops with the config's encoder."""
  devices = devices_of(topology)
  batch = config.probe.encode_batch_size
  mesh.check_batch(batch, devices)
  return report(embed_program(config, devices), devices, batch)


def table(result: dict) -> str:
  """The report as text."""
  rows = [
    ("devices", f"{result['devices']} x {result['device_kind']}"),
    ("clips a step", f"{result['global_batch']:,}"),
    (
      "peak memory a device",
      f"{result['peak_bytes'] / GIB:.2f} of {result['hbm_bytes'] / GIB:g} GiB:"
      f" {'fits' if result['fits'] else 'DOES NOT FIT'}",
    ),
  ]
  if "optimal_seconds" in result:
    rows += [
      ("optimal_seconds a step", f"{result['optimal_seconds']:.4f}"),
      ("clips a second", f"{result['clips_per_second']:,.0f}"),
      ("share of the bf16 peak", f"{result['share_of_peak']:.1%}"),
    ]
  elif "flops" in result:
    rows.append(("optimal_seconds a step", NO_ESTIMATE))
  if "flops" in result:
    rows += [
      ("TFLOP a device and step", f"{result['flops'] / 1e12:.3f}"),
      ("GB moved a device and step", f"{result['bytes_accessed'] / 1e9:.1f}"),
      ("scheduler's cycles", f"{result['scheduled_cycles'] / 1e6:.0f} million"),
    ]
  if "host_seconds" in result:
    threads = HOST_THREADS_A_DEVICE * result["devices"]
    took = f"{result['host_seconds']:.4f} s, if {threads} threads take"
    took += f" {HOST_MS_A_VIEW} ms a view each"
    rows.append(("views on the host, beside it", took))
  if "augmentation" in result:
    rows += _augmentation_rows(result["augmentation"])
  if "hours" in result:
    rows.append(
      (f"{result['steps']:,} steps", f"{result['hours']:.2f} hours on the TPU")
    )
  return "\n".join(f"  {name:<28}{value}" for name, value in rows)


def _augmentation_rows(found):
  memory = (
    "memory with augmentation",
    f"{found['peak_bytes'] / GIB:.2f} GiB:"
    f" {'fits' if found['fits'] else 'DOES NOT FIT'}",
  )
  if "optimal_seconds" not in found:
    return [memory]
  return [
    memory,
    ("augmentation a step", f"{found['optimal_seconds']:.4f} s, then the step"),
    ("faster", f"augment_on={found['faster']}"),
  ]
