"""One vector of a recording, made of those of its segments."""

import numpy as np

# How many times as long it is as a segment's.
TIMES = {"mean": 1, "mean_std": 2}


def of(y_SxD: np.ndarray, pooling: str = "mean") -> np.ndarray:
  """The mean [D]; or the mean and then the standard deviation, [2 D]. float32.

  The deviation is that of these segments (ddof 0), so of a single one it is 0.
  Raises ValueError if there is no such pooling.
  """
  if pooling not in TIMES:
    raise ValueError(f"pooling is {pooling!r}; use one of {', '.join(TIMES)}")
  mean_D = y_SxD.mean(0)
  if pooling == "mean":
    return mean_D
  # In float32 equal segments would have some.
  std_D = y_SxD.std(0, dtype=np.float64)
  return np.concatenate([mean_D, std_D]).astype(np.float32)
