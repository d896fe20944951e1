"""The package works as it is installed, outside a clone."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import tomllib

import pytest

import vicreg_jax
from vicreg_jax import __main__ as command
from vicreg_jax import main, python_file, shipped

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_room_is_packaged():
  folders = {path.parent for path in (ROOT / "vicreg_jax").rglob("*.py")}
  rooms = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
  mapped = PROJECT["tool"]["setuptools"]["package-dir"]
  assert set(PROJECT["tool"]["setuptools"]["packages"]) == rooms | set(mapped)
  assert set(mapped.values()) == {"configs", "configs/suites"}


def test_configs_are_found_by_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("quickstart", "quickstart.py", "configs/quickstart.py"):
    path = pathlib.Path(shipped.config(name))
    assert path.samefile(ROOT / "configs/quickstart.py")
  for name in ("transfer", "configs/suites/transfer.py"):
    path = pathlib.Path(shipped.suite(name))
    assert path.samefile(ROOT / "configs/suites/transfer.py")
  # A file of one's own comes first, and nothing else is reached.
  (tmp_path / "quickstart.py").touch()
  assert shipped.config("quickstart.py") == "quickstart.py"
  for name in ("mine.py", "../pyproject", "/etc/passwd", "suites/transfer"):
    assert shipped.config(name) == name
  # A bare name can only be one of those that are there, which an error lists.
  for find, name in ((shipped.config, "folderr"), (shipped.suite, "grids")):
    with pytest.raises(ValueError, match=rf"mean {name[:-1]}.py\?"):
      python_file.call(find(name), "f")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """(folder of the unpacked wheel, files of the source distribution)."""
  pytest.importorskip("setuptools")
  source = tmp_path_factory.mktemp("source")
  for name in _tracked():
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, source / name)
  code = (
    "from setuptools import build_meta;"
    "build_meta.build_wheel('dist'); build_meta.build_sdist('dist')"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=source, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  (wheel,) = (source / "dist").glob("*.whl")
  (archive,) = (source / "dist").glob("*.tar.gz")
  shutil.unpack_archive(wheel, source / "installed", "zip")
  with tarfile.open(archive) as packed:
    names = {name.partition("/")[2] for name in packed.getnames()}
  return source / "installed", names


def _tracked():
  listed = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True
  ).stdout.decode()
  return listed.strip("\0").split("\0") if listed else pytest.skip("no clone")


def test_the_metadata_have_no_guide():
  """Its links lead to files beside it, which an index does not have."""
  assert not {"readme", "urls"} & set(PROJECT["project"])


FOLDER = ["--config.data.name=folder", "--config.data.path=my music"]
CHECKPOINT = "--config.checkpoint=starter"


@pytest.mark.parametrize(
  "said, told",
  [
    (["quickstart"], []),
    (["folder", "my music"], FOLDER),
    (["probe", "starter", "my music"], [CHECKPOINT, *FOLDER]),
    (["probe", "starter"], [CHECKPOINT]),
    (["prepare", "my music"], FOLDER),
    (["--debug", "prepare", "--workdir=w"], ["--debug", "--workdir=w"]),
  ],
)
def test_a_config_is_a_verb(said, told, monkeypatch):
  """What sets keys comes last, as it has the last word."""

  def start(given):
    assert given == [f"--config={verb}", *told, "--config.seed=3"]
    raise SystemExit(75)

  (verb,) = {"quickstart", "folder", "probe", "prepare"} & set(said)
  monkeypatch.setattr(main, "start", start)
  with pytest.raises(SystemExit) as end:
    command.main([*said, "--config.seed=3"])
  assert end.value.code == 75


@pytest.mark.parametrize(
  "said", ["probe", "folder", "quickstart d", "folder d --hop=1"]
)
def test_what_a_config_does_not_take_is_said(said, capsys):
  with pytest.raises(SystemExit) as end:
    command.main(said.split())
  assert end.value.code == 2
  assert "error: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_source_distribution_is_whole(built):
  own = (".ci/", ".github/workflows/", ".gitignore")
  assert {name for name in _tracked() if not name.startswith(own)} <= built[1]


@pytest.mark.slow
def test_a_wheel_needs_no_clone(built, tmp_path):
  def run(*command):
    done = subprocess.run(
      [sys.executable, "-m", *command],
      cwd=tmp_path,
      env={"PYTHONPATH": str(built[0]), "HOME": str(tmp_path), "PATH": ""},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  told = run("vicreg_jax", "--version")
  assert told.split() == ["vicreg-jax", vicreg_jax.__version__]
  told = run(
    "vicreg_jax",
    "prepare",
    "--config.data.name=synthetic",
    "--config.data.sizes=(4,2,2)",
    "--config.data.clip_seconds=3.0",
    "--config.data.dir=data",
  )
  assert "figure: data/synthetic" in told
  told = run("vicreg_jax.suite", "--suite=convergence", "--workdir=w", "--list")
  assert "--config=configs/vicreg_fma.py" in told
