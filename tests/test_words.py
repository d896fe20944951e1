"""The guides: what they name is there, and they stay short."""

import ast
import functools
import pathlib
import re
import runpy
import shlex

import pytest

from vicreg_jax import config as configs

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("vicreg_jax", "configs", "launch", "tests", ".github")
FILES = [p for p in ROOT.iterdir() if p.is_file()] + [
  p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file()
]
GUIDES = {
  p.relative_to(ROOT): p.read_text() for p in FILES if p.suffix == ".md"
}
NOTES = GUIDES[pathlib.Path("BUILD_NOTES.md")]
LONGEST_LINE = 100
WIDE_TABLES = ("BUILD_NOTES.md", "CONTRIBUTING.md")
LARGEST = {"README.md": 9_000, "BUILD_NOTES.md": 25_000}
# To be copied as one line: README's two, which install and run.
ONE_LINE = "python3 -m venv .venv && "
MAIN_FLAGS = {"workdir", "multihost"}


@pytest.mark.parametrize("name", LARGEST)
def test_it_is_short(name):
  assert (ROOT / name).stat().st_size <= LARGEST[name]


def test_lines_are_short():
  for name, text in GUIDES.items():
    for number, line in enumerate(text.splitlines(), 1):
      excepted = line.startswith(ONE_LINE) or (
        name.name in WIDE_TABLES and line.startswith("| ")
      )
      assert len(line) <= LONGEST_LINE or excepted, f"{name}:{number}"


def _anchors(text):
  """Of the headings, as GitHub makes them."""
  for heading in re.findall(r"(?m)^#+ (.+)$", text):
    yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_lead_somewhere():
  for name, text in GUIDES.items():
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
      if link.startswith("https://"):
        continue
      path, _, anchor = link.partition("#")
      target = (ROOT / name.parent / path).resolve() if path else ROOT / name
      assert target.exists(), f"{name}: {link}"
      if anchor:
        assert anchor in _anchors(target.read_text()), f"{name}: {link}"


@functools.cache
def _words():
  """(file, text) of the guides, and of the docstrings of the program."""
  words = list(GUIDES.items())
  for path in FILES:
    name = path.relative_to(ROOT)
    if path.suffix == ".py" and name.parts[0] != "tests":
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
          words.append((name, ast.get_docstring(node) or ""))
  return words


def test_files_that_are_named_exist():
  """Also in docstrings. X.py and NAME.py stand for any."""
  there = [f"/{path.relative_to(ROOT).as_posix()}" for path in FILES]
  found = 0
  for name, text in _words():
    for file in re.findall(r"(?<![\w.*$<>/-])[\w/.-]*\w\.(?:py|sh)\b", text):
      if not pathlib.Path(file).stem.isupper():
        end = "/" + file.removeprefix("../")
        assert any(path.endswith(end) for path in there), (name, file)
        found += 1
  assert found > 100  # so the pattern finds them


def test_tests_that_the_notes_name_exist():
  tests = {p.name: p.read_text() for p in FILES if p.match("tests/*.py")}
  named = re.findall(r"(?:(\w+\.py)::)?\b(test_\w+)\b(?!\.py)", NOTES)
  assert len(named) > 30
  for file, test in named:
    places = [tests[file]] if file else tests.values()
    assert any(f"def {test}(" in text for text in places), (file, test)


def _keys(tree):
  for key, value in tree.items():
    yield key
    if isinstance(value, dict):
      yield from (f"{key}.{inner}" for inner in _keys(value))


def test_keys_that_are_named_exist():
  bases = (getattr(configs, f"base_{job}") for job in configs.JOBS)
  known = {key for base in bases for key in _keys(base().to_dict())}
  known.add("key")  # --config.key=value stands for any
  for name, text in GUIDES.items():
    for key in re.findall(r"--config\.([\w.]*\w)", text):
      assert key in known, name


def test_commands_have_the_keys_of_their_config():
  text = "\n".join(GUIDES.values()).replace("\\\n", " ")
  commands = re.findall(r"python -m vicreg_jax\.main ([^\n`&|]*)", text)
  assert len(commands) > 10
  for command in commands:
    flags = dict(
      flag.removeprefix("--").partition("=")[::2]
      for flag in shlex.split(command)
    )
    file = flags.pop("config")
    file = file if file.endswith(".py") else f"configs/{file}.py"
    config = runpy.run_path(str(ROOT / file))["get_config"]()
    for flag in flags.keys() - MAIN_FLAGS:
      node = config
      for key in flag.removeprefix("config.").split("."):
        node = node[key]  # KeyError: no such key


def test_modules_that_are_named_exist():
  for name, text in _words():
    for module in re.findall(r"python -m (vicreg_jax[\w.]*\w)", text):
      path = ROOT / module.replace(".", "/")
      assert path.with_suffix(".py").exists() or path.is_dir(), (name, module)
