"""A module of the package imports lower layers only."""

import ast
import inspect
import pathlib
import re

import vicreg_jax

LAYERS = [
  {"files"},
  {"audio", "augment", "losses", "mesh", "metrics", "models", "optim"}
  | {"cli", "plots", "thesis", "writer"},
  {"config", "datasets", "scores", "study", "suite_plots"},
  {"input_pipeline", "steps"},
  {"checkpoint"},
  {"embed", "loop"},
  {"aot", "pretrain", "prepare", "probe", "supervised"},
  {"benchmarks", "main"},
  {"bench", "suite"},
]
PACKAGE = pathlib.Path(vicreg_jax.__file__).parent


def layer(name):
  return next(i for i, names in enumerate(LAYERS) if name in names)


def imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == "vicreg_jax":
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      if node.module.startswith("vicreg_jax."):
        yield node.module.split(".")[1]
    elif isinstance(node, ast.Import):
      for alias in node.names:
        assert not alias.name.startswith("vicreg_jax."), alias.name


def test_every_module_has_a_layer_and_looks_down_only():
  upward = []
  for path in sorted(PACKAGE.rglob("*.py")):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
      continue
    for name in imports(path):
      if name != parts[0] and layer(name) >= layer(parts[0]):
        upward.append(f"{'/'.join(parts)} imports {name}")
  assert not upward


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
