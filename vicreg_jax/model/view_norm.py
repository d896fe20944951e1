"""Batch normalisation of each view by itself, as the encoder's layers have it.

`PerViewNorm` says how; `NormRelu`, `Stem` and `Block` compute it, from the
statistics of each view over the whole global batch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

POOL = 3

# A TPU multiplies float32 in bfloat16 unless told otherwise.
_EXACT = dict(precision=jax.lax.Precision.HIGHEST)


def max_pool(x_BxTxC: jax.Array, larger=jnp.maximum) -> jax.Array:
  """Maximum over windows of 3 without overlap; a shorter rest is dropped."""
  return functools.reduce(larger, _phases(x_BxTxC))


def larger(a, b):
  """Maximum. Where values tie, the first has the gradient, as in PyTorch.

  JAX's own compares with a result that may be computed anew, and then differs.
  """
  return jnp.where((a >= b) | jnp.isnan(a), a, b)


def _phases(x_BxTxC):
  """First, second and third samples of the pooling windows."""
  T = x_BxTxC.shape[1] // POOL * POOL
  return tuple(x_BxTxC[:, i:T:POOL] for i in range(POOL))


def _by_view(x, views):
  """[N, ...] -> [B, V, ...]: the batch axis holds a clip's views together."""
  return x.reshape(-1, views, *x.shape[1:])


def _view_statistics(x_NxTxC, views):
  """Mean and variance by view, [V, C], over the whole global batch."""
  x_BxVxTxC = _by_view(x_NxTxC, views)
  x_BxVxTxC = x_BxVxTxC.astype(jnp.promote_types(x_NxTxC.dtype, jnp.float32))
  mean_VxC = x_BxVxTxC.mean((0, 2))
  # One pass over the activations; float32 sums keep it exact enough.
  square_VxC = jnp.square(x_BxVxTxC).mean((0, 2))
  return mean_VxC, jnp.maximum(square_VxC - jnp.square(mean_VxC), 0.0)


def _affine(x_NxTxC, a_VxC, b_VxC, relu=False):
  """a x + b by view, in the type of x."""
  y = _by_view(x_NxTxC, len(a_VxC)) * a_VxC[:, None] + b_VxC[:, None]
  y = nn.relu(y) if relu else y
  return y.astype(x_NxTxC.dtype).reshape(x_NxTxC.shape)


_affine_relu = functools.partial(_affine, relu=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def norm_relu_pool(x_NxTxC, scale_C, bias_C, views, epsilon):
  """max_pool(relu(batch_norm(x))), normalised by each view's own statistics.

  Computed as relu(batch_norm'(max_pool(x))): for scale >= 0 the operations
  after the maximum are monotone, so the maximum may come first, and only a
  third of the values is normalised.

  The gradient is written out, as autodiff's moves twice the memory on a TPU.
  Where values tie, the first gets the gradient, as in PyTorch.

  Args:
    x_NxTxC: activations, `views` of each clip side by side.
    scale_C: not negative; put its sign on the kernel that makes x.
    bias_C: added after scaling.
    views, epsilon: as in PerViewNorm.

  Returns:
    y [N, T // 3, C], and mean and variance [V, C], which carry no gradient.
  """
  return _norm_relu_pool_fwd(x_NxTxC, scale_C, bias_C, views, epsilon)[0]


def _norm_relu_pool_fwd(x_NxTxC, scale_C, bias_C, views, epsilon):
  mean_VxC, var_VxC = _view_statistics(x_NxTxC, views)
  inverse_VxC = jax.lax.rsqrt(var_VxC + epsilon)
  a_VxC = scale_C * inverse_VxC
  p0, p1, p2 = _phases(x_NxTxC)
  highest = jnp.maximum(jnp.maximum(p0, p1), p2)
  where = jnp.where(p0 == highest, 0, jnp.where(p1 == highest, 1, 2))
  y = _affine_relu(highest, a_VxC, bias_C - mean_VxC * a_VxC)
  where = where.astype(jnp.int8)
  saved = x_NxTxC, highest, where, y, scale_C, mean_VxC, inverse_VxC
  return (y, mean_VxC, var_VxC), saved


def _norm_relu_pool_bwd(views, epsilon, saved, gradients):
  x, highest, where, y, scale_C, mean_VxC, inverse_VxC = saved
  a_VxC, dtype = scale_C * inverse_VxC, mean_VxC.dtype
  # Back through the ReLU, at the pooled length.
  g = _by_view(jnp.where(y > 0, gradients[0], 0), views).astype(dtype)
  centred = _by_view(highest, views).astype(dtype) - mean_VxC[:, None]
  dbias_VxC = g.sum((0, 2))
  dscale_VxC = (g * centred * inverse_VxC[:, None]).sum((0, 2))
  # Through the maximum: a gradient goes to the place of its value.
  up = (g * a_VxC[:, None]).astype(x.dtype).reshape(y.shape)[:, :, None]
  place = jnp.arange(POOL, dtype=where.dtype)[:, None]
  N, T, C = x.shape
  dx = jnp.where(where[:, :, None] == place, up, 0).reshape(N, -1, C)
  dx = jnp.pad(dx, ((0, 0), (0, T % POOL), (0, 0)))
  # Through the statistics: dx -= a (mean(g) + x_hat mean(g x_hat)).
  n = N // views * T
  slope_VxC = -a_VxC * inverse_VxC * dscale_VxC / n
  shift_VxC = -a_VxC * dbias_VxC / n - slope_VxC * mean_VxC
  line = _by_view(x, views) * slope_VxC[:, None] + shift_VxC[:, None]
  dx = (_by_view(dx, views) + line).astype(x.dtype).reshape(x.shape)
  return dx, dscale_VxC.sum(0), dbias_VxC.sum(0)


norm_relu_pool.defvjp(_norm_relu_pool_fwd, _norm_relu_pool_bwd)


class PerViewNorm(nn.Module):
  """Batch normalisation and ReLU with PyTorch's semantics, a view at a time.

  The batch axis holds `views` views of each clip side by side (b0v0, b0v1,
  b1v0, ...). Each view is normalised by its own statistics over the whole
  global batch, and the running statistics take the views' one after another,
  as if each view had been a forward pass of its own. Batch statistics divide
  by n, running variance by n - 1 (torch.nn.BatchNorm1d).
  """

  momentum: float = 0.9  # 1 - PyTorch's momentum of 0.1
  epsilon: float = 1e-5

  def _variables_of(self, C):
    """Scale, bias, and the running statistics."""
    return (
      self.param("scale", nn.initializers.ones, (C,)),
      self.param("bias", nn.initializers.zeros, (C,)),
      self.variable("batch_stats", "mean", jnp.zeros, (C,)),
      self.variable("batch_stats", "var", jnp.ones, (C,)),
    )

  def _record(self, mean, var, mean_VxC, var_VxC, n):
    """Moves the running statistics by those of views with n values each."""
    if self.is_initializing():
      return
    keep, unbias = self.momentum, n / max(n - 1, 1)
    for v in range(len(mean_VxC)):
      mean.value = keep * mean.value + (1 - keep) * mean_VxC[v]
      var.value = keep * var.value + (1 - keep) * unbias * var_VxC[v]


class NormRelu(PerViewNorm):
  """relu(batch_norm(x)) of any x; without `relu` the normalisation alone."""

  relu: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, views: int = 1) -> jax.Array:
    scale_C, bias_C, mean, var = self._variables_of(x.shape[-1])
    x_NxTxC = x.reshape(x.shape[0], -1, x.shape[-1])
    if train:
      mean_VxC, var_VxC = _view_statistics(x_NxTxC, views)
      n = x_NxTxC.shape[0] // views * x_NxTxC.shape[1]
      self._record(mean, var, mean_VxC, var_VxC, n)
    else:
      mean_VxC, var_VxC = mean.value[None], var.value[None]
    a_VxC = scale_C * jax.lax.rsqrt(var_VxC + self.epsilon)
    b_VxC = bias_C - mean_VxC * a_VxC
    return _affine(x_NxTxC, a_VxC, b_VxC, self.relu).reshape(x.shape)


class Stem(PerViewNorm):
  """relu(batch_norm(x @ kernel + shift)) for frames x of a few samples.

  The statistics of a linear map follow from those of its input: mean m @ kernel
  and variance k^T S k, with the mean m and the covariance S of the frames. So
  the largest activation of the network is made once, normalised.
  """

  @nn.compact
  def __call__(
    self, x_NxTxP, kernel_PxC, shift_C, *, train: bool, views: int = 1
  ) -> jax.Array:
    scale_C, bias_C, mean, var = self._variables_of(kernel_PxC.shape[-1])
    # The values that the matrix unit sees, if dtype is bfloat16.
    kernel_PxC = kernel_PxC.astype(x_NxTxP.dtype)
    wide = jnp.promote_types(x_NxTxP.dtype, jnp.float32)
    x, kernel_PxC = x_NxTxP.astype(wide), kernel_PxC.astype(wide)
    if train:
      mean_VxP, cov_VxPxP = _moments(x, views)
      mean_VxC = jnp.einsum("vp,pc->vc", mean_VxP, kernel_PxC, **_EXACT)
      var_VxC = jnp.einsum(
        "pc,vpq,qc->vc", kernel_PxC, cov_VxPxP, kernel_PxC, **_EXACT
      )
      var_VxC = jnp.maximum(var_VxC, 0.0)
      n = x.shape[0] // views * x.shape[1]
      self._record(mean, var, mean_VxC + shift_C, var_VxC, n)
    else:
      mean_VxC, var_VxC = mean.value[None] - shift_C, var.value[None]
    a_VxC = scale_C * jax.lax.rsqrt(var_VxC + self.epsilon)
    kernel_VxPxC = kernel_PxC * a_VxC[:, None]
    b_VxC = bias_C - mean_VxC * a_VxC
    x = _by_view(x, len(a_VxC))
    y = b_VxC[:, None] + sum(
      x[..., p : p + 1] * kernel_VxPxC[:, None, p] for p in range(x.shape[-1])
    )
    return nn.relu(y).astype(x_NxTxP.dtype).reshape(*x_NxTxP.shape[:2], -1)


def _moments(x_NxTxP, views):
  """Mean [V, P] and covariance [V, P, P] of frames, by view."""
  x_BxVxTxP = _by_view(x_NxTxP, views)
  sample = [x_BxVxTxP[..., p] for p in range(x_NxTxP.shape[-1])]
  mean_VxP = jnp.stack([a.mean((0, 2)) for a in sample], -1)
  square_VxPxP = jnp.stack(
    [jnp.stack([(a * b).mean((0, 2)) for b in sample], -1) for a in sample], -1
  )
  return mean_VxP, square_VxPxP - mean_VxP[:, :, None] * mean_VxP[:, None]


class Block(PerViewNorm):
  """max_pool(relu(batch_norm(conv(x) + shift))), pooled before normalising.

  A negative scale would turn the maximum into a minimum. So the kernel gets the
  sign of the scale: convolving with sign(s) kernel gives sign(s) conv(x).
  """

  @nn.compact
  def __call__(
    self, x_NxTxC, kernel_KxCxE, shift_E, *, train: bool, views: int = 1
  ) -> jax.Array:
    scale_E, bias_E, mean, var = self._variables_of(kernel_KxCxE.shape[-1])
    sign_E = jnp.where(scale_E < 0, -1.0, 1.0)
    u = jax.lax.conv_general_dilated(
      x_NxTxC,
      (kernel_KxCxE * sign_E).astype(x_NxTxC.dtype),
      (1,),
      "SAME",
      dimension_numbers=("NWC", "WIO", "NWC"),
    )
    scale_E = scale_E * sign_E  # |scale|, with a gradient at 0 too
    if train:
      y, mean_VxE, var_VxE = norm_relu_pool(
        u, scale_E, bias_E, views, self.epsilon
      )
      n = u.shape[0] // views * u.shape[1]
      self._record(mean, var, mean_VxE * sign_E + shift_E, var_VxE, n)
      return y
    a_VxE = (scale_E * jax.lax.rsqrt(var.value + self.epsilon))[None]
    b_VxE = bias_E - (mean.value - shift_E) * sign_E * a_VxE
    return _affine_relu(max_pool(u), a_VxE, b_VxE)
