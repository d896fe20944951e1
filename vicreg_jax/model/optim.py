"""LARS and Adam as the two reference implementations run them; schedules.

Learning rates are floats or optax schedules (step -> rate, steps from 0). What
a config asks for is chosen in `training/steps.py`.
"""

import jax
import jax.numpy as jnp
import optax

NAMES = ("lars", "adam")
SCHEDULES = ("cosine", "constant")
LARS_ORDERS = ("release", "paper")


def lars(
  learning_rate,
  *,
  weight_decay=1e-6,
  momentum=0.9,
  trust_coefficient=0.001,
  order="release",
):
  """LARS; biases and BatchNorm parameters (1-d) get momentum SGD, no decay.

  Args:
    learning_rate: float or schedule.
    weight_decay: times the parameter, added to its gradient.
    momentum: heavy-ball decay.
    trust_coefficient: eta in the layer's ratio eta * |p| / |g|.
    order: "release" multiplies by the learning rate after the momentum, as the
      VICReg authors' code (and PyTorch) does; "paper" before it, as the LARS
      paper and `optax.lars` do. The same at a constant rate; under a schedule
      "paper" remembers the rates of past steps.

  Raises:
    ValueError: on an unknown order.
  """
  if order not in LARS_ORDERS:
    raise ValueError(
      f"optim.lars_order is {order!r}: choose one of {LARS_ORDERS}."
    )
  rate = optax.scale_by_learning_rate(learning_rate)
  trace = optax.trace(decay=momentum)
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=is_adapted),
    optax.masked(_scale_by_trust_ratio(trust_coefficient), is_adapted),
    *((trace, rate) if order == "release" else (rate, trace)),
  )


def _scale_by_trust_ratio(trust_coefficient):
  """eta |p| / |g|, and 1 where either is zero.

  `optax.scale_by_trust_ratio` reads everything twice, to have norms that can
  be differentiated: 0.8 GB of a step's traffic with the thesis's projector.
  """

  def update(updates, state, params):
    def scaled(g, p):
      g_norm, p_norm = jnp.linalg.norm(g), jnp.linalg.norm(p)
      some = (g_norm > 0) & (p_norm > 0)
      ratio = trust_coefficient * p_norm / jnp.where(some, g_norm, 1.0)
      return g * jnp.where(some, ratio, 1.0).astype(g.dtype)

    return jax.tree.map(scaled, updates, params), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def adam(learning_rate, *, weight_decay=0.0, b1=0.9, b2=0.999, eps=1e-8):
  """Adam; `weight_decay` is L2 on every parameter, as in torch.optim.Adam.

  It is added to the gradient before the moments, which AdamW does not do.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    optax.scale_by_learning_rate(learning_rate),
  )


def is_adapted(params):
  """Tree of bools: which parameters LARS decays and adapts (not the 1-d)."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def warmup_cosine(
  base_lr,
  *,
  batch_size,
  warmup_steps,
  total_steps,
  final_fraction=0.001,
  scale_with_batch=True,
):
  """Linear warm-up from 0, then a cosine to `final_fraction` of the peak.

  `adjust_learning_rate` of the VICReg release.

  Args:
    base_lr: the peak at a batch of 256.
    batch_size: global batch; the peak is base_lr * batch_size / 256.
    warmup_steps, total_steps: in optimizer steps, 0 <= warm-up < total. The
      first step has rate 0 if there is a warm-up.
    final_fraction: rate at `total_steps` over the peak.
    scale_with_batch: False makes base_lr the peak at any batch size.

  Raises:
    ValueError: if the warm-up does not end before the run.
  """
  if not 0 <= warmup_steps < total_steps:
    raise ValueError(
      f"The warm-up is {warmup_steps} steps and the run {total_steps}: the "
      "warm-up must be at least 0 and end before the run. Train longer or "
      "shorten the warm-up."
    )
  peak = base_lr * batch_size / 256 if scale_with_batch else base_lr
  cosine = optax.cosine_decay_schedule(
    peak, total_steps - warmup_steps, alpha=final_fraction
  )
  if warmup_steps == 0:
    return cosine
  warmup = optax.linear_schedule(0.0, peak, warmup_steps)
  return optax.join_schedules([warmup, cosine], [warmup_steps])


def reduce_on_plateau(*, factor=0.1, patience=5, threshold=1e-4):
  """torch.optim.lr_scheduler.ReduceLROnPlateau(mode="min"), to call by epoch.

  Multiply the learning rate by `state.scale`, which starts at 1:

    plateau = reduce_on_plateau()
    state = plateau.init(params)
    _, state = plateau.update((), state, value=validation_loss)  # each epoch

  Args:
    factor: of each cut, between 0 and 1.
    patience: epochs without improvement that are borne; the next one cuts.
    threshold: share of the best value by which a better one must be lower.
  """
  # PyTorch cuts when the count of bad epochs exceeds its patience, optax when
  # it equals.
  return optax.contrib.reduce_on_plateau(
    factor=factor, patience=patience + 1, rtol=threshold
  )
