"""Processes of their own, forked from one that has imported the package.

Imports take most of a short command's time, and touch nothing of a run: devices
and threads come later. So such a process does what a fresh one would, with an
environment of its own, down to what it does when it ends.
"""

import atexit
import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading
import traceback

ROOT = pathlib.Path(__file__).parents[1]
PATIENCE = 600  # seconds, also on a busy machine

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["preloaded"])  # conftest.py sets the path


class Process:
  """Runs `function(*args)`, which a module's top level has.

  What it prints goes to the files `out` and `err`, which may be one.
  """

  def __init__(self, function, *args, out, err, env=None):
    self.out, self.err = pathlib.Path(out), pathlib.Path(err)
    self._process = _context.Process(
      target=_run, args=(function, args, str(out), str(err), env or {})
    )
    self._process.start()
    self.pid = self._process.pid
    self.kill = self._process.kill

  def poll(self):
    """The exit code, negative for a signal; None while it runs."""
    return self._process.exitcode

  def send_signal(self, number):
    os.kill(self.pid, number)

  def wait(self, seconds=PATIENCE):
    """(exit code, what it printed, its errors); kills it when it hangs."""
    self._process.join(seconds)
    if self.poll() is None:
      self.kill()
      raise TimeoutError(f"{seconds} s: {self.err.read_text()}")
    return self.poll(), self.out.read_text(), self.err.read_text()


def command(*flags, **kwargs):
  """Starts `python -m vicreg_jax.main` with the flags."""
  return Process(_main, *flags, **kwargs)


def run_command(directory, *flags, env=None):
  """The command's end, as of `subprocess.run`."""
  out, err = directory / "stdout.txt", directory / "stderr.txt"
  code, *texts = command(*flags, out=out, err=err, env=env).wait()
  return subprocess.CompletedProcess(flags, code, *texts)


def on_eight_devices(directory, function, *args):
  """What `function(*args)` prints last on eight simulated devices."""
  out, err = directory / "eight_out", directory / "eight_err"
  process = Process(function, *args, out=out, err=err, env=devices(8))
  code, printed, errors = process.wait()
  assert code == 0, errors
  return (printed.splitlines() or [""])[-1]


def devices(number):
  """The environment of a process with so many simulated devices."""
  flags = os.environ.get("XLA_FLAGS", "")
  flag = f"--xla_force_host_platform_device_count={number}"
  return {"XLA_FLAGS": f"{flags} {flag}"}


def _main(*flags):
  from absl import app

  from vicreg_jax import cli, main

  # ml_collections looks there for the keys that are overridden.
  sys.argv = ["main", *flags]
  app.run(main.main, sys.argv, flags_parser=cli.parse)


def _run(function, args, out, err, env):
  flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
  for path, number in ((out, 1), (err, 2)):
    os.dup2(os.open(path, flags), number)
  os.environ.update(env)
  os.chdir(ROOT)
  code = 0
  try:
    function(*args)
  except SystemExit as error:
    code = error.code
    if not isinstance(code, int):
      print(code or "", end="\n" if code else "", file=sys.stderr)
      code = int(code is not None)
  except BaseException:
    traceback.print_exc()
    code = 1
  # As the interpreter ends; multiprocessing would leave the second one out.
  threading._shutdown()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
