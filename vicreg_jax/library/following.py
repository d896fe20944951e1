"""Finds files that moved, and files that are gone, since a table was written.

A listed file has moved if nothing is at its path, and a new path has the same
SHA-256 and size. It is gone if nothing is at its path and it has not moved. A
file in a folder without permission is not gone.
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
  """Numbers of files with rows in a table."""

  moved: int
  gone: int  # below the roots


def follow(
  store: Store, paths: Iterable[str], roots: Mapping[str, str], prune: str
) -> Followed:
  """Gives rows of moved files the new path, and drops rows of files gone.

  Args:
    store: the table.
    paths: of audio files.
    roots: {a file, folder or glob: the argument by which it is named}.
    prune: whether files that are gone from below the roots are dropped: ""
      never; "gone" unless an argument has lost all its files; "all" always.

  Raises:
    ValueError: an argument has lost all its files, or does not exist.
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
  """Raises ValueError unless the files that are gone may be dropped.

  `there` and `gone` are numbers of files by argument.
  """
  for argument in dict.fromkeys(roots.values()):
    if argument not in gone:  # the table has no files of this argument
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
  """Maps a path, spelled by `same`, to the argument that it lies below."""
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
  """Whether a glob finds a path or a folder above it; ** matches any depth."""
  for name, pattern in zip(names, patterns):
    if pattern == "**":
      return True
    if not fnmatch.fnmatchcase(name, pattern):
      return False
  return len(names) >= len(patterns)
