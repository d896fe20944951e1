"""Checks a config: known keys, kinds of values, limits.

Every function raises ValueError, which names key, value and allowed values.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

# No run can have larger values: steps are int32 on a device, and floats beyond
# float32 would become infinite there.
LARGEST_INT = 2**31 - 1
LARGEST_FLOAT = 1e30


class Bounds(NamedTuple):
  """Bounds of a number, or of each number of a list. None: no such bound."""

  least: float | None = None
  above: float | None = None
  most: float | None = None
  below: float | None = None

  def __str__(self):
    named = {
      "at least": self.least,
      "above": self.above,
      "at most": self.most,
      "below": self.below,
    }
    return " and ".join(
      f"{name} {bound}" for name, bound in named.items() if bound is not None
    )

  def hold(self, value) -> bool:
    """Whether a value is within the bounds."""
    return (
      (self.least is None or value >= self.least)
      and (self.above is None or value > self.above)
      and (self.most is None or value <= self.most)
      and (self.below is None or value < self.below)
    )


def flat(tree, prefix="") -> Iterator[tuple[str, Any]]:
  """(name with dots, value) of every key; a section comes before its keys."""
  for key, value in tree.items():
    yield f"{prefix}{key}", value
    if isinstance(value, ConfigDict):
      yield from flat(value, f"{prefix}{key}.")


def check_known(config: ConfigDict, bases: Iterable[ConfigDict]):
  """Refuses a key that none of the bases has, such as a misspelt one."""
  known = {key for base in bases for key, _ in flat(base)}
  for key, _ in flat(config):
    if key not in known:
      near = difflib.get_close_matches(key, known, 1)
      hint = f" (did you mean {near[0]}?)" if near else ""
      raise ValueError(
        f"{key}: there is no such key{hint}; vicreg_jax/config.py lists all"
      )


def check_kinds(config: ConfigDict, base: ConfigDict):
  """Refuses a config unless the keys of `base` have values of its kinds."""
  given = dict(flat(config))
  for key, like in flat(base):
    if key not in given:
      section = f"section {key.rpartition('.')[0]}" if "." in key else "config"
      raise ValueError(f"{key} is missing: give the {section} all of its keys")
    fault = _fault(given[key], like)
    if fault:
      raise ValueError(f"{key} is {given[key]!r}; it must be {fault}")


def _fault(value, like):
  """The kind that `value` should have, unless it is of the kind of `like`."""
  if isinstance(like, ConfigDict):
    is_section = isinstance(value, ConfigDict)
    return "" if is_section else f"a section with {', '.join(like)}"
  if isinstance(like, bool):
    return "" if isinstance(value, bool) else "True or False"
  if isinstance(like, str):
    return "" if isinstance(value, str) and "\0" not in value else "text"
  if isinstance(like, tuple):
    if not isinstance(value, (tuple, list)):
      return f"a list such as {like}"
    example = like[0] if like else 0.0
    faults = [fault for v in value if (fault := _fault(v, example))]
    return f"a list, each of them {faults[0]}" if faults else ""
  if isinstance(like, int):
    kind, types, largest = "a whole number", int, LARGEST_INT
  else:
    kind, types, largest = "a number", (int, float), LARGEST_FLOAT
  number = isinstance(value, types) and not isinstance(value, bool)
  # Written so that nan is refused too.
  if number and -largest <= value <= largest:
    return ""
  return f"{kind} of at most {largest}"


def check_limits(
  config: ConfigDict,
  base: ConfigDict,
  limits: Mapping[str, Bounds | Collection[str]],
):
  """Refuses values beyond their limits, of the keys that `base` has.

  Args:
    config: its values are of the kinds of `base`.
    base: see `check_kinds`.
    limits: by key: bounds, or the names to choose from.
  """
  given = dict(flat(config))
  for key, _ in flat(base):
    if key in limits:
      value, limit = given[key], limits[key]
      each = value if isinstance(value, (tuple, list)) else [value]
      if isinstance(limit, Bounds):
        fine, remedy = map(limit.hold, each), f"it must be {limit}"
      else:
        fine = (v in limit for v in each)
        remedy = "use one of " + ", ".join(v or "''" for v in limit)
      if not all(fine):
        raise ValueError(f"{key} is {value!r}; {remedy}")
