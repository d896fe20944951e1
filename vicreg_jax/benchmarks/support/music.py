"""Audio files to read: the user's, or synthetic music as MP3."""

import contextlib
import pathlib
import tempfile

import numpy as np
import soundfile

from vicreg_jax.data import audio
from vicreg_jax.data.datasets import synthetic

RATE = 22_050
_MP3_RATE, _SECONDS = 44_100, 30.0


def add_arguments(parser):
  """Which files."""
  parser.add_argument(
    "--path",
    type=pathlib.Path,
    help="audio files; without it, synthetic pieces of 30 s (44.1 kHz, stereo)",
  )
  parser.add_argument("--clips", type=int, default=40, help="at most so many")


@contextlib.contextmanager
def files(args):
  """The paths of at most `args.clips` files.

  Raises:
    ValueError: there are none.
  """
  with tempfile.TemporaryDirectory() as directory:
    root = args.path
    if not root:
      root = pathlib.Path(directory)
      _write_synthetic(root, args.clips)
    paths = sorted(
      path
      for path in root.rglob("*")
      if path.suffix.lower() in audio.EXTENSIONS
    )[: args.clips]
    if not paths:
      raise ValueError(f"--path={root} holds no audio files")
    yield paths


def _write_synthetic(directory, clips):
  for i in range(clips):
    score = synthetic.compose(0, i)
    x_T = synthetic.render(score, int(_SECONDS * _MP3_RATE), _MP3_RATE)
    path = directory / f"{i:05d}.mp3"
    soundfile.write(path, np.stack([x_T, x_T], 1), _MP3_RATE)
