"""Two hundred files, of every format and with every fault, by every way in."""

import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile

from vicreg_jax import config as configs
from vicreg_jax.data import audio, datasets
from vicreg_jax.data.datasets import archives

RATE, CROP = 22_050, 243
# What ffmpeg cannot write, and what it has to be told of a suffix.
NO_ENCODER = {".ape", ".dsf", ".mpc"}
OPTIONS = {
  ".aifc": ("-f", "aiff"), ".m4b": ("-f", "mp4"), ".oga": ("-f", "ogg"),
  ".snd": ("-f", "au"), ".weba": ("-f", "webm"),
  ".spx": ("-ar", "32000", "-ac", "1", "-b:a", "40k"),
}  # fmt: skip


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
  if not shutil.which("ffmpeg"):
    pytest.skip("ffmpeg not installed")
  root, made = (tmp_path_factory.mktemp(name) for name in ("tree", "made"))
  x = 0.1 * np.random.default_rng(0).normal(size=(44_100, 2))
  soundfile.write(made / "a.wav", x, 44_100)
  suffixes = sorted(audio.EXTENSIONS - NO_ENCODER)
  for i, suffix in enumerate(suffixes):
    path = made / f"every{suffix}"
    options = OPTIONS.get(suffix, ())
    command = ["ffmpeg", "-v", "error", "-i", made / "a.wav", *options, path]
    subprocess.run(command, check=True)
    content = path.read_bytes()
    for fault, change in FAULTS.items():
      wrong = suffixes[i - 1] if fault == "misnamed" else suffix
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
    config = configs.base_prepare().data
    config.update(
      name="folder", path=str(tree), dir=str(tmp_path / way), beam=beam,
      crop=CROP, sample_rate=RATE, labels="folders",
    )  # fmt: skip
    found = datasets.prepare(config)
    prepared[way] = {
      example["id"].decode(): example["samples"]
      for split in found.num_clips
      for example in found.dataset(split).as_numpy_iterator()
    }
  assert prepared["folder"] == prepared["beam"]
  assert prepared["folder"].keys() == read
  for name, samples in prepared["folder"].items():
    assert samples == by_name[name][0], name
