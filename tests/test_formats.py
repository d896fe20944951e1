"""Two hundred files, of every format and with every fault, by every way in."""

import zipfile

import music
import numpy as np
import published
import pytest

from vicreg_jax.data import audio, datasets
from vicreg_jax.data.datasets import archives

RATE, CROP = 22_050, 243


def noisy(content):
  middle = len(content) // 2
  noise = np.random.default_rng(1).bytes(min(2000, middle))
  return content[:middle] + noise + content[middle + len(noise) :]


FAULTS = {
  "whole": lambda content: content,
  "noisy": noisy,
  "cut": lambda content: content[: len(content) * 2 // 3],
  "twice": lambda content: content * 2,
  "zeros": lambda content: bytes(2000) + content,
  "tagged": lambda content: content + b"TAG" + bytes(125),
  "torn": lambda content: content[:40],
  "misnamed": lambda content: content,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
  """music/whole-SUFFIX.SUFFIX and found/FAULT-SUFFIX.SUFFIX."""
  root, made = (tmp_path_factory.mktemp(name) for name in ("tree", "made"))
  wav = music.write(made / "a.wav", music.noise(44_100, 2), 44_100)
  for i, suffix in enumerate(music.ENCODED):
    path = music.by_ffmpeg(wav, made / f"every{suffix}")
    content = path.read_bytes()
    for fault, change in FAULTS.items():
      wrong = music.ENCODED[i - 1] if fault == "misnamed" else suffix
      folder = root / ("music" if fault == "whole" else "found")
      folder.mkdir(exist_ok=True)
      # Else whole and misnamed files would be copies of one another.
      changed = change(content) + bytes(fault == "misnamed")
      (folder / f"{fault}-{suffix[1:]}{wrong}").write_bytes(changed)
  (root / "found" / "empty.mp3").touch()
  return root


def result(load):
  """The samples and what is noted; or the reason why there are none."""
  with audio.reading() as notes:
    try:
      return audio.to_int16(load()).tobytes(), tuple(notes)
    except audio.AudioError as error:
      return error.reason


@pytest.mark.slow
@music.needs_ffmpeg
def test_a_folder_a_zip_and_beam_give_the_same_clips(tree, tmp_path):
  pytest.importorskip("apache_beam")
  names = sorted(str(p.relative_to(tree)) for p in tree.rglob("*.*"))
  assert len(names) > 200
  with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
    for name in names:
      zipped.write(tree / name, name)
  zipped = archives.Zip.open([str(tmp_path / "a.zip")])
  by_name = {n: result(lambda n=n: audio.load(tree / n, RATE)) for n in names}
  in_zip = {n: result(lambda n=n: zipped.load(n, RATE)) for n in names}
  assert in_zip == by_name
  read = {
    n
    for n, found in by_name.items()
    if isinstance(found, tuple) and len(found[0]) >= 2 * CROP
  }
  whole = {n for n in names if n.startswith("music/")}
  assert whole < read and len(read) > 140
  assert not any(by_name[n][1] for n in whole)  # nothing is noted

  prepared = {}
  for way, beam in (("folder", ""), ("beam", "runner=DirectRunner")):
    section = published.data(
      "folder", tree, tmp_path / way, beam=beam, crop=CROP, labels="folders"
    )
    examples = published.read(datasets.prepare(section))
    prepared[way] = {id_: e["samples"] for id_, e in examples.items()}
  assert prepared["folder"] == prepared["beam"]
  assert prepared["folder"].keys() == read
  for name, samples in prepared["folder"].items():
    assert samples == by_name[name][0], name
