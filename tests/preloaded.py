"""What the processes of warm.py have imported before they are forked.

PyTorch, which tensorboardX and others load where it is installed, is left out.
"""

import sys


class NoTorch:
  def find_spec(self, name, *_):
    if name == "torch":
      raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoTorch())

import conftest  # noqa: F401
import matplotlib.pyplot  # noqa: F401

from vicreg_jax import main, suite  # noqa: F401
from vicreg_jax.jobs import embed, pretrain, probe, supervised  # noqa: F401
