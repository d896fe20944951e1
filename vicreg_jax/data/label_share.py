"""A share of the labelled clips: what is learned from few labels.

Whole tracks are taken, of each class as many in proportion. A smaller share by
the same seed lies within a larger one, so that two differ by what was added.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from vicreg_jax.data import input_pipeline
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
      track, of each class where labels are single.
    salt: of another one it is another share.
    single: each clip has one label.
  """
  tracks_of = {}
  for track, stratum in strata(track_N, labels_NxK, single=single).items():
    tracks_of.setdefault(stratum, []).append(track)
  chosen = set()
  for tracks in tracks_of.values():
    order = sorted(
      tracks,
      key=lambda track: hashlib.sha256(f"{salt} {track}".encode()).digest(),
    )
    chosen.update(order[: max(1, round(fraction * len(order)))])
  return np.flatnonzero([track in chosen for track in track_N])


def strata(
  track_N: Sequence[str], labels_NxK: np.ndarray, *, single: bool
) -> Mapping[str, int]:
  """{track: its class}, that of its first clip; 0 unless labels are single."""
  found = {}
  for track, labels_K in zip(track_N, labels_NxK, strict=True):
    found.setdefault(track, int(labels_K.argmax()) if single else 0)
  return found
