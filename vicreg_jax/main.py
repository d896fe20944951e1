"""The door: `python -m vicreg_jax.main --config=configs/X.py --workdir=DIR`.

`--config.key=value` overrides a key of the config, which is a Python file: only
run configs that you trust.
"""

import importlib
import os
import pathlib
import signal
import sys

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from vicreg_jax import cli, messages

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


def run(config: ml_collections.ConfigDict, workdir: str):
  """Runs the job that a config describes; prints its results.

  Each of `config.JOBS` is a module in `jobs/`, with `main(config, workdir)`.
  """
  from vicreg_jax import config_limits

  config_limits.validate(config)
  job = importlib.import_module(f"vicreg_jax.jobs.{config.job}")
  job.main(config, workdir)


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
  config = cli.CONFIG.value
  name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
  workdir = os.path.expanduser(WORKDIR.value or f"runs/{name.stem}")
  # A training saves on signals. Other jobs lose nothing either: half-written
  # files are removed on the way out, and made again.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    with cli.errors():
      _join_hosts()
      run(config, workdir)
  except KeyboardInterrupt:
    print("interrupted; run the same command to continue", file=sys.stderr)
    sys.exit(messages.EXIT_INTERRUPTED)


def start(given: list[str]):
  """Runs the command with these flags, and ends the process."""
  flags.mark_flag_as_required("config")
  app.run(main, [__name__, *given], flags_parser=cli.parse)


if __name__ == "__main__":
  start(sys.argv[1:])
