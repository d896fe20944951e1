"""MusiCNN's vectors of a folder of music, to be judged beside an encoder's.

    python3.11 -m venv musicnn && . musicnn/bin/activate
    pip install 'tensorflow-cpu==2.15.1' 'numpy<2' 'librosa<0.11' 'pyarrow<21'
    pip install --no-deps musicnn==0.1.0
    python launch/musicnn_table.py DIR --output=musicnn.parquet

MusiCNN (Pons and Serra 2019, ISC licence) is a supervised tagger. It needs a
TensorFlow without Keras 3, so it has an environment of its own, and this script
imports nothing of the package. The table has the columns `path`, below DIR, and
`embedding`: of each file the mean over patches of 3 s without overlap; shorter
files are left out. `--config.probe.others="musicnn=musicnn.parquet"` takes it.
"""

import argparse
import contextlib
import io
import os
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".ogg", ".oga", ".opus", ".mp3", ".flac", ".wav", ".m4a", ".au")


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--output", required=True, help="Parquet")
  parser.add_argument(
    "--model", choices=("MTT_musicnn", "MSD_musicnn"), default="MTT_musicnn"
  )
  parser.add_argument(
    "--layer",
    choices=("penultimate", "mean_pool", "max_pool", "tags"),
    default="penultimate",
    help="200, 753, 753 numbers, or the probabilities of 50 tags",
  )
  args = parser.parse_args()
  files = [
    path
    for path in sorted(args.folder.rglob("*"))
    if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
  ]
  if not files:
    sys.exit(f"error: {args.folder} has no audio files")
  paths, rows = [], []
  for number, file in enumerate(files, 1):
    print(f"\r{number} of {len(files)}", end="", file=sys.stderr, flush=True)
    try:
      rows.append(vector(file, args.model, args.layer))
      path = os.fsencode(file.relative_to(args.folder))
      paths.append(path.decode(errors="backslashreplace"))
    except Exception as e:  # of any library that reads audio
      print(f"\nleft out: {file}: {e!r}", file=sys.stderr)
  print(file=sys.stderr)
  if not rows:
    sys.exit(f"error: nothing in {args.folder} could be read")
  y_NxD = np.stack(rows).astype(np.float32)
  column = pa.FixedSizeListArray.from_arrays(y_NxD.ravel(), y_NxD.shape[1])
  table = pa.table({"path": paths, "embedding": column})
  pq.write_table(table, args.output)
  print(f"{args.output}: {len(paths)} files, {y_NxD.shape[1]} numbers each")


def vector(file, model: str, layer: str) -> np.ndarray:
  """The mean [D] over a file's patches."""
  from musicnn.extractor import extractor  # it loads TensorFlow

  with contextlib.redirect_stdout(io.StringIO()):
    tags_PxK, _, features = extractor(
      str(file), model=model, extract_features=True
    )
  return (tags_PxK if layer == "tags" else features[layer]).mean(axis=0)


if __name__ == "__main__":
  main()
