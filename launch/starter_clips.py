r"""Chooses clips of the corpus: some hours of it, or a few clips of each track.

    python launch/starter_clips.py PREPARED/clips.csv --hours=6.9 > part.csv
    python launch/starter_clips.py PREPARED/clips.csv --a-track=3 > few.csv

PREPARED is that of the prepared data (`launch/starter_choice.py` says where).
It prints a table of paths and splits. `--config.data.csv=part.csv` trains on
these clips alone.
"""

import argparse
import collections
import csv
import re
import sys

from vicreg_jax.data import tracks

CLIP = r"(.+?)(?:\.\d)?-\d+-\d+\.ogg"  # a track, and where a clip of it is


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("clips")
  parser.add_argument(
    "--hours",
    type=float,
    default=float("inf"),
    help="of training clips: whole tracks, in the order of their names' hashes,"
    " so fewer hours are a part of more",
  )
  parser.add_argument(
    "--a-track",
    type=int,
    help="clips of a track at most, evenly over it",
  )
  args = parser.parse_args()
  of_track = collections.defaultdict(list)
  split_of = {}
  with open(args.clips, newline="") as file:
    for row in csv.DictReader(file):
      clip = re.fullmatch(CLIP, row["id"])
      if not clip:
        parser.error(f"{args.clips}: {row['id']} is no clip of the corpus")
      track = clip[1]
      of_track[track].append(row)
      split_of[track] = row["split"]
  table = csv.writer(sys.stdout, lineterminator="\n")
  table.writerow(("path", "split"))
  hours = 0.0
  for track in tracks.ordered(of_track):
    rows = evenly(sorted(of_track[track], key=of_row), args.a_track)
    if split_of[track] == "train":
      more = sum(float(row["seconds"]) for row in rows) / 3600
      if hours + more > args.hours:
        continue
      hours += more
    table.writerows((row["id"], row["split"]) for row in rows)


def of_row(row):
  """The rendering and the second at which a clip begins."""
  name, start, _ = row["id"].rsplit("-", 2)
  return name, int(start)


def evenly(rows, most):
  if not most or len(rows) <= most:
    return rows
  step = len(rows) / most
  return [rows[int((i + 0.5) * step)] for i in range(most)]


if __name__ == "__main__":
  main()
