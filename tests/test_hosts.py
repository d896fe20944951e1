"""Two processes of four devices each against one process of eight."""

import json
import os
import re
import socket

import jax
import numpy as np
import pytest
import warm
from conftest import shrink
from runs import lines_of

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.data import datasets, input_pipeline
from vicreg_jax.training import checkpoint, steps

STEPS = 9

# A config file is Python: this one also notes what its process does, and lets
# it have accidents.
CONFIG = """
import os, pathlib, signal, time
import jax
import numpy as np
from test_hosts import tiny
from vicreg_jax import files
from vicreg_jax.data import input_pipeline
from vicreg_jax.data.datasets import base
from vicreg_jax.jobs import pretrain
from vicreg_jax.training import loop

notes = pathlib.Path(os.environ["NOTES"])
workdir = pathlib.Path(os.environ["WORKDIR"])

def note(text):
  with open(notes / "log", "a") as f:
    f.write(text + "\\n")

def noted(function, name):
  def call(first, *args):
    note(f"{name} {first if name == 'write' else ''}")
    return function(first, *args)
  return call

files.write = noted(files.write, "write")
base.ClipBuilder._decode_all = noted(base.ClipBuilder._decode_all, "decode")

def train_views(*args, start_step, **kwargs):
  views = original_views(*args, start_step=start_step, **kwargs)
  for step, batch in enumerate(views, start_step + 1):
    arrays = jax.tree.leaves(batch)
    np.savez(notes / f"views{step}.npz", *arrays)
    yield batch

original_views = input_pipeline.train_views
input_pipeline.train_views = train_views

def record(self, step, scalars):
  original_record(self, step, scalars)
  if f"{step}" == os.environ.get("SIGTERM_AT"):
    os.kill(os.getpid(), signal.SIGTERM)
  if f"{step}" == os.environ.get("SIGKILL_AT"):
    while not (workdir / "checkpoints" / "6").exists():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)

original_record = loop._Loop._record
loop._Loop._record = record

def get_config():
  c = tiny(os.environ["DATA"], os.environ["SIDE"])
  c.checkpoint.every_epochs = 1.0
  c.checkpoint.keep = 9
  c.probe_after = True
  c.probe.max_epochs, c.probe.heads = 2, ("linear",)
  return c
"""


def tiny(data_dir, side):
  """The runs' config, augmented on the host or on the device."""
  config = shrink(configs.base_pretrain(), data_dir)
  config.data.crop, config.model.blocks = 27, 2
  config.data.augment_on = side
  config.model.projector = (12, 10)
  for name, op in config.augment.items():
    op.p = 0.5 * (side == "device" and name in ("noise", "gain", "polarity"))
  config.steps = STEPS
  return config


def start(tmp_path, workdir, name, devices, *flags, **env):
  """A process of its own notes, with so many simulated devices."""
  config = tmp_path / "hooked.py"
  if not config.exists():  # another host may be reading it
    config.write_text(CONFIG)
  notes = tmp_path / name
  notes.mkdir(exist_ok=True)
  env |= {
    "NOTES": str(notes),
    "WORKDIR": str(workdir),
    "DATA": str(tmp_path / "data"),
    "SIDE": tmp_path.name,
  }
  return warm.command(
    f"--workdir={workdir}",
    f"--config={config}",
    *flags,
    out=notes / "stdout",
    err=notes / "stderr",
    env=env | warm.devices(devices),
  )


def run_hosts(tmp_path, workdir, first=None, second=None, flags=()):
  """[(exit code, stdout, stderr)] of two hosts with their environments."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  hosts = [
    start(
      tmp_path,
      workdir,
      f"host{i}",
      4,
      "--multihost",
      f"--coordinator=localhost:{port}",
      "--num_processes=2",
      f"--process_id={i}",
      *(flags if i else ()),
      **(env or {}),
    )
    for i, env in enumerate((first, second))
  ]
  try:
    return [host.wait() for host in hosts]
  finally:
    for host in hosts:
      host.kill()


@pytest.fixture(scope="module", params=["host", "device"])
def runs(tmp_path_factory, request):
  """The two hosts' run, stopped and killed on the way, and one host's."""
  tmp_path = tmp_path_factory.mktemp("hosts") / request.param
  tmp_path.mkdir()
  workdir, alone = tmp_path / "two", tmp_path / "one"
  sigterm = run_hosts(tmp_path, workdir, second={"SIGTERM_AT": "1"})
  saved = sorted(os.listdir(workdir / "checkpoints"))
  death = {"SIGKILL_AT": "8"}
  killed = run_hosts(tmp_path, workdir, death, death)
  ended = run_hosts(tmp_path, workdir)
  one = start(tmp_path, alone, "alone", 8)
  code, output, errors = one.wait()
  assert code == 0, errors
  return {
    "tmp_path": tmp_path,
    "workdir": workdir,
    "alone": alone,
    "sigterm": sigterm,
    "saved": saved,
    "killed": killed,
    "ended": ended,
    "stdout": output,
  }


def config_of(runs):
  tmp_path = runs["tmp_path"]
  return tiny(str(tmp_path / "data"), tmp_path.name)


def state_of(runs, name):
  """Step, and all else that the last checkpoint holds, as one vector."""
  config = config_of(runs)
  tx = steps.make_optimizer(config, configs.durations(config, 24))
  shapes = jax.eval_shape(lambda: steps.init_state(config, tx))
  like = checkpoint.abstract(shapes, mesh.replicated(mesh.make_mesh()))
  with checkpoint.Checkpoints(str(runs[name]), 9) as saved:
    state = saved.restore(STEPS, like)
  arrays = jax.tree.leaves(state.replace(step=0))
  return int(state.step), np.concatenate([np.ravel(x) for x in arrays])


@pytest.mark.slow
def test_a_signal_to_one_host_stops_both_at_one_step(runs):
  step = runs["saved"][-1]
  assert 1 < int(step) < 6
  for code, _, errors in runs["sigterm"]:
    assert code == 75, errors
    assert f"saved step {step} of {STEPS}" in errors
  assert "a signal to another host: saved" in runs["sigterm"][0][2]
  assert "SIGTERM: saved" in runs["sigterm"][1][2]


@pytest.mark.slow
def test_a_run_on_two_hosts_equals_one_hosts(runs):
  # JAX aborts a host that notices the other's death before its own time.
  codes = {code for code, _, _ in runs["killed"]}
  assert -9 in codes and codes <= {-9, -6}, runs["killed"]
  for code, _, errors in runs["ended"]:
    assert code == 0, errors
  two, one = lines_of(runs["workdir"]), lines_of(runs["alone"])
  assert [r["step"] for r in two] == [r["step"] for r in one]
  logged = [r["step"] for r in two if "train/loss" in r]
  assert logged == list(range(1, STEPS + 1))
  # Not to the bit: gloo sums in another order than one process does.
  for a, b in zip(two, one):
    assert a == pytest.approx(b, rel=1e-4)
  a, b = (state_of(runs, name) for name in ("workdir", "alone"))
  assert a[0] == b[0] == STEPS
  assert np.linalg.norm(a[1] - b[1]) < 1e-5 * np.linalg.norm(b[1])
  a, b = (
    json.loads((runs[k] / "probe.json").read_text())
    for k in ("workdir", "alone")
  )
  assert a.pop("of")["data"] == b.pop("of")["data"]  # nor are the weights
  assert a == b


@pytest.mark.slow
def test_the_hosts_rows_are_the_batch_without_overlap_or_gap(runs):
  config = config_of(runs)
  whole = input_pipeline.train_views(datasets.prepare(config.data), config)
  for step in range(1, STEPS + 1):
    shares = [
      np.load(runs["tmp_path"] / f"host{i}" / f"views{step}.npz")
      for i in range(2)
    ]
    batch = jax.tree.leaves(next(whole))
    for name, expected in zip(shares[0], batch, strict=True):
      rows = [share[name] for share in shares]
      assert [len(share) for share in rows] == [4, 4]
      np.testing.assert_array_equal(np.concatenate(rows), expected)


@pytest.mark.slow
def test_what_is_written_once_is_written_by_the_first_host(runs):
  log = (runs["tmp_path"] / "host0" / "log").read_text()
  for name in ("probe.json", "loss_terms.png", "per_tag_auc.png"):
    assert log.count(name) == 1, name
  assert log.count("config.json") == 3  # once a start
  assert log.count("decode") == 1
  # The second host found the data that the first had prepared, and wrote none
  # of it; nor did it print what the first one did. An index of the records is
  # made by whoever needs it first, which may be both.
  (runs["tmp_path"] / "host1" / "log").touch()
  others = (runs["tmp_path"] / "host1" / "log").read_text().splitlines()
  assert all(re.search(r"/index-\w+\.npz$", line) for line in others)
  # Threads of the collectives' library write there too, piece by piece, so that
  # their lines may be torn.
  gloo = r"(\[Gloo\] Rank|is connected to|peer ranks\.|\d|\s"
  gloo += r"|Expected number of connected peer ranks is :)*"
  first, second = (
    [line for line in stdout.splitlines() if not re.fullmatch(gloo, line)]
    for _, stdout, _ in runs["ended"]
  )
  assert [line.replace("/two/", "/one/") for line in first] == runs[
    "stdout"
  ].splitlines()
  assert any("untrained linear" in line for line in first) and not second
  assert not list(runs["workdir"].rglob("*.tmp"))


def test_hosts_that_differ_are_refused(tmp_path):
  tmp_path = tmp_path / "host"
  tmp_path.mkdir()
  ended = run_hosts(tmp_path, tmp_path / "w", flags=["--config.seed=1"])
  for code, _, errors in ended:
    assert code == 1
    assert "error: hosts [1] do not find their own config" in errors
  assert not any((tmp_path / "w" / "checkpoints").iterdir())


@pytest.mark.parametrize(
  "named, message",
  [
    (("localhost:1", None, None), "lacks --num_processes and --process_id"),
    (("localhost:1", 2, 2), "--process_id=2 is not one of --num_processes=2"),
    ((None, None, None), "hosts cannot be joined .*--coordinator=HOST:PORT"),
    (("no.invalid:1", 2, 1), "--coordinator=no.invalid:1: .* not resolve"),
  ],
)
def test_hosts_that_cannot_be_joined(named, message):
  with pytest.raises(ValueError, match=message):
    mesh.join_hosts(*named)


def test_a_host_whose_own_name_does_not_resolve(monkeypatch):
  """An error of the network: its exit code is not that of a missing device."""

  def no_devices():
    raise RuntimeError("Unable to initialize backend 'cpu': rv == 0. -2 vs 0")

  monkeypatch.setattr(jax, "devices", no_devices)
  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
  with pytest.raises(mesh.DeviceError, match="no device can be used"):
    mesh.make_mesh()
  monkeypatch.setattr(socket, "gethostname", lambda: "no.invalid")
  with pytest.raises(ValueError, match=r"no.invalid .* not resolve") as caught:
    mesh.make_mesh()
  assert not isinstance(caught.value, mesh.DeviceError)
