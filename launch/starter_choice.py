r"""Which of several encoders knows the held-out music of the corpus best?

    python launch/starter_clips.py PREPARED/clips.csv --a-track=3 |
        awk -F, -v d=DIR/audio '$2 != "train" && NR > 1 {print d "/" $1}' \
        > held_out.txt
    python -m vicreg_jax embed MODEL @held_out.txt --output=a.parquet \
        --pooling=mean_std
    python launch/musicnn_table.py DIR/audio --output=musicnn.parquet
    python launch/starter_choice.py DIR/audio musicnn.parquet a.parquet ...

DIR is the folder of `launch/starter_corpus.py`, PREPARED that of the prepared
data: ~/tensorflow_datasets, and below it what the line `config:` of a training
has after `prepared=`. Judged are the clips that all tables have. It prints a
line for each table, in percent:

  accuracy, roc_auc  of a clip's game, by regression on standardised vectors;
                     splits by track of the games with three tracks and more;
                     the training tracks of a split choose the strength
  p@10               of the ten nearest clips of other tracks, the share of the
                     same game
  track              share of clips whose nearest clip is of the same track
  tags               agreement with MusiCNN's 50 tags: ridge regression to their
                     logits, five folds by track; the ROC-AUC of each tag's top
                     tenth of the clips, mean over tags

The tags are MusiCNN's word, not truth. They choose an encoder, which never
learns from them. MusiCNN's table may be among the judged tables. `--mfcc` adds
a row of MFCCs.

Any folder of classes can be judged, as the four soundtracks of the card, whose
X_guitar-0-30.ogg and X_song-30-60.ogg are of one track:

    python launch/starter_choice.py DIR musicnn.parquet a.parquet ... --mfcc \
        --splits=30 '--clip=(.+?)(?:_guitar|_song)?-\d+-\d+\.ogg'
"""

import argparse
import pathlib
import re

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
  GridSearchCV,
  GroupKFold,
  GroupShuffleSplit,
  cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from vicreg_jax.data import audio, mfcc

CLIP = r"(.+?)(?:\.\d)?-\d+-\d+\.ogg"  # a track, and where a clip of it is
TESTED, K, TOP = 0.3, 10, 0.9
STRENGTHS = {"logisticregression__C": np.logspace(-4, 0, 5)}
RATE = 22_050  # Hz


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("audio", type=pathlib.Path)
  parser.add_argument("tags", help="launch/musicnn_table.py has made it")
  parser.add_argument("tables", nargs="+", help="`embed` has made them")
  parser.add_argument("--clip", default=CLIP, help="its group is the track")
  parser.add_argument("--splits", type=int, default=10)
  parser.add_argument("--mfcc", action="store_true")
  args = parser.parse_args()
  tags = read(args.tags, args.audio, "tags")
  tables = {t: read(t, args.audio, "embedding") for t in args.tables}
  paths = sorted(set(tags).intersection(*tables.values()))
  wrong = [path for path in paths if not re.fullmatch(args.clip, path)]
  if not paths:
    parser.error("no clip is in all tables: paths are below AUDIO, or begin so")
  if wrong:
    parser.error(f"--clip={args.clip} does not fit {wrong[0]}")
  if args.mfcc:
    tables["MFCC"] = {path: of_mfcc(args.audio / path) for path in paths}
  p_NxK = np.array([tags[path] for path in paths])
  track_N = np.array([re.fullmatch(args.clip, path)[1] for path in paths])
  game_N = np.array([path.split("/")[0] for path in paths])
  several_N = [len(set(track_N[game_N == game])) >= 3 for game in game_N]
  if len(set(game_N[several_N])) < 2:
    parser.error("fewer than two folders have three tracks")
  print(f"{f'{len(paths)} clips':24}accuracy  roc_auc  p@10  track  tags")
  for table, embeddings in tables.items():
    x_NxD = scale([embeddings[path] for path in paths])
    ours = x_NxD[several_N], game_N[several_N], track_N[several_N]
    accuracies, auc = of_games(*ours, args.splits)
    others = auc, *of_neighbours(*ours), np.mean(of_tags(x_NxD, p_NxK, track_N))
    row = [f"{100 * np.mean(accuracies):.1f}±{100 * np.std(accuracies):.1f}"]
    row += [f"{100 * share:.1f}" for share in others]
    print(f"{table:23} " + "  ".join(row), flush=True)


def read(table: str, audio: pathlib.Path, column: str) -> dict:
  """{path below `audio`: vector} of a table, whose paths may begin with it."""
  rows = pq.read_table(table, columns=["path", column]).to_pylist()
  found = {row["path"].removeprefix(f"{audio}/"): row[column] for row in rows}
  if len(found) < len(rows):
    raise SystemExit(
      f"error: {table} has several rows of a file: make it without"
      " --pooling=none"
    )
  return found


def of_mfcc(path: pathlib.Path) -> np.ndarray:
  """Means and deviations [80] of 20 MFCCs and their slopes."""
  return mfcc.features(audio.load(str(path), RATE), RATE)


def of_games(x_NxD, game_N, track_N, splits) -> tuple[list[float], float]:
  """Accuracies of the splits, and ROC-AUC, mean over splits and games."""
  model = GridSearchCV(
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    STRENGTHS,
    cv=GroupKFold(3),
  )
  drawn = GroupShuffleSplit(splits, test_size=TESTED, random_state=0)
  accuracies, aucs = [], []
  for train, test in drawn.split(x_NxD, game_N, track_N):
    model.fit(x_NxD[train], game_N[train], groups=track_N[train])
    accuracies.append(model.score(x_NxD[test], game_N[test]))
    p_NxG = model.predict_proba(x_NxD[test])
    for game, p_N in zip(model.classes_, p_NxG.T, strict=True):
      is_game_N = game_N[test] == game
      if is_game_N.any():
        aucs.append(roc_auc_score(is_game_N, p_N))
  return accuracies, np.mean(aucs)


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
  """ROC-AUC [K] of each tag's top tenth, as vectors predict its logits.

  The strength is chosen by leaving out a clip of the other folds.
  """
  p_NxK = np.clip(p_NxK, 1e-7, 1 - 1e-7)
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
