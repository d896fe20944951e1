"""FMA: clips of 30 s with a genre, CC-licensed (Defferrard et al., 2017).

`data.subset` is "small" (8,000 clips, 8 genres), "medium" (25,000, 16 genres:
the thesis's, and it contains "small"), "large" (106,574, about half without a
genre) or "full" (their tracks, untrimmed). `data.path` holds the clips and the
metadata as they were published, `fma_medium.zip` and `fma_metadata.zip`, which
are read in place; or extracted, `fma_medium/000/000002.mp3` and
`fma_metadata/tracks.csv`. Where both are there the archive counts, for it is
known to be whole; a larger subset serves too, but for "full".

With `data.download=True` what `data.path` lacks is downloaded, and the archives
are compared with the published SHA-1.

The official split and top genre are kept. A set in which every clip has a genre
is labelled by one each; "large" and "full" by one or none.
"""

import csv
import functools
import hashlib
import http.client
import os
import urllib.error
import urllib.request

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from vicreg_jax.data.datasets import archives, base, official
from vicreg_jax.data.prepared import SPLITS, Prepared
from vicreg_jax.data.tracks import track_of

URL = "https://os.unil.cloud.switch.ch/fma/"
SHA1 = {
  "fma_metadata.zip": "f0df49ffe5f2a6008d7dc83c6915b31835dfe733",
  "fma_small.zip": "ade154f733639d52e35e32f5593efe5be76c6d70",
  "fma_medium.zip": "c67b69ea232021025fca9231fc1c7c1a063ab50b",
  "fma_large.zip": "497109f4dd721066b5ce5e5f250ec604dc78939e",
  "fma_full.zip": "0f0ace23fbe9ba30ecb7e95f763e435ea802b8ab",
}
SUBSETS = ("small", "medium", "large")  # each in the next; "full" is no subset
# Published empty or seconds long (the FMA's wiki and its issue 8), as they were
# cut where their tracks have ended; known, so that other faults stand out.
KNOWN_FAULTS = frozenset(
  (1486, 5574, 65753, 80391, 99134, 108925, 133297)  # empty
  + (98558, 98559, 98560)  # empty
  + (98565, 98566, 98567, 98568, 98569)  # short
  + (98571, 105247, 126981, 127336, 143992)  # empty, in "large" alone
)
_SPLITS = {"training": "train", "validation": "valid", "test": "test"}
_COLUMNS = (("set", "split"), ("set", "subset"), ("track", "genre_top"))
_TRACKS = "fma_metadata/tracks.csv"
_LONGEST_CELL = 1 << 24  # characters
_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 60


class Fma(official.OfficialBuilder, skip_registration=True):
  """The builder of `data.name="fma"`; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  @classmethod
  def variant(cls, data) -> str:
    return data.subset

  @classmethod
  def get(cls, data) -> Prepared:
    if data.download:
      _download(data)
    return super().get(data)

  @classmethod
  def source(cls, data) -> base.Source:
    root = official.local_directory(data.path)
    files = _files(root, data.subset)
    rows = read_tracks(root, data.subset)
    genres = tuple(sorted({genre for *_, genre in rows if genre}))
    splits = {split: [] for split in SPLITS}
    skipped = {name: "unsafe name in the archive" for name in files.unsafe}
    names = []
    for track_id, split, genre in rows:
      # As published: six digits, the first three are the folder.
      name = f"{track_id:06d}.mp3"
      name = f"{name[:3]}/{name}"
      if track_id in KNOWN_FAULTS and data.subset != "full":
        skipped[name] = base.KNOWN_FAULT
        continue
      names.append(name)
      load = functools.partial(files.load, name, int(data.sample_rate))
      labels = np.array([genre == g for g in genres], np.uint8)
      clip = base.Clip(name, track_of(name), load, labels)
      splits[split].append(clip)
    return base.Source(
      name=cls.variant(data),
      identity=[files.stamp(names), rows],
      splits=splits,
      labels=genres,
      label_kind="single" if all(g for *_, g in rows) else "multi",
      skipped=skipped,
    )


def read_tracks(root: str, subset: str) -> list[tuple[int, str, str]]:
  """(track id, split, top genre or "") of a subset's clips, as in the file.

  `tracks.csv` has three header rows: groups, names, and the index's name.
  """
  path = os.path.join(root, "fma_metadata.zip")
  if tf.io.gfile.exists(path):
    file = archives.Zip.open([path]).open_text(_TRACKS)
    path = f"{path} ({_TRACKS})"
  else:
    path = os.path.join(root, _TRACKS)
    if not tf.io.gfile.exists(path):
      raise ValueError(
        f"{path} does not exist: data.path must hold fma_metadata.zip or that "
        "file; data.download=True gets it"
      )
    file = archives.open_text(path)
  with file:
    lines = csv.reader(file)
    try:
      rows = _rows(lines, _up_to(subset))
    except (csv.Error, *archives.DAMAGE) as error:
      raise ValueError(
        f"{path} line {lines.line_num}: {error}: get fma_metadata.zip again"
      ) from None
  if not rows:
    raise ValueError(f"{path}: no track is in the subset {subset!r}")
  return rows


def _up_to(subset):
  if subset == "full":  # no row says so: all are in it
    return SUBSETS
  return SUBSETS[: SUBSETS.index(subset) + 1]


def _rows(lines, subsets):
  # Biographies are cells too, and longer than the csv module expects.
  csv.field_size_limit(_LONGEST_CELL)
  header = list(zip(next(lines, []), next(lines, [])))
  index_name = next(lines, [""])[0]
  missing = [".".join(c) for c in _COLUMNS if c not in header]
  if index_name != "track_id" or missing:
    raise ValueError(f"no column {', '.join(missing) or 'track_id'}")
  columns = [header.index(column) for column in _COLUMNS]
  rows, ids = [], set()
  for row in lines:
    if len(row) != len(header):
      raise ValueError(f"{len(row)} cells for {len(header)} columns")
    split, subset, genre = (row[column] for column in columns)
    if split not in _SPLITS or subset not in SUBSETS or not row[0].isdigit():
      raise ValueError(
        f"{row[0]!r} is not a track id, {split!r} not one of "
        f"{', '.join(_SPLITS)}, or {subset!r} not one of {', '.join(SUBSETS)}"
      )
    track_id = int(row[0])
    if track_id in ids:
      raise ValueError(f"track {track_id} is there twice")
    ids.add(track_id)
    if subset in subsets:
      rows.append((track_id, _SPLITS[split], genre))
  return rows


def _files(root, subset):
  # Untrimmed tracks are no clips of 30 s.
  larger = ("full",) if subset == "full" else SUBSETS[SUBSETS.index(subset) :]
  for name in larger:
    path = os.path.join(root, f"fma_{name}.zip")
    if tf.io.gfile.exists(path):
      return archives.Zip.open([path], [f"fma_{name}"])
    if os.path.isdir(os.path.join(root, f"fma_{name}")):
      return archives.Tree(os.path.join(root, f"fma_{name}"))
  raise ValueError(
    f"data.path={root!r} holds neither fma_{subset}.zip nor fma_{subset}/: put "
    "one of them there, or set data.download=True"
  )


def _download(data):
  """Gets and checks the archives that data.path lacks."""
  if not data.path or "://" in data.path:
    raise ValueError(
      f"data.download=True, but data.path={data.path!r}: set data.path to the "
      "local directory to download to"
    )
  root = os.path.expanduser(data.path)
  os.makedirs(root, exist_ok=True)
  for name, extracted in (
    ("fma_metadata.zip", _TRACKS),
    (f"fma_{data.subset}.zip", f"fma_{data.subset}"),
  ):
    path = os.path.join(root, name)
    if not os.path.exists(path):
      if os.path.exists(os.path.join(root, extracted)):
        continue
      _fetch(URL + name, path)
    _check(path, SHA1[name])


def _fetch(url, path):
  """Downloads to `path` via a partial file that a later try continues."""
  partial = f"{path}.part"
  done = os.path.getsize(partial) if os.path.exists(partial) else 0
  request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"})
  try:
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
      # 206: the server gives only the rest; otherwise all of it.
      done = done if response.status == http.client.PARTIAL_CONTENT else 0
      left = response.headers.get("Content-Length")
      with (
        open(partial, "ab" if done else "wb") as out,
        tqdm(
          total=left and done + int(left),
          initial=done,
          desc=os.path.basename(path),
          unit="B",
          unit_scale=True,
          disable=None,
        ) as progress,
      ):
        while block := response.read(_BLOCK):
          out.write(block)
          progress.update(len(block))
      if left and os.path.getsize(partial) < done + int(left):
        raise OSError("the connection ended early")
  except urllib.error.HTTPError as error:
    # 416: there is nothing after what is there already.
    if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      raise _no_download(url, path, error) from error
  except (OSError, http.client.HTTPException) as error:
    raise _no_download(url, path, error) from error
  os.replace(partial, path)


def _no_download(url, path, error):
  return ValueError(
    f"{url}: cannot be downloaded ({error}): check the network and run the same"
    f" command again, which continues, or put the file at {path} by other means"
  )


def _check(path, want):
  """Compares the SHA-1, once: a note beside the file says that it is right."""
  note = f"{path}.sha1"
  line = f"{want}  {os.path.basename(path)}\n"
  if os.path.exists(note) and os.path.getmtime(note) >= os.path.getmtime(path):
    with open(note) as f:
      if f.read() == line:
        return
  with open(path, "rb") as f:
    got = hashlib.file_digest(f, "sha1").hexdigest()
  if got != want:
    raise ValueError(
      f"{path}: its SHA-1 is {got}, published is {want}: delete the file, and "
      "run the same command again"
    )
  with open(note, "w") as f:
    f.write(line)
