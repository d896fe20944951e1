"""A workdir in a bucket: gs:// with a directory in the bucket's place.

epath's calls on gs:// (of this package and of Orbax) and Orbax's storage of
arrays, where it uses Google's client, are led to the directory. It behaves as a
bucket: nothing can be appended to, and no directory can be renamed.
"""

import json
import os
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from etils.epath import backend, gpath
from orbax.checkpoint._src.path import gcs_utils
from runs import at_step, lines_of, stopped_at

from vicreg_jax import config as configs
from vicreg_jax import files, main, messages, plots
from vicreg_jax.jobs import embed, pretrain
from vicreg_jax.training import checkpoint
from vicreg_jax.training import workdir as workdir_lib
from vicreg_jax.training.writer import Writer


class Directory(type(backend.os_backend)):
  """epath's backend of a disk, for paths gs://bucket/..."""

  def __init__(self, root):
    self._root = str(root)
    self.written = []

  def _at(self, path):
    path = os.fspath(path)
    assert path.startswith("gs://"), path
    return f"{self._root}/{path.removeprefix('gs://')}"

  def open(self, path, mode):
    assert "a" not in mode and "+" not in mode, f"{path} cannot be appended to"
    if "w" in mode:
      self.written.append(os.fspath(path))
      # Objects need no directory.
      os.makedirs(os.path.dirname(self._at(path)), exist_ok=True)
    return super().open(self._at(path), mode)

  def glob(self, path):
    found = super().glob(self._at(path))
    return [f"gs://{p.removeprefix(self._root + '/')}" for p in found]

  def rename(self, path, dst):
    assert not super().isdir(self._at(path)), f"{path}: directories stay"
    super().rename(self._at(path), self._at(dst))


def _at_path(name):
  def call(self, path, *args, **kwargs):
    method = getattr(super(Directory, self), name)
    return method(self._at(path), *args, **kwargs)

  return call


for _name in (
  "exists",
  "isdir",
  "listdir",
  "makedirs",
  "mkdir",
  "remove",
  "rmtree",
  "stat",
):
  setattr(Directory, _name, _at_path(_name))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """The bucket's backend; its content is in tmp_path/"buckets"."""
  there = Directory(tmp_path / "buckets")
  monkeypatch.setattr(backend, "tf_backend", there)
  monkeypatch.setattr(gpath, "_is_zonal_gcs_bucket", lambda bucket: False)

  def store(path):
    # To a disk, other than to a bucket, a directory is no prefix of a name.
    slash = "" if path.endswith("_sharding") else "/"
    return {"driver": "file", "path": there._at(path) + slash}

  monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", store)
  monkeypatch.setattr(
    gcs_utils, "rmtree", lambda path, missing_ok=False: there.rmtree(path)
  )
  monkeypatch.setattr(
    gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False
  )
  client = "google.cloud.storage"
  monkeypatch.setitem(sys.modules, client, types.ModuleType(client))
  here = tmp_path / "here"
  here.mkdir()
  monkeypatch.chdir(here)
  yield there
  assert not any(here.iterdir())  # no directory that is called "gs:"


@pytest.mark.slow
def test_a_workdir_may_be_copied_there_and_back(bucket, small, tmp_path):
  """Also of an Orbax that writes no commit_success.txt on disks."""
  small.checkpoint.every_epochs = 1.0
  small.data.crop, small.model.blocks = 27, 2
  here, back = str(tmp_path / "run"), str(tmp_path / "back")
  copied = str(tmp_path / "buckets/bucket/run")
  with stopped_at(4):
    pretrain.run(small, here)
  manifest = pathlib.Path(here, "checkpoints/3/manifest.json")
  measured = json.loads(manifest.read_text())
  for path in manifest.parent.rglob("commit_success.txt"):
    measured.pop(str(path.relative_to(manifest.parent)), None)
    path.unlink()
  manifest.write_text(json.dumps(measured))
  shutil.copytree(here, copied)
  assert checkpoint.saved_steps("gs://bucket/run") == [3]
  pretrain.run(small, "gs://bucket/run")
  assert sorted(os.listdir(f"{copied}/checkpoints")) == ["3", "5"]
  shutil.copytree(copied, back)
  pretrain.run(small, here)
  assert lines_of("gs://bucket/run") == lines_of(here)
  with at_step(5, lambda: 1 / 0):  # there are no steps to do
    pretrain.run(small, back)
  assert lines_of(back) == lines_of(here)


@pytest.mark.slow
def test_a_run_in_a_bucket_equals_one_on_a_disk(
  bucket, small, data_dir, tmp_path, capsys
):
  small.checkpoint.every_epochs = 1.0
  small.probe_after = True
  small.probe.update(max_epochs=1, heads=("linear",))
  small.data.crop, small.model.blocks = 27, 2
  there, here = "gs://bucket/a/run", str(tmp_path / "run")
  # A crash between checkpoints; what the bucket then has is what is copied.
  with stopped_at(4):
    pretrain.run(small, there)
  main.run(small, there)
  main.run(small, here)
  assert lines_of(there) == lines_of(here)
  for name in ("config.json", "probe.json", "probe_tags.csv"):
    assert files.read(f"{there}/{name}") == files.read(f"{here}/{name}"), name
  content = set(os.listdir(tmp_path / "buckets/bucket/a/run"))
  assert content == set(os.listdir(here)) - {"lock"}  # which only a disk has
  printed = capsys.readouterr().out
  for name in ("loss_terms", "per_tag_auc"):
    assert f"figure: {there}/figures/{name}.png" in printed
    assert files.read(f"{there}/figures/{name}.png")[1:4] == b"PNG"

  config = configs.base_embed()
  config.data.update(small.data.to_dict() | {"path": ""})
  del config.data["crop"], config.data["sample_rate"]
  out = []
  for run in (there, here):
    config.checkpoint = run
    out.append(embed.run(config, f"{run}-embed"))
  assert out[0] == "gs://bucket/a/run-embed/embeddings.npz"
  with (
    np.load(tmp_path / "buckets/bucket/a/run-embed/embeddings.npz") as a,
    np.load(out[1]) as b,
  ):
    assert sorted(a) == sorted(b)
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])
  assert config.checkpoint == here
  with pytest.raises(ValueError, match="bucket/a/run"):
    workdir_lib.save_config(config, there)


def test_lines_are_in_the_bucket_before_the_checkpoint(
  bucket, small, monkeypatch
):
  """A machine that is lost with the checkpoint saved has lost no line."""
  small.checkpoint.every_epochs = 1.0
  save = checkpoint.Checkpoints.save
  seen = []

  def watched(self, state, step):
    seen.append([r["step"] for r in lines_of("gs://bucket/run")])
    save(self, state, step)

  monkeypatch.setattr(checkpoint.Checkpoints, "save", watched)
  pretrain.run(small, "gs://bucket/run")
  assert seen == [[1, 2, 3, 3], [1, 2, 3, 3, 4, 5, 5]]  # with validation's


def test_a_line_comes_to_the_bucket_within_a_minute(bucket, monkeypatch):
  now = [1000.0]
  monkeypatch.setattr(
    "vicreg_jax.training.writer.time.monotonic", lambda: now[0]
  )
  with Writer("gs://bucket/run", total_steps=100) as log:
    for step in range(1, 101):
      log.write(step, {"loss": 1.0})
      now[0] += 5.0
    times = bucket.written.count("gs://bucket/run/metrics.jsonl")
    assert times == 8  # the first line, and then every 65 s
    log.note("still open")
  assert len(lines_of("gs://bucket/run")) == 100
  (events,) = {p for p in bucket.written if "/tb/" in p}
  assert files.read(events)


def test_checkpoints_in_a_bucket_need_googles_client(bucket, monkeypatch):
  monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
  with pytest.raises(ValueError, match=r"pip install 'vicreg_jax\[gcs\]'"):
    checkpoint.Checkpoints("gs://bucket/run", 1)


def test_a_bucket_that_refuses_is_one_line(bucket, monkeypatch, tmp_path):
  def refuse(*_):
    raise tf.errors.PermissionDeniedError(None, None, "403\nForbidden")

  monkeypatch.setattr(bucket, "open", refuse)
  with pytest.raises(ValueError, match=r"gs://b/w/config.json: 403 Forbidden"):
    Writer("gs://b/w", total_steps=1).run_header({})
  with pytest.raises(ValueError, match=r"gs://b/w.*403 Forbidden"):
    workdir_lib.load_config("gs://b/w")
  with pytest.raises(ValueError, match=r"gs://b/w/metrics.jsonl.*403 Forbidd"):
    plots.training_curves("gs://b/w/metrics.jsonl", str(tmp_path / "x.png"))


def test_checkpoints_that_a_bucket_does_not_show_are_no_damaged_ones(
  bucket, monkeypatch, tmp_path
):
  """Of those, the run would be told to go on from an older one."""
  there = tmp_path / "buckets/b/w/checkpoints/3"
  there.mkdir(parents=True)
  (there / "manifest.json").write_text("{}")
  (there / "commit_success.txt").touch()

  def refuse(*_):
    raise tf.errors.UnavailableError(None, None, "503\nTry again")

  for name in ("open", "listdir"):
    with monkeypatch.context() as patch:
      patch.setattr(bucket, name, refuse)
      for opened in (
        lambda: checkpoint.Checkpoints("gs://b/w", 1),
        lambda: checkpoint.load_encoder("gs://b/w", -1, {}),
      ):
        with pytest.raises(ValueError, match=r"cannot be read .*503") as caught:
          opened()
        assert "\n" not in str(caught.value)
        assert messages.ours(caught.value)
  assert os.listdir(there.parent) == ["3"]


def test_checkpoints_that_a_bucket_does_not_take_are_one_line(
  bucket, monkeypatch
):
  def refuse(*_, **__):
    raise tf.errors.PermissionDeniedError(None, None, "403\nForbidden")

  monkeypatch.setattr(bucket, "makedirs", refuse)
  with pytest.raises(ValueError, match=r"cannot be written .*403 Forb"):
    checkpoint.Checkpoints("gs://b/w", 1)
