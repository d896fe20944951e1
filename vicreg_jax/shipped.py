"""The configs and suites that come with the package, found by their names.

In a clone they lie in `configs`, where people read and edit them; an installed
package has a copy of that folder.
"""

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_FOLDERS = (
  os.path.join(_PACKAGE, "configs"),
  os.path.join(os.path.dirname(_PACKAGE), "configs"),
)


def config(name: str) -> str:
  """The path of a config: the file of this name, or else the shipped one.

  Args:
    name: a path; or the name of a shipped config, with or without `configs/`
      and `.py`. Other paths are returned unchanged, and other bare names as
      files beside the shipped ones, for an error that lists these.
  """
  return _find(name, "configs/", "")


def suite(name: str) -> str:
  """As `config`, for a suite."""
  return _find(name, "configs/suites/", "suites")


def _find(name, prefix, inner):
  if os.path.isfile(name):
    return name
  short = name.removeprefix(prefix).removesuffix(".py")
  if os.sep in short:
    return name
  (folder, *_) = filter(os.path.isdir, _FOLDERS)
  path = os.path.join(folder, inner, f"{short}.py")
  bare = short == name and not os.path.isdir(name)
  return path if bare or os.path.isfile(path) else name
