"""Files of a workdir, which is a directory or lies in a bucket (gs://...)."""

import contextlib
import json
import os
import socket

from etils import epath


def is_bucket(path) -> bool:
  """Whether a path is a URL such as gs://bucket/run."""
  return "://" in os.fspath(path)


def absolute(path) -> epath.Path:
  """A directory by its absolute path, `~` being the home."""
  path = epath.Path(path)
  # epath would take a URL for a directory of this one.
  return path if is_bucket(path) else path.expanduser().resolve()


def exists(path) -> bool:
  """Whether there is such a file. Raises OSError if that cannot be seen."""
  with os_errors(path):
    return epath.Path(path).exists()


def is_empty(path) -> bool:
  """Whether a directory has no files, or is not there.

  Raises OSError if it is a file, or cannot be read.
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

  Raises ValueError if the file cannot be read, or a line is none of metrics.
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

  Raises OSError if it cannot be written. An object in a bucket is whole by
  itself: it is there once all of it has come.
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


def remove_tree(path):
  """Deletes a directory, if it is there. Raises OSError if it cannot be."""
  with os_errors(path):
    directory = epath.Path(path)
    if directory.exists():
      directory.rmtree()


@contextlib.contextmanager
def explained(path, flag="--workdir"):
  """Raises ValueError, which names the remedy, if `path` cannot be written.

  `flag`: by which the user has named the place.
  """
  try:
    with os_errors(path):
      yield
  except OSError as e:
    raise ValueError(
      f"cannot write {path}: {e.strerror or e}. Free disk space there, or use"
      f" another directory ({flag}); the same command then continues"
    ) from e


@contextlib.contextmanager
def os_errors(path):
  """Buckets are TensorFlow's, whose errors are no OSError."""
  if not is_bucket(path):
    yield
    return
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as e:
    raise OSError(" ".join(str(e).split())) from e
