"""Heads for the starter encoder, of the tags that it agrees on with MusiCNN.

    python -m vicreg_jax embed MODEL DIR/audio --output=segments.parquet \
        --pooling=none
    python launch/musicnn_table.py DIR/audio --output=musicnn.parquet
    python launch/starter_tags.py MODEL DIR/audio PREPARED/clips.csv \
        segments.parquet musicnn.parquet --output=HEADS

DIR is the folder of `launch/starter_corpus.py`, PREPARED that of the prepared
data (`launch/starter_choice.py` says where). For each tag, ridge regression
learns MusiCNN's logit from the segments of the training tracks; the validation
tracks choose its strength. A clip's probability is the mean over its segments.
A tag's agreement is the ROC-AUC with which this probability finds the tenth of
the clips to which MusiCNN gives the tag most. Kept are the tags whose agreement
reaches `BAR` on the validation tracks and on the test tracks. The printed
column is of the test tracks; `--also DIR SEGMENTS TAGS` adds a column of the
clips of another folder.
"""

import argparse
import csv
import pathlib

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

import vicreg_jax
from vicreg_jax.use import heads

BAR, TOP = 0.85, 0.9
STRENGTHS = np.logspace(0, 6, 13)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for name in ("model", "audio", "clips", "segments", "tags"):
    parser.add_argument(name)
  parser.add_argument("--also", nargs=3, metavar=("DIR", "SEGMENTS", "TAGS"))
  parser.add_argument("--output", required=True, type=pathlib.Path)
  args = parser.parse_args()
  encoder = vicreg_jax.load(args.model)
  metadata = pq.read_schema(args.tags).metadata or {}
  if b"tags" not in metadata:
    parser.error(f"{args.tags} names no tags: use launch/musicnn_table.py")
  names = metadata[b"tags"].decode().split(",")
  by_split = read(args)
  clips, x_SxD, p_NxK = by_split["train"]
  model, trials = None, []
  for strength in STRENGTHS:
    tried = fitted(x_SxD, logits(p_NxK)[clips], strength)
    agreed_K = agreement_K(tried, *by_split["valid"])
    trials.append((np.nanmean(agreed_K), strength))
    if trials[-1] == max(trials):
      model = tried
  valid_K, test_K = (
    agreement_K(model, *by_split[s]) for s in ("valid", "test")
  )
  kept = np.flatnonzero((valid_K >= BAR) & (test_K >= BAR))
  for auc, strength in trials:
    print(f"strength {strength:9.0f}: {100 * auc:.1f} on tracks to validate on")
  columns = [test_K]
  if args.also:
    columns.append(agreement_K(model, *joined(*args.also)))
  for k in sorted(kept, key=lambda k: -test_K[k]):
    figures = " | ".join(f"{100 * of_K[k]:.0f}" for of_K in columns)
    print(f"| {names[k]} | {figures} |")
  means = ", ".join(f"{100 * np.nanmean(of_K):.1f}" for of_K in columns)
  print(f"{len(kept)} of {len(names)} tags; mean of all {means}")
  kernel_DxK, bias_K = model
  out = {"kernel": kernel_DxK[:, kept], "bias": bias_K[kept]}
  args.output.mkdir(parents=True, exist_ok=True)
  made = heads.Heads(
    tuple(names[k] for k in kept),
    False,
    encoder.fingerprint(),
    encoder.step,
    {"linear": {"out": {k: v.astype(np.float32) for k, v in out.items()}}},
  )
  heads.save(made, str(args.output))


def read(args) -> dict:
  """{split: `joined`} of the corpus."""
  with open(args.clips, newline="") as file:
    split_of = {row["id"]: row["split"] for row in csv.DictReader(file)}
  tables = args.audio, args.segments, args.tags
  return {
    split: joined(*tables, {p for p, s in split_of.items() if s == split})
    for split in ("train", "valid", "test")
  }


def joined(audio: str, segments: str, tags: str, chosen: set | None = None):
  """Clip of each segment [S], segments [S, D] and tags [N, K] of two tables."""
  of_clips = {}
  for path, y_D in table(segments, audio, "embedding"):
    of_clips.setdefault(path, []).append(y_D)
  rows = [
    (of_clips[path], p_K)
    for path, p_K in table(tags, audio, "tags")
    if path in of_clips and (chosen is None or path in chosen)
  ]
  if not rows:
    raise SystemExit(
      f"error: {segments} and {tags} have no clip of a split in common: their"
      f" paths are below {audio}, or begin with it"
    )
  clip_S = np.repeat(np.arange(len(rows)), [len(y) for y, _ in rows])
  p_NxK = np.stack([p_K for _, p_K in rows])
  return clip_S, np.concatenate([y for y, _ in rows]), p_NxK


def table(path: str, audio: str, column: str) -> list[tuple[str, np.ndarray]]:
  """(path below `audio`, vector) of each row; paths may begin with `audio`."""
  columns = pq.read_table(path, columns=["path", column])
  vectors = np.stack(columns[column].to_numpy())
  paths = columns["path"].to_pylist()
  return [
    (path.removeprefix(audio.rstrip("/") + "/"), vector)
    for path, vector in zip(paths, vectors, strict=True)
  ]


def logits(p_NxK: np.ndarray) -> np.ndarray:
  p_NxK = np.clip(p_NxK.astype(np.float64), 1e-7, 1 - 1e-7)
  return np.log(p_NxK) - np.log1p(-p_NxK)


def fitted(x_SxD, y_SxK, strength: float) -> tuple[np.ndarray, np.ndarray]:
  """Weights [D, K] and bias [K], of standardised vectors, for vectors as is."""
  mean_D, deviation_D = x_SxD.mean(0), x_SxD.std(0) + 1e-6
  ridge = Ridge(strength).fit((x_SxD - mean_D) / deviation_D, y_SxK)
  kernel_DxK = ridge.coef_.T / deviation_D[:, None]
  return kernel_DxK, ridge.intercept_ - mean_D @ kernel_DxK


def agreement_K(model, clip_S, x_SxD, p_NxK) -> np.ndarray:
  """The ROC-AUC [K] of each tag's top tenth of the clips."""
  kernel_DxK, bias_K = model
  ours_SxK = 1 / (1 + np.exp(-(x_SxD @ kernel_DxK + bias_K)))
  total_NxK = np.zeros_like(p_NxK)
  np.add.at(total_NxK, clip_S, ours_SxK)
  ours_NxK = total_NxK / np.bincount(clip_S)[:, None]
  top_NxK = p_NxK > np.quantile(p_NxK, TOP, axis=0)
  pairs = zip(top_NxK.T, ours_NxK.T, strict=True)
  return np.array([roc_auc_score(top_N, y_N) for top_N, y_N in pairs])


if __name__ == "__main__":
  main()
