"""launch/starter_*.py, but the corpus's own, on tables made here."""

import csv
import runpy
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vicreg_jax
from vicreg_jax.use import heads

D, K = 6, 5


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def music():
  """Vectors of 4 games of 10 tracks of 3 clips, and tags that follow them."""
  rng = np.random.default_rng(0)
  names, vectors = [], []
  for game in range(4):
    of_game_D = rng.normal(size=D)
    for track in range(10):
      of_track_D = of_game_D + 0.5 * rng.normal(size=D)
      for clip in range(3):
        names.append(f"g{game}/t{track}-{30 * clip}-{30 * clip + 30}.ogg")
        vectors.append(of_track_D + 0.3 * rng.normal(size=D))
  x_NxD = np.array(vectors)
  logits_NxK = x_NxD @ rng.normal(size=(D, K)) - 1
  logits_NxK[:, -1] = rng.normal(size=len(x_NxD))  # nothing tells this tag
  return names, x_NxD, sigmoid(logits_NxK)


def write(path, names, **columns):
  table = {"path": names} | {
    name: pa.FixedSizeListArray.from_arrays(
      pa.array(y.ravel(), pa.float32()), y.shape[1]
    )
    for name, y in columns.items()
  }
  metadata = {"tags": ",".join(f"tag{k}" for k in range(K))}
  pq.write_table(pa.table(table).replace_schema_metadata(metadata), path)
  return str(path)


def run(monkeypatch, script, *args):
  monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
  runpy.run_path(f"launch/{script}.py", run_name="__main__")


def by_hand(names, x_NxD):
  """Precision at 10 of the game, and of the track at 1, clip by clip."""
  x_NxD = (x_NxD - x_NxD.mean(0)) / x_NxD.std(0)
  x_NxD /= np.linalg.norm(x_NxD, axis=1, keepdims=True)
  track = [name.split("-")[0] for name in names]
  precisions, same = [], []
  for i in range(len(names)):
    order = [j for j in np.argsort(-(x_NxD @ x_NxD[i])) if j != i]
    same.append(track[order[0]] == track[i])
    others = [j for j in order if track[j] != track[i]][:10]
    precisions.append(np.mean([names[j][:2] == names[i][:2] for j in others]))
  return 100 * np.mean(precisions), 100 * np.mean(same)


def test_the_better_vectors_win(music, tmp_path, monkeypatch, capsys):
  names, x_NxD, p_NxK = music
  noise_NxD = np.random.default_rng(1).normal(size=x_NxD.shape)
  tables = [
    write(tmp_path / f"{table}.parquet", paths, embedding=y_NxD)
    for table, paths, y_NxD in (
      ("ours", [f"music/{name}" for name in names], x_NxD),
      ("noise", names, noise_NxD),
    )
  ]
  tags = write(tmp_path / "tags.parquet", names, tags=p_NxK)
  run(monkeypatch, "starter_choice", "music", tags, *tables)
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  ours, noise = (
    dict(zip(rows[0][2:], (float(x.split("±")[0]) for x in row[1:])))
    for row in rows[1:]
  )
  expected = by_hand(names, x_NxD)
  assert (ours["p@10"], ours["track"]) == pytest.approx(expected, abs=0.06)
  assert ours["accuracy"] > 75 and ours["roc_auc"] > 90
  assert 40 < noise["roc_auc"] < 60 and 35 < noise["tags"] < 65
  # Four of five tags are linear in the vectors.
  assert ours["tags"] > (4 * 97 + 30) / 5


def test_tracks_are_tested_whole():
  """Vectors that tell tracks, and nothing of games or tags, are of no use."""
  script = runpy.run_path("launch/starter_choice.py")
  rng = np.random.default_rng(3)
  track_N = np.repeat(np.arange(60), 4)
  game_N = np.repeat(rng.integers(3, size=60), 4)
  x_NxD = np.repeat(rng.normal(size=(60, 40)), 4, 0)
  x_NxD += 0.01 * rng.normal(size=x_NxD.shape)
  accuracies, _ = script["of_games"](x_NxD, game_N, track_N, 10)
  assert 0.2 < np.mean(accuracies) < 0.5
  p_NxK = np.repeat(sigmoid(rng.normal(size=(60, K))), 4, 0)
  assert 0.35 < np.mean(script["of_tags"](x_NxD, p_NxK, track_N)) < 0.65


def test_tables_that_do_not_fit(music, tmp_path, monkeypatch, capsys):
  names, x_NxD, p_NxK = music
  tags = write(tmp_path / "tags", names, tags=p_NxK)
  ours = write(tmp_path / "ours", names, embedding=x_NxD)
  twice = write(tmp_path / "twice", names[:1] * 2, embedding=x_NxD[:2])
  other = write(tmp_path / "other", ["x.ogg"], embedding=x_NxD[:1])
  for flags, said in (
    ((twice,), "--pooling=none"),
    ((ours, other), "in all tables"),
    ((ours, "--clip=(.+).mp3"), "g0/t0-0-30.ogg"),
  ):
    with pytest.raises(SystemExit) as e:
      run(monkeypatch, "starter_choice", "music", tags, *flags)
    assert said in f"{e.value}{capsys.readouterr().err}"


def test_tags_that_agree_become_heads(music, tmp_path, monkeypatch, capsys):
  names, x_NxD, p_NxK = music
  x_NxD = np.pad(x_NxD, ((0, 0), (0, 512 - D)))  # as wide as the starter's
  segments = np.repeat(names, 2)
  x_SxD = np.repeat(x_NxD, 2, 0)
  x_SxD[::2, 0] += 0.3  # the two segments of a clip differ
  x_SxD[1::2, 0] -= 0.3
  splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
  with open(tmp_path / "clips.csv", "w", newline="") as file:
    writer = csv.writer(file)
    rows = [(name, splits[int(name[4])]) for name in names]
    writer.writerows([("id", "split"), *rows])
  tables = (
    write(tmp_path / "segments.parquet", segments, embedding=x_SxD),
    write(tmp_path / "tags.parquet", names, tags=p_NxK),
  )
  out = tmp_path / "heads"
  flags = ("starter", "music", tmp_path / "clips.csv", *tables)
  flags += ("--also", "music", *tables)
  run(monkeypatch, "starter_tags", *flags, f"--output={out}")
  made = heads.load(str(out))
  assert made.labels == ("tag0", "tag1", "tag2", "tag3")
  assert "4 of 5 tags" in capsys.readouterr().out
  assert made.encoder == vicreg_jax.load("starter").fingerprint()
  got = [made.probabilities(x_SxD[i : i + 2]) for i in range(0, len(x_SxD), 2)]
  np.testing.assert_allclose(got, p_NxK[:, :-1], atol=0.2)


def test_remixes_are_found(tmp_path, monkeypatch, capsys):
  """A remix has most of a track's segments, with noise; a quote has few."""
  rng = np.random.default_rng(0)
  x_TxSxD = rng.normal(size=(8, 20, 64))
  remix_SxD = x_TxSxD[3, 4:] + 0.3 * rng.normal(size=(16, 64))
  quote_SxD = x_TxSxD[5, :4] + 0.3 * rng.normal(size=(4, 64))
  tracks = {f"g/t{t}": x_SxD for t, x_SxD in enumerate(x_TxSxD)}
  tracks |= {"h/t3_remix": remix_SxD, "h/quote": quote_SxD}
  names = [f"DIR/{t}-0-30.ogg" for t, x_SxD in tracks.items() for _ in x_SxD]
  x_SxD = np.concatenate([*tracks.values()])
  table = write(tmp_path / "segments.parquet", names, embedding=x_SxD)
  run(monkeypatch, "starter_copies", table, "DIR/")
  found = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
  assert found == [["h/t3_remix", "g/t3"]]
  table = write(tmp_path / "mine.parquet", ["a.mp3"], embedding=x_SxD[:1])
  with pytest.raises(SystemExit):
    run(monkeypatch, "starter_copies", table, "DIR/")
  assert "a.mp3 is no clip of the corpus" in capsys.readouterr().err


def test_clips_are_chosen(tmp_path, monkeypatch, capsys):
  clips = tmp_path / "clips.csv"
  rows = [
    f"g/t{track}{font}-{start}-{start + 30}.ogg,{split},30.0"
    for track, split in enumerate(["train"] * 6 + ["test"] * 2)
    for font in (".1", ".2")
    for start in range(0, 150, 30)
  ]
  clips.write_text("\n".join(["id,split,seconds", *rows]))

  def chosen(*flags):
    run(monkeypatch, "starter_clips", clips, *flags)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "path,split" and len({*lines}) == len(lines)
    assert {*lines} <= {row.rsplit(",", 1)[0] for row in rows}
    return lines

  few = chosen("--a-track=3")
  assert len(few) == 8 * 3
  assert [row for row in few if "t6" in row] == [
    "g/t6.1-30-60.ogg,test",
    "g/t6.2-0-30.ogg,test",
    "g/t6.2-90-120.ogg,test",
  ]
  part, more = chosen("--hours=0.17"), chosen("--hours=0.34")
  for rows_, tracks in (part, 2), (more, 4):
    train = {row.split(".")[0] for row in rows_ if "train" in row}
    assert len(rows_) == 10 * (tracks + 2) and len(train) == tracks
  assert {*part} < {*more}
  clips.write_text("id,split,seconds\nsong.mp3,train,30.0")
  with pytest.raises(SystemExit):
    run(monkeypatch, "starter_clips", clips)
  assert "song.mp3 is no clip of the corpus" in capsys.readouterr().err
