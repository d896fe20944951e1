"""The `pretrain` job: views in, checkpoints and metrics out."""

import functools
import io

import jax
import ml_collections
import numpy as np

from vicreg_jax import config as configs
from vicreg_jax import files, mesh
from vicreg_jax.data import datasets, device_augment, input_pipeline
from vicreg_jax.evaluation import (
  bootstrap,
  classifiers,
  metrics,
  other_vectors,
  random_splits,
  representations,
)
from vicreg_jax.jobs import probe
from vicreg_jax.training import loop, steps
from vicreg_jax.use.encoder import Encoder
from vicreg_jax.use.warm_start import warm_start

DIAGNOSTICS = "diagnostics"
KNN_SEGMENTS = 8  # a clip; all segments would take longer than the training


def main(config, workdir: str):
  """Trains, draws the losses and, if `probe_after`, probes the encoder."""
  state = run(config, workdir)
  if mesh.is_first_host():
    if by := config.checkpoint.best_by:
      began = "" if int(state.step) else ", which is how it began"
      print(f"best by {by}: step {state.step}{began}")
    print("figure:", loop.figure(workdir))
  if config.probe_after:
    probe.main(config, workdir, workdir)


def run(config, workdir: str) -> steps.TrainState:
  """Trains to the end, from the newest checkpoint in `workdir` if any.

  Returns the last state, or the best one by `checkpoint.best_by`.

  Args:
    config: a validated config of job "pretrain".
    workdir: gets config.json, metrics.jsonl, tb/ and checkpoints/, and
      diagnostics/ if the config asks for them.

  Raises:
    ValueError: no run can follow from this config, or the loss is not finite.
    KeyboardInterrupt: SIGINT or SIGTERM came; the run was saved.
  """
  devices = mesh.make_mesh()
  mesh.check_batch(config.batch_size, devices)
  prepared = datasets.prepare(config.data)
  if config.probe_after:
    prepared.check_labelled(  # now rather than after the training
      "probing", ", or only pretrain with --config.probe_after=False"
    )
    by_labels = config.checkpoint.best_by == "knn"
    random_splits.of(prepared, config.probe, config.seed, by_labels=by_labels)
    other_vectors.read(prepared, config)
  if config.checkpoint.best_by == "knn":
    prepared.check_labelled(
      "checkpoint.best_by=knn", ", or set --config.checkpoint.best_by=loss"
    )
  durations = configs.durations(
    config, input_pipeline.num_train_clips(prepared, config)
  )
  tx = steps.make_optimizer(config, durations)
  views_of = device_augment.views_of(config, devices)
  evaluation = _Evaluation(config, prepared, durations, devices, workdir)
  step = steps.jit_train_step(config, tx, devices)

  def batches(start):
    return input_pipeline.train_views(
      prepared,
      config,
      start_step=start,
      share=input_pipeline.Share(jax.process_index(), jax.process_count()),
    )

  training = loop.Training(
    header=loop.header(config, prepared, durations),
    summary=prepared.summary() + durations.note + evaluation.note,
    durations=durations,
    schedule=steps.make_schedule(config, durations),
    init=lambda: steps.init_state(config, tx),
    train_step=lambda state, batch: step(state, views_of(batch)),
    batches=batches,
    evaluate=evaluation if evaluation.batch_size else None,
    best_by=config.checkpoint.best_by,
    from_start=True,
    warm_start=warm_start(config, devices),
  )
  return loop.run(config, workdir, training, devices)


class _Evaluation:
  """Losses on held-out clips, and measures of collapsed dimensions.

  The views of the clips are the same every time.
  """

  def __init__(self, config, prepared, durations, devices, workdir):
    self._config = config
    self._durations = durations
    self._devices = devices
    self._workdir = workdir
    self._views_of = device_augment.views_of(config, devices)
    self._eval_step = steps.jit_eval_step(config, devices)
    self._represent = steps.jit_represent(config, devices)
    self.batch_size, self.note = 0, ""
    if not (durations.eval_every or durations.diagnose_every):
      return
    if config.valid_data.name:
      prepared = datasets.prepare(valid_data(config))
    # The largest batch that divides among the devices.
    clips = prepared.num_clips.get("valid", 0)
    share = min(config.batch_size, clips) // devices.size * devices.size
    if share < 2 and config.checkpoint.best_by:
      raise ValueError(
        f"checkpoint.best_by is {config.checkpoint.best_by!r}, and there are"
        f" {clips} clips to validate on: add clips, or set it to ''"
      )
    if share < 2:
      self.note = f"\nnothing is evaluated: there are {clips} clips to do it on"
    else:
      self.batch_size = share
    self._prepared = prepared

  @functools.cached_property
  def _views(self):
    return input_pipeline.ValidViews(
      self._prepared, self._config, "valid", self.batch_size
    )

  def __call__(self, state, step) -> dict[str, float]:
    evaluate = self._durations.eval_due(step)
    diagnose = self._durations.diagnose_due(step)
    losses, outputs, wanted = [], [], self._config.diagnostics.clips
    for rows in self._views:
      batch = self._views_of(
        jax.tree.map(lambda x: mesh.share_batch(self._devices, x), rows)
      )
      if evaluate:
        losses.append(self._eval_step(state, batch))
      if diagnose and len(outputs) * self.batch_size < wanted:
        outputs.append(jax.device_get(self._represent(state, batch)))
    values = {}
    if evaluate:
      values |= {
        f"validation/{k}": float(np.mean([row[k] for row in losses]))
        for k in losses[0]
      }
      if self._config.checkpoint.best_by == "knn":
        values["validation/knn"] = self._knn(state)
    if diagnose:
      y_NxD, z_NxE = (np.concatenate(rows)[:wanted] for rows in zip(*outputs))
      values |= self._diagnose(y_NxD, z_NxE, step)
    return values

  def _knn(self, state) -> float:
    """ROC-AUC, in percent, of nearest neighbours on the validation clips."""
    encoder = self._encoder.with_variables(
      {
        "params": state.params["encoder"],
        "batch_stats": state.batch_stats["encoder"],
      }
    )
    train, valid = (
      classifiers.Vectors(self._vectors(encoder, split, labels), labels)
      for split, labels in self._labels.items()
    )
    predicted_NxK = classifiers.knn(train, valid.y_NxD)
    found = bootstrap.unweighted(valid.labels_NxK, predicted_NxK, single=False)[
      "roc_auc"
    ]
    if np.isnan(found):
      raise ValueError(
        "checkpoint.best_by is 'knn', and no label tells the"
        f" {len(valid.labels_NxK)} clips to validate on apart: add clips, or"
        " set checkpoint.best_by=loss"
      )
    return found

  @functools.cached_property
  def _encoder(self):
    return Encoder(self._config.to_dict(), {}, 0, self._devices)

  @functools.cached_property
  def _labels(self):
    return {
      split: input_pipeline.labels(self._prepared, split).labels_NxK
      for split in ("train", "valid")
    }

  def _vectors(self, encoder, split, labels_NxK):
    y_MxD, clip_M = representations.segments(
      encoder,
      self._prepared,
      split,
      batch_size=self._config.probe.encode_batch_size,
      most=KNN_SEGMENTS,
    )
    return metrics.mean_over_clip(y_MxD, clip_M, len(labels_NxK))

  def _diagnose(self, y_NxD, z_NxE, step):
    """Returns the measures of collapse, and writes the spectra to a file."""
    values, arrays = {}, {}
    for name, x in (("representation", y_NxD), ("embedding", z_NxE)):
      found = metrics.collapse(x)
      arrays |= {f"{name}_{key}": a for key, a in found.arrays.items()}
      values |= {f"{name}/{key}": v for key, v in found.scalars.items()}
    if mesh.is_first_host():
      content = io.BytesIO()
      np.savez(content, **arrays)
      path = f"{self._workdir}/{DIAGNOSTICS}/{step}.npz"
      with files.explained(path):
        files.write(path, content.getvalue())
    return values


def valid_data(config) -> ml_collections.ConfigDict:
  """The `data` section of the held-out clips."""
  data = ml_collections.ConfigDict(config.data.to_dict())
  if config.valid_data.name:
    data.update(config.valid_data)
  return data
