"""Random splits of all labelled clips: one split of few clips decides little.

No track is in two parts. If labels trained or chose the probed weights, only
tracks of the fixed test split are tested: their labels took no part.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from vicreg_jax.data import input_pipeline, tracks
from vicreg_jax.data.prepared import SPLITS, Prepared
from vicreg_jax.evaluation import bootstrap, label_share

FIXED = (
  "test tracks of the fixed test split: the weights were chosen by labels of"
  " the others"
)
# Data sets that do not name the artists that belong together.
_MIXED = {
  "gtzan": "GTZAN's artists are on both sides of random splits, which lifts"
  " scores;\nnot so in its filtered split (data.split_set=filtered)"
}
_TESTED = 2 / 3  # of the fixed test split's tracks, in each random split


class Clips(NamedTuple):
  """Labelled clips: `labels_NxK`, and the track of each."""

  labels_NxK: np.ndarray
  track_N: np.ndarray


class Splits(NamedTuple):
  """Splits of all clips of a data set.

  Attributes:
    clips: of all splits of the data set, one after another.
    positions: for each split, {part: positions of its clips}.
    notes: lines that describe the splits.
  """

  clips: Clips
  positions: list[dict[str, np.ndarray]]
  notes: list[str]


def of(
  prepared: Prepared, probe, seed: int, *, by_labels: bool = False
) -> Splits | None:
  """The splits that a config's section `probe` asks for, or None.

  Args:
    prepared: the data set.
    probe: `splits`, `label_fraction` and `heads`; only "logistic" and "knn" are
      scored over splits.
    seed: of the splits.
    by_labels: whether labels of this data set made or chose the weights.

  Raises:
    ValueError: there are too few tracks.
  """
  if probe.splits == 1 or not {"logistic", "knn"} & set(probe.heads):
    return None
  train, valid, test = (input_pipeline.tracks(prepared, s) for s in SPLITS)
  labels = [input_pipeline.labels(prepared, s).labels_NxK for s in SPLITS]
  clips = Clips(np.concatenate(labels), np.array(train + valid + test))
  positions = draw(
    clips,
    count=probe.splits,
    seed=seed,
    single=prepared.label_kind == "single",
    label_fraction=probe.label_fraction,
    tested=set(test) - set(train + valid) if by_labels else None,
  )
  mixed = _MIXED.get(prepared.name.split("/")[0])
  notes = [FIXED] * by_labels + [mixed] * bool(mixed)
  return Splits(clips, positions, notes)


def draw(
  clips: Clips,
  *,
  count: int,
  seed: int,
  single: bool,
  label_fraction: float = 1.0,
  tested: Collection[str] | None = None,
) -> list[dict[str, np.ndarray]]:
  """Positions of the clips of each part, for `count` splits.

  Args:
    clips, single, tested: as in `split`.
    count: of splits, 2 or more.
    seed: of the splits.
    label_fraction: share of each split's training tracks to learn from.

  Raises:
    ValueError: there are too few tracks to split, to score or to tell splits
      apart.
  """
  splits = [
    _positions(clips, f"{seed} {i}", label_fraction, single, tested)
    for i in range(count)
  ]
  tests = {tuple(at["test"]) for at in splits}
  if len(tests) == 1 or not all(_scored(clips, at, single) for at in splits):
    only = ""
    if tested is not None:
      only = f", of which only {len(tested)} can be tested ({FIXED}),"
    raise ValueError(
      f"probe.splits is {count}, and {len(set(clips.track_N))} tracks of"
      f" {len(clips.track_N)} labelled clips{only} are too few to be split and"
      " scored: set probe.splits=1, or add tracks"
    )
  return splits


def split(
  clips: Clips,
  salt: str,
  *,
  single: bool,
  tested: Collection[str] | None = None,
) -> np.ndarray:
  """The part of each clip: a folder's shares, with clips of a track together.

  With `single`, the tracks of each class are split separately.

  Args:
    clips: all labelled clips.
    salt: names the split; another salt gives another split.
    single: each clip has one label.
    tested: the tracks that may be tested; None: all. Two thirds of each class's
      are, at least one, so that splits differ. A tenth of all other tracks is
      for validation, and the rest for training.
  """
  class_of = tracks.classes(clips.track_N, clips.labels_NxK, single=single)
  chosen = set()
  if tested is not None:
    candidates = {t: k for t, k in class_of.items() if t in tested}
    for members in tracks.by_class(candidates).values():
      most = max(1, round(_TESTED * len(members)))
      chosen.update(tracks.ordered(members, salt)[:most])
  others = {t: k for t, k in class_of.items() if t not in chosen}
  part_of = tracks.split(others, salt)
  if tested is not None:
    learned = [t for t, part in part_of.items() if part == "test"]
    part_of |= dict.fromkeys(learned, "train") | dict.fromkeys(chosen, "test")
  return np.array([part_of[track] for track in clips.track_N])


def _positions(clips, salt, label_fraction, single, tested):
  """Positions of a split's clips; of training clips, the labelled share."""
  part_N = split(clips, salt, single=single, tested=tested)
  at = {s: np.flatnonzero(part_N == s) for s in SPLITS}
  train = at["train"]
  share = label_share.of_clips(
    [clips.track_N[n] for n in train],
    clips.labels_NxK[train],
    label_fraction,
    salt=salt,
    single=single,
  )
  return at | {"train": train[share]}


def _scored(clips, at, single) -> bool:
  """Whether no part is empty, and the test clips' labels define all scores."""
  if not all(map(len, at.values())):
    return False
  labels_NxK = clips.labels_NxK[at["test"]]
  found = bootstrap.unweighted(labels_NxK, labels_NxK, single=single)
  return not np.isnan(list(found.values())).any()
