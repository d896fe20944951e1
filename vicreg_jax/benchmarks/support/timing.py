"""What the benchmarks share: turns, medians and quartiles, the machine."""

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Time(NamedTuple):
  """Seconds that a call took: on the clock, and of this process's cores.

  CPU time counts user and system time of the process and of children that
  ended. Other work on the machine disturbs it less than wall time.
  """

  wall: float
  cpu: float


class Report(NamedTuple):
  """The results of a benchmark.

  `results` is {name: {figure: number or spread}}, a spread as from `spread`;
  `notes` are sentences for the reader: what was left out, what is estimated.
  """

  results: dict[str, dict]
  notes: list[str]


def machine() -> dict:
  """Facts that figures depend on: cores, usable cores, other work."""
  return {
    "cpus": os.cpu_count(),
    "usable_cpus": len(os.sched_getaffinity(0)),
    "load_average": [round(load, 2) for load in os.getloadavg()],
  }


def peak_mib() -> float:
  """The most memory that this process has held, in MiB.

  `ru_maxrss` is only a fallback: it includes the memory of the parent process.
  """
  try:
    with open("/proc/self/status") as status:
      (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
  except OSError:  # not Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clock(function: Callable, *args) -> Time:
  """Calls a function."""

  def cpu():
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usage = [resource.getrusage(kind) for kind in kinds]
    return sum(u.ru_utime + u.ru_stime for u in usage)

  wall, before = time.perf_counter(), cpu()
  function(*args)
  return Time(time.perf_counter() - wall, cpu() - before)


def take_turns(
  runs: Mapping[str, Callable[[], None]], repeats: int
) -> dict[str, list[Time]]:
  """Times every function `repeats` times, one after another in each round.

  A slow spell of the machine so slows all of them. Warm up first.
  """
  times = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      times[name].append(clock(run))
  return times


def spread(values: Sequence[float]) -> dict[str, float]:
  """Median and quartiles."""
  q1, median, q3 = np.percentile(values, (25, 50, 75))
  return {"median": float(median), "q1": float(q1), "q3": float(q3)}


def per_second(times: Sequence[Time], units: int, unit: str):
  """{"<unit>_per_s": spread, "<unit>_per_cpu_s": spread}."""
  return {
    f"{unit}_per_s": spread([units / t.wall for t in times]),
    f"{unit}_per_cpu_s": spread([units / t.cpu for t in times]),
  }


def compared(
  times: Mapping[str, Sequence[Time]],
  ours: str,
  figures: Callable[[Sequence[Time]], dict],
  by: str = "wall",
) -> dict[str, dict]:
  """{name: figures(its times)} of functions that took turns.

  All but `ours` also have "speedup_of_ours": their seconds over ours, round by
  round. `by` is "wall" or "cpu".
  """
  results = {name: figures(taken) for name, taken in times.items()}
  for name in results.keys() - {ours}:
    results[name]["speedup_of_ours"] = speedup(
      *([getattr(t, by) for t in times[key]] for key in (ours, name))
    )
  return results


def speedup(ours: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
  """How many times as fast as a peer ours was, round by round."""
  return spread([b / a for a, b in zip(ours, peer, strict=True)])
