"""MFCCs of prepared clips: what a representation has to be better than.

Of a clip 20 MFCCs and their slopes, by librosa as it comes; the mean and the
standard deviation of each over time make 80 numbers. They are kept beside the
records, and made anew if they do not fit them.
"""

import contextlib
import io
import os

import librosa
import numpy as np
import threadpoolctl
from tqdm import tqdm

from vicreg_jax import files
from vicreg_jax.data import audio, input_pipeline
from vicreg_jax.data.prepared import Prepared
from vicreg_jax.data.threads import map_in_order

SIZE = 80
_COUNT = 20
_WIDTH = 9  # frames that a slope is fitted to
_VERSION = 1  # raise it when the features change


def features(x_T: np.ndarray, sample_rate: int) -> np.ndarray:
  """The 80 numbers of a clip (float32 [T]): means, then deviations."""
  mfcc_CxF = librosa.feature.mfcc(y=x_T, sr=sample_rate, n_mfcc=_COUNT)
  # A clip of under 0.2 s has too few frames for a fit at its ends.
  mode = "interp" if mfcc_CxF.shape[1] >= _WIDTH else "nearest"
  slope_CxF = librosa.feature.delta(mfcc_CxF, width=_WIDTH, mode=mode)
  all_CxF = np.concatenate([mfcc_CxF, slope_CxF])
  return np.concatenate([all_CxF.mean(axis=1), all_CxF.std(axis=1)])


def of_split(prepared: Prepared, split: str, progress=False) -> np.ndarray:
  """`y_Nx80` of every clip, in the order of `input_pipeline.labels`."""
  path = f"{prepared.path}/mfcc-{split}.npz"
  ids = input_pipeline.labels(prepared, split).ids
  made_of = [str(_VERSION), librosa.__version__, *ids]
  # A damaged one has whatever error; what does not fit is made anew.
  with (
    contextlib.suppress(Exception),
    np.load(io.BytesIO(files.read(path))) as kept,
  ):
    if kept["made_of"].tolist() == made_of:
      return kept["y"]

  def of_clip(samples):
    x_T = audio.from_int16(np.frombuffer(samples, "<i2"))
    return features(x_T, prepared.sample_rate)

  cores = os.cpu_count()
  # Every core has a clip of its own, so that none is to be shared out.
  with threadpoolctl.threadpool_limits(1):
    rows = map_in_order(
      of_clip, input_pipeline.samples(prepared, split), cores, 2 * cores
    )
    rows = tqdm(
      rows,
      total=len(ids),
      desc=f"MFCCs {split}",
      unit="clip",
      disable=None if progress else True,
    )
    y_NxD = np.stack(list(rows)).astype(np.float32)
  content = io.BytesIO()
  np.savez(content, y=y_NxD, made_of=made_of)
  with contextlib.suppress(OSError):  # somebody else's data, or a full disk
    files.write(path, content.getvalue())
  return y_NxD
