"""Larger encoders and representations, over the number of parameters.

    python -m vicreg_jax.suite --suite=configs/suites/scaling.py \
        --workdir=runs/study

Section 5.4.1 of the thesis expects more of them, and leaves them to others. All
are trained by VICReg for 1,000 epochs of FMA, with the thesis's recipe, so each
has seen the same clips: twice and four times the channels, two and four times
the representation, and the residual encoder of Kim, Lee and Nam. The thesis's
own is a run of `convergence`. Not measured yet.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_collections

from vicreg_jax import files
from vicreg_jax.model import samplecnn
from vicreg_jax.study import figures, plan
from vicreg_jax.training import steps

EPOCHS, SMOKE_EPOCHS = 1000, 300
WIDTHS, SIZES, VARIANT = (1, 2, 4), (512, 1024, 2048), "thesis"
MILLIONS = "million parameters"


def pretrain(scale, epochs, width, size, variant):
  job = plan.pretrain(scale, "VICReg", epochs=epochs, size=size)
  overrides, name = {}, job.workdir
  if width != WIDTHS[0]:
    overrides["model.width"] = job.overrides.get("model.width", 1.0) * width
    name += f"-width{width}"
  if variant != VARIANT:
    overrides["model.variant"] = variant
    name += f"-{variant}"
  return dataclasses.replace(
    job, workdir=name, overrides=job.overrides | overrides
  )


def parameters(workdir, epoch):
  """Of the encoder that a run trains, without its projector."""
  path = f"{workdir}/config.json"
  if not files.exists(path):
    return {}
  config = ml_collections.ConfigDict(json.loads(files.read(path)))
  encoder = steps.make_encoder(config.model, config.dtype)
  x_BxT = jnp.zeros((1, config.data.crop))
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), x_BxT)
  count = sum(x.size for x in jax.tree.leaves(shapes["params"]))
  return {MILLIONS: count / 1e6}


def draw(results, out_stem, stamp):
  """A line for the widths, one for the sizes, both from the thesis's on."""
  rows, own = [], results.rows[0]["labels"]
  for row in results.rows:
    labels = row["labels"]
    lines = [labels["variant"]]
    if labels["variant"] == VARIANT:
      kinds = ("width", "representation")
      lines = [kind for kind in kinds if labels[kind] != own[kind]] or kinds
    for line in lines if row["extra"] else ():
      at = {"larger": line, MILLIONS: float(f"{row['extra'][MILLIONS]:.3g}")}
      rows.append(row | {"labels": at})
  figures.score_curves(
    dataclasses.replace(results, rows=rows),
    out_stem,
    x=MILLIONS,
    x_label="million parameters of the encoder",
    group="larger",
    log_x=True,
    stamp=stamp,
  )


def get_suite(scale):
  points, epochs = [], SMOKE_EPOCHS if scale.smoke else EPOCHS
  for width, size, variant in (
    *((width, SIZES[0], VARIANT) for width in scale.axis(WIDTHS)),
    *((WIDTHS[0], size, VARIANT) for size in scale.axis(SIZES)[1:]),
    (WIDTHS[0], SIZES[0], samplecnn.RESIDUAL),
  ):
    run = pretrain(scale, epochs, width, size, variant)
    labels = {
      "variant": variant,
      "width": width,
      "representation": scale.width(size),
    }
    points.append(plan.probed(scale, labels, run, epochs))
  title = "Larger encoders: section 5.4.1"
  return plan.Suite(title, points, draw, measure=parameters)
