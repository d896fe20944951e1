"""MTG-Jamendo and NSynth from miniatures of their files.

What is expected is read anew from the tables.
"""

import csv
import io
import json
import os
import shutil

import music
import pytest
from music import write_tar, write_tree
from published import (
  data,
  encoded,
  error_of,
  heard,
  labels_of,
  pitch,
  read,
  skipped,
)

from vicreg_jax.data import audio, datasets
from vicreg_jax.data.datasets import nsynth
from vicreg_jax.data.prepared import SPLITS

SMALL = 2187  # a crop


def section_of(name, path, tmp_path, **changes):
  return data(name, path, tmp_path, crop=SMALL, **changes)


# --- MTG-Jamendo ---

# track: artist, part of split 0, part of split 1, tags
JAMENDO = {
  948: (87, "train", "test", "genre---rock instrument---bass"),
  1376800: (87, "train", "test", "genre---pop mood/theme---happy"),
  1100: (12, "train", "train", "genre---pop instrument---voice"),
  1101: (12, "train", "train", "genre---rock"),  # not here
  1102: (12, "train", "train", "genre---pop"),  # damaged
  23500: (4, "validation", "train", "mood/theme---film"),
  23502: (4, "validation", "train", "genre---rock mood/theme---film"),
  777: (5, "test", "validation", "instrument---bass genre---pop genre---rock"),
}
SETS = {"top50": "_top50tags", "genre": "_genre", "moodtheme": "_moodtheme"}
SETS |= {"instrument": "_instrument", "all": ""}
CATEGORY = {"moodtheme": "mood/theme", "top50": "", "all": ""}


def jamendo_path(track):
  return f"{track % 100:02d}/{track}.mp3"


def jamendo_tsv(tags, number, part):
  text = io.StringIO(newline="")
  writer = csv.writer(text, delimiter="\t", lineterminator="\r\n")
  header = "TRACK_ID ARTIST_ID ALBUM_ID PATH DURATION TAGS"
  writer.writerow(header.split())
  for track, (artist, *parts, names) in JAMENDO.items():
    names = [n for n in names.split() if n.startswith(CATEGORY.get(tags, tags))]
    if parts[number] == part and names:
      writer.writerow(
        [f"track_{track:07d}", f"artist_{artist:06d}", "album_000126",
         jamendo_path(track), "0.3", *names]
      )  # fmt: skip
  return text.getvalue().encode()


def jamendo_audio(track):
  number = list(JAMENDO).index(track)
  return b"noise" if track == 1102 else encoded(number, seconds=0.3)


@pytest.fixture
def jamendo(tmp_path):
  root = tmp_path / "jamendo"
  tables = {
    f"data/splits/split-{i}/autotagging{SETS[tags]}-{part}.tsv": jamendo_tsv(
      tags, i, part
    )
    for tags in SETS
    for i in range(2)
    for part in ("train", "validation", "test")
  }
  write_tree(root, tables)
  tracks = {jamendo_path(t): jamendo_audio(t) for t in JAMENDO if t != 1101}
  write_tree(root, tracks)
  return root


def listed(root, tags, number):
  """{path: (split, artist, tags)} of the tables, by the csv module."""
  found = {}
  for split, part in zip(SPLITS, ("train", "validation", "test")):
    name = f"autotagging{SETS[tags]}-{part}.tsv"
    with open(root / "data/splits" / f"split-{number}" / name, newline="") as f:
      for row in csv.DictReader(f, delimiter="\t", restkey="more"):
        of_track = {row["TAGS"], *(row.get("more") or [])}
        found[row["PATH"]] = split, row["ARTIST_ID"], of_track
  return found


def check_jamendo(prepared, want):
  examples = read(prepared)
  left_out = skipped(prepared)
  assert not examples.keys() & left_out.keys()
  assert examples.keys() | left_out.keys() == want.keys()
  assert prepared.labels == tuple(
    sorted(set().union(*(w[2] for w in want.values())))
  )
  for path, example in examples.items():
    split, artist, tags = want[path]
    assert example["split"] == split
    assert example["track"] == artist.encode()
    assert set(labels_of(example, prepared)) == tags
    number = [jamendo_path(t) for t in JAMENDO].index(path)
    assert heard(example) == pytest.approx(pitch(number), abs=3)
  return left_out


def test_jamendo_by_its_tables(jamendo, tmp_path, monkeypatch):
  section = section_of("mtg_jamendo", jamendo, tmp_path)
  top50 = datasets.prepare(section)
  want = listed(jamendo, "top50", 0)
  left_out = check_jamendo(top50, want)
  assert len(want) == 8 and top50.label_kind == "multi"
  assert left_out == {
    "01/1101.mp3": "not found",
    "02/1102.mp3": "not decodable",
  }
  assert top50.skipped == {"not found": 1, "not decodable": 1}
  assert top50.tracks == 4  # artists

  # Another set of tags, another split: none that is there is decoded again.
  decoded = []
  load = audio.load
  monkeypatch.setattr(
    audio, "load", lambda path, rate: decoded.append(path) or load(path, rate)
  )
  section.update(tags="moodtheme")
  check_jamendo(datasets.prepare(section), listed(jamendo, "moodtheme", 0))
  section.update(tags="top50", split_number=1)
  other = datasets.prepare(section)
  check_jamendo(other, listed(jamendo, "top50", 1))
  assert {os.path.basename(path) for path in decoded} == {
    "1101.mp3",
    "1102.mp3",
  }
  # What is prepared is found without its files.
  shutil.rmtree(jamendo)
  section.path = ""
  assert datasets.prepare(section).path == other.path
  section.split_number = 0
  assert datasets.prepare(section).path == top50.path
  section.tags = "genre"
  assert "none is prepared (genre-split-0-*" in error_of(section)


def test_jamendo_of_the_low_edition(jamendo, tmp_path):
  low = {
    jamendo_path(t).replace(".mp3", ".low.mp3"): jamendo_audio(t)
    for t in JAMENDO
  }
  for folder in jamendo.glob("[0-9][0-9]"):
    shutil.rmtree(folder)
  write_tree(jamendo / "audio-low", low)
  section = section_of("mtg_jamendo", jamendo, tmp_path, tags="genre")
  genre = {p.replace(".mp3", ".low.mp3") for p in listed(jamendo, "genre", 0)}
  found = read(datasets.prepare(section))
  assert set(found) == genre - {"02/1102.low.mp3"}


def test_jamendo_says_what_is_missing(jamendo, tmp_path):
  section = section_of("mtg_jamendo", tmp_path / "nowhere", tmp_path)
  assert "nowhere' does not exist" in error_of(section)
  section.path = str(jamendo)
  folder = jamendo / "data/splits/split-0"
  table = folder / "autotagging_top50tags-train.tsv"
  text = table.read_text()
  for faulty, message in (
    (
      text.replace("\t", ","),
      "line 1: the columns are not TRACK_ID, ARTIST_ID",
    ),
    (text.replace("48/948", "../../948"), "line 2: '../../948.mp3' is no path"),
    (text.replace("artist_000087", "x"), "line 2: '48/948.mp3' is no path"),
    (text.replace("genre---rock", "", 1), "or it has no tags"),
    (text + text.splitlines()[1], "48/948.mp3 is in "),
    (text[:-5], "the file ends within a line"),  # in its last tag
    (text.splitlines()[0] + "\ntrack_1", "line 2: '' is no path"),
  ):
    table.write_text(faulty)
    assert message in error_of(section)
  table.write_bytes(b"\xff\xfe" + text.encode())
  assert "train.tsv line 0: " in error_of(section)
  table.unlink()
  assert f"holds no {table.relative_to(jamendo)}: put there" in error_of(
    section
  )
  table.write_text(text)
  for folder in jamendo.glob("[0-9][0-9]"):
    shutil.rmtree(folder)
  assert "neither 00 nor audio/00" in error_of(section)
  section.split_number = 3
  assert "no data/splits/split-3/autotagging_top50tags" in error_of(section)


# --- NSynth ---

NSYNTH = {
  "train": ["bass_synthetic_068-049-025", "vocal_acoustic_000-049-100",
            "bass_synthetic_068-109-127", "synth_lead_synthetic_011-021-050",
            "bass_synthetic_068-010-127"],
  "valid": ["organ_electronic_001-060-127", "bass_electronic_018-049-075"],
  "test": ["organ_electronic_001-060-025", "bass_electronic_018-109-050"],
}  # fmt: skip
MISSING = "bass_synthetic_068-010-127"


def note(name):
  """A note's description, with the keys of the published one."""
  instrument, number, velocity = name.split("-")
  family, source, _ = instrument.rsplit("_", 2)
  return {
    "note": 201034, "sample_rate": 16000, "qualities": [0, 1] + 8 * [0],
    "instrument_family": nsynth.FAMILIES.index(family),
    "instrument_family_str": family, "instrument_source_str": source,
    "note_str": name, "qualities_str": ["dark"], "instrument_str": instrument,
    "pitch": int(number), "instrument": 417, "velocity": int(velocity),
  }  # fmt: skip


def tone(name):
  number = sum(NSYNTH.values(), []).index(name)
  return music.encoded(music.sine(pitch(number), 16_000, 0.3), 16_000)


def nsynth_members(split):
  names = NSYNTH[split]
  notes = json.dumps({name: note(name) for name in names}, indent=4)
  wavs = {f"audio/{n}.wav": tone(n) for n in names if n != MISSING}
  return {"examples.json": notes.encode()} | wavs


@pytest.fixture
def notes(tmp_path):
  """Two splits in archives, one below other folders, and one extracted."""
  root = tmp_path / "notes"
  (root / "nsynth-train").mkdir(parents=True)  # empty, as nothing were there
  write_tree(root / "nsynth-valid", nsynth_members("valid"))
  for split in ("train", "test"):
    folder = "data/all" if split == "train" else "nsynth-test"
    members = {f"{folder}/{n}": c for n, c in nsynth_members(split).items()}
    members |= {"../evil.wav": b"evil"}
    write_tar(root / f"nsynth-{split}.jsonwav.tar.gz", members)
  return root


def test_nsynth_pitches_and_families(notes, tmp_path, monkeypatch):
  section = section_of("nsynth", notes, tmp_path)
  prepared = datasets.prepare(section)
  assert not list(tmp_path.rglob("evil*"))
  want = {}
  for split in SPLITS:
    with open(notes / f"nsynth-{split}" / "examples.json") as f:
      for name, row in json.load(f).items():
        want[f"nsynth-{split}/audio/{name}.wav"] = split, row
  missing = f"nsynth-train/audio/{MISSING}.wav"
  assert skipped(prepared) == {missing: "not found"}
  examples = read(prepared)
  assert examples.keys() == want.keys() - {missing}
  assert (prepared.labels, prepared.label_kind) == (
    ("10", "21", "49", "60", "109"), "single",
  )  # fmt: skip
  for name, (split, row) in want.items():
    if name == missing:
      continue
    example = examples[name]
    assert example["split"] == split
    assert labels_of(example, prepared) == [str(row["pitch"])]
    assert example["track"].decode() == row["instrument_str"]
    order = sum(NSYNTH.values(), []).index(row["note_str"])
    assert heard(example) == pytest.approx(pitch(order), abs=3)
    assert len(example["samples"]) // 2 == pytest.approx(0.3 * 22_050, abs=2)

  def never(path, rate):
    assert path.endswith(f"{MISSING}.wav")
    raise audio.AudioError(path, "not found")

  monkeypatch.setattr(audio, "load", never)
  section.target = "family"
  families = datasets.prepare(section)
  assert families.labels == nsynth.FAMILIES
  for name, example in read(families).items():
    family = want[name][1]["instrument_family_str"]
    assert labels_of(example, families) == [family]
    assert example["samples"] == examples[name]["samples"]
  shutil.rmtree(notes)
  section.path = ""
  assert datasets.prepare(section).path == families.path


def test_nsynth_says_what_is_missing(notes, tmp_path):
  section = section_of("nsynth", notes, tmp_path)
  path = notes / "nsynth-valid" / "examples.json"
  whole = json.loads(path.read_text())
  first = next(iter(whole))
  for faulty in (
    b"{", b"[" * 100_000, b"[]", b"{}", b"\xff", b"null",
    json.dumps({"../a": whole[first]}).encode(),
    json.dumps({first: None}).encode(),
    *(
      json.dumps({first: whole[first] | {key: value}}).encode()
      for key, value in (
        ("pitch", 128), ("pitch", True), ("pitch", "60"),
        ("instrument_str", 3), ("instrument_family_str", "harp"),
        ("instrument_family_str", ["bass"]),
      )
    ),
  ):  # fmt: skip
    path.write_bytes(faulty)
    assert f"{path}: cannot be read (" in error_of(section)
  shutil.rmtree(notes / "nsynth-valid")
  message = error_of(section)
  assert "neither nsynth-valid.jsonwav.tar.gz nor nsynth-valid/" in message
  (notes / "nsynth-valid.jsonwav.tar.gz").write_bytes(b"no archive")
  assert "valid.jsonwav.tar.gz: cannot be extracted" in error_of(section)
