"""Checkpoints that are damaged, refused, or have no room; runs side by side."""

import ast
import contextlib
import json
import os
import pathlib
import pickle
import shutil
import socket
import subprocess
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from runs import FULL, assert_same, small_disk

from vicreg_jax.jobs import pretrain
from vicreg_jax.training import checkpoint, steps
from vicreg_jax.training import workdir as workdir_lib
from vicreg_jax.training import writer as writer_lib

PACKAGE = pathlib.Path(checkpoint.__file__).parents[1]


def state_of(step):
  """A state of a few arrays that the step decides."""

  def array(*shape):
    return step + jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)

  params = {
    "encoder": {"kernel": array(40, 50)},
    "projector": {"kernel": array(60, 70), "bias": array(70)},
  }
  stats = {"encoder": {"mean": array(50)}, "projector": {}}
  return steps.TrainState(jnp.int32(step), params, stats, {"trace": params})


def like(state):
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return checkpoint.abstract(state, device)


def save(workdir, *at, keep=3):
  with checkpoint.Checkpoints(str(workdir), keep) as saved:
    for step in at:
      saved.save(state_of(step), step)


def listing(path):
  """All files below `path` with their bytes."""
  return {
    str(p.relative_to(path)): p.read_bytes()
    for p in path.rglob("*")
    if p.is_file()
  }


def write_back(path, files):
  shutil.rmtree(path)
  for name, content in files.items():
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(content)


def load(workdir, step=-1):
  encoder = checkpoint._items(state_of(0))["encoder"]
  return checkpoint.load_encoder(str(workdir), step, like(encoder))


def flip(path):
  content = bytearray(path.read_bytes())
  # A flip within the manifest may blame the file whose entry it hits.
  manifest = path.name == checkpoint.MANIFEST
  content[0 if manifest else len(content) // 2] ^= 1
  path.write_bytes(content)


def truncate(path):
  os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, pathlib.Path.unlink])
def test_every_damage_is_named_and_the_one_before_is_used(
  tmp_path, capfd, damage
):
  save(tmp_path, 3, 6, 9)
  path = tmp_path / "checkpoints"
  whole = listing(path)
  commit = ("_CHECKPOINT_METADATA", "commit_success.txt")
  names = [n for n in whole if n.startswith("9/")]
  assert len(names) > 12
  for name in names:
    damage(path / name)
    short = name.removeprefix("9/")
    found, step = load(tmp_path)  # reads, and changes nothing
    errors = capfd.readouterr().err
    encoders = short.startswith("encoder/") or short == "manifest.json"
    assert step == (6 if encoders else 9), name
    assert_same(found["params"], state_of(step).params["encoder"])
    assert (short in errors) == encoders
    assert sorted(os.listdir(path)) == ["3", "6", "9"]
    with checkpoint.Checkpoints(str(tmp_path), 3) as saved:
      step = saved.resume_step
      assert step == (9 if short in commit else 6), name
      assert_same(saved.restore(step, like(state_of(0))), state_of(step))
    errors = capfd.readouterr().err
    if short not in commit:
      assert f"warning: {path}/9 is damaged: {short} " in errors
      assert "using step 6 instead" in errors
      assert sorted(os.listdir(path)) == ["3", "6", "9.damaged"]
    write_back(path, whole)


def test_a_damaged_step_is_saved_anew_and_whole_ones_are_kept(tmp_path):
  save(tmp_path, 3, 6, 9, 12)
  path = tmp_path / "checkpoints"
  assert sorted(os.listdir(path)) == ["12", "6", "9"]
  shutil.rmtree(path / "12")
  (path / "12").mkdir()
  shutil.rmtree(path / "9" / "rest")
  save(tmp_path, 9)
  names = ["12.damaged", "6", "9", "9.damaged"]
  assert sorted(os.listdir(path)) == names
  flip(path / "9" / "manifest.json")
  save(tmp_path, 9, 12)
  names = ["12", "12.damaged", "6", "9", "9.damaged", "9.damaged1"]
  assert sorted(os.listdir(path)) == names
  assert load(tmp_path)[1] == 12


def test_whole_ones_do_not_make_room_for_damaged_ones(tmp_path):
  save(tmp_path, 3, 6, 9)
  path = tmp_path / "checkpoints"
  (path / "6" / "manifest.json").unlink()
  save(tmp_path, keep=2)
  assert sorted(os.listdir(path)) == ["3", "6.damaged", "9"]
  # Killed while it deleted the oldest.
  save(tmp_path, 12)
  shutil.rmtree(path / "3" / "rest")
  save(tmp_path, keep=2)
  assert sorted(os.listdir(path)) == ["12", "6.damaged", "9"]


def test_when_none_is_whole_nothing_is_deleted(tmp_path):
  save(tmp_path, 3, 6)
  path = tmp_path / "checkpoints"
  for p in path.glob("*/manifest.json"):
    p.unlink()
  (path / "9").mkdir()
  before = listing(tmp_path)
  for opened in (lambda: save(tmp_path), lambda: load(tmp_path)):
    with pytest.raises(ValueError, match="no checkpoint is whole") as caught:
      opened()
    for part in (f"{path}/9 is", f"{path}/3 is", "manifest.json is missing"):
      assert part in str(caught.value)
    assert "\n" not in str(caught.value)
  assert listing(tmp_path) == before
  assert sorted(os.listdir(path)) == ["3", "6", "9"]


def test_probing_needs_the_encoder_alone(tmp_path):
  save(tmp_path, 3, 6)
  shutil.rmtree(tmp_path / "checkpoints" / "6" / "rest")
  found, step = load(tmp_path)
  assert step == 6
  assert_same(found["batch_stats"], state_of(6).batch_stats["encoder"])
  shutil.rmtree(tmp_path / "checkpoints" / "6" / "encoder")
  with pytest.raises(ValueError, match=r"whole \(.*6 is damaged: encoder/"):
    load(tmp_path, 6)  # a step that was named is not replaced by another
  assert load(tmp_path)[1] == 3


def test_what_a_killed_save_left_is_removed(tmp_path):
  save(tmp_path, 3)
  path = tmp_path / "checkpoints"
  for step in (5, 6):
    shutil.copytree(path / "3", path / f"{step}.orbax-checkpoint-tmp")
    (path / f"{step}.orbax-checkpoint-tmp" / "manifest.json").unlink()
  save(tmp_path, 6)
  assert sorted(os.listdir(path)) == ["3", "6"]
  assert load(tmp_path)[1] == 6


def test_a_second_process_is_refused_and_named(tmp_path):
  with workdir_lib.alone(str(tmp_path)):
    with (
      pytest.raises(ValueError) as caught,
      workdir_lib.alone(str(tmp_path)),
    ):
      pass
    me = f"host {socket.gethostname()}, process {os.getpid()}:"
    assert f"--workdir={tmp_path} is in use by {me}" in str(caught.value)
  with workdir_lib.alone(str(tmp_path)):
    pass


def test_a_save_without_room_fails_and_the_one_before_is_kept(tmp_path, capfd):
  with small_disk(tmp_path / "disk") as (fill, free):
    workdir = tmp_path / "disk"
    save(workdir, 3)
    before = listing(workdir / "checkpoints" / "3")
    # At the next save, and where there is none, on leaving.
    for later in ([], [9]):
      with (
        pytest.raises(ValueError, match=FULL) as caught,
        checkpoint.Checkpoints(str(workdir), 1) as saved,
      ):
        fill()
        for step in (6, *later):
          saved.save(state_of(step), step)
      assert "the ones before it are kept. Free space" in str(caught.value)
      assert "\n" not in str(caught.value)
      free()
      assert listing(workdir / "checkpoints" / "3") == before
    assert "Traceback" not in capfd.readouterr().err
    save(workdir, 6)
    assert load(workdir)[1] == 6


@pytest.mark.parametrize("later", [[], [9]])
def test_a_save_that_fails_leaves_no_thread_behind(tmp_path, later):
  """One of them can stop a later save for ever, or write into its files."""
  before = set(threading.enumerate())
  with small_disk(tmp_path / "disk") as (fill, free):
    with (
      pytest.raises(ValueError, match=FULL),
      checkpoint.Checkpoints(str(tmp_path / "disk"), 1) as saved,
    ):
      fill()
      for step in (6, *later):
        saved.save(state_of(step), step)
    left = set(threading.enumerate()) - before
    assert not left
    free()


@pytest.mark.parametrize("error", [OSError(5, "Gone"), KeyError("x")])
def test_any_error_of_the_first_host_ends_all_of_them(
  tmp_path, monkeypatch, error
):
  told = []

  def broadcast(x):
    told.append(int(x))
    return np.int32(told[0])  # what the first host says

  def find():
    raise error

  monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
  kind = ValueError if isinstance(error, OSError) else KeyError
  with pytest.raises(kind, match=r"cannot be read \(|x"):
    checkpoint._agree(tmp_path, find)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with pytest.raises(ValueError, match="the first host"):
    checkpoint._agree(tmp_path, find)
  assert told == [-2, -1]


def test_metrics_without_room_say_so(tmp_path):
  with small_disk(tmp_path / "disk") as (fill, free):
    with (
      pytest.raises(ValueError, match=rf"/disk/\S+: {FULL}") as caught,
      writer_lib.Writer(tmp_path / "disk", total_steps=10_000) as log,
    ):
      log.write(1, {"loss": 1.0})
      fill()
      for step in range(2, 10_000):
        log.write(step, {"loss": 1.0})
    assert "the same command then continues" in str(caught.value)
    free()


@contextlib.contextmanager
def read_only(path):
  """A directory that cannot be written to, by root either."""
  path.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(path)]
  if os.geteuid():
    path.chmod(0o500)
    yield
  elif subprocess.run(mount).returncode:
    pytest.skip("root may write anywhere, and may not mount here")
  else:
    try:
      yield
    finally:
      subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_read_only_workdir_is_said_to_be_so(small, tmp_path):
  with read_only(tmp_path / "disk"):
    workdir = str(tmp_path / "disk")
    for opened in (
      lambda: pretrain.run(small, workdir),
      lambda: save(workdir, 3),
      lambda: workdir_lib.save_config(small, workdir),
      lambda: writer_lib.Writer(workdir, total_steps=1).run_header({}),
    ):
      with pytest.raises(ValueError, match=r"--workdir") as caught:
        opened()
      assert str(tmp_path / "disk") in str(caught.value)
      assert "\n" not in str(caught.value)


class Payload:
  """Makes a file when it is unpickled."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return open, (str(self._path), "w")


def test_a_payload_in_a_run_is_not_executed(tmp_path):
  mark = tmp_path / "executed"
  payload = pickle.dumps(Payload(mark))
  pickle.loads(payload).close()
  assert mark.exists()  # it would work
  mark.unlink()
  save(tmp_path, 3)
  path = tmp_path / "checkpoints" / "3"
  whole = listing(path)
  saved = json.loads(whole["manifest.json"])
  for name in saved:
    (path / name).write_bytes(payload)
    with pytest.raises(ValueError, match="damaged"):
      save(tmp_path)
    # Who can write there can make the manifest fit, too.
    files = saved | {name: checkpoint._measure(path / name)}
    (path / "manifest.json").write_text(json.dumps(files))
    with contextlib.suppress(Exception):
      load(tmp_path)
    with (
      contextlib.suppress(Exception),
      checkpoint.Checkpoints(str(tmp_path), 3) as run,
    ):
      run.restore(3, like(state_of(0)))
    assert not mark.exists(), name
    write_back(path, whole)
  (tmp_path / "config.json").write_bytes(payload)
  with pytest.raises(ValueError, match=r"config.json cannot be read"):
    workdir_lib.load_config(str(tmp_path))
  assert not mark.exists()


def test_the_package_calls_nothing_that_executes_what_it_reads():
  banned = {"eval", "exec", "compile", "__import__", "system", "popen"}
  modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
  modules |= {"marshal", "yaml", "runpy"}
  found = []
  for path in sorted(PACKAGE.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      names = set()
      if isinstance(node, ast.Import):
        names = {a.name.split(".")[0] for a in node.names} & modules
        if path.name == "pytorch_file.py":  # its unpickler makes only stubs
          names -= {"pickle"}
      elif isinstance(node, ast.ImportFrom):
        names = {(node.module or "").split(".")[0]} & modules
      elif isinstance(node, ast.Call):
        called = getattr(node.func, "id", None)  # a bare name
        owner = getattr(getattr(node.func, "value", None), "id", None)
        if called in banned:
          names = {called}
        elif owner in ("os", "pickle", "yaml", "torch"):
          names = {node.func.attr} & {"load", "loads", "popen", "system"}
        flags = {k.arg for k in node.keywords if not _is_false(k.value)}
        names |= flags & {"allow_pickle", "shell"}
      found += [f"{path.name}:{node.lineno} {n}" for n in names]
  assert not found


def _is_false(node):
  return isinstance(node, ast.Constant) and node.value is False
