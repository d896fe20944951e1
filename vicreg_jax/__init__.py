"""Self-supervised music representations with VICReg and CLMR, in JAX."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from vicreg_jax.use.encoder import Encoder

__version__ = "0.1.0"

# TensorFlow only reads and augments audio here. Without oneDNN its results do
# not depend on a CPU's instructions, and it starts without a notice.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow imports Keras, and Keras scikit-learn, unless it is told to look
# for an older Keras, which is not there: 1 to 2 s and 100 MB for nothing.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")


def cache_directory(name: str) -> str:
  """The user's directory for caches, which may not exist yet.

  It is below `~/.cache`, or XDG_CACHE_HOME.
  """
  base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return os.path.join(base, "vicreg_jax", name)


def _keep_compiled_programs():
  """Puts JAX's compilation cache into the user's, unless it is set already.

  Runs start sooner with programs that another run has compiled. The cache is
  not set if it cannot be written: JAX would warn at every program.
  """
  path = cache_directory("xla")
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  try:
    os.makedirs(path, exist_ok=True)
  except OSError:
    return
  if os.access(path, os.W_OK):
    os.environ["JAX_COMPILATION_CACHE_DIR"] = path


_keep_compiled_programs()


def load(source, *, step: int = -1, epoch: float = -1.0) -> "Encoder":
  """A frozen encoder, ready to embed: see `vicreg_jax.use.encoder.Encoder`.

  Args:
    source: "starter", the encoder that comes with the package; a workdir of a
      training or probe (local or gs://); a folder that `export` has written; a
      file of CLMR's weights (.pt, .ckpt, their .zip, .onnx).
    step, epoch: which checkpoint of a workdir. If neither is given, the best
      one if the training kept it (`checkpoint.best_by`), else the newest.

  Raises:
    ValueError: there is no encoder; the message has expected and found.
  """
  from vicreg_jax.use import encoder  # JAX takes a second to import

  return encoder.load(source, step=step, epoch=epoch)
