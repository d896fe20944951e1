"""The verbs of the command line, as somebody types them."""

import json
import pathlib
import re
import shlex
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from absl import app
from tables import call, headed, write

import vicreg_jax
from vicreg_jax import cli, files
from vicreg_jax.use import heads as heads_lib


@pytest.fixture
def music(tmp_path):
  for i in range(3):
    x_T = np.random.default_rng(i).normal(size=1000) * 0.1
    soundfile.write(tmp_path / f"{i}.wav", x_T, 22_050)
  (tmp_path / "torn.flac").write_bytes(b"fLaC")
  return tmp_path


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_an_export_has_the_heads(small_run, music, tmp_path, kind, capsys):
  pytest.importorskip("onnx")
  run, out = tmp_path / "run", tmp_path / "export"
  headed(small_run, run)
  flags = [f"--format={kind}", f"--output={out}", "--license=CC0-1.0"]
  assert call("export", run, *flags) is None
  names = [f"encoder.{kind}", "model.json", "heads.npz", "heads.json"]
  assert capsys.readouterr().out == f"{out}: {', '.join(names)}\n"
  assert set(names) == {p.name for p in out.iterdir()}
  want, moved = vicreg_jax.load(run), tmp_path / "moved"
  assert call("export", out, f"--output={moved}", "--license=MIT") is None
  for each in (out, moved):
    found = vicreg_jax.load(each)
    assert found.fingerprint() == want.fingerprint()
    for head in ("linear", "mlp"):
      shares = found.tags(music / "0.wav", head=head)
      assert shares == want.tags(music / "0.wav", head=head)
      assert list(shares) == ["rock", "jazz", "folk"]
      assert np.std(list(shares.values())) > 0.01
  told = []
  for model in (run, out):
    assert call("tag", model, music / "1.wav") is None
    told.append(capsys.readouterr().out.splitlines()[-1])
  assert told[0] == told[1]
  # An export takes the place of another, with heads or without.
  assert call("export", small_run, *flags) is None
  assert {p.name for p in out.iterdir()} == set(names[:2])
  assert "there are no heads" in call("tag", out, music / "1.wav")
  assert call("export", run, *flags) is None
  assert set(names) == {p.name for p in out.iterdir()}


def card_of(model, out):
  assert call("export", model, f"--output={out}", "--license=MIT") is None
  return json.loads((out / "model.json").read_text())


def test_a_card_has_the_scores_of_its_weights_alone(small_run, tmp_path):
  run, out = tmp_path / "run", tmp_path / "export"
  shutil.copytree(small_run, run)
  weights = vicreg_jax.load(small_run).fingerprint()
  scores = {"linear": {"roc_auc": 88.5}, "step": 3, "of": {"weights": weights}}
  (run / "probe.json").write_text(json.dumps(scores))
  card = card_of(run, out)
  assert card["scores"] == scores and card["training"]["steps"] == 3
  # An export of that export knows as much.
  again = card_of(out, tmp_path / "again")
  assert again["scores"] == scores and again["training"] == card["training"]
  # After more training they are of other weights; older ones do not say.
  for stale in (scores | {"of": {"weights": "0" * 64}}, {"linear": {}}):
    (run / "probe.json").write_text(json.dumps(stale))
    assert card_of(run, out)["scores"] is None
  (run / "probe.json").write_text("[")
  error = call("export", run, f"--output={out}", "--license=MIT")
  assert f"{run}/probe.json: damaged" in error and "\n" not in error


def test_a_card_has_the_scores_of_a_training_with_labels(small_run, tmp_path):
  run, out = tmp_path / "run", tmp_path / "export"
  headed(small_run, run)  # at step 3
  config = json.loads((run / "config.json").read_text())
  (run / "config.json").unlink()
  (run / "config.json").write_text(json.dumps(config | {"job": "supervised"}))
  for step, known in ((3, True), (2, False)):
    scores = {"supervised": {}, "step": step, "of": {"weights": "1" * 64}}
    (run / "probe.json").write_text(json.dumps(scores))
    assert card_of(run, out)["scores"] == (scores if known else None)


def test_an_export_is_not_replaced_by_itself(small_run, music, tmp_path):
  out = tmp_path / "export"
  card_of(small_run, out)
  before = {p.name: p.read_bytes() for p in out.iterdir()}
  for same in (out, f"{out}/../export"):
    error = call("export", same, f"--output={out}", "--license=X")
    assert "is the model itself" in error
  assert before == {p.name: p.read_bytes() for p in out.iterdir()}
  # The file of weights stands for its folder, whose sum is looked at.
  weights = out / "encoder.safetensors"
  want = vicreg_jax.load(small_run).fingerprint()
  assert vicreg_jax.load(weights).fingerprint() == want
  content = bytearray(weights.read_bytes())
  content[-1] ^= 1
  weights.write_bytes(content)
  assert "damaged" in call("tag", weights, music / "0.wav")


def test_tags_of_files(small_run, music, tmp_path, capsys):
  assert "there are no heads" in call("tag", small_run, music / "0.wav")
  encoder, run = vicreg_jax.load(small_run), tmp_path / "run"
  heads = headed(small_run, run)
  names, out = heads.labels, heads.params["linear"]["out"]
  kernel, bias = out["kernel"], out["bias"]
  assert call("tag", run, music / "0.wav", music / "torn.flac", "--top=2") == 3
  told = capsys.readouterr()
  y_SxD = encoder.embed_segments(music / "0.wav").embeddings
  logits = y_SxD @ kernel + bias
  shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  best = np.argsort(-shares.mean(0))[:2]
  want = ", ".join(f"{names[k]} {shares.mean(0)[k]:.2f}" for k in best)
  assert told.out == f"{music / '0.wav'}: {want}\n"
  assert "torn.flac: not decodable" in told.err


def test_heads_of_other_weights_do_not_count(small_run, tmp_path):
  params = {"linear": {"out": {"kernel": np.ones((16, 1))}}}
  heads = heads_lib.Heads(("a",), False, "0" * 64, 3, params)
  heads_lib.save(heads, str(tmp_path))
  for path in ("config.json", "checkpoints"):
    (tmp_path / path).symlink_to(f"{small_run}/{path}")
  assert vicreg_jax.load(tmp_path).heads is None
  (tmp_path / "heads.json").write_text("{")
  with pytest.raises(ValueError, match="damaged"):
    vicreg_jax.load(tmp_path)


def test_heads_have_a_name_for_each_output(small_run, tmp_path):
  run = tmp_path / "run"
  headed(small_run, run)
  about = json.loads((run / "heads.json").read_text())
  about["labels"].pop()
  (run / "heads.json").write_text(json.dumps(about))
  with pytest.raises(ValueError, match="linear has 3 outputs for 2 labels"):
    vicreg_jax.load(run)
  (run / "heads.json").write_text(json.dumps(about | {"params": []}))
  with pytest.raises(ValueError, match="names no heads"):
    vicreg_jax.load(run)


def test_a_map_replaces_its_own_files_alone(music, tmp_path):
  table = write(tmp_path / "t", np.random.default_rng(0).normal(size=(5, 4)))
  flags, page = ["map", table, "--projection=pca"], tmp_path / "map.html"
  pictures = [f"--png={tmp_path / name}" for name in ("a.png", "a.svg")]
  for picture in pictures:
    assert call(*flags, f"--output={page}", picture) is None
    assert files.is_ours(picture.removeprefix("--png="))
  html = page.read_text()
  page.write_text(html.replace(f"<!-- {files.MARK} -->\n", ""))
  assert page.read_text() != html  # but that of the version before
  assert call(*flags, f"--output={page}") is None and page.read_text() == html
  song, before = music / "0.wav", (music / "0.wav").read_bytes()
  output, picture = f"--output={page}", f"--png={song}"
  for wrong in ([f"--output={song}"], [output, picture]):
    error = call(*flags, *wrong)
    assert error.startswith(f"error: {wrong[-1]} was not written by")
    assert "--overwrite" in error and song.read_bytes() == before
  copy = f"--output={tmp_path / 'link'}"
  (tmp_path / "link").hardlink_to(table)
  for wrong in ([f"--output={table}"], [copy], [output, f"--png={page}"]):
    error = call(*flags, *wrong, "--overwrite")
    assert error.startswith(f"error: {wrong[-1]} is what this command reads")
  new = tmp_path / "new.svg"
  assert "reads" in call(*flags, f"--output={new}", f"--png={new}")
  assert call(*flags, output, picture, "--overwrite") is None
  assert song.read_bytes() != before and page.read_text() == html


JOBS = ["quickstart", "folder", "probe", "prepare"]
USES = ["embed", "tag", "similar", "playlist", "map", "export", "import"]


@pytest.mark.parametrize("verb", ["", *JOBS, *USES])
def test_help_is_no_error(verb, capsys):
  assert call(*filter(None, [verb, "--help"])) is None
  assert capsys.readouterr().out.startswith(f"usage: vicreg-jax {verb}")


@pytest.mark.parametrize("flag", ["--help", "--helpfull", "-h"])
def test_help_of_jobs_is_no_error(flag, capsys):
  app.define_help_flags()
  with pytest.raises(SystemExit) as end:
    cli.parse(["main", flag])
  assert end.value.code == 0
  assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("top", ["0", "-1", "x"])
def test_at_least_one_label_is_shown(small_run, music, top, capsys):
  assert call("tag", small_run, music / "0.wav", f"--top={top}") == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.endswith(f"--top: '{top}': give a whole number from 1 on")


@pytest.mark.parametrize("share", ["2/2", "-1/2", "1", "a/b", "0/0"])
def test_a_share_is_one_of_several(small_run, music, share, capsys):
  assert call("embed", small_run, music, "--output=x", f"--shard={share}") == 2
  assert f"'{share}': give I/N" in capsys.readouterr().err


def readme_blocks(language):
  """Code of the README's section on using an encoder."""
  text = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
  section = text[text.index("<!-- use: begin") : text.index("<!-- use: end")]
  return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def as_in_the_readme(small_run, tmp_path, monkeypatch):
  """A directory with what the README's commands name."""
  monkeypatch.chdir(tmp_path)
  shutil.copytree(small_run, "runs/quickstart")
  encoder = vicreg_jax.load(small_run)
  params = {"linear": {"out": {"kernel": np.ones((16, 2)), "bias": np.ones(2)}}}
  names = ("piano", "drums")
  heads = heads_lib.Heads(names, False, encoder.fingerprint(), 3, params)
  heads_lib.save(heads, "runs/quickstart")
  x_T = np.random.default_rng(0).normal(size=44_100) * 0.1
  soundfile.write("song.mp3", x_T, 22_050)
  pathlib.Path("music").mkdir()
  for name in "ab":
    shutil.copy("song.mp3", f"music/{name}.mp3")


def test_the_python_of_the_readme(as_in_the_readme):
  scope = {}
  exec("\n".join(readme_blocks("python")), scope)
  assert scope["song"].shape == (512,)
  np.testing.assert_allclose(scope["segments"].start_seconds[:2], [0, 0.5])
  assert set(scope["encoder"].tags("song.mp3")) == {"piano", "drums"}


def test_the_commands_of_the_readme(as_in_the_readme, capsys):
  pytest.importorskip("onnx")
  verbs = set()
  for line in "".join(readme_blocks("bash")).replace("\\\n", "").splitlines():
    _, _, module, *flags = shlex.split(line)
    if module != "vicreg_jax":
      continue
    verbs.add(flags[0])
    # tests/test_clmr.py has files to import, tests/test_installed.py the probe.
    if flags[0] not in ("import", "probe"):
      assert call(*flags) is None, line
  known = {"embed", "similar", "map", "tag", "export", "import", "probe"}
  assert verbs == known
  assert "song.mp3: techno" in capsys.readouterr().out
  assert len(pq.read_table("music.parquet")) == 2
  assert len(pq.read_table("passages.parquet")) == 6
