"""A few kills of `soak.py`, which has the long form."""

import pytest
import soak


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 5])
def test_a_run_that_is_killed_loses_nothing(data_dir, tmp_path, kills):
  run = soak.Soak(tmp_path, data_dir, kills=kills, devices=0, seed=0)
  run.run()
  run.compare()
  # The last of five may come when all is done.
  assert kills - (kills > 1) <= run.killed.total() <= kills
