"""Finds the best step of a run by its evaluations."""

import itertools
import math
from collections.abc import Collection

from vicreg_jax import files
from vicreg_jax.training import workdir as workdirs

# Name in metrics.jsonl, and the sign for which lower is better.
MEASURES = {"loss": ("validation/loss", 1), "knn": ("validation/knn", -1)}


class Best:
  """The best of a run's evaluations, up to a step.

  Evaluations are read from metrics.jsonl, which has all up to a checkpoint.

  Attributes:
    key: the measure's name in metrics.jsonl.

  Args:
    workdir: of the run.
    by: the measure, of MEASURES.
    patience: steps without a better one that end a run; 0: never.
    last: evaluations after this step do not count.
  """

  def __init__(self, workdir, by: str, patience: int = 0, last=math.inf):
    self.key, self._sign = MEASURES[by]
    self._patience = patience
    path = f"{workdir}/{workdirs.METRICS}"
    with files.explained(path):
      lines = files.read_metrics(path) if files.exists(path) else []
    self._cost_of = {
      line["step"]: self._sign * line[self.key]
      for line in lines
      if self.key in line and line["step"] <= last
    }

  def add(self, step: int, value: float) -> bool:
    """Whether this step is the best."""
    self._cost_of[step] = self._sign * value
    return self.step() == step

  def step(self, among: Collection[int] | None = None) -> int | None:
    """The best step; of equally good steps, the first.

    `among`: only these steps count.
    """
    steps = [s for s in self._cost_of if among is None or s in among]
    return min(steps, key=self._cost_of.get, default=None)

  def record_steps(self) -> set[int]:
    """Every step that was the best so far when the run reached it."""
    lowest = itertools.accumulate(self._cost_of.values(), min)
    before = itertools.chain([math.inf], lowest)
    costs = zip(self._cost_of.items(), before)
    return {s for (s, cost), low in costs if cost < low}

  def exhausted(self) -> bool:
    """Whether no better step came within the patience."""
    if not (self._patience and self._cost_of):
      return False
    return max(self._cost_of) - self.step() >= self._patience
