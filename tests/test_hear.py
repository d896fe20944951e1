"""The API of HEAR, by its own validator and by plain slices."""

import importlib
import subprocess
import sys
import warnings

import numpy as np
import pytest

from vicreg_jax.use import hear


@pytest.fixture(scope="module")
def model(small_run):
  return hear.load_model(small_run)


def noise(*shape):
  x = np.random.default_rng(0).uniform(-1, 1, shape)
  return x.astype(np.float32)


def test_timestamps_are_the_centres_of_what_is_embedded(model):
  x_2xT = noise(2, 5000)
  y_2xCxD, stamps_2xC = hear.get_timestamp_embeddings(x_2xT, model)
  np.testing.assert_allclose(stamps_2xC[0], [0, 50, 100, 150, 200])
  crop = model.encoder.crop
  for n in range(2):
    for c, milliseconds in enumerate(np.asarray(stamps_2xC[n])):
      centre = round(milliseconds * 22.05)
      first = centre - crop // 2
      window = [
        x_2xT[n, t] if 0 <= t < 5000 else 0 for t in range(first, first + crop)
      ]
      want = model.encoder.embed(np.array(window, np.float32), 22_050)
      np.testing.assert_array_equal(y_2xCxD[n, c], want)


def test_timestamps_do_not_drift(model, monkeypatch):
  """After 20 minutes they are as near as at the start."""
  monkeypatch.setattr(
    type(model.encoder),
    "__call__",
    lambda self, batches, rows: (
      np.zeros((len(x), 16), np.float32) for x in batches
    ),
  )
  seconds = 1200
  audio = np.zeros((1, seconds * 22_050), np.float32)
  y, stamps = hear.get_timestamp_embeddings(audio, model)
  stamps = np.asarray(stamps, np.float64)
  assert y.shape == (1, 24_001, 16)
  np.testing.assert_allclose(stamps[0], np.arange(24_001) * 50, atol=0.1)


def test_scenes_are_means(model):
  x_3xT = noise(3, 100)
  y_3xD = hear.get_scene_embeddings(x_3xT, model)
  for x_T, y_D in zip(x_3xT, y_3xD, strict=True):
    want = model.encoder.embed(np.tile(x_T, 3)[:243], 22_050)
    np.testing.assert_array_equal(y_D, want)


@pytest.mark.parametrize(
  "function", [hear.get_scene_embeddings, hear.get_timestamp_embeddings]
)
def test_audio_is_checked_as_for_the_encoder(model, function):
  x_2xT = np.random.default_rng(0).integers(-999, 999, (2, 500), np.int16)
  floats = function((x_2xT / 32_768).astype(np.float32), model)
  for found, want in zip(function(x_2xT, model), floats):
    np.testing.assert_array_equal(found, want)
  for wrong, said in (
    (noise(2, 500) * 32_768, "a peak of"),
    (np.full((2, 500), 1e300), "a peak of"),
    (np.full((2, 500), np.nan), "not finite"),
    (np.ones((2, 500), np.int32), "array of int32"),
    (noise(2, 1, 500), r"shape \(2, 1, 500\); it must be \[n, samples\]"),
    (noise(500), r"shape \(500,\)"),
    (noise(0, 500), r"shape \(0, 500\)"),
  ):
    with pytest.raises(ValueError, match=said):
      function(wrong, model)


def test_an_empty_path_says_what_to_give():
  with pytest.raises(ValueError, match="give a workdir"):
    hear.load_model()


@pytest.mark.slow
def test_the_validator_of_hear_is_satisfied(small_run, tmp_path, monkeypatch):
  pytest.importorskip("torch")  # which it imports
  install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
  install += ["--ignore-requires-python", f"--target={tmp_path}"]
  done = subprocess.run(
    [*install, "hearvalidator==2021.0.6"], capture_output=True, text=True
  )
  if done.returncode:
    pytest.skip(f"hearvalidator cannot be had: {done.stderr[-200:]}")
  monkeypatch.syspath_prepend(str(tmp_path))
  validate = importlib.import_module("hearvalidator.validate")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "(?s).*A common bug we have seen")
    validate.ValidateModel("vicreg_jax.use.hear", small_run)()
