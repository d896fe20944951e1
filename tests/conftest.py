"""Small data and configs that the tests of several modules share."""

import contextlib
import importlib
import importlib.metadata
import os
import pathlib
import sys
import tarfile
import tempfile
import types
from unittest import mock

# Programs that several tests, or their subprocesses, run are compiled once, and
# sooner, as most runs are compared with one another. Where numbers are compared
# with those of others, tests use `optimized`.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _cache = tempfile.TemporaryDirectory()
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Each worker's threads would wait for one another while they spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without fusion emitters a step compiles in a third of the time. Later releases
# of jaxlib end at the flag, which they do not know.
EMITTERS = "xla_cpu_use_fusion_emitters"
_flags = os.environ.get("XLA_FLAGS", "")
_jaxlib = importlib.metadata.version("jaxlib")
if _jaxlib.startswith("0.10.") and EMITTERS not in _flags:
  os.environ["XLA_FLAGS"] = f"{_flags} --{EMITTERS}=false"
# Processes that tests start find the tests' modules.
_path = [str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _path))

# Workers that begin at once would each compile all that they import. So they
# begin at different places, and then find what another has compiled.
if "xdist" in sys.modules and "PYTEST_XDIST_WORKER" in os.environ:
  _first = "tensorflow", "jax", "torch"
  importlib.import_module("vicreg_jax")  # it sets TensorFlow's environment
  with contextlib.suppress(ImportError):
    importlib.import_module(
      _first[int(os.environ["PYTEST_XDIST_WORKER"][2:]) % len(_first)]
    )

import jax
import pytest
from jax._src import compiler

from vicreg_jax import config as configs
from vicreg_jax.data import datasets

SIZES = (24, 9, 10)

# Modules that take longest begin first, so that the workers end together.
LONGEST = (
  # Of those that are marked slow.
  "test_hosts",
  "test_aot",
  "test_main",
  "test_bench",
  "test_fuzz",
  "test_soak",
  "test_suite",
  # Of the others.
  "test_pretrain",
  "test_input_pipeline",
  "test_probe",
  "test_supervised",
  "test_official",
  "test_steps",
  "test_augment",
  "test_models",
  "test_bucket",
  "test_launch",
)


def pytest_collection_modifyitems(items):
  ranks = {name: rank for rank, name in enumerate(LONGEST)}
  items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture
def optimized(monkeypatch):
  """Programs are compiled as users have them."""
  if EMITTERS in os.environ.get("XLA_FLAGS", ""):
    options = compiler.get_compile_options
    monkeypatch.setattr(
      compiler,
      "get_compile_options",
      lambda *args, env_options_overrides=None, **kwargs: options(
        *args,
        env_options_overrides={EMITTERS: True, **(env_options_overrides or {})},
        **kwargs,
      ),
    )
  name = "jax_disable_most_optimizations"
  before = jax.config.values[name]
  jax.config.update(name, False)
  yield
  jax.config.update(name, before)


@pytest.fixture(scope="session")
def plain_librosa():
  """librosa, without the half minute in which numba compiles it.

  What numba makes functions over arrays of, such as `piptrack`, does not run.
  """

  def decorator(*args, **_):
    written = args and isinstance(args[0], types.FunctionType)
    return args[0] if written else lambda function: function

  names = "jit", "njit", "vectorize", "guvectorize", "stencil"
  numba = mock.MagicMock(**dict.fromkeys(names, decorator))
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "numba", numba)
    import librosa

    # It imports what is asked for.
    _ = librosa.load, librosa.feature.delta, librosa.feature.chroma_stft
    _ = librosa.feature.mfcc, librosa.feature.rms, librosa.onset.onset_strength
  return librosa


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
  """The workdir of a small pretraining, as revision 65d3f10 has written it."""
  root = tmp_path_factory.mktemp("run")
  here = os.path.dirname(os.path.abspath(__file__))
  with tarfile.open(f"{here}/fixtures/workdir_65d3f10.tar.gz") as archive:
    archive.extractall(root)
  return str(root / "run")


def shrink(config, data_dir):
  """Turns a base config into one that trains in a second."""
  config.data.name = "synthetic"
  config.data.dir = data_dir
  config.data.sizes = SIZES
  config.data.clip_seconds = 0.2
  if config.job in configs.TRAINING:
    config.data.crop = 243
    config.model.blocks = 4
    config.model.width = 0.0625
    config.model.representation_size = 16
    config.dtype = "float32"
    config.batch_size = 8
    config.steps = 5
    config.log_every_steps = 1
  if config.job == "pretrain":
    # What takes seconds to trace; test_input_pipeline.py has all of it.
    for op in ("filter", "delay", "pitch", "reverb"):
      config.augment[op].p = 0.0
    config.model.projector = (24, 20)
    config.eval_every_epochs = 1.0
  if config.job == "supervised":
    config.encode_batch_size = 8
  if "probe" in config:
    config.probe.max_epochs = 3
    config.probe.batch_size = 8
    config.probe.encode_batch_size = 8
  return config


@pytest.fixture
def small(data_dir):
  """A pretraining config; change it as you like."""
  return shrink(configs.base_pretrain(), data_dir)


@pytest.fixture
def prepared(small):
  return datasets.prepare(small.data)
