"""The `probe` job: how well a frozen encoder's representations tell labels.

The thesis's heads, linear and MLP, are `trained_heads`. The same protocol
scores the untrained encoder, and the encoder that the training began from, if
there is one.

Besides there are logistic regression and nearest neighbours on a clip's vector
(`classifiers`), pooled over its segments; for them MFCCs are a third "encoder",
and tables of vectors made elsewhere (`other_vectors`) are more.

All heads may learn from a share of the labels (`label_fraction`).
"""

import csv
import io
from typing import Any, NamedTuple

import numpy as np

from vicreg_jax import files, mesh, plots
from vicreg_jax.data import input_pipeline, mfcc
from vicreg_jax.data.prepared import SPLITS, Prepared
from vicreg_jax.evaluation import (
  classifiers,
  clip_probes,
  label_share,
  metrics,
  other_vectors,
  random_splits,
  representations,
  retrieval,
  scores,
  trained_heads,
)
from vicreg_jax.training import workdir as workdirs
from vicreg_jax.use import encoder as encoders
from vicreg_jax.use import heads as heads_lib
from vicreg_jax.use.heads import Heads


def main(config, workdir: str, checkpoint: str | None = None):
  """Probes as `run` does, and prints the table."""
  results = run(config, workdir, checkpoint)
  if mesh.is_first_host():
    print(scores.table(results))
    if config.probe.untrained:
      print("figure:", figure(workdir))


class _Task(NamedTuple):
  """Data and heads for every encoder."""

  config: Any
  prepared: Prepared
  everything: dict[str, np.ndarray]  # labels_NxK of each split
  chosen: np.ndarray  # training clips whose labels are learned from
  on_clips: list[str]  # heads that take a clip's vector
  many: random_splits.Splits | None  # for scores over random splits
  others: dict[str, other_vectors.Made]  # by name

  @property
  def single(self) -> bool:
    return self.prepared.label_kind == "single"

  @property
  def labels(self) -> dict[str, np.ndarray]:
    return self.known(self.everything)

  def known(self, of_split) -> dict[str, np.ndarray]:
    """Selects the chosen training clips; other splits stay whole."""
    return of_split | {"train": of_split["train"][self.chosen]}


def run(config, workdir: str, checkpoint: str | None = None) -> dict:
  """The `probe` job: writes `probe.json` and per-tag scores as CSV.

  Args:
    config: `seed`, `data` and `probe`; `checkpoint`, `step` and
      `epoch` unless given.
    workdir: gets the results.
    checkpoint: workdir of the pretraining, instead of the config's.

  Returns:
    `probe.json`'s content: metrics in percent by head, with "untrained_" before
    the heads of the untrained encoder, and "start_" before those of the encoder
    that the training began from; "step" of the encoder; and the inputs, under
    "of". If the file exists and has the same inputs, nothing is probed again.
  """
  devices = mesh.make_mesh()
  at = {} if checkpoint else {"step": config.step, "epoch": config.epoch}
  source = checkpoint or config.checkpoint
  encoder = encoders.load(source, devices=devices, **at)
  prepared = representations.data_for(encoder, config.data)
  prepared.check_labelled("probing")
  if checkpoint is None:
    workdirs.save_config(config, workdir)
  others = other_vectors.read(prepared, config)
  made_of = {
    "weights": encoder.fingerprint(),
    "data": prepared.name,
    "seed": config.seed,
    "probe": _asked(config.probe, others),
  }
  frozen_encoders = {"": encoder}
  if config.probe.start and (source := encoder.config.get("init_from")):
    frozen_encoders["start_"] = _began_from(source, devices)
    made_of["start"] = frozen_encoders["start_"].fingerprint()
  chosen = any(_by_labels(e.config, prepared) for e in frozen_encoders.values())
  if chosen and config.probe.splits > 1:
    made_of["splits"] = random_splits.FIXED
  if done := scores.reuse(workdir, made_of):
    return done
  task = _task(config, prepared, chosen, others)
  if config.probe.untrained:
    frozen_encoders["untrained_"] = representations.untrained(
      encoder.config.to_dict(),
      prepared,
      devices,
      seed=config.seed,
      batch_size=config.probe.encode_batch_size,
    )
  found, fits, vectors = _probed(task, frozen_encoders)
  results = _results(task, found, vectors)
  if config.probe.retrieval:
    _retrieve(task, workdir, frozen_encoders, vectors)
  results = scores.plain(results | {"step": encoder.step, "of": made_of})
  if mesh.is_first_host():
    if fits:
      heads_lib.save(_heads(encoder, prepared, fits), workdir)
    tags = {name: scored.tags for name, scored in found.items()}
    scores.write(workdir, results, prepared.labels, tags)
  return results


def _asked(probe, others) -> dict:
  """The section `probe` of a config, as inputs of the results."""
  asked = probe.to_dict() | {"others": {k: v.sha256 for k, v in others.items()}}
  # Older probes say nothing of what they did not do.
  for key, unset in (("retrieval", 0), ("pooling", "mean"), ("others", {})):
    if asked[key] == unset:
      del asked[key]
  return asked


def _by_labels(config, prepared) -> bool:
  """Whether labels of the same data trained or chose a run's weights."""
  chosen = config.get("checkpoint", {}).get("best_by") == "knn"
  learned = config.get("job") == "supervised"
  return (chosen or learned) and config.get("prepared") == prepared.name


def _task(config, prepared, by_labels, others) -> _Task:
  return _Task(
    config,
    prepared,
    {s: input_pipeline.labels(prepared, s).labels_NxK for s in SPLITS},
    label_share.of_training(prepared, config.probe.label_fraction, config.seed),
    [head for head in classifiers.NAMES if head in config.probe.heads],
    random_splits.of(prepared, config.probe, config.seed, by_labels=by_labels),
    others,
  )


def _probed(task, frozen_encoders):
  """Probes all encoders, MFCCs and other vectors.

  Returns {name: scores}, {head: Fit} of the first encoder, and {prefix:
  vectors of clips by split}.
  """
  found, fits, vectors, more = {}, {}, {}, {}
  for prefix, frozen in frozen_encoders.items():
    segments = _segments(task, frozen)
    of_heads, fits[prefix] = trained_heads.score(
      task.config,
      frozen,
      task.prepared,
      task.labels,
      segments,
      prefix,
      task.chosen,
    )
    found |= {prefix + head: scored for head, scored in of_heads.items()}
    if task.on_clips:
      vectors[prefix] = _vectors(task, segments)
      found |= _on_clips(task, vectors[prefix], prefix)
  if task.on_clips and task.config.probe.pooling != "mean":
    size = frozen_encoders[""].size
    more["mean_"] = {s: y[:, :size] for s, y in vectors[""].items()}
  if task.on_clips and task.config.probe.mfcc:
    more["mfcc_"] = {s: mfcc.of_split(task.prepared, s) for s in SPLITS}
  more |= {f"{name}_": made.y for name, made in task.others.items()}
  for prefix, y in more.items():
    found |= _on_clips(task, y, prefix)
  return found, fits[""], vectors | more


def _segments(task, encoder) -> dict:
  """Representations of all segments that the heads need, by split."""
  batch_size = task.config.probe.encode_batch_size
  return {
    split: representations.segments(
      encoder, task.prepared, split, batch_size=batch_size
    )
    for split in (SPLITS if task.on_clips else ("valid", "test"))
  }


def _vectors(task, segments) -> dict[str, np.ndarray]:
  """Of each clip's segments, by split."""
  pooling = task.config.probe.pooling
  return {
    split: metrics.pooled_over_clip(
      *of_split, len(task.everything[split]), pooling
    )
    for split, of_split in segments.items()
  }


def _on_clips(task, vectors, prefix) -> dict:
  """{name: scores} of the heads that take a clip's vector."""
  y, labels = task.known(vectors), task.labels
  return {
    prefix + head: clip_probes.score(head, y, labels, single=task.single)
    for head in task.on_clips
  }


def _retrieve(task, workdir, frozen_encoders, vectors):
  """Writes `retrieval.json` for all vectors."""
  p, of_test, encoders_by_name = task.config.probe, {}, {}
  for prefix, frozen in frozen_encoders.items():
    if prefix not in vectors:
      of_segments = {"test": _segments(task, frozen)["test"]}
      vectors = vectors | {prefix: _vectors(task, of_segments)}
    name = prefix.removesuffix("_") or "trained"
    of_test[name], encoders_by_name[name] = vectors[prefix]["test"], frozen
  if p.mfcc:
    of_test["mfcc"] = mfcc.of_split(task.prepared, "test")
  of_test |= {
    prefix.removesuffix("_"): y["test"]
    for prefix, y in vectors.items()
    if prefix not in frozen_encoders
  }
  retrieval.write(
    workdir,
    task.prepared,
    of_test,
    encoders_by_name,
    clips=p.retrieval,
    seed=task.config.seed,
    batch_size=p.encode_batch_size,
  )


def _heads(encoder, prepared, fits) -> Heads:
  """Trained heads to save, the best first."""
  best_first = sorted(fits, key=lambda head: fits[head].best_loss)
  return Heads(
    labels=tuple(prepared.labels),
    single=prepared.label_kind == "single",
    encoder=encoder.fingerprint(),
    step=encoder.step,
    params={head: fits[head].best_params for head in best_first},
  )


def _results(task, found, vectors) -> dict:
  """All scores, with intervals, and over random splits if there are any."""
  p, seed = task.config.probe, task.config.seed
  results = {name: scored.results for name, scored in found.items()}
  results |= scores.left_out(task.prepared)
  scores.add_intervals(
    results,
    found,
    task.labels["test"],
    input_pipeline.tracks(task.prepared, "test"),
    seed=seed,
    single=task.single,
  )
  if task.many:
    results["splits"] = clip_probes.over_splits(
      {prefix: _whole(y) for prefix, y in vectors.items()},
      task.many,
      task.on_clips,
      single=task.single,
    )
    if task.many.notes:
      results["notes"] = results.get("notes", []) + task.many.notes
  if task.single:
    labels = task.labels
    results["majority"] = scores.majority(labels["train"], labels["test"])
  if p.label_fraction < 1:
    whole_NxK = task.everything["train"]
    results["labelled"] = scores.labelled(task.chosen, whole_NxK)
  return results


def _began_from(source: str, devices) -> encoders.Encoder:
  """The encoder that a training began from."""
  try:
    return encoders.load(source, devices=devices)
  except ValueError as e:
    raise ValueError(
      f"init_from={source}, which the encoder began from, cannot be loaded"
      f" ({e}): put it back, or leave it out with --config.probe.start=False"
    ) from e


def _whole(of_split) -> np.ndarray:
  """The arrays of all splits, one after another."""
  return np.concatenate([of_split[split] for split in SPLITS])


def figure(workdir: str) -> str | None:
  """Draws the ROC-AUC of each tag by the first head; the PNG's path.

  None if the untrained encoder was not probed.
  """
  text = files.read(f"{workdir}/{scores.PER_TAG}").decode()
  rows = list(csv.DictReader(io.StringIO(text, newline="")))
  heads = [
    head
    for head in (*trained_heads.NAMES, *classifiers.NAMES)
    if f"untrained_{head}_roc_auc" in rows[0]
  ]
  if not heads:
    return None
  out = f"{workdir}/figures/per_tag_auc.png"
  rows = [
    {
      "tag": row["tag"],
      "trained": float(row[f"{heads[0]}_roc_auc"]),
      "untrained": float(row[f"untrained_{heads[0]}_roc_auc"]),
    }
    for row in rows
  ]
  plots.per_tag_auc(rows, out)
  return out
