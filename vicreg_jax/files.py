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
  with _as_os_error(path):
    return epath.Path(path).exists()


def read(path) -> bytes:
  """The content of a file. Raises OSError if it cannot be read."""
  with _as_os_error(path):
    return epath.Path(path).read_bytes()


def json_lines(path, remedy: str) -> list[dict]:
  """The objects of a .jsonl file, each on a line; without a torn end.

  Raises ValueError, which ends in `remedy`, if the file is missing or faulty.
  """
  try:
    *texts, _ = read(path).decode().split("\n")
    return [dict(json.loads(text)) for text in texts]
  except (OSError, TypeError, ValueError) as error:
    raise ValueError(f"Cannot read {path} ({error}): {remedy}") from error


def write(path, content: bytes):
  """Writes a file whole or not at all, and makes its directory.

  Raises OSError if it cannot be written. An object in a bucket is whole by
  itself: it is there once all of it has come.
  """
  path = epath.Path(path)
  with _as_os_error(path):
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


@contextlib.contextmanager
def _as_os_error(path):
  """Buckets are TensorFlow's, whose errors are no OSError."""
  if not is_bucket(path):
    yield
    return
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as e:
    raise OSError(" ".join(str(e).split())) from e
