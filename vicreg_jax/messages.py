"""Ends a command with an error in one line, and its exit code."""

import os
import sys

# EX_TEMPFAIL of sysexits.h: stopped by a signal; the same command continues.
EXIT_INTERRUPTED = 75
_LONGEST_ERROR = 1200  # characters


def end(error):
  """Ends the command with an error's line, and with 1 or its own exit code."""
  text = f"error: {line(error)}"
  if hasattr(error, "exit_code"):
    print(text, file=sys.stderr)
    sys.exit(error.exit_code)
  sys.exit(text)


def line(error) -> str:
  """An error as one line, though it may quote long text with line ends."""
  text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
  half = _LONGEST_ERROR // 2
  short = len(text) <= _LONGEST_ERROR
  return text if short else f"{text[:half]} ... {text[-half:]}"


def ours(error) -> bool:
  """Whether this package raised an error, for the user to read."""
  last = error.__traceback__
  while last.tb_next:
    last = last.tb_next
  here = os.path.dirname(os.path.abspath(__file__))
  return os.path.abspath(last.tb_frame.f_code.co_filename).startswith(here)
