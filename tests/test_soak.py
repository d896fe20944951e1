"""Five kills of `tests/soak.py`, which has the long form."""

import pathlib
import re
import subprocess
import sys


def test_a_run_that_is_killed_five_times_loses_nothing():
  soak = pathlib.Path(__file__).parent / "soak.py"
  done = subprocess.run(
    [sys.executable, str(soak), "--kills=5"], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert re.match(r"[45] kills .*bit for bit", done.stdout), done.stdout
