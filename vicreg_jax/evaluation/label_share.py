"""Chooses a share of the labelled clips, to learn from few labels.

A share has whole tracks, and the same proportion of each class. With the same
seed, a smaller share lies within a larger one.
"""

from collections.abc import Sequence

import numpy as np

from vicreg_jax.data import input_pipeline, tracks
from vicreg_jax.data.prepared import Prepared


def of_training(prepared: Prepared, fraction: float, seed: int) -> np.ndarray:
  """Positions [n] of a share of the training clips in their `labels`."""
  if fraction == 1:  # tracks need not be read
    return np.arange(prepared.num_clips["train"])
  return of_clips(
    input_pipeline.tracks(prepared, "train"),
    input_pipeline.labels(prepared, "train").labels_NxK,
    fraction,
    salt=str(seed),
    single=prepared.label_kind == "single",
  )


def of_clips(
  track_N: Sequence[str],
  labels_NxK: np.ndarray,
  fraction: float,
  *,
  salt: str,
  single: bool,
) -> np.ndarray:
  """Positions [n], ascending, of the clips of a share of the tracks.

  Args:
    track_N: the track of each clip.
    labels_NxK: 0 or 1.
    fraction: of the tracks, above 0 and at most 1; rounded, but at least one
      track, or one of each class with `single`.
    salt: another salt gives another share.
    single: each clip has one label.
  """
  classes = tracks.classes(track_N, labels_NxK, single=single)
  chosen = set()
  for members in tracks.by_class(classes).values():
    order = tracks.ordered(members, salt)
    chosen.update(order[: max(1, round(fraction * len(order)))])
  return np.flatnonzero([track in chosen for track in track_N])
