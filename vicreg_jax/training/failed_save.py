"""What Orbax and TensorStore leave of a save that has failed."""

import functools
import logging
import sys
import threading
import time
import traceback

_PATIENCE = 10.0  # seconds


def join_threads():
  """Waits for the threads that a failed save has left.

  They would write on, into what the next run on the workdir makes anew. And
  where Python 3.11 collects one that nobody has joined, it may wait for ever.
  """
  end = time.monotonic() + _PATIENCE

  def of_orbax(thread):
    return type(thread).__module__.startswith("orbax.")

  def of_its_loops(thread):  # which the former start, and do not wait for
    return thread.name.startswith("asyncio_")

  for concerned in (of_orbax, of_its_loops):
    for thread in filter(concerned, threading.enumerate()):
      if thread is not threading.current_thread():
        # Not its own `join`, which raises the thread's error.
        threading.Thread.join(thread, max(end - time.monotonic(), 0))


@functools.cache
def quieten():
  """Of a save that fails, no traceback of its threads is printed; once."""
  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(_not_of_orbax)
  before = sys.unraisablehook

  def hook(event):
    # TensorStore's, of a write that ends after its save has failed.
    if "Event loop is closed" not in str(event.exc_value):
      before(event)

  sys.unraisablehook = hook


def _not_of_orbax(record: logging.LogRecord) -> bool:
  """False for a failure within Orbax, which is raised here too."""
  if record.levelno < logging.ERROR or not record.exc_info:
    return True
  frames = traceback.extract_tb(record.exc_info[2])
  return not any("orbax" in frame.filename for frame in frames)
