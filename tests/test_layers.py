"""The package's order: a module imports only what stands before it here.

A room imports rooms above it, and a module of a room modules above it in that
room. So nothing comes round in a circle, and a reader can begin at the top.
"""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import vicreg_jax

# Room: its modules, from the ground up. The doors are those that people start.
ROOMS = {
  "ground": "files mesh plots cli checks",
  "data": "beam_options track_names audio views threads seeds augment prepared"
  " datasets records crops input_pipeline label_share mfcc",
  "model": "metrics bootstrap classifiers losses optim samplecnn",
  "config": "",
  "training": "workdir best steps writer checkpoint loop",
  "use": "options clmr heads export encoder adopt corpus tables neighbours"
  " index points map_files serve hear verbs",
  "jobs": "scores representations prepare embed clip_probes"
  " retrieval probe pretrain supervised",
  "study": "thesis figures plan tables runner",
  "benchmarks": "timing music torch_twin compiler decode prepare augment"
  " pipeline step embed similar startup tpu",
  "doors": "__init__ main aot bench suite __main__",
}
DATASETS = "labels_table contents decoded base archives official folder fma"
DATASETS += " gtzan magnatagatune mtg_jamendo nsynth synthetic __init__"
LONGEST_DOOR = 120
PACKAGE = pathlib.Path(vicreg_jax.__file__).parent
ORDER = [
  module
  for room, modules in ROOMS.items()
  for module in (
    [room]
    if not modules
    else modules.split()
    if room in ("ground", "doors")
    else [f"{room}.{name}" for name in modules.split()]
  )
]
at = ORDER.index("data.datasets")
ORDER[at : at + 1] = [f"data.datasets.{name}" for name in DATASETS.split()]


def name_of(path):
  return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def is_module(name):
  path = PACKAGE.joinpath(*name.split("."))
  return path.with_suffix(".py").exists()


def imports(path):
  """Modules of the package, by their names in ORDER, that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      for alias in node.names:
        assert not alias.name.startswith("vicreg_jax."), alias.name
    if not isinstance(node, ast.ImportFrom) or not node.module:
      continue
    package, _, base = node.module.partition(".")
    if package != "vicreg_jax":
      continue
    for alias in node.names:
      name = f"{base}.{alias.name}" if base else alias.name
      if is_module(name):
        yield name
      elif is_module(f"{name}.__init__"):
        yield f"{name}.__init__"
      elif base:
        yield base if is_module(base) else f"{base}.__init__"


def test_every_module_imports_only_what_stands_before_it():
  rank = {name: i for i, name in enumerate(ORDER)}
  upward = []
  for path in sorted(PACKAGE.rglob("*.py")):
    name = name_of(path)
    if name.endswith("__init__") and name not in rank:
      assert not list(imports(path)), name  # rooms are folders, no more
      continue
    assert name in rank, f"{name} has no place in ROOMS"
    upward += [
      f"{name} imports {other}"
      for other in imports(path)
      if rank[other] >= rank[name]
    ]
  assert not upward
  assert all(is_module(name) for name in ORDER)


def test_doors_are_short():
  for door in ROOMS["doors"].split():
    lines = (PACKAGE / f"{door}.py").read_text().count("\n")
    assert lines <= LONGEST_DOOR, f"{door}.py has {lines} lines"


@pytest.mark.parametrize(
  "module", ["vicreg_jax", "vicreg_jax.config", "vicreg_jax.use.encoder"]
)
def test_an_encoder_needs_no_tensorflow(module):
  """To import it takes most of the time in which an encoder has answered."""
  heavy = "tensorflow tensorflow_datasets matplotlib torch librosa"
  code = f"import sys, {module}; print(*({heavy.split()} & sys.modules.keys()))"
  code = code.replace("[", "{").replace("]", "}")
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == []


def test_no_config_key_is_dead():
  """Every key of the base configs is read somewhere in the package."""
  from vicreg_jax import config as configs

  text = "".join(
    p.read_text() for p in PACKAGE.rglob("*.py") if p.name != "config.py"
  ) + inspect.getsource(configs.durations)

  def keys(tree):
    for key, value in tree.items():
      yield key
      if isinstance(value, dict):
        yield from keys(value)

  for base in (
    configs.base_pretrain,
    configs.base_probe,
    configs.base_embed,
    configs.base_prepare,
    configs.base_supervised,
  ):
    for key in keys(base().to_dict()):
      assert re.search(rf'\.{key}\b|"{key}"', text), key
