"""Runs a Python file of the user's: a config or a suite.

Only use files that you trust.
"""

import difflib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from typing import Any

_MOST = 20  # names of files that are listed


def call(path: str, function: str, *args, flag: str = "") -> Any:
  """The result of a function of a file, such as `get_config` of a config.

  Args:
    path: of the file.
    function: its name.
    *args: for the function.
    flag: by which the user gave the file; "" if another file named it.

  Raises:
    ValueError: there is no such file or function, or the file's own code has
      failed. Names the file, and the line or similar names.
  """
  path = os.fspath(path)
  named = f"{flag}={path}" if flag else path
  if os.path.isdir(path) or not os.path.exists(path):
    raise ValueError(f"{named} {_instead(path)}")
  try:
    loader = importlib.machinery.SourceFileLoader("user_file", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look here
    loader.exec_module(module)
    if hasattr(module, function):
      return getattr(module, function)(*args)
  except Exception as e:  # of any kind, as in any program
    frames = traceback.extract_tb(e.__traceback__)
    lines = [f"line {f.lineno}: " for f in frames if f.filename == path][-1:]
    raise ValueError(
      f"{named} cannot be run: {''.join(lines)}{type(e).__name__}: {e}"
    ) from e
  raise ValueError(f"{named} has no {function}: give it that function")


def _instead(path):
  """Describes what a path leads to, if it is no file."""
  is_folder = os.path.isdir(path)
  folder = path if is_folder else os.path.dirname(path) or "."
  if not os.path.isdir(folder):
    return f"is not there, nor is the folder {folder}: name a Python file"
  what = "is a folder" if is_folder else "is not there"
  names = sorted(n[:-3] for n in os.listdir(folder) if n.endswith(".py"))
  name = os.path.basename(path).removesuffix(".py")
  if near := difflib.get_close_matches(name, names):
    return f"{what}: did you mean {' or '.join(f'{n}.py' for n in near)}?"
  listed = ", ".join(f"{n}.py" for n in names[:_MOST]) or "none"
  return f"{what}: name a Python file ({folder} has {listed})"
