"""Trains heads on a frozen encoder's representations.

As in the thesis (sections 3.2.3, 3.3.3 and 3.3.4): a linear head, and one with
a hidden layer of the representation's size, by Adam with a plateau schedule on
one random crop of each clip and epoch. The weights of the lowest validation
loss are kept, the mean over clips of the mean over their consecutive segments.
Test clips are cut into segments, too, and predictions are averaged.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from vicreg_jax import mesh
from vicreg_jax.evaluation import representations, scores
from vicreg_jax.model import losses, optim, samplecnn

NAMES = ("linear", "mlp")


class Fit(NamedTuple):
  """A head while it trains."""

  module: samplecnn.Head
  params: dict
  opt_state: optax.OptState
  best_params: dict
  best_loss: float
  best_epoch: int
  plateau: Any  # state of optim.reduce_on_plateau


class _Split(NamedTuple):
  """Representations of a split's segments, and its clips' labels."""

  y_MxD: np.ndarray
  clip_M: np.ndarray
  labels_NxK: np.ndarray


def score(config, encoder, prepared, labels, segments, prefix, chosen=None):
  """Trains the heads in `config.probe.heads`, and scores them.

  Args:
    config: `seed` and `probe`.
    encoder: frozen; embeds crops of the training clips during the training.
    prepared: the data set.
    labels: {split: labels_NxK}; "train" has those of `chosen`.
    segments: {split: (y_MxD, clip_M)} of "valid" and "test".
    prefix: of the encoder's rows, for the bar of progress.
    chosen: numbers of the training clips to learn from; None: all.

  Returns {head: scores on the test clips} and {head: Fit}.
  """
  splits = {s: _Split(*segments[s], labels[s]) for s in ("valid", "test")}
  single = prepared.label_kind == "single"
  fits = _train(
    config,
    encoder,
    prepared,
    labels["train"],
    splits["valid"],
    single,
    prefix,
    chosen,
  )
  found = {}
  for head, fit in fits.items():
    valid, test = (
      (
        split.labels_NxK,
        scores.over_segments(
          fit.module.apply({"params": fit.best_params}, split.y_MxD),
          split.clip_M,
          len(split.labels_NxK),
          single=single,
        ),
      )
      for split in splits.values()
    )
    scored = scores.of_clips(*test, single=single, best_epoch=fit.best_epoch)
    held_out = scores.held_out(*valid, single=single)
    found[head] = scored._replace(results=scored.results | held_out)
  return found, fits


def _train(
  config, encoder, prepared, labels_NxK, valid, single, prefix, chosen=None
):
  """Trains the heads of NAMES on the same crops; {head: Fit}."""
  p = config.probe
  N, K = labels_NxK.shape
  D = encoder.size
  tx = optim.adam(1.0, weight_decay=p.weight_decay)
  plateau = optim.reduce_on_plateau(
    factor=p.plateau_factor, patience=p.plateau_patience
  )
  # Without jit, optax's plateau would be traced anew every epoch.
  watch = jax.jit(lambda state, loss: plateau.update((), state, value=loss)[1])
  train_epoch, loss_of = _make_steps(tx, single)
  fits = {
    head: _start(samplecnn.Head(K, hidden), head, config.seed, D, tx, plateau)
    for head, hidden in (("linear", 0), ("mlp", D))
    if head in p.heads
  }
  if not fits:
    return {}
  active = set(fits)
  crops = _crops_of_epochs(config, encoder, prepared, chosen)
  on_valid = valid.y_MxD, valid.labels_NxK[valid.clip_M], _weights(valid)
  progress = tqdm(
    range(p.max_epochs),
    desc=f"probe {prefix.replace('_', ' ') or 'trained '}encoder",
    unit="epoch",
    disable=None,
  )
  for epoch in progress:
    y_NxD = crops(epoch)
    order_SxB, mask_SxB = _order(config.seed, epoch, N, p.batch_size)
    for head in sorted(active):
      fit = fits[head]
      params, opt_state = train_epoch(
        fit.module,
        fit.params,
        fit.opt_state,
        p.learning_rate * fit.plateau.scale,
        y_NxD[order_SxB],
        labels_NxK[order_SxB],
        mask_SxB,
      )
      loss = float(loss_of(fit.module, params, *on_valid))
      stepped = watch(fit.plateau, loss)
      fit = fit._replace(params=params, opt_state=opt_state, plateau=stepped)
      if loss < fit.best_loss:
        fit = fit._replace(
          best_params=params, best_loss=loss, best_epoch=epoch + 1
        )
      fits[head] = fit
      if p.stop_patience and epoch + 1 - fit.best_epoch >= p.stop_patience:
        active.discard(head)
    if not active:
      break
  progress.close()
  return fits


def _weights(split) -> np.ndarray:
  """Weights of segments [M]: each clip counts the same, however long."""
  segments_N = np.bincount(split.clip_M)
  return 1 / segments_N[split.clip_M] / len(segments_N)


def _crops_of_epochs(config, encoder, prepared, chosen):
  """A function that gives an epoch's crops `y_NxD` of the training clips."""
  p = config.probe

  def crops(epoch):
    return representations.crops(
      encoder,
      prepared,
      "train",
      seed=config.seed,
      epoch=epoch,
      batch_size=p.encode_batch_size,
      chosen=chosen,
    )

  if not p.distinct_crops:
    return crops
  kept = functools.cache(crops)
  return lambda epoch: kept(epoch % p.distinct_crops)


def _start(module, head, seed, size, tx, plateau) -> Fit:
  key = mesh.stream_key(seed, f"probe/{head}")
  params = module.init(key, jnp.zeros((1, size)))["params"]
  return Fit(
    module, params, tx.init(params), params, np.inf, 0, plateau.init(params)
  )


def _make_steps(tx, single):
  """Jitted (train one epoch, weighted loss of segments)."""

  def label_losses(module, params, y_BxD, labels_BxK):
    logits_BxK = module.apply({"params": params}, y_BxD)
    return losses.label_loss(logits_BxK, labels_BxK, single=single)

  def train_epoch(
    module, params, opt_state, learning_rate, y_SxBxD, labels_SxBxK, mask_SxB
  ):
    def step(carry, batch):
      params, opt_state = carry
      y_BxD, labels_BxK, mask_B = batch

      def objective(params):
        loss_B = label_losses(module, params, y_BxD, labels_BxK)
        return (loss_B * mask_B).sum() / mask_B.sum()

      grads = jax.grad(objective)(params)
      updates, opt_state = tx.update(grads, opt_state, params)
      # Adam's update is proportional to the rate, which changes by epoch.
      updates = jax.tree.map(lambda u: learning_rate * u, updates)
      return (optax.apply_updates(params, updates), opt_state), None

    batches = y_SxBxD, labels_SxBxK, mask_SxB
    return jax.lax.scan(step, (params, opt_state), batches)[0]

  def weighted_loss(module, params, y_MxD, labels_MxK, weight_M):
    return weight_M @ label_losses(module, params, y_MxD, labels_MxK)

  return (
    jax.jit(train_epoch, static_argnums=0),
    jax.jit(weighted_loss, static_argnums=0),
  )


def _order(seed, epoch, count, batch_size):
  """Shuffled batches of all clips: indices [S, B], and 0 where padded."""
  batch_size = min(batch_size, count)
  order = np.random.default_rng([seed, epoch]).permutation(count)
  pad = -count % batch_size
  mask = np.pad(np.ones(count, np.float32), (0, pad))
  order = np.pad(order, (0, pad))
  return order.reshape(-1, batch_size), mask.reshape(-1, batch_size)
