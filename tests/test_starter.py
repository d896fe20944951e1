"""The encoder that comes with the package."""

import json
import os
import pathlib
import runpy

import numpy as np
import pytest

import vicreg_jax
from vicreg_jax import config_limits, mesh
from vicreg_jax.training import steps
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use.warm_start import warm_start

FOLDER = pathlib.Path(encoders.__file__).parent / "starter"


@pytest.fixture(scope="module")
def starter():
  return vicreg_jax.load("starter")


def glide(seconds, first_hertz, last_hertz):
  """A tone whose pitch moves, with overtones."""
  rate = 22_050
  t = np.arange(int(seconds * rate)) / rate
  hertz = first_hertz + (last_hertz - first_hertz) * t / seconds
  phase = 2 * np.pi * np.cumsum(hertz) / rate
  return (
    sum(np.sin(k * phase) / k for k in range(1, 6)).astype(np.float32) * 0.2
  )


def test_what_it_is(starter):
  assert (starter.sample_rate, starter.crop, starter.size) == (
    22_050,
    19_683,
    512,
  )
  size = sum(os.path.getsize(FOLDER / name) for name in os.listdir(FOLDER))
  assert size < 4e6
  card = json.loads((FOLDER / "model.json").read_text())
  assert card["name"] == "starter" and card["licence"] == "Apache-2.0"


def test_it_gives_the_vectors_that_it_gave(starter):
  y_D = starter.embed(glide(2.0, 200, 400), 22_050)
  expected = json.loads(
    (pathlib.Path(__file__).parent / "fixtures/starter.json").read_text()
  )
  np.testing.assert_allclose(y_D[:16], expected["first"], rtol=1e-3, atol=1e-4)
  assert np.linalg.norm(y_D) == pytest.approx(expected["norm"], rel=1e-4)


def test_its_tags_tell_a_soft_tone_from_a_beat(starter):
  t = np.arange(4 * 22_050) / 22_050
  noise = np.random.default_rng(0).normal(0, 0.5, len(t))
  drum = noise * np.exp(-8 * (8 * t % 1))  # 8 strokes a second
  bass = 0.3 * np.sign(np.sin(2 * np.pi * 110 * t))
  tone, beat = (
    starter.tags(x.clip(-1, 1).astype(np.float32), 22_050)
    for x in (0.2 * glide(4.0, 300, 300), drum + bass)
  )
  for tag in ("slow", "classical", "ambient", "quiet"):
    assert tone[tag] > 0.1 > 5 * beat[tag]
  for tag in ("fast", "techno", "rock", "beat"):
    assert beat[tag] > 0.3 > 5 * tone[tag]


def test_the_card_names_its_tags(starter):
  card = (FOLDER / "README.md").read_text()
  table = card.split("| tag |")[1].split("\n\n")[0]
  rows = [line.split("|")[1:4] for line in table.splitlines()[2:]]
  agreed = {row[0].strip(): row[1:] for row in rows}
  assert agreed.keys() == set(starter.heads.labels) and len(agreed) >= 15
  assert all(float(value) >= 85 for value, _ in agreed.values())


def test_a_folder_of_that_name_has_to_be_named_as_one(tmp_path, monkeypatch):
  """ "starter" is the package's own, wherever it is asked for."""
  (tmp_path / "starter").mkdir()
  monkeypatch.chdir(tmp_path)
  assert vicreg_jax.load("starter").size == 512
  with pytest.raises(ValueError, match="starter"):
    vicreg_jax.load("./starter")


def test_a_folder_s_encoder_begins_as_the_starter(starter):
  path = pathlib.Path(__file__).parents[1] / "configs" / "folder.py"
  config = runpy.run_path(str(path))["get_config"]()
  empty = steps.TrainState(step=0, params={}, batch_stats={}, opt_state={})
  state = warm_start(config, mesh.make_mesh())(empty)
  begun = {k: getattr(state, k)["encoder"] for k in starter.variables}
  assert encoders.fingerprint(begun) == starter.fingerprint()
  config.loss.name = "vicreg"  # one flag, and the projector fits
  config_limits.validate(config)
  assert config.model.projector_batch_norm
  assert config.model.projector[-1] >= config.model.representation_size
