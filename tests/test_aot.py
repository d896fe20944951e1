"""Needs libtpu, the TPU's compiler; no TPU."""

import inspect
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from absl import flags

pytest.importorskip("libtpu")

from vicreg_jax import aot
from vicreg_jax import config as configs
from vicreg_jax.study import tpu_estimate

pytestmark = pytest.mark.slow

# Of conftest.py. Libtpu does not know all that jaxlib does, and says so.
OURS = "JAX_PLATFORMS", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def as_users_compile():
  """Without a cache too: JAX cannot read programs for devices elsewhere."""
  names = "jax_enable_compilation_cache", "jax_disable_most_optimizations"
  before = [jax.config.values[name] for name in names]
  for name in names:
    jax.config.update(name, False)
  jax.devices()  # jaxlib reads the flags
  with pytest.MonkeyPatch.context() as patch:
    patch.delenv("XLA_FLAGS", raising=False)
    yield
  for name, value in zip(names, before):
    jax.config.update(name, value)


@pytest.fixture
def least_effort():
  """Compiles in a third of the time, to an estimate that differs by 0.1 %."""
  names = "jax_optimization_level", "jax_memory_fitting_level"
  before = [jax.config.values[name] for name in names]
  for name in names:
    jax.config.update(name, "O0")
  yield
  for name, value in zip(names, before):
    jax.config.update(name, value)


def narrow(config, batch_size=64):
  """A recipe that compiles in seconds."""
  config.data.crop = 243
  config.model.blocks = 4
  config.model.width = 0.0625
  config.model.representation_size = 32
  config.batch_size = batch_size
  return config


def vicreg(width, batch_size=64):
  config = narrow(configs.base_pretrain(), batch_size)
  config.model.projector = (48, width)
  return config


def compiled(config, topology="v3-8"):
  return tpu_estimate.train_program(
    config, 1000, tpu_estimate.devices_of(topology)
  ).compile()


def collectives(program):
  """(kind, shapes) of every collective, an array of results at a time."""
  # Of an asynchronous pair, "-start" has operands and result: take "-done".
  kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
  found = re.findall(
    rf"= (.*?) ({kinds})(?:-done)?\(", program.as_text(), re.MULTILINE
  )
  return [
    (kind, shape)
    for result, kind in found
    for shape in re.findall(r"\w+\[[\d,]*\]", result)
  ]


@pytest.fixture(scope="module")
def program():
  return compiled(vicreg(512))


def test_the_embeddings_are_gathered_once_a_view_where_n_is_below_d(program):
  n, d = 64, 512
  found = collectives(program)
  gathered = [s for k, s in found if k == "all-gather"]
  assert gathered == [f"bf16[{n},{d}]"] * 2
  # The gradients of the parameters, statistics, and nothing else: no d x d
  # covariance, no embeddings.
  sums = [s for k, s in found if k == "all-reduce"]
  assert not [s for s in sums if f"{d},{d}]" in s or f"[{n},{d}]" in s]
  assert f"bf16[48,{d}]" in sums  # the last layer's gradient


def test_the_covariance_is_summed_where_n_is_above_d():
  d = 16
  found = collectives(compiled(vicreg(d)))
  assert not [s for k, s in found if k == "all-gather"]
  sums = [s for k, s in found if k == "all-reduce"]
  assert sums.count(f"f32[{d},{d}]") == 2


def test_nt_xent_gathers_all_anchors_once():
  config = narrow(configs.base_clmr())
  config.model.projector = (32, 128)
  found = collectives(compiled(config))
  gathered = [s for k, s in found if k == "all-gather"]
  assert gathered == ["f32[128,128]"]


@pytest.fixture(scope="module")
def result():
  return tpu_estimate.estimate(vicreg(512), "v3-8", 1000)


def test_the_report_is_consistent(result, program):
  assert result["devices"] == 8 and result["device_kind"] == "TPU v3"
  assert result["fits"] and result["hbm_bytes"] == 16 * 2**30
  seconds = result["optimal_seconds"]
  assert result["clips_per_second"] == pytest.approx(64 / seconds)
  assert result["steps"] == 1000 * (1000 // 64)
  assert result["hours"] == pytest.approx(seconds * result["steps"] / 3600)
  share = result["flops"] / seconds / 61.5e12
  assert 0 < result["share_of_peak"] == pytest.approx(share)
  memory = program.memory_analysis()
  assert result["peak_bytes"] > memory.argument_size_in_bytes
  # The views of a device are among the arguments.
  assert memory.argument_size_in_bytes > 64 / 8 * 2 * 243 * 4
  # It stayed a compiler: this process computes on the CPU.
  assert jax.devices()[0].platform == "cpu"


def test_flops_are_those_of_the_layers(result):
  """Forward, and twice that backward, counted from the table of layers."""
  rows, time, channels, flops = 64 * 2 // 8, 81, 8, 0
  flops += rows * time * 3 * channels  # the stem
  for features in (8, 8, 16, 16):
    flops += rows * time * 3 * channels * features
    channels, time = features, time // 3
  flops += rows * (16 * 32 + 32 * 48 + 48 * 512)
  # Two Gram matrices: a device's rows with all, and once more backward.
  gram = 2 * (64 // 8) * 64 * 512
  expected = 2 * 3 * flops + 2 * 2 * gram
  assert result["flops"] == pytest.approx(expected, rel=0.35)


def test_a_chip_without_an_estimate_has_none():
  """The compiler's sum is negative where it knows no times, as for v4."""
  result = tpu_estimate.estimate(vicreg(64, 16), "v4-8", 1000)
  assert result["fits"] and result["flops"] > 0
  assert result.get("optimal_seconds", 1) > 0
  assert ("hours" in result) == ("optimal_seconds" in result)
  told = tpu_estimate.table(result)
  assert (tpu_estimate.NO_ESTIMATE in told) == ("hours" not in result)


def aot_command(*arguments, tmp_path):
  path = tmp_path / "narrow.py"
  path.write_text(f"""
from vicreg_jax import config as configs
{inspect.getsource(narrow)}
{inspect.getsource(vicreg)}
def get_config():
  config = vicreg(512)
  config.data.name = "fma"
  return config
""")
  return subprocess.run(
    [sys.executable, "-m", "vicreg_jax.aot", f"--config={path}", *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
    # As somebody would have it who installed the extra.
    env={k: v for k, v in os.environ.items() if k not in OURS},
  )


def test_the_command_prints_a_table_and_writes_json(tmp_path, result):
  out = tmp_path / "out.json"
  done = aot_command(f"--json={out}", "--clips=1000", tmp_path=tmp_path)
  assert done.returncode == 0, done.stderr
  assert "not a measurement" in done.stdout
  assert "of 16 GiB: fits" in done.stdout
  written = json.loads(out.read_text())
  embed = written.pop("embed")
  assert written == json.loads(json.dumps(result))
  assert embed["fits"] and 0 < embed["flops"] < written["flops"]


def test_an_error_is_one_line(tmp_path):
  done = aot_command("--json=nowhere/out.json", tmp_path=tmp_path)
  assert done.returncode == 1
  (error,) = [x for x in done.stderr.splitlines() if x.startswith("error:")]
  assert re.search("--json=nowhere/out.json: .*/nowhere is no dir", error)
  assert "Traceback" not in done.stderr


def test_errors_name_flag_and_remedy():
  with pytest.raises(ValueError, match=r"--topology=v9-8: .*v3-8"):
    tpu_estimate.devices_of("v9-8")
  with pytest.raises(ValueError, match=r"batch_size is 12, .* 8"):
    tpu_estimate.estimate(vicreg(512, 12), "v3-8", 1000)
  config = vicreg(512)
  flags.FLAGS.mark_as_parsed()
  config.data.name = "fma"
  assert aot._clips(config) == 25_000
  for key, value in (("subset", "small"), ("name", "folder")):
    changed = config.copy_and_resolve_references()
    changed.data[key] = value
    with pytest.raises(ValueError, match="--clips=25000"):
      aot._clips(changed)


@pytest.mark.parametrize(
  "name, clips_a_step, seconds",
  [("vicreg_fma", 768, 0.070), ("clmr_fma", 256, 0.019)],
)
def test_the_recipes_of_the_thesis_fit_a_v3_8(
  name, clips_a_step, seconds, least_effort
):
  """What the README promises; the figures of users' effort are in the notes."""
  scope = {}
  exec((ROOT / "configs" / f"{name}.py").read_text(), scope)
  found = tpu_estimate.estimate(scope["get_config"](), "v3-8", 25_000)
  assert found["global_batch"] == clips_a_step
  assert found["fits"] and found["optimal_seconds"] <= seconds
  assert math.isclose(
    found["clips_per_second"], clips_a_step / found["optimal_seconds"]
  )


def test_augmentation_on_the_device_is_added_to_the_step(least_effort):
  config = vicreg(16)
  config.data.augment_on = "device"
  for op in ("filter", "pitch", "reverb"):  # take minutes to compile
    config.augment[op].p = 0.0
  result = tpu_estimate.estimate(config, "v3-8", 1000)
  step_s, found = result["optimal_seconds"], result["augmentation"]
  both = step_s + found["optimal_seconds"]
  assert found["device_seconds"] == pytest.approx(both)
  # 128 views of 2.7 ms by 96 threads.
  assert result["host_seconds"] == pytest.approx(128 * 2.7e-3 / 96)
  host = max(step_s, result["host_seconds"])
  assert found["faster"] == ("host" if host < both else "device")
  assert result["hours"] == pytest.approx(both * result["steps"] / 3600)
  assert found["peak_bytes"] > result["peak_bytes"] and found["fits"]
  assert f"augment_on={found['faster']}" in tpu_estimate.table(result)
  # All goes of a loop count, beside what its begin and end take.
  config.data.crop, config.batch_size = 19_683, 1024
  devices, times = tpu_estimate.devices_of("v3-8"), []
  for config.augment.noise.p in (0.125, 1.0):
    found = tpu_estimate.estimate_augmentation(config, devices, result)
    times.append(found["optimal_seconds"])
  assert 2 < times[1] / times[0] < 8
