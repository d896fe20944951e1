"""Clears up after Orbax and TensorStore when a save has failed."""

import functools
import logging
import sys
import threading
import time
import traceback

_PATIENCE = 10.0  # seconds


def join_threads():
  """Waits for the threads that a failed save has left.

  They would go on writing while the next run uses the workdir. And Python 3.11
  may wait forever when it collects a thread that nobody has joined.
  """
  end = time.monotonic() + _PATIENCE

  def of_orbax(thread):
    return type(thread).__module__.startswith("orbax.")

  def of_its_loops(thread):  # Orbax's threads start these, and do not wait
    return thread.name.startswith("asyncio_")

  for concerned in (of_orbax, of_its_loops):
    for thread in filter(concerned, threading.enumerate()):
      if thread is not threading.current_thread():
        # Not its own `join`, which raises the thread's error.
        threading.Thread.join(thread, max(end - time.monotonic(), 0))


@functools.cache
def quieten():
  """Keeps the threads of a failed save from printing tracebacks."""
  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(_not_of_orbax)
  before = sys.unraisablehook

  def hook(event):
    # TensorStore's, of a write that ends after its save has failed.
    if "Event loop is closed" not in str(event.exc_value):
      before(event)

  sys.unraisablehook = hook


def _not_of_orbax(record: logging.LogRecord) -> bool:
  """False for a failure within Orbax, which is also raised."""
  if record.levelno < logging.ERROR or not record.exc_info:
    return True
  frames = traceback.extract_tb(record.exc_info[2])
  return not any("orbax" in frame.filename for frame in frames)
