"""One vector of a recording, from the vectors of its segments."""

import numpy as np

# Length of a recording's vector over that of a segment's.
TIMES = {"mean": 1, "mean_std": 2}


def of(y_SxD: np.ndarray, pooling: str = "mean") -> np.ndarray:
  """The mean [D]; or the mean and then the standard deviation, [2 D]. float32.

  The deviation has ddof 0: it is 0 for a single segment. Raises ValueError if
  there is no such pooling.
  """
  if pooling not in TIMES:
    raise ValueError(f"pooling is {pooling!r}; use one of {', '.join(TIMES)}")
  mean_D = y_SxD.mean(0)
  if pooling == "mean":
    return mean_D
  # In float32 equal segments would have a deviation.
  std_D = y_SxD.std(0, dtype=np.float64)
  return np.concatenate([mean_D, std_D]).astype(np.float32)
