"""Whether a clip finds its class, its track and itself: `retrieval.json`.

Three questions about a query's ten nearest clips by cosine: do they have its
class, are they of its track, and is the clip among them if the query is an
augmented crop of it? Shares are of the most that there can be: 1 is the best.
Ten crops or fewer are all among the nearest: the last question is not asked.

Numbers are standardised over the searched clips, for all encoders alike: MFCCs
are useless otherwise.
"""

import json
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from vicreg_jax import files, mesh
from vicreg_jax.data import augment, augment_config, input_pipeline, mfcc, seeds
from vicreg_jax.data.prepared import Prepared
from vicreg_jax.library import neighbours
from vicreg_jax.use.encoder import Encoder

RESULTS = "retrieval.json"
K = 10
Embed = Callable[[Iterable[np.ndarray]], np.ndarray]  # of batches x_BxT


def write(
  workdir: str,
  prepared: Prepared,
  vectors: dict[str, np.ndarray],
  encoders: dict[str, Encoder],
  *,
  clips: int,
  seed: int,
  batch_size: int,
):
  """Writes `retrieval.json`: {name: {question: share}}, and chance levels.

  Args:
    workdir: to write to.
    prepared: the data set; its test clips are searched.
    vectors: {name: vectors of the test clips [N, D]}.
    encoders: {name: encoder of the vectors}; "mfcc" and vectors made elsewhere
      have none.
    clips: how many clips at most are searched for by augmented crops.
    seed: of the sample of clips, their crops and augmentations.
    batch_size: crops a step of an encoder.
  """
  _, labels_NxK = input_pipeline.labels(prepared, "test")
  _, track_N = np.unique(
    input_pipeline.tracks(prepared, "test"), return_inverse=True
  )
  crop = next(iter(encoders.values())).crop
  sample = np.random.default_rng(seed).permutation(len(labels_NxK))[:clips]
  x_NxT = _crops(prepared, np.sort(sample), crop, seed, batch_size)
  results = {"clips": len(labels_NxK), "augmented clips": len(x_NxT)}
  if len(x_NxT) > K:
    changed = augmented(x_NxT, prepared.sample_rate, seed)
    results["augmented, by chance"] = K / len(x_NxT)
  else:
    changed = {}
    results["augmented"] = (
      f"not asked: of {len(x_NxT)} crops all are among the {K} nearest"
    )
  for name, y_NxD in vectors.items():
    results[name] = of_clips(y_NxD, labels_NxK, track_N)
    if name in encoders:
      embed = _of_encoder(encoders[name], batch_size)
    elif name == "mfcc":
      embed = _of_mfcc(prepared.sample_rate)
    else:
      continue
    clean_NxD = embed(x_NxT)
    for op, x_op_NxT in changed.items():
      results[name][f"augmented: {op}"] = found(clean_NxD, embed(x_op_NxT))
  if mesh.is_first_host():
    content = json.dumps(results, indent=1).encode() + b"\n"
    with files.explained(f"{workdir}/{RESULTS}"):
      files.write(f"{workdir}/{RESULTS}", content)


def _crops(prepared, chosen, crop, seed, batch_size) -> np.ndarray:
  """A crop of each of the chosen test clips."""
  batches = input_pipeline.probe_crops(
    prepared,
    "test",
    crop=crop,
    seed=seed,
    epoch=0,
    batch_size=batch_size,
    chosen=chosen,
  )
  return np.concatenate(list(batches))


def _of_encoder(encoder, batch_size) -> Embed:
  def embed(x_NxT):
    starts = range(0, len(x_NxT), batch_size)
    batches = (x_NxT[at : at + batch_size] for at in starts)
    return np.concatenate(list(encoder(batches, batch_size)))

  return embed


def _of_mfcc(sample_rate) -> Embed:
  return lambda x_NxT: np.stack([mfcc.features(x, sample_rate) for x in x_NxT])


def of_clips(y_NxD, labels_NxK, track_N) -> dict[str, float]:
  """Shares of the query's class, and of its track, among the nearest clips.

  Two clips have the same class if they share a label. Clips of the query's own
  track do not count for the class; queries with nothing to find are left out.
  """
  scaling = neighbours.fit([y_NxD], y_NxD.shape[1], "standardise")
  y_NxD, labels_NxK = y_NxD.astype(np.float32), labels_NxK.astype(int)
  results = {}
  for question, group_N, like_NxN in (
    ("class", track_N, labels_NxK @ labels_NxK.T > 0),
    ("track", np.arange(len(track_N)), track_N[:, None] == track_N),
  ):
    group_N = group_N.astype(np.int32)
    like_NxN = like_NxN & (group_N[:, None] != group_N)
    _, near_Nx10 = neighbours.of_all(y_NxD, group_N, scaling, K)
    right_Nx10 = np.take_along_axis(like_NxN, near_Nx10, axis=1)
    right_N = (right_Nx10 & (near_Nx10 >= 0)).sum(axis=1)
    possible_N = np.minimum(like_NxN.sum(axis=1), K)
    has_N = possible_N > 0
    if has_N.any():
      results[question] = float(np.mean(right_N[has_N] / possible_N[has_N]))
      others_N = (group_N[:, None] != group_N).sum(axis=1)
      chance_N = like_NxN.sum(axis=1) / np.maximum(others_N, 1)
      chance_N *= np.minimum(K, others_N) / np.maximum(possible_N, 1)
      results[f"{question}, by chance"] = float(chance_N[has_N].mean())
  return results


def found(clean_NxD, query_NxD) -> float:
  """The share of queries whose own vector is among the nearest."""
  scaling = neighbours.fit([clean_NxD], clean_NxD.shape[1], "standardise")
  clean_NxD, query_NxD = (
    np.asarray(scaling.unit(y.astype(np.float32)))
    for y in (clean_NxD, query_NxD)
  )
  cosine_NxN = query_NxD @ clean_NxD.T
  # A tie is no find: else equal vectors would find everything.
  rank_N = (cosine_NxN >= np.diag(cosine_NxN)[:, None]).sum(axis=1)
  return float(np.mean(rank_N <= K))


def augmented(x_NxT, sample_rate: int, seed: int) -> dict[str, np.ndarray]:
  """{augmentation: `x_NxT` after only this one} for the thesis's eight."""
  return {
    op: np.stack(
      [
        apply(x_T, seeds.example_seed(seed, 0, i, 0)).numpy()
        for i, x_T in enumerate(x_NxT)
      ]
    )
    for op, apply in _alone(sample_rate).items()
  }


def _alone(sample_rate) -> dict[str, Callable]:
  """{augmentation: a function of a crop and a seed}."""
  applied = {}
  for name, defaults in augment_config.default_augment().items():
    ways = {name: {}}
    if name == "filter":
      ways = {"highpass": {"highpass_p": 1.0}, "lowpass": {"highpass_p": 0.0}}
    for op, changes in ways.items():
      config = {name: defaults | changes | {"p": 1.0}}
      applied[op] = tf.function(
        lambda x_T, seed, config=config: augment.augment(
          x_T, seed, config, sample_rate
        )
      )
  return applied
