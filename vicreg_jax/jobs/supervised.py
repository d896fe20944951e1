"""The `supervised` job: SampleCNN trained with labels, scored as a probe is.

This is the baseline for pretrained encoders, thesis table 4.1, row SampleCNN*.
The encoder, dropout and a dense layer (table 2.1) learn the labels of one
random crop of each clip and epoch, without augmentation. To fine-tune a
pretrained encoder (`init_from`), it may be frozen for the first `freeze_epochs`
and then have a lower rate than the head (`optim.encoder_scale`). A training may
use a share of the labelled clips (`train_fraction`). After every epoch
(`eval_every_epochs`) the clips of the split "valid" are cut into consecutive
segments; the weights of the lowest loss are kept, and scored on "test".
"""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.data import datasets, input_pipeline
from vicreg_jax.data.prepared import Prepared
from vicreg_jax.evaluation import label_share, metrics, representations, scores
from vicreg_jax.model import losses
from vicreg_jax.training import loop, steps
from vicreg_jax.use import heads as heads_lib
from vicreg_jax.use.encoder import Encoder, fingerprint
from vicreg_jax.use.heads import Heads
from vicreg_jax.use.warm_start import warm_start

NAME = "supervised"  # of the predictor in the results


def main(config, workdir: str):
  """Trains, and prints the scores of the best weights."""
  results = run(config, workdir)
  if mesh.is_first_host():
    print(scores.table(results))
    print("figure:", loop.figure(workdir))


def run(config, workdir: str) -> dict:
  """Trains to the end, and scores the weights of the best epoch.

  Args:
    config: a validated config of job "supervised".
    workdir: gets config.json, metrics.jsonl, tb/ and checkpoints/; `probe.json`
      and per-tag scores as CSV when the training has ended.

  Returns:
    `probe.json`'s content: metrics in percent in "supervised", and the "step"
    of the scored weights.

  Raises:
    ValueError: no run can follow from this config, or a loss is not finite.
    KeyboardInterrupt: SIGINT or SIGTERM came; the run was saved.
  """
  devices = mesh.make_mesh()
  mesh.check_batch(config.batch_size, devices)
  prepared = datasets.prepare(config.data)
  prepared.check_labelled("training with labels")
  chosen = label_share.of_training(prepared, config.train_fraction, config.seed)
  durations = configs.durations(config, len(chosen))
  tx = steps.make_optimizer(config, durations)
  classes = len(prepared.labels)
  single = prepared.label_kind == "single"
  init = functools.partial(steps.init_supervised, config, tx, classes)
  predict = Predictor(config, prepared, devices)

  def batches(start):
    return input_pipeline.labelled_crops(
      prepared,
      config,
      chosen=chosen,
      start_step=start,
      share=input_pipeline.Share(jax.process_index(), jax.process_count()),
    )

  training = loop.Training(
    header=loop.header(config, prepared, durations),
    summary=prepared.summary() + durations.note,
    durations=durations,
    schedule=steps.make_schedule(config, durations),
    init=init,
    train_step=steps.jit_supervised_step(
      config, tx, single, devices, frozen=durations.frozen
    ),
    batches=batches,
    evaluate=validation(predict, prepared),
    best_by="loss",
    patience=config.stop_patience * durations.per_epoch,
    warm_start=warm_start(config, devices),
  )
  best = loop.run(config, workdir, training, devices)
  made_of = {
    "weights": fingerprint((best.params, best.batch_stats)),
    "data": prepared.name,
  }
  return scores.reuse(workdir, made_of) or _score(
    workdir, best, predict, prepared, chosen, durations.per_epoch, made_of
  )


class Predictor:
  """Logits of all segments of a split by the weights of a state."""

  def __init__(self, config, prepared: Prepared, devices: Mesh):
    self._config = config
    self._prepared = prepared
    self._encoder = Encoder(config.to_dict(), {}, 0, devices)
    self._head = steps.make_head(config.model, len(prepared.labels))

  def __call__(
    self, state: steps.TrainState, split: str
  ) -> tuple[jax.Array, np.ndarray]:
    """`logits_MxK` of every segment, and the position `clip_M` of its clip."""
    encoder = self._encoder.with_variables(
      {
        "params": state.params["encoder"],
        "batch_stats": state.batch_stats["encoder"],
      }
    )
    y_MxD, clip_M = representations.segments(
      encoder, self._prepared, split, batch_size=self._config.encode_batch_size
    )
    # Each host has all representations, and computes the logits itself.
    params = jax.tree.map(np.asarray, state.params["head"])
    return self._head.apply({"params": params}, y_MxD), clip_M


def validation(
  predict: Predictor, prepared: Prepared
) -> Callable[[steps.TrainState, int], dict[str, float]]:
  """A function from a state to its loss on the validation clips.

  A clip's loss is the mean over its segments, and each clip counts the same.
  """
  labels_NxK = input_pipeline.labels(prepared, "valid").labels_NxK
  single = prepared.label_kind == "single"

  def evaluate(state, step):
    logits_MxK, clip_M = predict(state, "valid")
    loss_M = losses.label_loss(logits_MxK, labels_NxK[clip_M], single=single)
    loss_Nx1 = metrics.mean_over_clip(
      np.asarray(loss_M)[:, None], clip_M, len(labels_NxK)
    )
    return {"validation/loss": float(loss_Nx1.mean())}

  return evaluate


def _score(
  workdir, state, predict, prepared, chosen, per_epoch, made_of
) -> dict:
  """Scores a state on the test clips; writes and returns the results."""
  labels = {
    s: input_pipeline.labels(prepared, s).labels_NxK for s in ("train", "test")
  }
  single = prepared.label_kind == "single"
  predicted_NxK = scores.over_segments(
    *predict(state, "test"), len(labels["test"]), single=single
  )
  found = scores.of_clips(
    labels["test"],
    predicted_NxK,
    single=single,
    best_epoch=math.ceil(int(state.step) / per_epoch),
  )
  results = {NAME: found.results} | scores.left_out(prepared)
  if single:
    results["majority"] = scores.majority(
      labels["train"][chosen], labels["test"]
    )
  if len(chosen) < len(labels["train"]):
    results["labelled"] = scores.labelled(chosen, labels["train"])
  results |= {"step": int(state.step), "of": made_of}
  results = scores.plain(results)
  if mesh.is_first_host():
    encoder = {
      "params": state.params["encoder"],
      "batch_stats": state.batch_stats["encoder"],
    }
    heads = Heads(
      labels=tuple(prepared.labels),
      single=single,
      encoder=fingerprint(encoder),
      step=int(state.step),
      params={NAME: state.params["head"]},
    )
    heads_lib.save(heads, workdir)
    scores.write(workdir, results, prepared.labels, {NAME: found.tags})
  return results
