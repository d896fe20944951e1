"""The command line: configs, the README's commands, and bad input."""

import functools
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile
import warm
from absl import flags
from music import write_sines

from vicreg_jax import __main__ as verbs
from vicreg_jax import checks, config_limits, main, messages
from vicreg_jax import config as configs
from vicreg_jax.training import steps

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
# Clips that each data set trains on, where it is not made by the test.
NUM_CLIPS = {"fma": 25_000, "gtzan": 930, "magnatagatune": 18_709}
FOLDERS = {"starter": 1_418}  # of a config, clips of its folder; else 100


def load(path):
  spec = importlib.util.spec_from_file_location("a_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def run_main(*flags):
  return subprocess.run(
    [sys.executable, "-m", "vicreg_jax.main", *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,  # also on a busy machine
  )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_loads_validates_and_traces(path):
  module = load(path)
  config = module.get_config()
  for part in (
    f"python -m vicreg_jax.main --config=configs/{path.name}",
    "Expected time:",
    "Expected result",
  ):
    assert part in module.__doc__
  if "checkpoint" in config and config.job not in configs.TRAINING:
    config.checkpoint = "runs/some"
  config_limits.validate(config)
  if config.job not in configs.TRAINING:
    return
  folder = FOLDERS.get(path.stem, 100)
  clips = NUM_CLIPS.get(config.data.name, folder)
  tx = steps.make_optimizer(config, configs.durations(config, clips))
  init = functools.partial(steps.init_state, config, tx)
  step = functools.partial(steps.train_step, config, tx)
  shape = (config.batch_size, 2, config.data.crop)
  batch = jax.ShapeDtypeStruct(shape, np.float32)
  if config.job == "supervised":
    init = functools.partial(steps.init_supervised, config, tx, 50)
    step = functools.partial(steps.supervised_step, config, tx, False)
    crops = jax.ShapeDtypeStruct(shape[::2], np.float32)
    batch = crops, jax.ShapeDtypeStruct((config.batch_size, 50), np.uint8)
  state = jax.eval_shape(init)
  after, scalars = jax.eval_shape(step, state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert scalars["loss"].dtype == np.float32


def test_recipes_of_the_thesis():
  """Table 3.1 and section 3.3, as DESIGN's facts have them."""
  vicreg = load(ROOT / "configs/vicreg_fma.py").get_config()
  assert (vicreg.batch_size, vicreg.epochs) == (768, 1000)
  assert tuple(vicreg.model.projector) == (8196, 8196, 8196)
  d = configs.durations(vicreg, 25_000)
  assert (d.per_epoch, d.total, d.warmup) == (32, 32_000, 320)
  rate = steps.make_schedule(vicreg, d)
  assert rate(320) == pytest.approx(0.2 * 768 / 256)
  assert rate(32_000) == pytest.approx(0.6 * 0.001, rel=1e-4)
  clmr = load(ROOT / "configs/clmr_fma.py").get_config()
  rate = steps.make_schedule(clmr, configs.durations(clmr, 25_000))
  assert (clmr.batch_size, rate(0), rate(9999)) == (256, 3e-4, 3e-4)
  assert clmr.loss.temperature == 0.5
  labels = load(ROOT / "configs/supervised_mtat.py").get_config()
  d = configs.durations(labels, NUM_CLIPS["magnatagatune"])
  assert (labels.batch_size, d.per_epoch, d.eval_every) == (48, 389, 389)
  rate = steps.make_schedule(labels, d)
  assert (labels.model.dropout, rate(0), rate(9999)) == (0.5, 3e-4, 3e-4)


@pytest.mark.slow
def test_two_steps_and_a_probe_by_command(data_dir, tmp_path):
  done = warm.run_command(
    tmp_path,
    "--config=configs/quickstart.py",
    f"--workdir={tmp_path}",
    f"--config.data.dir={data_dir}",
    "--config.data.sizes=(16,6,8)",
    "--config.data.clip_seconds=0.5",
    "--config.batch_size=4",
    "--config.steps=2",
    "--config.data.crop=243",
    "--config.model.blocks=4",
    "--config.model.width=0.0625",
    "--config.probe.max_epochs=2",
    '--config.probe.heads=("linear","mlp")',
  )
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / "probe.json").read_text())
  assert f"{results['linear']['roc_auc']:.2f}" in done.stdout
  assert f"{results['untrained_mlp']['pr_auc']:.2f}" in done.stdout
  for name in ("loss_terms.png", "per_tag_auc.png"):
    assert str(tmp_path / "figures" / name) in done.stdout
  few = ["--config.probe.max_epochs=2", "--config.probe.untrained=False"]
  for job, run in (
    ("probe", functools.partial(warm.run_command, tmp_path)),
    ("embed", run_main),  # imports and all: what they print is noise, too
  ):
    done = run(
      f"--config=configs/{job}.py",
      f"--workdir={tmp_path}/new/{job}",
      f"--config.checkpoint={tmp_path}",
      "--config.data.name=synthetic",
      f"--config.data.dir={data_dir}",
      "--config.data.sizes=(16,6,8)",
      "--config.data.clip_seconds=0.5",
      *few[: 2 * (job == "probe")],
    )
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "new" / job / "config.json").read_text())
    assert saved["checkpoint"] == str(tmp_path)
  again = json.loads((tmp_path / "new" / "probe" / "probe.json").read_text())
  assert again["linear"]["roc_auc"] >= 0
  noise = [
    x for x in done.stderr.splitlines() if "Warning" in x or x[:1] == "I"
  ]
  assert not noise


def test_a_device_that_is_held_is_one_line(tmp_path, monkeypatch, capsys):
  """Its exit code is not 1, which babysit.sh takes for the program's own."""

  def held():
    raise RuntimeError("The TPU is already in use by process 7.\nNot now")

  monkeypatch.setattr(jax, "devices", held)
  soundfile.write(tmp_path / "a.wav", np.zeros(99), 22_050)
  out = f"--output={tmp_path}/out"
  with pytest.raises(SystemExit) as ended:
    verbs.main(["embed", "starter", str(tmp_path), out])
  assert ended.value.code == 69
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: no device can be used (The TPU is already in")
  assert "process 7. Not now" in line and "remove /tmp/libtpu_lockfile" in line


def test_a_bad_flag_is_one_line_of_the_command(tmp_path):
  done = run_main("--config=configs/nowhere.py", f"--workdir={tmp_path}")
  assert done.returncode != 0
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--config.nonsense=3"], r"^error: --config.nonsense=3: .*no such key"),
    (["--config.batchsize=3"], r"no such key \(did you mean batch_size\?\)"),
    (["--config.batch_size.x=3"], r"^error: --config.batch_size.x=3"),
    (["--config=configs"], r"^error: .*configs is a folder: .*quickstart.py"),
    (["--config.job=probe"], r"job=probe needs epoch, step"),
    (["--config.model.x=3"], r"^error: --config.model.x=3: .*no such key"),
    (["--config=configs/nowhere.py"], r"nowhere.py is not there: .*folder.py"),
    (["--config.data.name=fmaa"], r"data.name.*'fmaa'.*folder.*synthetic"),
    (["--config.model.width=wide"], r"width"),
    (["--config.batch_size=0"], r"batch_size is 0"),
    (["--config.model[0]x=3"], r"^error: Could not parse 'model\[0\]x' as a"),
  ],
)
def test_a_bad_flag_is_one_line(tmp_path, flags, message):
  done = warm.run_command(
    tmp_path, "--config=configs/quickstart.py", f"--workdir={tmp_path}", *flags
  )
  assert done.returncode != 0
  assert re.search(message, done.stderr)
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
  "name, code, message",
  [
    ("quickstrat.py", None, r"quickstrat.py is not there: did you mean quicks"),
    ("no/where.py", None, r"is not there, nor is the folder .*/no"),
    ("none.py", "x = 1", r"none.py has no get_config"),
    ("a.py", "def get_config(:", r"a.py cannot be run: SyntaxError.*line 1"),
    ("b.py", "\nimport nowhere", r"b.py cannot .* line 2: ModuleNotFoundErr"),
    ("c.py", "get_config = lambda: {}['x']", r"line 1: KeyError: 'x'"),
    ("d.py", "get_config = lambda: int('x')", r"line 1: ValueError: invalid"),
    ("e.py", "get_config = dict", r"e.py: get_config returns dict"),
    ("f.py", "get_config = 3", r"f.py cannot be run: TypeError"),
    ("g.py", "\0", r"g.py cannot be run: "),
  ],
)
def test_a_config_that_cannot_be_run_is_one_line(tmp_path, name, code, message):
  (tmp_path / "quickstart.py").touch()
  if code is not None:
    (tmp_path / name).write_text(code)
  with pytest.raises(flags.IllegalFlagValueError, match=message) as caught:
    flags.FLAGS["config"].parser.parse(str(tmp_path / name))
  assert str(caught.value).startswith(f"--config={tmp_path}/{name}")
  assert "\n" not in messages.line(caught.value)


def test_a_config_may_have_dataclasses_and_an_argument(tmp_path):
  (tmp_path / "a.py").write_text("""
from __future__ import annotations
import dataclasses
from vicreg_jax import config

@dataclasses.dataclass
class Mine:
  number: int

def get_config(seed):
  c = config.base_probe()
  c.seed = Mine(int(seed)).number
  return c
""")
  config = flags.FLAGS["config"].parser.parse(f"{tmp_path}/a.py:7")
  assert config.seed == 7 and config.is_locked


def error_of(config, workdir):
  """The one line that a person sees."""
  with pytest.raises(ValueError) as caught:
    main.run(config, str(workdir))
  assert messages.ours(caught.value)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.fixture
def folder(small, tmp_path):
  small.data.name = "folder"
  small.data.path = str(tmp_path / "music")
  return small


def test_missing_path(folder, tmp_path):
  message = error_of(folder, tmp_path / "w")
  assert "data.path" in message and folder.data.path in message


@pytest.mark.parametrize("name", sorted(NUM_CLIPS))
def test_official_data_that_are_nowhere(folder, tmp_path, name):
  folder.data.name, folder.data.path = name, ""
  folder.data.dir = str(tmp_path / "prepared")
  message = error_of(folder, tmp_path / "w")
  assert f"{tmp_path}/prepared/{name} none is prepared" in message
  assert "set data.path" in message


def test_checkpoint_that_is_none(data_dir, tmp_path):
  config = configs.base_probe()
  config.data.name = "synthetic"
  assert "checkpoint is not set" in error_of(config, tmp_path)
  config.checkpoint = str(tmp_path / "nowhere")
  assert f"{tmp_path}/nowhere: there is no such model" in error_of(
    config, tmp_path
  )
  (tmp_path / "config.json").write_text('{"job": "probe"}')
  config.checkpoint = str(tmp_path)
  assert "not a training's" in error_of(config, tmp_path)
  (tmp_path / "config.json").write_text('{"job": ')
  assert "config.json cannot be read" in error_of(config, tmp_path)
  quickstart = load(ROOT / "configs/quickstart.py").get_config()
  (tmp_path / "config.json").write_text(quickstart.to_json())
  assert "there is no checkpoint" in error_of(config, tmp_path)
  (tmp_path / "checkpoints" / "7").mkdir(parents=True)
  assert "7 is damaged: manifest.json is missing" in error_of(config, tmp_path)
  config.step = 8
  assert "step=8: " in error_of(config, tmp_path)


def test_probe_without_labels(folder, data_dir, tmp_path):
  write_sines(tmp_path / "music", 14, 100, seconds=0.2)
  folder.probe_after = True
  message = error_of(folder, tmp_path / "w")
  assert "has no labels" in message and "--config.data.csv" in message
  assert not (tmp_path / "w").exists()  # it said so before it trained


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("model.blocks", 3, r"data.crop is 243, .*data.crop=81"),
    ("loss.name", "byol", r"loss.name is 'byol'; use one of vicreg, nt_xent"),
    ("loss.convention", "mine", r"loss.convention.*release, paper"),
    ("optim.name", "sgd", r"optim.name.*lars, adam"),
    ("optim.learning_rate", 0.0, r"optim.learning_rate is 0.0"),
    ("optim.learning_rate", float("nan"), r"optim.learning_rate is nan"),
    ("dtype", "float16", r"dtype.*float32, bfloat16"),
    ("job", "train", r"job is 'train'; use one of pretrain"),
    ("train_splits", ("train", "valid"), r"eval_every_epochs=0"),
    ("train_splits", ("training",), r"train_splits.*train, valid, test"),
    ("augment.pitch.p", 1.5, r"augment.pitch.p"),
    ("probe.plateau_factor", 1.0, r"probe.plateau_factor"),
    ("probe.heads", (), r"probe.heads is \(\); name one or more"),
    ("probe.heads", ("svm",), r"probe.heads is \('svm',\); use one of linear"),
    ("model.projector", (), r"model.projector"),
    ("seed", -1, r"seed is -1"),
    ("optim.momentum", 1.0, r"optim.momentum is 1.0; .* below 1"),
    ("train_splits", ("train", "train"), r"train_splits.*each once"),
    ("data.subset", "tiny", r"data.subset is 'tiny'.*medium, large, full"),
    ("data.split_set", "all", r"data.split_set is 'all'.*filtered, full"),
    ("data.convention", "top", r"data.convention is 'top'.*all, tagged"),
    ("data.tags", "top10", r"data.tags is 'top10'.*top50, genre, instrument"),
    ("data.target", "note", r"data.target is 'note'.*pitch, family"),
    ("data.sample_rate", 999, r"data.sample_rate is 999; .* at least 1000"),
    ("data.sizes", (1, 2), r"data.sizes is \(1, 2\)"),
    ("data.dir", "a\0b", r"data.dir is 'a\\x00b'; it must be text"),
    ("batch_size", 2**31, r"batch_size is 2147483648.*at most 2147483647"),
    ("model.projector", (1.5, 2), r"model.projector.*each .* a whole number"),
    ("optim.learning_rat", 0.1, r"no such key \(did you mean optim.learning_r"),
    ("loss.eps", float("inf"), r"loss.eps is inf"),
    ("epochs", None, r"epochs is None"),
  ],
)
def test_impossible_configs(small, tmp_path, key, value, message):
  with small.unlocked():
    *path, last = key.split(".")
    node = small
    for part in path:
      node = node[part]
    node[last] = value
  assert re.search(message, error_of(small, tmp_path))


def test_every_number_has_its_limits():
  """And every name of the limits is a key."""
  keys = {}
  for job in configs.JOBS:
    keys |= dict(checks.flat(getattr(configs, f"base_{job}")()))
  assert config_limits.LIMITS.keys() <= keys.keys()
  unlimited = {
    key
    for key, value in keys.items()
    if type(value) in (int, float) and key not in config_limits.LIMITS
  }
  # Of an encoder's checkpoint, -1 for none; epochs do not count beside steps.
  assert unlimited == {"step", "epoch", "epochs"}
