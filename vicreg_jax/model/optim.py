"""LARS and Adam as the two reference implementations run them; the plateau.

Learning rates are floats or optax schedules (step -> rate, steps from 0).
`training/steps.py` chooses the optimizer of a config.
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
  """
  rate = optax.scale_by_learning_rate(learning_rate)
  trace = optax.trace(decay=momentum)
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=is_adapted),
    optax.masked(_scale_by_trust_ratio(trust_coefficient), is_adapted),
    *{"release": (trace, rate), "paper": (rate, trace)}[order],
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
