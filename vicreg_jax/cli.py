"""What the package's commands share: `--config`, its overrides, and errors.

A config is a Python file of yours, and is run: only take those you trust.
"""

import contextlib
import os
import re
import sys

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")
DEBUG = flags.DEFINE_bool("debug", False, "Show where an error came from.")
# EX_TEMPFAIL of sysexits.h: stopped by a signal; the same command continues.
EXIT_INTERRUPTED = 75
_LONGEST_ERROR = 1200  # characters


def parse(argv):
  """Parses the flags; what is wrong with them is said in one line."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    # absl does not say whose name it is.
    spaced = [flag for flag in argv[1:] if " " in flag.partition("=")[0]]
    which = f"{line(spaced[0])}: " if "space" in str(e) and spaced else ""
    sys.exit(f"error: {which}{line(e)}")
  except (AttributeError, IndexError, KeyError) as e:
    # ml_collections reports an unknown key as a missing attribute (or index),
    # followed by a suggestion if a known key is near.
    words = set(re.findall(r"\w+", str(e).replace("\\n", " ")))
    for flag in argv[1:]:
      keys = re.findall(r"\w+", flag.split("=")[0])[1:]
      if flag.startswith("--config.") and not words.isdisjoint(keys):
        near = re.search(r"mean \W*(\w+)", str(e))
        sys.exit(
          f"error: {flag}: this config has no such key"
          + (f" (did you mean {near[1]}?)" if near else "")
          + "; vicreg_jax/config.py lists all keys"
        )
    raise
  except ValueError as e:
    what, syntax, _ = str(e).partition(": SyntaxError")
    if not (what.startswith("Could not parse") and syntax):
      raise  # by the config's own code
    sys.exit(
      f"error: {line(what)} as a key; vicreg_jax/config.py lists all keys"
    )
  except OSError as e:
    _no_config(e)


def load_config():
  """The config that the flags describe."""
  try:
    config = CONFIG.value
    _ = config.job  # what stands for a file that failed to load says so here
  except OSError as e:
    _no_config(e)
  return config


@contextlib.contextmanager
def errors():
  """Ends the command with one line for what its user can put right."""
  try:
    yield
  except ValueError as e:
    if DEBUG.value or not ours(e):
      raise
    end(e)


def end(error):
  """Ends the command with an error's line, and with 1 or its own exit code."""
  text = f"error: {line(error)}"
  if hasattr(error, "exit_code"):
    print(text, file=sys.stderr)
    sys.exit(error.exit_code)
  sys.exit(text)


def _no_config(error):
  """There is no such file, or it is not a config."""
  sys.exit(f"error: --config: {' '.join(str(error).split())}")


def line(error) -> str:
  """An error as one line: what it quotes may be long, and hold line ends."""
  text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
  half = _LONGEST_ERROR // 2
  short = len(text) <= _LONGEST_ERROR
  return text if short else f"{text[:half]} ... {text[-half:]}"


def ours(error) -> bool:
  """Whether this package raised it, for the user to read."""
  last = error.__traceback__
  while last.tb_next:
    last = last.tb_next
  here = os.path.dirname(os.path.abspath(__file__))
  return os.path.abspath(last.tb_frame.f_code.co_filename).startswith(here)
