"""Which of several encoders knows the held-out music of the corpus best?

    awk -F, -v d=DIR/audio '$2 != "train" && NR > 1 {print d "/" $1}' \
        PREPARED/clips.csv > held_out.txt
    python -m vicreg_jax embed MODEL @held_out.txt --output=a.parquet \
        --pooling=mean_std
    python launch/musicnn_table.py DIR/audio --output=musicnn.parquet
    python launch/starter_choice.py DIR/audio musicnn.parquet a.parquet ...

DIR is the folder of `launch/starter_corpus.py`, PREPARED what is prepared of it
(the line "prepared" of a training names it). A line a table, in percent:

  accuracy, roc_auc  of a clip's game, by regression on standardised vectors;
                     ten splits by track of the games with three tracks and more
  p@10               of ten nearest clips of other tracks, the game's
  track              nearest clips that are of the same track
  tags               agreement with MusiCNN's 50 tags: ridge regression to their
                     logits, five folds by track; the ROC-AUC of each tag's top
                     tenth of the clips, mean over tags

The tags are MusiCNN's word, no truth: they choose, nothing learns from them.
"""

import argparse
import pathlib
import re

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
  GroupKFold,
  GroupShuffleSplit,
  cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

CLIP = r"(.+?)(?:\.\d)?-\d+-\d+\.ogg"  # a track, and where a clip of it is
SPLITS, TESTED, K, TOP = 10, 0.3, 10, 0.9


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("audio", type=pathlib.Path)
  parser.add_argument("tags", help="launch/musicnn_table.py has made it")
  parser.add_argument("tables", nargs="+", help="`embed` has made them")
  args = parser.parse_args()
  tags = read(args.tags, args.audio, "tags")
  print(f"{'':24}accuracy  roc_auc  p@10  track  tags")
  for table in args.tables:
    row = judge(read(table, args.audio, "embedding"), tags)
    print(f"{table:23} " + "  ".join(f"{value:.1f}" for value in row))


def read(table: str, audio: pathlib.Path, column: str) -> dict:
  """{path below `audio`: vector} of a table, whose paths may begin with it."""
  rows = pq.read_table(table, columns=["path", column]).to_pylist()
  return {row["path"].removeprefix(f"{audio}/"): row[column] for row in rows}


def judge(embeddings: dict, tags: dict) -> tuple[float, ...]:
  """The five figures of a table, in percent."""
  paths = sorted(embeddings.keys() & tags.keys())
  x_NxD = scale([embeddings[path] for path in paths])
  track_N = np.array([re.fullmatch(CLIP, path)[1] for path in paths])
  game_N = np.array([path.split("/")[0] for path in paths])
  several_N = [len(set(track_N[game_N == game])) >= 3 for game in game_N]
  ours = x_NxD[several_N], game_N[several_N], track_N[several_N]
  found = *of_games(*ours), *of_neighbours(*ours)
  agreed_K = of_tags(x_NxD, np.array([tags[path] for path in paths]), track_N)
  return tuple(100 * np.array([*found, np.mean(agreed_K)]))


def of_games(x_NxD, game_N, track_N) -> tuple[float, float]:
  """Accuracy and ROC-AUC (mean over games), means over the splits."""
  model = make_pipeline(
    StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)
  )
  splits = GroupShuffleSplit(SPLITS, test_size=TESTED, random_state=0)
  accuracies, aucs = [], []
  for train, test in splits.split(x_NxD, game_N, track_N):
    model.fit(x_NxD[train], game_N[train])
    accuracies.append(model.score(x_NxD[test], game_N[test]))
    p_NxG = model.predict_proba(x_NxD[test])
    for game, p_N in zip(model.classes_, p_NxG.T, strict=True):
      is_game_N = game_N[test] == game
      if is_game_N.any():
        aucs.append(roc_auc_score(is_game_N, p_N))
  return np.mean(accuracies), np.mean(aucs)


def of_neighbours(x_NxD, game_N, track_N) -> tuple[float, float]:
  """Precision at 10 of the game, and of the track at 1, by cosine."""
  unit_NxD = x_NxD / np.linalg.norm(x_NxD, axis=1, keepdims=True)
  similar_NxN = unit_NxD @ unit_NxD.T
  np.fill_diagonal(similar_NxN, -np.inf)
  same_NxN = track_N[:, None] == track_N
  nearest_N = similar_NxN.argmax(1)
  others_N = same_NxN.sum(1) > 1
  track = np.mean(track_N[nearest_N][others_N] == track_N[others_N])
  nearest_NxK = np.argsort(np.where(same_NxN, np.inf, -similar_NxN))[:, :K]
  return np.mean(game_N[nearest_NxK] == game_N[:, None]), track


def of_tags(x_NxD, p_NxK, track_N) -> np.ndarray:
  """ROC-AUC [K] of each tag's top tenth, as vectors predict its logits."""
  logits_NxK = np.log(p_NxK) - np.log1p(-p_NxK)
  model = RidgeCV(alphas=np.logspace(1, 5, 9))
  predicted_NxK = cross_val_predict(
    model, x_NxD, logits_NxK, groups=track_N, cv=GroupKFold(5)
  )
  top_NxK = logits_NxK > np.quantile(logits_NxK, TOP, axis=0)
  pairs = zip(top_NxK.T, predicted_NxK.T, strict=True)
  return np.array([roc_auc_score(top_N, y_N) for top_N, y_N in pairs])


if __name__ == "__main__":
  main()
