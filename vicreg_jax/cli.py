"""`--config` and its overrides, for the commands that take a config.

A config is a Python file of yours, and is run: only take those you trust.
"""

import contextlib
import re
import sys

from absl import flags
from ml_collections import config_flags

from vicreg_jax import messages

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")
DEBUG = flags.DEFINE_bool("debug", False, "Show where an error came from.")


def parse(argv):
  """Parses the flags; what is wrong with them is said in one line."""
  try:
    return flags.FLAGS(["--help" if arg == "-h" else arg for arg in argv])
  except SystemExit:  # absl shows the help, and says that this is an error
    sys.exit(0)
  except flags.Error as e:
    # absl does not say whose name it is.
    spaced = [flag for flag in argv[1:] if " " in flag.partition("=")[0]]
    which = (
      f"{messages.line(spaced[0])}: " if "space" in str(e) and spaced else ""
    )
    sys.exit(f"error: {which}{messages.line(e)}")
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
      f"error: {messages.line(what)} as a key; vicreg_jax/config.py lists all"
      " keys"
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
    if DEBUG.value or not messages.ours(e):
      raise
    messages.end(e)


def _no_config(error):
  """There is no such file, or it is not a config."""
  sys.exit(f"error: --config: {' '.join(str(error).split())}")
