"""MusiCNN's vectors of a folder of music, to be judged beside an encoder's.

    python3.11 -m venv musicnn && . musicnn/bin/activate
    pip install 'tensorflow-cpu==2.15.1' 'numpy<2' 'librosa<0.11' 'pyarrow<21'
    pip install --no-deps musicnn==0.1.0
    python launch/musicnn_table.py DIR --output=musicnn.parquet

MusiCNN (Pons and Serra 2019, ISC licence) is a supervised tagger. It needs a
TensorFlow without Keras 3, so it has an environment of its own, and this script
imports nothing of the package. The table has the columns `path`, below DIR;
`embedding`, of each file the mean over patches of 3 s without overlap; and
`tags`, the probabilities of the model's 50 tags, means too, whose names are in
the table's metadata. Files shorter than 3 s are left out, and named.
`--config.probe.others="musicnn=musicnn.parquet"` takes the table.
"""

import argparse
import contextlib
import io
import os
import pathlib
import sys

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
    choices=("penultimate", "mean_pool", "max_pool"),
    default="penultimate",
    help="200, 753, 753 numbers",
  )
  args = parser.parse_args()
  files = [
    path
    for path in sorted(args.folder.rglob("*"))
    if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
  ]
  if not files:
    sys.exit(f"error: {args.folder} has no audio files")
  patches, rows = tagger(args.model, args.layer), []
  for number, file in enumerate(files, 1):
    print(f"\r{number} of {len(files)}", end="", file=sys.stderr, flush=True)
    try:
      embedding, tags = (y_PxD.mean(axis=0) for y_PxD in patches(file))
    except Exception as e:  # of any library that reads audio
      print(f"\nleft out: {file}: {e!r}", file=sys.stderr)
      continue
    path = os.fsencode(file.relative_to(args.folder))
    path = path.decode(errors="backslashreplace")
    rows.append(dict(path=path, embedding=embedding, tags=tags))
  print(file=sys.stderr)
  if not rows:
    sys.exit(f"error: nothing in {args.folder} could be read")
  sizes = dict(embedding=len(embedding), tags=len(tags))
  schema = [("path", pa.string())]
  schema += [(k, pa.list_(pa.float32(), n)) for k, n in sizes.items()]
  names = {"tags": ",".join(names_of_tags(args.model))}
  table = pa.Table.from_pylist(rows, pa.schema(schema, names))
  pq.write_table(table, args.output)
  print(f"{args.output}: {len(rows)} files, {len(embedding)} numbers each")


def tagger(model: str, layer: str):
  """A function from a file to its patches' vectors [P, D] and tags [P, 50].

  musicnn's own `extractor`, with one graph for all files instead of one each.
  """
  import musicnn  # these load TensorFlow
  import tensorflow.compat.v1 as tf
  from musicnn import configuration, extractor, models

  tf.disable_eager_execution()
  frames = 3 * configuration.SR // configuration.FFT_HOP
  with contextlib.redirect_stdout(io.StringIO()), tf.name_scope("model"):
    x = tf.placeholder(tf.float32, [None, frames, configuration.N_MELS])
    training = tf.placeholder(tf.bool)
    logits, *layers = models.define_model(x, training, model, 50)
  names = ("timbral", "temporal", "cnn1", "cnn2", "cnn3", "mean_pool")
  names += ("max_pool", "penultimate")
  outputs = layers[names.index(layer)], tf.sigmoid(logits)
  session = tf.Session()
  weights = pathlib.Path(musicnn.__file__).parent / model
  tf.train.Saver().restore(session, f"{weights}/")

  def patches(file):
    x_PxTxM, _ = extractor.batch_data(str(file), frames, overlap=frames)
    return session.run(outputs, {x: x_PxTxM, training: False})

  return patches


def names_of_tags(model: str) -> list[str]:
  from musicnn import configuration

  mtt = model.startswith("MTT")
  return configuration.MTT_LABELS if mtt else configuration.MSD_LABELS


if __name__ == "__main__":
  main()
