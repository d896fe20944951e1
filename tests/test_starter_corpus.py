"""launch/starter_corpus.py on a package made here."""

import csv
import importlib.util
import pathlib
import shutil
import struct
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile

SCRIPT = pathlib.Path(__file__).parent.parent / "launch/starter_corpus.py"
RATE = 8_000


@pytest.fixture(scope="module")
def script():
  spec = importlib.util.spec_from_file_location("starter_corpus", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def tone(hertz, seconds):
  return 0.3 * np.sin(2 * np.pi * hertz * np.arange(seconds * RATE) / RATE)


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_a_package_is_cut(script, tmp_path, monkeypatch, capsys):
  tree = tmp_path / "tree"
  half_silent = np.r_[tone(500, 30), np.zeros(30 * RATE)]
  for name, samples in {
    "music/b-side.wav": tone(440, 61),
    "music/copy.wav": tone(440, 61),
    "music/b-side, fast.wav": tone(484, 56),
    "music/end.wav": half_silent,
    "music/jingle.wav": tone(440, 29),
    "sounds/wind.wav": tone(300, 40),
  }.items():
    path = tree / "usr/share/game" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)
  with zipfile.ZipFile(tree / "usr/share/game/data.pk3", "w") as archive:
    archive.write(tree / "usr/share/game/music/end.wav", "music/packed.wav")
  (tree / "usr/share/game/music/end.wav").unlink()
  (tree / "usr/share/game/music/noise.ogg").write_bytes(b"no music")
  licence = tree / "usr/share/doc/game-data/copyright"
  licence.parent.mkdir(parents=True)
  licence.write_text("CC0-1.0")
  control = tree / "DEBIAN/control"
  control.parent.mkdir()
  control.write_text(
    "Package: game-data\nVersion: 1.2-3\nArchitecture: all\n"
    "Maintainer: nobody <nobody@example.org>\nDescription: a game\n"
  )
  out = tmp_path / "out"
  (out / "debs").mkdir(parents=True)
  deb = out / "debs/game-data_1.2-3_all.deb"
  subprocess.run(
    ["dpkg-deb", "--root-owner-group", "--build", tree, deb], check=True
  )
  (tmp_path / "list.txt").write_text("# one\ngame-data\n")
  monkeypatch.setattr(script, "LIST", tmp_path / "list.txt")
  (tmp_path / "copies.txt").write_text("game/b_side_fast game/b_side 0.9\n")
  monkeypatch.setattr(script, "COPIES", tmp_path / "copies.txt")
  monkeypatch.setattr(script, "SOUNDFONTS", ())
  monkeypatch.setattr("sys.argv", ["starter_corpus", f"--output={out}"])
  script.main()
  assert "3 clips of 2 tracks" in capsys.readouterr().out
  clips = {p.name: p for p in (out / "audio/game").iterdir()}
  assert sorted(clips) == [
    "b_side-0-30.ogg",
    "b_side-30-60.ogg",
    "packed-0-30.ogg",
  ]
  samples, rate = soundfile.read(clips["b_side-30-60.ogg"])
  assert (rate, samples.shape) == (22_050, (30 * 22_050,))
  spectrum = np.abs(np.fft.rfft(samples))
  assert spectrum.argmax() / 30 == pytest.approx(440, abs=1)
  with open(out / "corpus.csv", encoding="utf-8") as file:
    rows = {pathlib.Path(r["file"]).name: r for r in csv.DictReader(file)}
  why = {name: row["why"] for name, row in rows.items()}
  assert (
    why["copy.wav"] == "the same samples as usr/share/game/music/b-side.wav"
  )
  assert why["b-side, fast.wav"] == "nearly the same as game/b_side"
  assert why["jingle.wav"] == "shorter than 30 s"
  assert why["noise.ogg"] == "not decodable"
  assert why["wind.wav"] == "not named as music"
  assert rows["b-side.wav"]["clips"] == "2"
  assert rows["b-side.wav"]["version"] == "1.2-3"
  assert (out / "licences/game.txt").read_text() == "CC0-1.0"


def test_lumps_of_a_wad(script, tmp_path):
  """As Doom has them: a header, the lumps, and a directory of them."""
  lumps = [("MAP01", b""), ("D_RUNNIN", b"MThd and so on"), ("D_DEAD", b"x")]
  data, directory = b"", b""
  for name, lump in lumps:
    entry = 12 + len(data), len(lump), name.encode()
    directory += struct.pack("<ii8s", *entry)
    data += lump
  head = b"IWAD" + struct.pack("<ii", len(lumps), 12 + len(data))
  assert list(script.wad_lumps(head + data + directory)) == lumps
  (tmp_path / "doom.wad").write_bytes(head + data + directory)
  script.unpack_archives(tmp_path)
  (found,) = (tmp_path / "doom.wad.unpacked").iterdir()
  assert found.name == "D_RUNNIN.mid" and found.read_bytes() == lumps[1][1]
