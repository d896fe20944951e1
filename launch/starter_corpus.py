"""Fetches the music that a starter encoder is trained on, and cuts it.

    apt-get install fluidsynth openmpt123
    python launch/starter_corpus.py --output=DIR

The music is that of games in Debian 12, section main: free by Debian's
guidelines. It needs `apt-get` and `dpkg-deb`, so a Debian system or container,
some 12 GB of disk and an hour and a half of two cores. DIR then has

  audio/GAME/TRACK-START-END.ogg  clips of 30 s, mono, 22,050 Hz, Ogg Vorbis,
                                  as `config.data.name=folder` reads them: clips
                                  of a track are in one split
  corpus.csv                      every file that was looked at: its package and
                                  version, SHA-256 of the samples, clips, or why
                                  there are none
  licences/GAME.txt               Debian's copyright file of the package

launch/starter_corpus.csv has the 721 pieces that became clips, by package,
version and SHA-256 of the samples, as they were at Debian 12.

Files in archives (.zip, .pk3, .wad) are looked at too. Pieces of MIDI are
rendered by FluidSynth, once with each of `SOUNDFONTS`, trackers' modules by
openmpt123; the renderings of a piece are one track, `TRACK.1` and `TRACK.2`:
`--config.data.track_pattern` of `configs/starter.py` knows them. What is no
music, too short, silent or there twice stays out, and so do remixes and fast
versions of other tracks, which launch/starter_copies.txt lists. Packages that
are there already are not fetched again.
"""

import argparse
import concurrent.futures
import csv
import hashlib
import pathlib
import re
import struct
import subprocess
import tempfile
import zipfile

import numpy as np
import soundfile

from vicreg_jax.data import audio

LIST = pathlib.Path(__file__).with_name("starter_packages.txt")
COPIES = LIST.with_name("starter_copies.txt")
NAMED = r"music|zik|tunes|themes"  # in the path of a piece of music
SOUNDFONTS = (  # (package, file)
  ("fluid-soundfont-gm", "usr/share/sounds/sf2/FluidR3_GM.sf2"),
  (
    "musescore-general-soundfont",
    "usr/share/sounds/sf3/MuseScore_General_Full.sf3",
  ),
)
RATE, SECONDS = 22_050, 30
MODULES = (".mod", ".xm", ".it", ".s3m")
SUFFIXES = (".ogg", ".oga", ".opus", ".mp3", ".flac", ".wav", ".mid", *MODULES)
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
  fonts = []
  for package, font in SOUNDFONTS:
    deb = fetch(package, out / "debs")
    subprocess.run(["dpkg-deb", "--extract", deb, out / "debs"], check=True)
    fonts.append(out / "debs" / font)
  rows, seen, near = [], {}, near_copies()
  for package, pattern in packages():
    deb = fetch(package, out / "debs")
    found = add(deb, package, pattern, out, seen, near, fonts)
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


def packages():
  """(name, regular expression of its music) of each package of `LIST`."""
  for line in LIST.read_text(encoding="utf-8").splitlines():
    if not line.startswith("#"):
      name, _, pattern = line.partition(" ")
      yield name, re.compile(pattern or NAMED, re.IGNORECASE)


def near_copies() -> dict[str, str]:
  """{GAME/TRACK: the track that it nearly equals}, of `COPIES`."""
  lines = COPIES.read_text(encoding="utf-8").splitlines()
  return dict(line.split()[:2] for line in lines)


def fetch(package: str, debs: pathlib.Path) -> pathlib.Path:
  """The package's file, downloaded unless it is in `debs`."""
  if not (found := sorted(debs.glob(f"{package}_*.deb"))):
    subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True)
    found = sorted(debs.glob(f"{package}_*.deb"))
  return found[-1].resolve()


def add(deb, package, pattern, out, seen, near, fonts) -> list[dict]:
  """Cuts a package's music; a row of `COLUMNS` for every audio file.

  Args:
    deb: the package's file.
    package: its name; the game's is that without "-data" and "-music".
    pattern: what the path of a piece of music has.
    out: the corpus.
    seen: {hash of samples: file}, which grows.
    near: {track to leave out: the track that it nearly equals}.
    fonts: soundfonts to render MIDI by.
  """
  game = re.sub(r"-(data|musics?|ogg|midi|common-sounds)\b", "", package)
  version = subprocess.run(
    ["dpkg-deb", "--field", deb, "Version"],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  with tempfile.TemporaryDirectory(dir=out) as unpacked:
    subprocess.run(["dpkg-deb", "--extract", deb, unpacked], check=True)
    root = pathlib.Path(unpacked)
    for text in root.glob("usr/share/doc/*/copyright"):
      (out / "licences" / f"{game}.txt").write_bytes(text.read_bytes())
    unpack_archives(root)
    paths = sorted(
      path
      for path in root.rglob("*")
      if path.suffix.lower() in SUFFIXES
      and path.is_file()
      and not path.is_symlink()
    )
    music = [p for p in paths if pattern.search(str(p.relative_to(root)))]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      rendered = dict(zip(music, pool.map(lambda p: render(p, fonts), music)))
      decoded = {p: [*pool.map(decode, rendered[p])] for p in music}
    rows, names = [], {}
    for path in paths:
      file = path.relative_to(root)
      name = re.sub(r"[^A-Za-z0-9]+", "_", path.stem).strip("_").lower()
      if path in decoded:
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
          name += f"_{names[name]}"
      for number, found in enumerate(decoded.get(path, [None]), 1):
        row = dict.fromkeys(COLUMNS, "")
        row |= dict(package=package, version=version, file=file, clips=0)
        rows.append(row)
        if found is None:
          row["why"] = "not named as music"
          continue
        samples_T, digest, row["why"] = found
        row["seconds"] = round(len(samples_T) / RATE, 1)
        row["sha256"] = digest
        if not row["why"] and (first := seen.setdefault(digest, file)) != file:
          row["why"] = f"the same samples as {first}"
        if not row["why"] and (first := near.get(f"{game}/{name}")):
          row["why"] = f"nearly the same as {first}"
        if not row["why"]:
          several = path.suffix.lower() == ".mid"
          cut_name = f"{name}.{number}" if several else name
          row["clips"] = cut(samples_T, out / "audio" / game, cut_name)
  return rows


def unpack_archives(root: pathlib.Path):
  """Files of music in archives of games, written beside the archives."""
  for path in sorted(p for p in root.rglob("*") if p.is_file()):
    folder = path.with_name(path.name + ".unpacked")
    if path.suffix.lower() in (".zip", ".pk3"):
      with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
          if pathlib.PurePath(member).suffix.lower() in SUFFIXES:
            archive.extract(member, folder)
    elif path.suffix.lower() == ".wad":
      folder.mkdir()
      for name, lump in wad_lumps(path.read_bytes()):
        if lump.startswith(b"MThd"):
          (folder / f"{name}.mid").write_bytes(lump)


def wad_lumps(data: bytes):
  """(name, bytes) of the entries of Doom's format: a directory at the end."""
  count, directory = struct.unpack_from("<ii", data, 4)
  for index in range(count):
    entry = struct.unpack_from("<ii8s", data, directory + 16 * index)
    start, size, name = entry
    yield name.rstrip(b"\0").decode("ascii"), data[start : start + size]


def render(path: pathlib.Path, fonts) -> list[pathlib.Path]:
  """Files of audio: a score's renderings, or the file itself."""
  suffix = path.suffix.lower()
  if suffix not in (".mid", *MODULES):
    return [path]
  if suffix in MODULES:
    out = path.with_name(path.name + ".rendered.wav")
    command = ["openmpt123", "--quiet", "--batch", "--output", out, path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [out]
  outs = []
  for number, font in enumerate(fonts):
    outs.append(path.with_name(f"{path.name}.rendered.{number}.wav"))
    command = ["fluidsynth", "-niq", "-F", outs[-1], "-r", "44100", font, path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  return outs


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
