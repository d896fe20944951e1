"""What has moved, and what is gone, since a table was written.

A listed file has moved if nothing is at its path, and a new path has the same
SHA-256 and size. It is gone if nothing is there, nor has it moved. A path that
cannot be seen, such as that of a folder without permission, is not gone.
"""

import collections
import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from vicreg_jax.library.audio_paths import is_gone, same
from vicreg_jax.library.store import Store, sha256

PRUNE = ("", "gone", "all")


class Followed(NamedTuple):
  """Files of a table with rows in it."""

  moved: int
  gone: int  # below the roots


def follow(
  store: Store, paths: Iterable[str], roots: Mapping[str, str], prune: str
) -> Followed:
  """Gives rows of what has moved the new path; and drops those of what is gone.

  Args:
    store: the table.
    paths: of audio files.
    roots: {a file, folder or glob: the argument by which it is named}.
    prune: whether files below the roots that are gone are dropped: "" never;
      "gone" unless all of an argument are; "all" in any case.

  Raises:
    ValueError: all of an argument are gone, or an argument is nowhere.
  """
  moves, dropped, here = _moves(store, paths), [], os.getcwd()
  argument_of, there, gone = _argument_of(roots), collections.Counter(), {}
  for file in store.known.values():
    argument = argument_of(same(file.path, here))
    if argument is None:
      continue
    gone.setdefault(argument, 0)
    if file.path in moves or not is_gone(file.path):
      there[argument] += 1
    else:
      dropped.append(file.path)
      gone[argument] += file.rows > 0
  if prune:
    _check(prune, roots, there, gone)
  else:
    dropped = []
  if moves or dropped:
    store.change(moves, dropped)
  return Followed(len(moves), sum(gone.values()))


def _check(prune, roots, there, gone):
  """Raises ValueError unless what is gone may be dropped.

  `there` and `gone` are numbers of files by argument.
  """
  for argument in dict.fromkeys(roots.values()):
    if argument not in gone:  # of which the table has none
      if argument in roots and not _is_there(argument):
        raise ValueError(f"{argument}: there is no such file or folder")
    elif gone[argument] and not there[argument] and prune != "all":
      raise ValueError(
        f"--prune: of {argument} all {gone[argument]} files of the table are"
        " gone. Mount the disk that is missing; or, if none is, say --prune=all"
      )


def _is_there(argument):
  return os.path.exists(argument) or any(glob.iglob(argument, recursive=True))


def _moves(store: Store, paths) -> dict[str, str]:
  """{path in the table: new path}"""
  new = {}
  for path in paths:
    before = store.find(path)
    if before is None or not before.rows:
      try:
        found = os.stat(path)
      except OSError:
        continue
      if stat.S_ISREG(found.st_mode):
        new.setdefault(found.st_size, []).append(path)
  gone = collections.defaultdict(list)
  for file in store.known.values() if new else ():
    if file.rows and file.bytes in new and is_gone(file.path):
      gone[file.bytes, file.sha256].append(file.path)
  moves = {}
  for size in {size for size, _ in gone}:
    for path in new[size]:
      try:
        files = gone[size, sha256(path)]
      except OSError:
        continue
      if files:
        moves[files.pop(0)] = path
  return moves


def _argument_of(roots) -> Callable[[str], str | None]:
  """Says below which argument a path lies, which `same` has spelled."""
  here = os.getcwd()
  plain = {same(root, here): argument for root, argument in roots.items()}
  globs = [
    (same(root, here).split("/"), argument)
    for root, argument in roots.items()
    if glob.has_magic(root)
  ]

  def find(path):
    folder = path
    while folder not in plain and folder != os.path.dirname(folder):
      folder = os.path.dirname(folder)
    if folder in plain:
      return plain[folder]
    names = path.split("/")
    return next((a for parts, a in globs if _is_below(names, parts)), None)

  return find


def _is_below(names, patterns) -> bool:
  """Whether a path is one of a glob's, or below it; ** stands for all below."""
  for name, pattern in zip(names, patterns):
    if pattern == "**":
      return True
    if not fnmatch.fnmatchcase(name, pattern):
      return False
  return len(names) >= len(patterns)
