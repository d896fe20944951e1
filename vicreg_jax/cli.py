"""`--config` and its overrides, for the commands that take a config.

A config is a Python file, which is run: only use files that you trust.
"""

import contextlib
import re
import sys

import ml_collections
from absl import flags
from ml_collections import config_flags

from vicreg_jax import messages, python_file, shipped


class _ConfigFile(flags.ArgumentParser):
  """Replaces ml_collections' parser, whose errors name no remedy."""

  def parse(self, path):
    """The config of FILE.py, or of FILE.py:ARGUMENT of its get_config.

    FILE.py may be the name of a config that comes with the package.
    """
    file, *argument = path.split(":", 1)
    file = shipped.config(file)
    try:
      config = python_file.call(file, "get_config", *argument, flag="--config")
      if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
          f"--config={file}: get_config returns {type(config).__name__}: let it"
          " return a ConfigDict, such as vicreg_jax.config.base_pretrain()"
        )
    except ValueError as e:  # absl would add words of its own
      raise flags.IllegalFlagValueError(str(e)) from e
    return config.lock()


CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")
flags.FLAGS["config"].parser = _ConfigFile()
DEBUG = flags.DEFINE_bool("debug", False, "Show where an error came from.")


def parse(argv):
  """Parses the flags; errors are one line."""
  try:
    return flags.FLAGS(["--help" if arg == "-h" else arg for arg in argv])
  except SystemExit:  # absl shows the help, and says that this is an error
    sys.exit(0)
  except flags.Error as e:
    if "--debug" in argv:
      raise
    # absl does not name the flag.
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


@contextlib.contextmanager
def errors():
  """Ends the command with one line for errors that users can mend."""
  try:
    yield
  except ValueError as e:
    if DEBUG.value or not messages.ours(e):
      raise
    messages.end(e)
