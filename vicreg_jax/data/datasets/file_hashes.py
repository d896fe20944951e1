"""SHA-256 of files, kept so that only changed files are read again."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

from vicreg_jax import files as files_lib


class File(NamedTuple):
  """A file; `id` is its path below the root, as text with slashes."""

  id: str
  path: str
  size: int
  mtime_ns: int


def digests(files: Sequence[File], kept_at: str) -> dict[str, str]:
  """{id: SHA-256} of the files; "" if a path is no file, or cannot be read.

  The file `kept_at` has the hashes of files with the same size and time. It is
  written anew, if possible, when a file has changed.
  """
  known = {}
  # A damaged one has whatever error.
  with contextlib.suppress(Exception):
    kept = json.loads(files_lib.read(kept_at)).items()
    known = {id_: [size, time, digest] for id_, (size, time, digest) in kept}
  new = [f for f in files if known.get(f.id, ())[:2] != [f.size, f.mtime_ns]]
  with (
    concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    # What takes no time needs no bar.
    tqdm(
      total=len(new), desc="read", unit="file", disable=None, delay=2
    ) as bar,
  ):
    for file, digest in zip(new, pool.map(_digest, new), strict=True):
      known[file.id] = [file.size, file.mtime_ns, digest]
      bar.update()
  found = {f.id: known[f.id] for f in files}
  if new or len(found) < len(known):
    with contextlib.suppress(OSError):  # somebody else's data, or a full disk
      files_lib.write(kept_at, json.dumps(found).encode())
  return {id_: digest for id_, (_, _, digest) in found.items()}


def _digest(file):
  try:
    if stat.S_ISREG(os.stat(file.path).st_mode):  # a pipe would wait
      with open(file.path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
  except OSError:  # to decode it fails too, and says why
    pass
  return ""
