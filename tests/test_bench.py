"""The benchmarks measure what they say."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import vicreg_jax
from vicreg_jax import bench
from vicreg_jax import config as configs
from vicreg_jax.benchmarks import augment, embed, pipeline, step
from vicreg_jax.benchmarks.support import timing
from vicreg_jax.data import audio, augment_config, seeds
from vicreg_jax.data import augment as augment_ops


@pytest.fixture
def music(tmp_path):
  for i in range(3):
    x = np.random.default_rng(i).normal(size=(44_100 * 3, 2)) / 9
    soundfile.write(tmp_path / f"{i}.mp3", x, 44_100)
  (tmp_path / "notes.txt").touch()
  return tmp_path


def results_of(capsys, name, *args):
  bench.main([name, *map(str, args), "--json"])
  report = json.loads(capsys.readouterr().out)
  assert report["benchmark"] == name
  assert report["machine"]["cpus"] == os.cpu_count()
  return report["results"]


def median(figure):
  assert figure["q1"] <= figure["median"] <= figure["q3"]
  return figure["median"]


def test_turns_spreads_and_ratios():
  calls = []
  runs = {
    "ours": lambda: calls.append("ours"),
    "peer": lambda: (calls.append("peer"), time.sleep(0.05)),
  }
  times = timing.take_turns(runs, 2)
  assert calls == ["ours", "peer"] * 2
  assert all(t.wall >= 0.05 and t.cpu < 0.05 for t in times["peer"])
  ours, peer = [1.0, 2.0, 3.0], [4.0, 4.0, 9.0]
  assert timing.speedup(ours, peer) == {"median": 3.0, "q1": 2.5, "q3": 3.5}
  times = {
    name: [timing.Time(1.0, seconds) for seconds in taken]
    for name, taken in (("ours", ours), ("peer", peer))
  }
  rows = timing.compared(times, "ours", lambda taken: {"n": len(taken)}, "cpu")
  ratios = {"median": 3.0, "q1": 2.5, "q3": 3.5}
  assert rows == {"ours": {"n": 3}, "peer": {"n": 3, "speedup_of_ours": ratios}}


@pytest.mark.slow
def test_decode(music, capsys, monkeypatch, plain_librosa):
  load = audio.load

  def slow(path, rate):
    time.sleep(0.8)  # longer than the peer takes on a busy machine
    return load(path, rate)

  monkeypatch.setattr(audio, "load", slow)
  path = f"--path={music}"
  results = results_of(capsys, "decode", path, "--clips=2", "--repeats=1")
  cores = os.cpu_count()
  assert set(results) - {"ffmpeg"} == {
    "audio.load",
    f"audio.load, {cores} threads",
    "librosa.load",
  }
  ours = results["audio.load"]
  # Two clips of 0.8 s and a little; waiting takes no CPU time.
  assert 0 < median(ours["clips_per_s"]) < 1 / 0.8
  assert median(ours["clips_per_cpu_s"]) > 10
  peer = results["librosa.load"]
  assert median(peer["speedup_of_ours"]) == pytest.approx(
    median(ours["clips_per_s"]) / median(peer["clips_per_s"])
  )
  assert median(peer["speedup_of_ours"]) < 1
  if cores > 1:
    threads = results[f"audio.load, {cores} threads"]
    assert median(threads["speedup_of_ours"]) < 1 / 1.2


def tiny(base):
  config = base()
  config.update(dtype="float32", batch_size=6)
  config.data.crop = 243
  config.model.update(
    blocks=4, width=0.0625, representation_size=12, projector=(16, 10)
  )
  config.optim.warmup_epochs = 0.0
  return config


@pytest.mark.slow
@pytest.mark.parametrize("base", [configs.base_pretrain, configs.base_clmr])
def test_trainers_do_the_same_steps(base):
  pytest.importorskip("torch")
  config = tiny(base)
  peers, _ = step.trainers(config)
  del peers["torch.compile"]  # eager's own code; compiling takes half a minute
  assert {"vicreg_jax", "torch"} <= set(peers)
  rng = np.random.default_rng(0)
  for i in range(3):
    views = rng.normal(size=(6, 2, 243)).astype(np.float32)
    losses = {peer: train(views) for peer, train in peers.items()}
    for peer, loss in losses.items():
      # The optimizer's schedule moves ours by little in a made-up epoch.
      assert loss == pytest.approx(losses["vicreg_jax"], rel=2e-3), (i, peer)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["host", "device"])
def test_augment_has_figures_of_every_op(capsys, side):
  args = (f"--on={side}", "--views=4", "--crop=2187", "--repeats=2")
  results = results_of(capsys, "augment", *args)
  for name in (augment.CHAIN, augment.NOTHING, *augment.OPS):
    figures = results[f"{name}: vicreg_jax"]
    if side == "host":
      assert median(figures["cpu_ms_per_view"]) > 0
    else:  # an int16 a sample, and what was drawn
      assert median(figures["ms_per_view"]) > 0
      assert 0 < figures["bytes_per_view_to_device"] - 2 * 2187 < 100
  if side == "host":
    assert ("chain: sox" in results) == bool(shutil.which("sox"))
    assert "noise: sox" not in results


@pytest.mark.slow
def test_gpu_runs_on_a_cpu(music, capsys, monkeypatch):
  trainers = step.trainers

  def without_compiler(config):
    peers, notes = trainers(config)
    peers.pop("torch.compile", None)  # half a minute each
    return peers, notes

  monkeypatch.setattr(step, "trainers", without_compiler)
  size = ("--batch=4", "--blocks=4", "--width=0.0625", "--projector=16")
  flags = ("--cpu", "--steps=4", "--repeats=1", f"--path={music}", "--clips=1")
  results = results_of(capsys, "gpu", *size, *flags, "--memory-gib=0.1")
  for loss in ("vicreg", "nt_xent"):
    for dtype in ("bfloat16", "float32"):
      name = f"step, {loss} in {dtype}: vicreg_jax"
      assert median(results[name]["clips_per_s"]) > 0
  alone = median(results["step, vicreg in bfloat16: vicreg_jax"]["clips_per_s"])
  for side in ("host", "device"):
    training = results[f"training, augmented on {side}"]
    assert median(training["share_of_step"]) == pytest.approx(
      median(training["clips_per_s"]) / alone
    )
  assert median(results["embedding: embed"]["hours_per_hour"]) > 0
  memory = results["memory"]
  most = memory["peak_gib"] + memory["mib_per_clip"] / 1024 * (
    memory["largest_batch"] - 4
  )
  assert memory["largest_batch"] > 4
  assert most == pytest.approx(0.1, rel=0.2)


@pytest.mark.slow
def test_embed(music, capsys, monkeypatch, tmp_path, plain_librosa):
  """Its peer embeds the same, and its commands run."""
  pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  commands, run_command = [], embed._command

  def command(directory, *arguments):
    commands.append(arguments)
    return float(len(commands)), 100.0

  monkeypatch.setattr(embed, "_command", command)
  flags = (f"--path={music}", "--clips=2", "--repeats=1", "--short=3")
  results = results_of(capsys, "embed", *flags)
  ours = median(results["embed"]["clips_per_s"])
  # Three segments of 0.9 s of each clip; hours an hour are seconds a second.
  assert median(results["embed"]["hours_per_hour"]) == pytest.approx(
    ours * 3 * 19_683 / 22_050
  )
  for name in ("encoder alone", "onnxruntime"):
    assert median(results[name]["speedup_of_ours"]) == pytest.approx(
      ours / median(results[name]["clips_per_s"])
    )
  assert median(results["first embedding"]["s"]) == 2.0  # the first compiles
  assert results["short files"]["files_per_s"] == 3 / 3
  path, table = str(music / "0.mp3"), tmp_path / "table"
  for code, *_ in commands[1:]:
    more = [f"--output={table}"] * (code == commands[2][0])
    seconds, peak = run_command(str(tmp_path), code, path, *more)
    assert seconds > 0.5 and 200 < peak < 2000
  assert table.exists()
  encoder = vicreg_jax.load("starter")
  peer = embed.onnxruntime_embed(encoder, str(tmp_path))
  want_D = encoder.embed(path)
  np.testing.assert_allclose(peer(path), want_D, atol=0.02 * want_D.std())


@pytest.mark.skipif(not shutil.which("sox"), reason="sox is not installed")
def test_sox_gets_the_same_draws(tmp_path):
  """One process with a chain for each view gives what the ops give."""
  config = augment_config.default_augment()
  for op in ("noise", "pitch", "filter"):
    config[op]["p"] = 0.0
  views_NxT = augment.make_views(6, 20_000)
  draws = augment.draws_of(config, 6)
  assert len({frozenset(row) for row in draws}) > 2
  for i, (x_T, row) in enumerate(zip(views_NxT, draws)):
    x_T.tofile(tmp_path / "in.f32")
    raw = ["-t", "f32", "-c", "1", "-r", "22050"]
    subprocess.run(
      ["sox", "-V1", "-D", *raw, tmp_path / "in.f32"]
      + [*raw, tmp_path / "out.f32", "trim", "0", "20000s"]
      + augment.sox_effects(row),
      check=True,
    )
    expected = np.fromfile(tmp_path / "out.f32", np.float32)[:20_000]
    seed = seeds.example_seed(0, 0, i, 0)
    y = augment_ops.augment(x_T, seed, config, augment.RATE).numpy()
    error = np.mean((y - expected) ** 2) / np.mean(expected**2)
    assert error < 1e-4, row


@pytest.mark.slow
def test_pipeline(tmp_path):
  config = pipeline._config(str(tmp_path), 8, 4, 4)
  config.data.clip_seconds = 0.2
  pipeline.datasets.prepare(config.data)
  core = sorted(os.sched_getaffinity(0))[:1]
  result = pipeline._by_cores(core, config, 1)["1 core"]
  # Two float32 views of 243 samples.
  assert median(result["bytes_per_clip_to_device"]) == 2 * 243 * 4
  # Of crops alone, two of int16, and some 70 bytes that are drawn.
  bytes_ = median(result["crops_bytes_per_clip_to_device"])
  assert 0 < bytes_ - 2 * 243 * 2 < 200
  assert median(result["crops_views_per_s"]) > median(result["views_per_s"])
  # One core cannot give more CPU time than wall time.
  assert 1e3 / median(result["views_per_s"]) > 0.8 * median(
    result["cpu_ms_per_view"]
  )


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_peak_memory_is_that_of_the_process_alone():
  """Of a small child of a process that holds 300 MiB, and of what it takes."""
  ballast = np.ones(300 * 2**17)
  code = (
    "from vicreg_jax.benchmarks.support import timing; a = timing.peak_mib();"
    "x = bytearray(100 * 2**20); print(a, timing.peak_mib() - a)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True
  )
  before, more = map(float, done.stdout.split())
  assert before < 150 < ballast.nbytes / 2**20
  assert more == pytest.approx(100, abs=5)


def test_errors(tmp_path, capsys):
  for args, message in (
    (["decode", f"--path={tmp_path}"], "holds no audio files"),
    (["decode", "--clips=0"], "must be above 0"),
    (["nonsense"], "use one of decode,"),
  ):
    with pytest.raises(SystemExit) as error:
      bench.main(args)
    assert message in f"{error.value}{capsys.readouterr().err}"


def test_compiled_programs_are_kept_where_that_is_possible(tmp_path):
  code = "import vicreg_jax, jax"
  code += "; print(jax.config.jax_compilation_cache_dir)"

  def cache_dir(**env):
    left = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMP")}
    return subprocess.run(
      [sys.executable, "-c", code],
      env=left | env,
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()

  kept = tmp_path / "cache" / "vicreg_jax" / "xla"
  assert cache_dir(XDG_CACHE_HOME=str(tmp_path / "cache")) == str(kept)
  assert kept.is_dir()
  assert cache_dir(JAX_COMPILATION_CACHE_DIR="/mine") == "/mine"
  (tmp_path / "file").touch()
  assert cache_dir(XDG_CACHE_HOME=str(tmp_path / "file")) == "None"
