"""Files of a workdir, which is a directory or lies in a bucket (gs://...)."""

import contextlib
import errno
import fcntl
import io
import json
import os
import socket
from collections.abc import Callable, Iterable

from etils import epath

# A mark near the beginning or the end of this package's outputs.
MARK = "generator: vicreg_jax"
_LOOKED_AT = 4096  # bytes
# Beginnings of outputs without a mark.
_STARTS = (b"path,bytes,modified,sha256,rows,reason",)  # lists beside tables
# Of pages that older versions wrote without a mark.
_TITLE = b"<title>Map of music</title>"
# Remedies by an error's number; for other errors, another place.
_REMEDIES = {
  errno.ENOSPC: "Free disk space there",
  errno.EDQUOT: "Free disk space there",
  errno.EACCES: "Allow this user to write there",
  errno.EPERM: "Allow this user to write there",
  errno.EROFS: "Mount that disk for writing",
  errno.EISDIR: "Name a file in it",
  errno.ENOTDIR: "Move the file away that has a directory's name",
  errno.EEXIST: "Move the file away that has a directory's name",
  errno.ENAMETOOLONG: "Shorten the name",
}


def is_bucket(path) -> bool:
  """Whether a path is a URL such as gs://bucket/run."""
  return "://" in os.fspath(path)


def absolute(path) -> epath.Path:
  """The absolute path of a directory, with `~` as the home."""
  path = epath.Path(path)
  # epath would take a URL for a directory of this one.
  return path if is_bucket(path) else path.expanduser().resolve()


def exists(path) -> bool:
  """Whether a file exists. Raises OSError if that cannot be seen."""
  with os_errors(path):
    return epath.Path(path).exists()


def is_empty(path) -> bool:
  """Whether a directory has no files, or does not exist.

  Raises OSError if the path is a file, or cannot be read.
  """
  with os_errors(path):
    directory = epath.Path(path)
    return not (directory.exists() and any(directory.iterdir()))


def read(path) -> bytes:
  """The content of a file. Raises OSError if it cannot be read."""
  with os_errors(path):
    return epath.Path(path).read_bytes()


def read_metrics(path) -> list[dict]:
  """The lines of a metrics.jsonl, each with its "step"; without a torn end.

  Raises ValueError if the file cannot be read, or a line has no metrics.
  """
  try:
    *texts, _ = read(path).split(b"\n")
  except OSError as e:
    raise ValueError(
      f"cannot read {path} ({e}): give the metrics.jsonl of a run, or put a"
      " copy of it in its place"
    ) from e
  lines = []
  for number, text in enumerate(texts, 1):
    try:
      lines.append(json.loads(text))
      int(lines[-1]["step"])
    except (KeyError, TypeError, ValueError) as e:
      raise ValueError(
        f"{path}, line {number} is not a metrics line: {text[:60]!r}. Delete"
        " that line, or put a copy of the file in its place"
      ) from e
  return lines


def write(path, content: bytes):
  """Writes a file whole or not at all, and makes its directory.

  Raises OSError if the file cannot be written. An object in a bucket appears
  only once it is complete.
  """
  path = epath.Path(path)
  with os_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_bucket(path):
      path.write_bytes(content)
      return
  # A name of its own: several machines may write one file.
  partial = f"{path}.{socket.gethostname()}-{os.getpid()}.tmp"
  try:
    with open(partial, "wb") as f:
      f.write(content)
      f.flush()
      os.fsync(f.fileno())
    os.replace(partial, path)
  except OSError:
    with contextlib.suppress(OSError):
      os.unlink(partial)
    raise


def write_npz(path, **arrays):
  """Writes arrays as NumPy's archive. Raises OSError, as `write`."""
  import numpy as np

  content = io.BytesIO()
  np.savez(content, **arrays)
  write(path, content.getvalue())


_unkept = {}  # path: (what they are made of, arrays), where none can be written


def kept_npz(path, made_of: list, make: Callable[[], dict]) -> dict:
  """The arrays in a file if `made_of` is the same, else those of `make`.

  New arrays are written to the file, or kept by this process if they cannot be
  written: a disk may be full, or somebody else's.
  """
  import numpy as np

  before, arrays = _unkept.get(path, (None, None))
  if before == made_of:
    return arrays
  # A damaged file has whatever error; what does not fit is made anew.
  with contextlib.suppress(Exception), np.load(io.BytesIO(read(path))) as kept:
    if kept["made_of"].tolist() == made_of:
      return dict(kept)
  arrays = make()
  try:
    write_npz(path, made_of=made_of, **arrays)
  except OSError:
    _unkept[path] = made_of, arrays
  return arrays


def output(
  path,
  flag="--output",
  *,
  inputs: Iterable = (),
  overwrite: bool | None = False,
  ours: bool = False,
) -> str:
  """The file to write an output to, behind any links.

  An output goes to a new name, or replaces a file that this package has written
  (`is_ours`).

  Args:
    path: of the output, as the user gave it by `flag`.
    inputs: files that the command reads, which are never replaced.
    overwrite: whether other files may be replaced; None: the command has no
      such flag.
    ours: whether an existing file is known to be this package's.

  Raises:
    ValueError: the file must not be replaced, or cannot be written; nothing is
      changed.
  """
  named = f"{flag}={path}"
  with explained(path, flag):
    target = _target(path, named)
    there = exists(target)
    if _is_among(inputs, target, there):
      raise ValueError(f"{named} is what this command reads: give another name")
    if not there or overwrite or ours or is_ours(target):
      return target
  remedy = "" if overwrite is None else ", or --overwrite to replace the file"
  raise ValueError(
    f"{named} was not written by vicreg_jax, or is damaged: give another"
    f" name{remedy}"
  )


def _target(path, named) -> str:
  """The target of a path. Raises OSError unless it can be written."""
  path = os.fspath(path)
  if is_bucket(path):
    return path
  target = os.path.realpath(os.path.expanduser(path))
  # In other programs "-" is the standard output.
  if path in ("", "-") or (
    os.path.lexists(target) and not os.path.isfile(target)
  ):
    raise ValueError(f"{named} is no file: give the name of one")
  parent = os.path.dirname(target)
  while not os.path.lexists(parent):
    parent = os.path.dirname(parent)
  if not os.path.isdir(parent):
    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
  if not os.access(parent, os.W_OK | os.X_OK):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  return target


def _is_among(inputs, target, there) -> bool:
  """Whether a file is one of the inputs, by any name."""
  if is_bucket(target) or not there:  # other outputs may be among the inputs
    return any(
      target in (os.fspath(path), os.path.abspath(path)) for path in inputs
    )
  stat = os.stat(target)
  for path in inputs:
    with contextlib.suppress(OSError):
      if os.path.samestat(os.stat(path), stat):
        return True
  return False


def is_ours(path) -> bool:
  """Whether this package has written a file, by its content.

  Raises OSError if the file cannot be read.
  """
  with os_errors(path), epath.Path(path).open("rb") as f:
    head = f.read(_LOOKED_AT)
    f.seek(max(f.seek(0, os.SEEK_END) - _LOOKED_AT, 0))
    if MARK.encode() in head + b"\n" + f.read():
      return True
    f.seek(0)
    return head.startswith(_STARTS) or _TITLE in head or _is_table(head, f)


def _is_table(head, file) -> bool:
  """Whether a file is a table of embeddings."""
  if not head.startswith(b"PAR1"):
    return False
  import pyarrow as pa
  import pyarrow.parquet as pq

  try:
    return b"vicreg_jax" in (pq.read_schema(file).metadata or {})
  except (pa.ArrowException, OSError):  # OSError: of what is in it
    return False


@contextlib.contextmanager
def lock(path, flag="--output"):
  """Locks a file against other writers, by `PATH.lock` beside it.

  The kernel releases the lock when the process dies. If several hosts share a
  directory, let the first one lock. Buckets and some network disks have no
  locks: there nothing is locked.

  Args:
    path: of the file; its folder is made.
    flag: by which the user gave the path.

  Raises:
    ValueError: this process or another one holds the lock already.
    OSError: the place cannot be written; see `explained`.
  """
  if is_bucket(path):
    yield
    return
  place = os.path.realpath(path)
  os.makedirs(os.path.dirname(place), exist_ok=True)
  name = f"{place}.lock"
  while True:
    file = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      _hold(file, path, flag)
      with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(name), os.fstat(file)):
          break
    except BaseException:
      os.close(file)
      raise
    os.close(file)  # its holder has just removed it
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      if not os.fstat(file).st_size:  # else it is somebody's
        os.unlink(name)
    os.close(file)


def _hold(file, path, flag):
  """Locks an open file. Raises ValueError if somebody else has."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError) as e:
    raise ValueError(
      f"{path} is being written by another command: wait until that one has"
      f" ended, or give another {flag}"
    ) from e
  except OSError:
    pass  # a disk without locks


@contextlib.contextmanager
def explained(path, flag="--workdir"):
  """Raises ValueError, which names the remedy, if `path` cannot be written.

  `flag`: by which the user gave the path.
  """
  try:
    with os_errors(path):
      yield
  except OSError as e:
    remedy = _REMEDIES.get(e.errno)
    remedy = f"{remedy}, or use" if remedy else "Use"
    raise ValueError(
      f"cannot write {path}: {e.strerror or e}. {remedy} another directory"
      f" ({flag}); the same command then continues"
    ) from e


@contextlib.contextmanager
def os_errors(path):
  """Turns TensorFlow's errors, of buckets, into OSError."""
  if not is_bucket(path):
    yield
    return
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as e:
    raise OSError(" ".join(str(e).split())) from e
