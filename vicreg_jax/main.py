"""The door: `python -m vicreg_jax.main --config=configs/X.py --workdir=DIR`.

`--config.key=value` overrides a key of the config, which is a Python file of
your own: only run configs that you trust.
"""

import os
import sys

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory for the results.")
DEBUG = flags.DEFINE_bool("debug", False, "Show where an error came from.")


def run(config: ml_collections.ConfigDict, workdir: str):
  """Runs the job that a config describes; prints its results."""
  from vicreg_jax import config as configs

  configs.validate(config)
  from vicreg_jax import embed, prepare, pretrain, probe

  if config.job == "prepare":
    prepared = prepare.run(config)
    print(prepared.summary())
    print("figure:", prepare.figure(prepared))
    return
  if config.job == "embed":
    print("embeddings:", embed.run(config, workdir))
    return
  if config.job == "pretrain":
    pretrain.run(config, workdir)
    print("figure:", pretrain.figure(workdir))
  if config.job == "probe" or config.probe_after:
    from_run = workdir if config.job == "pretrain" else None
    results = probe.run(config, workdir, from_run)
    print(probe.table(results))
    print("figure:", probe.figure(workdir))


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.WARNING)
  try:
    if CONFIG.value.job != "prepare" and not WORKDIR.value:
      raise ValueError("--workdir is not set: name a directory for the results")
    run(CONFIG.value, WORKDIR.value and os.path.expanduser(WORKDIR.value))
  except ValueError as e:
    if DEBUG.value or not _ours(e):
      raise
    sys.exit(f"error: {e}")


def _parse(argv):
  """Parses the flags; what is wrong with them is said in one line."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    sys.exit(f"error: {e}")
  except AttributeError as e:
    # ml_collections reports an unknown key as a missing attribute.
    for flag in argv[1:]:
      keys = flag.split("=")[0].split(".")
      if flag.startswith("--config.") and str(e).strip("\"'") in keys:
        sys.exit(
          f"error: {flag}: this config has no such key; vicreg_jax/config.py"
          " lists all keys"
        )
    raise
  except OSError as e:
    sys.exit("error: " + " ".join(str(e).split()))


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
