"""Fetches the music that the starter encoder was trained on, and cuts it.

    python launch/starter_corpus.py --output=DIR

The music is that of games in Debian 12, section main: free by Debian's
guidelines. It needs `apt-get` and `dpkg-deb`, so a Debian system or container,
some 4 GB of disk and a quarter of an hour. DIR then has

  audio/GAME/TRACK-START-END.ogg  clips of 30 s, mono, 22,050 Hz, Ogg Vorbis,
                                  as `config.data.name=folder` reads them: clips
                                  of a track are in one split
  corpus.csv                      every file that was looked at: its package and
                                  version, SHA-256 of the samples, clips, or why
                                  there are none
  licences/GAME.txt               Debian's copyright file of the package

What is no music, too short, silent or there twice stays out. Packages that are
there already are not fetched again.
"""

import argparse
import concurrent.futures
import csv
import hashlib
import pathlib
import re
import subprocess
import tempfile

import numpy as np
import soundfile

from vicreg_jax.data import audio

PACKAGES = (
  "extremetuxracer-data",
  "hedgewars-data",
  "lincity-ng-data",
  "naev-data",
  "neverball-data",
  "planetblupi-music-ogg",
  "redeclipse-data",
  "singularity-music",
  "supertux-data",
  "supertuxkart-data",
  "unknown-horizons",
  "warmux-data",
  "warzone2100-music",
  "widelands-data",
  "xmoto-data",
)
RATE, SECONDS = 22_050, 30
SUFFIXES = (".ogg", ".oga", ".opus", ".mp3", ".flac", ".wav")
QUIET = 10 ** (-60 / 20)  # RMS; full scale is 1
# libsndfile's scale, 0 best and 1 smallest; some 27 kbit/s.
VORBIS = 0.8
COLUMNS = ("package", "version", "file", "seconds", "sha256", "clips", "why")


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--output", required=True, type=pathlib.Path)
  out = parser.parse_args().output
  for folder in ("debs", "audio", "licences"):
    (out / folder).mkdir(parents=True, exist_ok=True)
  rows, seen = [], {}
  for package in PACKAGES:
    found = add(fetch(package, out / "debs"), package, out, seen)
    rows += found
    clips = sum(row["clips"] for row in found)
    print(f"{package}: {clips} clips of {len(found)} files", flush=True)
  with open(out / "corpus.csv", "w", newline="", encoding="utf-8") as file:
    table = csv.DictWriter(file, COLUMNS)
    table.writeheader()
    table.writerows(rows)
  clips = sum(row["clips"] for row in rows)
  tracks = sum(row["clips"] > 0 for row in rows)
  print(f"{clips} clips of {tracks} tracks, {clips * SECONDS / 3600:.1f} h")


def fetch(package: str, debs: pathlib.Path) -> pathlib.Path:
  """The package's file, downloaded unless it is in `debs`."""
  if not (found := sorted(debs.glob(f"{package}_*.deb"))):
    subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True)
    found = sorted(debs.glob(f"{package}_*.deb"))
  return found[-1].resolve()


def add(deb, package, out, seen) -> list[dict]:
  """Cuts a package's music; a row of `COLUMNS` for every audio file.

  Args:
    deb: the package's file.
    package: its name; the game's is that without "-data" and "-music".
    out: the corpus.
    seen: {hash of samples: file}, which grows.
  """
  game = re.sub(r"-(data|music|ogg)\b", "", package)
  version = subprocess.run(
    ["dpkg-deb", "--field", deb, "Version"],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  with tempfile.TemporaryDirectory() as unpacked:
    subprocess.run(["dpkg-deb", "--extract", deb, unpacked], check=True)
    root = pathlib.Path(unpacked)
    for text in root.glob("usr/share/doc/*/copyright"):
      (out / "licences" / f"{game}.txt").write_bytes(text.read_bytes())
    paths = sorted(
      path
      for path in root.rglob("*")
      if path.suffix.lower() in SUFFIXES
      and path.is_file()
      and not path.is_symlink()
    )
    music = [path for path in paths if is_music(path.relative_to(root))]
    with concurrent.futures.ThreadPoolExecutor() as pool:
      decoded = dict(zip(music, pool.map(decode, music)))
    rows, names = [], {}
    for path in paths:
      file = path.relative_to(root)
      row = dict.fromkeys(COLUMNS, "")
      row |= dict(package=package, version=version, file=file, clips=0)
      rows.append(row)
      if path not in decoded:
        row["why"] = "not in a folder of music"
        continue
      samples_T, digest, row["why"] = decoded[path]
      row["seconds"] = round(len(samples_T) / RATE, 1)
      row["sha256"] = digest
      if not row["why"] and (first := seen.setdefault(digest, file)) != file:
        row["why"] = f"the same samples as {first}"
      if not row["why"]:
        name = re.sub(r"[^A-Za-z0-9]+", "_", path.stem).strip("_").lower()
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
          name += f"_{names[name]}"
        row["clips"] = cut(samples_T, out / "audio" / game, name)
  return rows


def is_music(path: pathlib.PurePath) -> bool:
  """Whether a folder on the path to a file is named after music."""
  return any("music" in folder.lower() for folder in path.parts[:-1])


def decode(path) -> tuple[np.ndarray, str, str]:
  """int16 samples [T], their SHA-256, and why they are of no use, or ""."""
  try:
    samples_T = audio.to_int16(audio.load(path, RATE))
  except audio.AudioError as error:
    return np.zeros(0, np.int16), "", error.reason
  digest, why = hashlib.sha256(samples_T).hexdigest(), ""
  if len(samples_T) < RATE * SECONDS:
    why = f"shorter than {SECONDS} s"
  return samples_T, digest, why


def cut(samples_T: np.ndarray, folder: pathlib.Path, name: str) -> int:
  """Writes a track's consecutive clips that are not silent; how many."""
  folder.mkdir(parents=True, exist_ok=True)
  count = 0
  for start in range(0, len(samples_T) // RATE - SECONDS + 1, SECONDS):
    clip_T = audio.from_int16(samples_T[start * RATE :][: SECONDS * RATE])
    if np.sqrt(np.square(clip_T).mean()) < QUIET:
      continue
    soundfile.write(
      folder / f"{name}-{start}-{start + SECONDS}.ogg",
      clip_T,
      RATE,
      format="OGG",
      subtype="VORBIS",
      compression_level=VORBIS,
    )
    count += 1
  return count


if __name__ == "__main__":
  main()
