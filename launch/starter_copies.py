"""Finds tracks of the corpus that are nearly the same: remixes, fast versions.

    python -m vicreg_jax embed starter DIR/audio --output=segments.parquet \
        --pooling=none
    python launch/starter_copies.py segments.parquet DIR/audio

Two tracks are nearly the same if each is the other's nearest: of its segments
at least `SHARE` have their nearest segment, among those of all other tracks, in
the other track. Segments need not begin at the same place, nor last as long.
It prints the second of each two, the first, and the smaller of both shares.

launch/starter_copies.txt has what it found in the corpus before these were left
out, from three clips of each track; launch/starter_corpus.py leaves the first
name of each line out. Shares near the limit depend on the clips: those of
`launch/starter_clips.py --a-track=3` find 12 of the 13 again, and two others.
"""

import argparse
import re

import numpy as np
import pyarrow.parquet as pq
from sklearn.preprocessing import normalize, scale

CLIP = r"(.+?)(?:\.\d)?-\d+-\d+\.ogg"  # a track, and where a clip of it is
SHARE = 0.6
CHUNK = 1000  # segments compared with all at a time


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("segments")
  parser.add_argument("audio", help="the folder that paths may begin with")
  args = parser.parse_args()
  columns = pq.read_table(args.segments, columns=["path", "embedding"])
  x_SxD = np.stack(columns["embedding"].to_numpy())
  clips = [
    path.removeprefix(args.audio.rstrip("/") + "/")
    for path in columns["path"].to_pylist()
  ]
  wrong = [clip for clip in clips if not re.fullmatch(CLIP, clip)]
  if wrong:
    parser.error(f"{args.segments}: {wrong[0]} is no clip of the corpus")
  names, track_S = np.unique(
    [re.fullmatch(CLIP, clip)[1] for clip in clips], return_inverse=True
  )
  share_KxK = shares(x_SxD, track_S)
  mutual_KxK = np.triu(np.minimum(share_KxK, share_KxK.T))
  pairs = np.argwhere(mutual_KxK >= SHARE)
  for first, second in sorted(pairs, key=lambda pair: names[pair[1]]):
    print(names[second], names[first], f"{mutual_KxK[first, second]:.2f}")


def shares(x_SxD: np.ndarray, track_S: np.ndarray) -> np.ndarray:
  """The share [K, K] of a track's segments whose nearest is in another's.

  Args:
    x_SxD: vectors of segments, compared by their standardised cosine.
    track_S: the track of each, 0 ... K - 1.
  """
  x_SxD = normalize(scale(np.float64(x_SxD))).astype(np.float32)
  counts_KxK = np.zeros((track_S.max() + 1,) * 2)
  for start in range(0, len(x_SxD), CHUNK):
    own_C = track_S[start : start + CHUNK]
    cosine_CxS = x_SxD[start : start + CHUNK] @ x_SxD.T
    cosine_CxS[own_C[:, None] == track_S] = -np.inf
    np.add.at(counts_KxK, (own_C, track_S[cosine_CxS.argmax(1)]), 1)
  return counts_KxK / counts_KxK.sum(1, keepdims=True)


if __name__ == "__main__":
  main()
