"""The door: `python -m vicreg_jax.main --config=configs/X.py --workdir=DIR`.

`--config.key=value` overrides a key of the config, which is a Python file of
your own: only run configs that you trust.
"""

import os
import pathlib
import re
import signal
import sys

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory for the results; runs/<config> if not given."
)
MULTIHOST = flags.DEFINE_bool(
  "multihost", False, "This command runs on every host of a TPU pod."
)
HOSTS = (
  flags.DEFINE_string("coordinator", None, "Elsewhere: process 0's HOST:PORT."),
  flags.DEFINE_integer("num_processes", None, "Elsewhere: how many there are."),
  flags.DEFINE_integer("process_id", None, "Elsewhere: which this is, from 0."),
)
# EX_TEMPFAIL of sysexits.h: stopped by a signal; the same command continues.
EXIT_INTERRUPTED = 75
_LONGEST_ERROR = 1200  # characters
DEBUG = flags.DEFINE_bool("debug", False, "Show where an error came from.")


def run(config: ml_collections.ConfigDict, workdir: str):
  """Runs the job that a config describes; prints its results."""
  from vicreg_jax import config as configs

  configs.validate(config)
  from vicreg_jax import embed, mesh, prepare, pretrain, probe

  first = mesh.is_first_host()
  if config.job == "prepare":
    prepared = prepare.run(config)
    if first:
      print(prepared.summary())
      print("figure:", prepare.figure(prepared))
    return
  if config.job == "embed":
    path = embed.run(config, workdir)
    if first:
      print("embeddings:", path)
    return
  if config.job == "pretrain":
    pretrain.run(config, workdir)
    if first:
      print("figure:", pretrain.figure(workdir))
  if config.job == "probe" or config.probe_after:
    from_run = workdir if config.job == "pretrain" else None
    results = probe.run(config, workdir, from_run)
    if first:
      print(probe.table(results))
      if config.probe.untrained:
        print("figure:", probe.figure(workdir))


def _join_hosts():
  """Before anything touches JAX's devices."""
  named = [flag.value for flag in HOSTS]
  if MULTIHOST.value:
    from vicreg_jax import mesh

    mesh.join_hosts(*named)
  elif any(value is not None for value in named):
    raise ValueError(
      "--coordinator, --num_processes and --process_id need --multihost"
    )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.WARNING)
  try:
    config = CONFIG.value
    _ = config.job  # what stands for a file that failed to load says so here
  except OSError as e:
    _no_config(e)
  name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
  workdir = os.path.expanduser(WORKDIR.value or f"runs/{name.stem}")
  # Training saves when it is told to stop. Elsewhere nothing is lost either:
  # what was half-written is removed on the way out, and made again.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    _join_hosts()
    run(config, workdir)
  except KeyboardInterrupt:
    print("interrupted; run the same command to continue", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)
  except ValueError as e:
    if DEBUG.value or not _ours(e):
      raise
    sys.exit(f"error: {_line(e)}")


def _parse(argv):
  """Parses the flags; what is wrong with them is said in one line."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    sys.exit(f"error: {_line(e)}")
  except (AttributeError, KeyError) as e:
    # ml_collections reports an unknown key as a missing attribute, followed
    # by a suggestion if a known key is near.
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
      f"error: {_line(what)} as a key; vicreg_jax/config.py lists all keys"
    )
  except OSError as e:
    _no_config(e)


def _no_config(error):
  """There is no such file, or it is not a config."""
  sys.exit(f"error: --config: {' '.join(str(error).split())}")


def _line(error) -> str:
  """An error as one line: what it quotes may be long, and hold line ends."""
  text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
  half = _LONGEST_ERROR // 2
  short = len(text) <= _LONGEST_ERROR
  return text if short else f"{text[:half]} ... {text[-half:]}"


def _ours(error) -> bool:
  """Whether this package raised it, for the user to read."""
  last = error.__traceback__
  while last.tb_next:
    last = last.tb_next
  here = os.path.dirname(os.path.abspath(__file__))
  return os.path.abspath(last.tb_frame.f_code.co_filename).startswith(here)


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=_parse)
