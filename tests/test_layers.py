"""The package is as its map says; see `vicreg_jax/rooms.py`."""

import ast
import pathlib
import subprocess
import sys

import pytest

import vicreg_jax
from vicreg_jax import rooms

PACKAGE = pathlib.Path(vicreg_jax.__file__).parent
CONTRIBUTING = PACKAGE.parent / ".github" / "CONTRIBUTING.md"


def name_of(path):
  return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def is_module(name):
  path = PACKAGE.joinpath(*name.split("."))
  return path.with_suffix(".py").exists()


def imports(path):
  """Modules of the package, by their names in the map, that a file imports."""
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
  order = rooms.order()
  rank = {name: i for i, name in enumerate(order)}
  upward = []
  for path in sorted(PACKAGE.rglob("*.py")):
    name = name_of(path)
    if name.endswith("__init__") and name not in rank:
      assert not list(imports(path)), name  # rooms are folders, no more
      continue
    assert name in rank, f"{name} has no place in rooms.ROOMS"
    upward += [
      f"{name} imports {other}"
      for other in imports(path)
      if rank[other] >= rank[name]
    ]
  assert not upward
  assert all(is_module(name) for name in order)


def test_the_map_is_shown_as_it_is():
  assert rooms.table() in CONTRIBUTING.read_text(), (
    "copy what `python -m vicreg_jax.rooms` prints into CONTRIBUTING.md"
  )


def test_a_room_names_what_it_holds():
  for name, room in rooms.ROOMS.items():
    assert room.first in room.modules.split(), name


@pytest.mark.parametrize(
  "module",
  [
    "vicreg_jax",
    "vicreg_jax.config",
    "vicreg_jax.use.encoder",
    "vicreg_jax.plots",
  ],
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
