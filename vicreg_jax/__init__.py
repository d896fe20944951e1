"""Self-supervised music representations with VICReg and CLMR, in JAX."""

import os

# TensorFlow only reads and augments audio here. Without oneDNN its results do
# not depend on which instructions a CPU has, and it starts without a notice.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
