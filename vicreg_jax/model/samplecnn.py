"""SampleCNN, projectors and heads, in Flax.

Parameters, BatchNorm statistics and outputs are float32; `dtype` is the type
that convolutions and matrix products compute in (bfloat16 on TPU).

Batch normalisation is of each view by itself: `PerViewNorm` says how;
`NormRelu`, `Stem` and `Block` compute it, from `_view_statistics`.

Variant "rese-2-multi" is of Kim, Lee and Nam 2018 (arXiv:1710.10451).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Output channels of the nine pooled blocks, and the kernel of the convolution
# that follows them: thesis table 2.1, the code that CLMR released, and Kim et
# al., whose blocks are residual.
RESIDUAL = "rese-2-multi"
VARIANTS = {
  "thesis": ((128, 128, 256, 256, 256, 256, 256, 512, 512), 1),
  "clmr": ((128, 128, 256, 256, 256, 256, 256, 256, 512), 3),
  RESIDUAL: ((128, 128, 256, 256, 256, 256, 256, 256, 512), 1),
}
LEVELS = 3  # so many of these blocks the representation sees
AMPLIFYING = 16  # a gate's hidden layer is so many times as wide
STEM_CHANNELS = 128
POOL = 3

# A TPU multiplies float32 in bfloat16 unless told otherwise.
_EXACT = dict(precision=jax.lax.Precision.HIGHEST)

# He et al. 2015, uniform, as CLMR initialises its convolutions.
_conv_init = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
# PyTorch's default for Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
_dense_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Keras's default, of gates and shortcuts.
_glorot_init = nn.initializers.glorot_uniform()


def crop_for(blocks: int) -> int:
  """Samples that `blocks` blocks reduce to one frame: 59,049 for nine."""
  return POOL ** (blocks + 1)


def max_pool(x_BxTxC: jax.Array, larger=jnp.maximum) -> jax.Array:
  """Maximum over windows of 3 without overlap; a shorter rest is dropped."""
  return functools.reduce(larger, _phases(x_BxTxC))


def _larger(a, b):
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

  Computed as relu(batch_norm'(max_pool(x))): for scale >= 0 all that follows
  the maximum is monotone, so it may be taken first, and a third of the values
  be normalised.

  The gradient is written out, because what autodiff makes of it moves twice
  the memory on a TPU. Where values tie, the first has it, as in PyTorch.

  Args:
    x_NxTxC: activations, `views` of each clip side by side.
    scale_C: not negative; put the sign on what makes x.
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
  # Through the maximum: each value's gradient goes to where it came from.
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

  The statistics of a linear map follow from those of what it maps: mean
  m @ kernel and variance k^T S k, with the mean m and the covariance S of the
  frames. So the largest activation of the network is made once, normalised.
  """

  @nn.compact
  def __call__(
    self, x_NxTxP, kernel_PxC, shift_C, *, train: bool, views: int = 1
  ) -> jax.Array:
    scale_C, bias_C, mean, var = self._variables_of(kernel_PxC.shape[-1])
    # What the matrix unit would see, where dtype is bfloat16.
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

  A negative scale would turn the maximum into a minimum, so its sign is put
  on the kernel instead: sign(s) conv(x) is what convolving with sign(s) kernel
  gives.
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


class _Weights(nn.Module):
  """Kernel and bias of a convolution, for who normalises it."""

  shape: tuple[int, ...]

  @nn.compact
  def __call__(self):
    kernel = self.param("kernel", _conv_init, self.shape)
    # Normalisation takes a bias away again, and its gradient is exactly zero;
    # it is kept for running statistics and weights to be those of PyTorch.
    bias = self.param("bias", nn.initializers.zeros, self.shape[-1:])
    return kernel, jax.lax.stop_gradient(bias)


class ResidualBlock(nn.Module):
  """max_pool(relu(shortcut(x) + gate * bn(conv(relu(bn(conv(x))))))).

  "ReSE-2" of Kim et al.: the gate, of each channel and clip, is made of the
  means over time (squeeze and excitation). The shortcut is x itself, or, for
  other channels, a normalised 1x1 convolution. Left out are their dropout of
  0.2 between the convolutions, as the thesis's encoder has none, and biases of
  convolutions, which normalisation takes away again.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x_NxTxC: jax.Array, *, train: bool, views: int = 1
  ) -> jax.Array:
    def conv(x, width, name, init=_conv_init):
      return nn.Conv(
        self.features,
        (width,),
        padding="SAME",
        use_bias=False,
        dtype=self.dtype,
        kernel_init=init,
        name=f"{name}_conv",
      )(x)

    def norm(x, name, relu=False):
      return NormRelu(relu=relu, name=f"{name}_bn")(x, train=train, views=views)

    dense = functools.partial(
      nn.Dense, dtype=self.dtype, kernel_init=_glorot_init
    )

    y = norm(conv(x_NxTxC, POOL, "first"), "first", relu=True)
    y = norm(conv(y, POOL, "second"), "second")
    gate_NxC = y.mean(1, dtype=jnp.promote_types(y.dtype, jnp.float32))
    gate_NxC = dense(AMPLIFYING * self.features, name="squeeze")(gate_NxC)
    gate_NxC = dense(self.features, name="excite")(nn.relu(gate_NxC))
    y *= nn.sigmoid(gate_NxC)[:, None]
    if x_NxTxC.shape[-1] != self.features:
      x_NxTxC = conv(x_NxTxC, 1, "shortcut", _glorot_init)
      x_NxTxC = norm(x_NxTxC, "shortcut")
    return nn.relu(max_pool(x_NxTxC + y, _larger))  # the ReLU is monotone


class SampleCNN(nn.Module):
  """SampleCNN (Lee et al. 2018) on raw audio, thesis table 2.1.

  A strided convolution, `blocks` blocks of convolution, BatchNorm, ReLU and
  max-pool, and a last convolution to the representation. Each layer but the
  first sees frames three times as long as the one before it.

  Variant "rese-2-multi" has `ResidualBlock`s, and its last layer sees the
  maxima over time of the last three of them. In its paper that layer has as
  many channels as it sees, 1,024; here it has the representation's.

  Attributes:
    representation_size: D, channels of the last convolution.
    variant: a name of VARIANTS. "thesis" has 2,434,816 parameters at size 512.
    width: factor on all channels but the representation's.
    blocks: how many of the table's blocks, from its top. Nine read 59,049
      samples; each one fewer a third as many.
    dtype: type of the convolutions.
    remat: gradients compute blocks anew, in place of keeping what is in them.
  """

  representation_size: int = 512
  variant: str = "thesis"
  width: float = 1.0
  blocks: int = 9
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, x_BxT: jax.Array, *, train: bool = False, views: int = 1
  ) -> jax.Array:
    """Representations `y_BxD`, float32, of waveforms `x_BxT`.

    With train=True, BatchNorm uses and records batch statistics (collection
    "batch_stats" must be mutable); `views` as in PerViewNorm.
    """
    if self.variant not in VARIANTS:
      raise ValueError(
        f"model.variant is {self.variant!r}; use one of {sorted(VARIANTS)}"
      )
    T = x_BxT.shape[1]
    if T // crop_for(self.blocks) != 1:
      raise ValueError(
        f"{self.blocks} blocks reduce {crop_for(self.blocks)} samples to one"
        f" frame, the crop has {T}: set data.crop={crop_for(self.blocks)} or"
        " change model.blocks"
      )
    widths, last_kernel = VARIANTS[self.variant]
    channels = [max(1, round(c * self.width)) for c in widths[: self.blocks]]
    stem = max(1, round(STEM_CHANNELS * self.width))

    how = dict(train=train, views=views)
    # The first convolution's windows do not overlap: they are frames.
    T = T // POOL * POOL
    x = x_BxT[:, :T].reshape(x_BxT.shape[0], T // POOL, POOL)
    kernel, shift = _Weights((1, POOL, stem), name="stem_conv")()
    x = Stem(name="stem_bn")(x.astype(self.dtype), kernel[0], shift, **how)

    def block(self, x, i):
      if self.variant == RESIDUAL:
        return ResidualBlock(channels[i], self.dtype, name=f"block{i}")(
          x, **how
        )
      shape = (POOL, x.shape[-1], channels[i])
      kernel, shift = _Weights(shape, name=f"block{i}_conv")()
      return Block(name=f"block{i}_bn")(x, kernel, shift, **how)

    if self.remat:
      block = nn.remat(block, static_argnums=2)
    levels = []
    for i in range(len(channels)):
      x = block(self, x, i)
      levels.append(x)
    if self.variant == RESIDUAL:
      maxima = [
        functools.reduce(_larger, jnp.unstack(level, axis=1))
        for level in levels[-LEVELS:]
      ]
      x = jnp.concatenate(maxima, -1)[:, None]
    x = nn.Conv(
      self.representation_size,
      (last_kernel,),
      padding="SAME",
      dtype=self.dtype,
      kernel_init=_conv_init,
      name="last_conv",
    )(x)
    x = NormRelu(name="last_bn")(x, **how)
    return x[:, 0].astype(jnp.float32)


class Projector(nn.Module):
  """Maps representations to the embeddings that the loss sees.

  With batch_norm (VICReg): Linear, BatchNorm, ReLU for every width but the
  last, and a last Linear without bias. Without (CLMR, 512-512-128): Linear,
  ReLU for every width but the last, and a last Linear, none with a bias.
  """

  widths: tuple[int, ...] = (8196, 8196, 8196)
  batch_norm: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, y_BxD: jax.Array, *, train: bool = False, views: int = 1
  ) -> jax.Array:
    """Embeddings `z_BxE` in `dtype`, E the last width."""
    z = y_BxD.astype(self.dtype)
    for i, width in enumerate(self.widths):
      last = i == len(self.widths) - 1
      z = nn.Dense(
        width,
        use_bias=self.batch_norm and not last,
        dtype=self.dtype,
        kernel_init=_dense_init,
        name=f"dense{i}",
      )(z)
      if last:
        return z
      if self.batch_norm:
        z = NormRelu(name=f"bn{i}")(z, train=train, views=views)
      else:
        z = nn.relu(z)
    return z


class Head(nn.Module):
  """From representations to labels: a probe's head, or SampleCNN's own end.

  Linear, or one hidden layer of `hidden` units with ReLU. With `dropout`
  (thesis table 2.1: 0.5) that share of the representation is 0 in training, by
  the random stream "dropout", and the rest is scaled up to make up for it.
  """

  classes: int
  hidden: int = 0
  dropout: float = 0.0

  @nn.compact
  def __call__(self, y_BxD: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits `s_BxK`, float32."""
    y_BxD = nn.Dropout(self.dropout, deterministic=not train)(y_BxD)
    if self.hidden:
      y_BxD = nn.relu(
        nn.Dense(self.hidden, kernel_init=_dense_init, name="hidden")(y_BxD)
      )
    return nn.Dense(self.classes, kernel_init=_dense_init, name="out")(y_BxD)
