"""Train state, and the jitted, sharded train steps: by views, and by labels.

`dtype` (bfloat16 on TPU) is the type in which convolutions and dense layers
multiply, and the type of activations and embeddings. (The stem multiplies
samples and kernel of this type, but in float32.) These are always float32:

- parameters, their gradients and the optimizer's state;
- BatchNorm's batch and running statistics, and the arithmetic with them;
- representations, the encoder's output;
- in the losses the centring, the sums of Gram and covariance matrices (of
  bfloat16 factors), all other statistics, the terms and the loss.

All batch statistics, losses and gradients are over the global batch, on any
number of devices and hosts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vicreg_jax import config as configs
from vicreg_jax import mesh
from vicreg_jax.data.augment_config import VIEWS
from vicreg_jax.model import losses, optim, samplecnn


class TrainState(flax.struct.PyTreeNode):
  """Everything that a step changes.

  `params` and `batch_stats` each hold "encoder", and "projector" or, in a
  training with labels, "head".
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any


def make_encoder(model, dtype: str, remat: bool = False) -> samplecnn.SampleCNN:
  """The encoder that a config's `model` section describes.

  `remat` matters only for gradients.
  """
  return samplecnn.SampleCNN(
    representation_size=model.representation_size,
    variant=model.variant,
    width=model.width,
    blocks=model.blocks,
    dtype=jnp.dtype(dtype),
    remat=remat,
  )


def make_projector(model, dtype: str) -> samplecnn.Projector:
  """The projector that a config's `model` section describes."""
  return samplecnn.Projector(
    widths=tuple(model.projector),
    batch_norm=model.projector_batch_norm,
    dtype=jnp.dtype(dtype),
  )


def make_head(model, classes: int) -> samplecnn.Head:
  """The end of a SampleCNN that is trained with labels."""
  return samplecnn.Head(classes, dropout=model.dropout)


def make_schedule(config, durations: configs.Durations) -> optax.Schedule:
  """Learning rate by step (thesis section 3.3.4); with labels, the head's."""
  keys = config.optim
  peak = keys.learning_rate
  if keys.per_256:
    peak *= config.batch_size / 256
  if keys.schedule == "constant":
    return optax.constant_schedule(peak)
  return optax.warmup_cosine_decay_schedule(
    0.0, peak, durations.warmup, durations.total, peak * keys.final_fraction
  )


def make_optimizer(
  config, durations: configs.Durations
) -> optax.GradientTransformation:
  """LARS or Adam on the config's schedule.

  With labels, the encoder may have a rate of its own and start later. Then its
  schedule and its optimizer state start at its first step.
  """
  tx = _optimizer(config, make_schedule(config, durations))
  labelled = config.job == "supervised"
  scale = config.optim.encoder_scale if labelled else 1.0
  if scale == 1 and not durations.frozen:
    return tx
  total = durations.total - durations.frozen
  own = dataclasses.replace(
    durations, total=total, warmup=min(durations.warmup, total - 1)
  )
  schedule = make_schedule(config, own)
  encoder = optax.conditionally_mask(
    _optimizer(config, lambda step: scale * schedule(step)),
    lambda step: step >= durations.frozen,
  )
  parts = {"encoder": encoder, "head": tx}
  return optax.partition(parts, {part: part for part in parts})


def _optimizer(config, schedule):
  keys = config.optim
  if keys.name == "adam":
    return optim.adam(
      schedule, b1=keys.b1, b2=keys.b2, weight_decay=keys.weight_decay
    )
  return optim.lars(
    schedule,
    momentum=keys.momentum,
    weight_decay=keys.weight_decay,
    trust_coefficient=keys.trust_coefficient,
    order=keys.lars_order,
  )


def init_encoder(model, dtype: str, crop: int, seed: int):
  """Variables {"params", "batch_stats"} of an encoder before training."""
  return make_encoder(model, dtype).init(
    mesh.stream_key(seed, "encoder"), jnp.zeros((2, crop))
  )


def init_state(config, tx: optax.GradientTransformation) -> TrainState:
  """The state before the first step. Trace it or jit it with shardings."""
  projector = make_projector(config.model, config.dtype)
  return _init(config, tx, "projector", projector)


def init_supervised(
  config, tx: optax.GradientTransformation, classes: int
) -> TrainState:
  """As `init_state`, for training with labels of `classes` classes.

  The encoder is that of a pretraining with the same seed.
  """
  return _init(config, tx, "head", make_head(config.model, classes))


def _init(config, tx, name, module):
  """The first state of the encoder and of the part that takes its output."""
  model = config.model
  variables = {
    "encoder": init_encoder(model, config.dtype, config.data.crop, config.seed),
    name: module.init(
      mesh.stream_key(config.seed, name),
      jnp.zeros((2, model.representation_size)),
    ),
  }
  params = {part: v["params"] for part, v in variables.items()}
  return TrainState(
    step=jnp.zeros([], jnp.int32),
    params=params,
    batch_stats={p: v.get("batch_stats", {}) for p, v in variables.items()},
    opt_state=tx.init(params),
  )


def with_encoder(state: TrainState, variables) -> TrainState:
  """The state with other weights and statistics of the encoder."""
  return state.replace(
    params=state.params | {"encoder": variables["params"]},
    batch_stats=state.batch_stats | {"encoder": variables["batch_stats"]},
  )


def loss_of(config, z_NxD: jax.Array, step=0):
  """Loss and terms of embeddings whose rows alternate between two views.

  Its random numbers are a function of step and seed.
  """
  z_BxVxD = z_NxD.reshape(-1, VIEWS, z_NxD.shape[-1])
  name = config.loss.name
  objective = losses.LOSSES[name]
  section = config.loss.get(name, config.loss)
  options = {key: section[key] for key in objective.keys}
  if objective.random:
    options["key"] = mesh.stream_key(config.seed, name, step)
  return objective.loss(z_BxVxD[:, 0], z_BxVxD[:, 1], **options)


def _apply(module, params, batch_stats, x, train, views=VIEWS):
  """The output, and BatchNorm's statistics after it (`view_norm.PerViewNorm`).

  The rows of `x` hold `views` views of each clip side by side.
  """
  variables = {"params": params, "batch_stats": batch_stats}
  if not train:
    return module.apply(variables, x, views=views), batch_stats
  y, updated = module.apply(
    variables, x, train=True, views=views, mutable=["batch_stats"]
  )
  return y, updated.get("batch_stats", {})


def _outputs(config, params, batch_stats, views_BxVxT, train):
  """Representations, embeddings (views side by side), and the statistics."""
  encoder = make_encoder(config.model, config.dtype, config.model.remat)
  projector = make_projector(config.model, config.dtype)
  x_NxT = views_BxVxT.reshape(-1, views_BxVxT.shape[-1])
  y_NxD, encoder_stats = _apply(
    encoder, params["encoder"], batch_stats["encoder"], x_NxT, train
  )
  z_NxE, projector_stats = _apply(
    projector, params["projector"], batch_stats["projector"], y_NxD, train
  )
  stats = {"encoder": encoder_stats, "projector": projector_stats}
  return y_NxD, z_NxE, stats


def _forward(config, state, params, views_BxVxT, train):
  _, z_NxE, stats = _outputs(
    config, params, state.batch_stats, views_BxVxT, train
  )
  loss, terms = loss_of(config, z_NxE, state.step)
  return loss, (terms, stats)


def train_step(
  config, tx: optax.GradientTransformation, state: TrainState, views_BxVxT
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer step on the global batch; scalars for the log."""

  def objective(params):
    return _forward(config, state, params, views_BxVxT, True)

  return _update(tx, state, objective)


def supervised_step(
  config,
  tx: optax.GradientTransformation,
  single: bool,
  state,
  batch,
  *,
  frozen: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer step on labelled crops; scalars for the log.

  Args:
    config: of job "supervised".
    tx: the optimizer.
    single: whether each clip has one label (`losses.label_loss`).
    state: dropout draws by its step and the seed.
    batch: the global batch of crops x_BxT, and labels_BxK.
    frozen: the encoder is in evaluation mode, and its statistics do not change;
      `tx` must not change its parameters.
  """
  x_BxT, labels_BxK = batch
  head = make_head(config.model, labels_BxK.shape[-1])
  key = mesh.stream_key(config.seed, "dropout", state.step)

  def objective(params):
    encoder_params = params["encoder"]
    if frozen:
      encoder_params = jax.lax.stop_gradient(encoder_params)
    y_BxD, encoder_stats = _apply(
      make_encoder(config.model, config.dtype, config.model.remat),
      encoder_params,
      state.batch_stats["encoder"],
      x_BxT,
      not frozen,
      views=1,
    )
    logits_BxK = head.apply(
      {"params": params["head"]}, y_BxD, train=True, rngs={"dropout": key}
    )
    loss_B = losses.label_loss(logits_BxK, labels_BxK, single=single)
    stats = state.batch_stats | {"encoder": encoder_stats}
    return loss_B.mean(), ({}, stats)

  return _update(tx, state, objective)


def _update(tx, state, objective):
  """The next state, and scalars for the log.

  `objective(params)` gives the loss and (its terms, BatchNorm's statistics).
  """
  (loss, (terms, stats)), grads = jax.value_and_grad(objective, has_aux=True)(
    state.params
  )
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  scalars = {
    "loss": loss,
    **terms,
    "grad_norm": optax.tree.norm(grads),
    "param_norm": optax.tree.norm(params),
  }
  state = TrainState(state.step + 1, params, stats, opt_state)
  return state, scalars


def eval_step(config, state: TrainState, views_BxVxT) -> dict[str, jax.Array]:
  """Loss and terms of a batch, with BatchNorm's running statistics."""
  loss, (terms, _) = _forward(config, state, state.params, views_BxVxT, False)
  return {"loss": loss, **terms}


def represent(config, state: TrainState, views_BxVxT):
  """Representations y_BxD and embeddings z_BxE of the first views, float32.

  In evaluation mode, with BatchNorm's running statistics.
  """
  y_NxD, z_NxE, _ = _outputs(
    config, state.params, state.batch_stats, views_BxVxT, False
  )
  first = slice(None, None, VIEWS)
  return y_NxD[first], z_NxE[first].astype(jnp.float32)


def jit_train_step(config, tx, devices: Mesh) -> Callable:
  """`train_step(state, views)` compiled for a mesh; the state is donated."""
  step = functools.partial(train_step, config, tx)
  return _jit(step, devices, donate_argnums=0)


def jit_supervised_step(
  config, tx, single: bool, devices: Mesh, *, frozen: int = 0
) -> Callable:
  """`supervised_step(state, batch)` compiled as `jit_train_step`.

  The encoder is frozen for the first `frozen` steps. They are another program,
  as convolutions within a `lax.cond` take many times as long on CPUs. With
  frozen steps, the returned function counts steps, and serves only one run.
  """

  def compiled(frozen):
    step = functools.partial(supervised_step, config, tx, single, frozen=frozen)
    return _jit(step, devices, donate_argnums=0)

  whole, head_alone = compiled(False), compiled(True)
  done = None

  def step(state, batch):
    nonlocal done
    if done is None:  # at later steps, reading it would wait
      done = int(state.step)
    done += 1
    return (head_alone if done <= frozen else whole)(state, batch)

  return step if frozen else whole


def jit_eval_step(config, devices: Mesh) -> Callable:
  """`eval_step(state, views)` compiled for a mesh."""
  return _jit(functools.partial(eval_step, config), devices)


def jit_represent(config, devices: Mesh) -> Callable:
  """`represent(state, views)` compiled for a mesh."""
  return _jit(functools.partial(represent, config), devices)


def _jit(step, devices, **options):
  """`step(state, batch)`; only the batch is split over the devices."""
  whole, split = mesh.replicated(devices), mesh.batch_sharding(devices)
  return jax.jit(
    step,
    in_shardings=(whole, split),
    out_shardings=whole,
    compiler_options=mesh.compiler_options(devices),
    **options,
  )
