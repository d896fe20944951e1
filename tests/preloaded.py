"""What the processes of warm.py have imported before they are forked."""

import conftest  # noqa: F401
import matplotlib.pyplot  # noqa: F401

from vicreg_jax import main, suite  # noqa: F401
from vicreg_jax.jobs import embed, pretrain, probe, supervised  # noqa: F401
