"""SampleCNN, projectors and probe heads, in Flax.

Parameters, BatchNorm statistics and outputs are float32; `dtype` is the type
that convolutions and matrix products compute in (bfloat16 on TPU).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Output channels of the nine pooled blocks, and the kernel of the convolution
# that follows them: thesis table 2.1, and the code that CLMR released.
VARIANTS = {
  "thesis": ((128, 128, 256, 256, 256, 256, 256, 512, 512), 1),
  "clmr": ((128, 128, 256, 256, 256, 256, 256, 256, 512), 3),
}
STEM_CHANNELS = 128
POOL = 3

# He et al. 2015, uniform, as CLMR initialises its convolutions.
_conv_init = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
# PyTorch's default for Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
_dense_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def crop_for(blocks: int) -> int:
  """Samples that `blocks` blocks reduce to one frame: 59,049 for nine."""
  return POOL ** (blocks + 1)


def max_pool(x_BxTxC: jax.Array) -> jax.Array:
  """Maximum over windows of 3 without overlap; a shorter rest is dropped.

  Where values tie, the gradient is shared between them (PyTorch gives it to
  the first). In float32 activations before the ReLU, ties do not occur.
  """
  T = x_BxTxC.shape[1] // POOL * POOL
  a, b, c = (x_BxTxC[:, i:T:POOL] for i in range(POOL))
  return jnp.maximum(jnp.maximum(a, b), c)


class BatchNorm(nn.Module):
  """Batch normalisation with PyTorch's semantics, a view at a time.

  The batch axis holds `views` views of each clip side by side (b0v0, b0v1,
  b1v0, ...). Each view is normalised by its own statistics over the whole
  global batch, and the running statistics take the views' one after another,
  as if each view had been a forward pass of its own. Batch statistics divide
  by n, running variance by n - 1 (torch.nn.BatchNorm1d).

  With `pool`, returns relu(bn(x)) max-pooled by 3, computed as
  relu(bn'(max_pool(sign(scale) * x))): |scale| makes bn' monotone, so the
  maximum may be taken first and only a third of the values be normalised.
  """

  pool: bool = False
  momentum: float = 0.9  # 1 - PyTorch's momentum of 0.1
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, views: int = 1) -> jax.Array:
    C = x.shape[-1]
    scale_C = self.param("scale", nn.initializers.ones, (C,))
    bias_C = self.param("bias", nn.initializers.zeros, (C,))
    mean = self.variable("batch_stats", "mean", jnp.zeros, (C,))
    var = self.variable("batch_stats", "var", jnp.ones, (C,))
    split = (x.shape[0] // views, views)
    if train:
      at_least_float32 = jnp.promote_types(x.dtype, jnp.float32)
      x_BxVxTxC = x.reshape(*split, -1, C).astype(at_least_float32)
      n = x_BxVxTxC.shape[0] * x_BxVxTxC.shape[2]
      mean_VxC = x_BxVxTxC.mean((0, 2))
      # One pass over the activations; float32 sums keep it exact enough.
      square_VxC = jnp.square(x_BxVxTxC).mean((0, 2))
      var_VxC = jnp.maximum(square_VxC - jnp.square(mean_VxC), 0.0)
      if not self.is_initializing():
        keep, unbias = self.momentum, n / max(n - 1, 1)
        for v in range(views):
          mean.value = keep * mean.value + (1 - keep) * mean_VxC[v]
          var.value = keep * var.value + (1 - keep) * unbias * var_VxC[v]
    else:
      mean_VxC, var_VxC = mean.value[None], var.value[None]
      split = (x.shape[0], 1)
    inverse_VxC = jax.lax.rsqrt(var_VxC + self.epsilon)
    if self.pool:
      sign_C = jnp.where(scale_C < 0, -1.0, 1.0)
      x = max_pool(x * sign_C.astype(x.dtype))
      a_VxC = jnp.abs(scale_C) * inverse_VxC
      b_VxC = bias_C - mean_VxC * sign_C * a_VxC
    else:
      a_VxC = scale_C * inverse_VxC
      b_VxC = bias_C - mean_VxC * a_VxC
    y = x.reshape(*split, -1, C) * a_VxC[:, None] + b_VxC[:, None]
    return nn.relu(y).astype(x.dtype).reshape(x.shape)


class SampleCNN(nn.Module):
  """SampleCNN (Lee et al. 2018) on raw audio, thesis table 2.1.

  A strided convolution, `blocks` blocks of convolution, BatchNorm, ReLU and
  max-pool, and a last convolution to the representation. Each layer but the
  first sees frames three times as long as the one before it.

  Attributes:
    representation_size: D, channels of the last convolution.
    variant: "thesis" (2,434,816 parameters at size 512) or "clmr".
    width: factor on all channels but the representation's.
    blocks: how many of the table's blocks, from its top. Nine read 59,049
      samples; each one fewer a third as many.
    dtype: type of the convolutions.
  """

  representation_size: int = 512
  variant: str = "thesis"
  width: float = 1.0
  blocks: int = 9
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x_BxT: jax.Array, *, train: bool = False, views: int = 1
  ) -> jax.Array:
    """Representations `y_BxD`, float32, of waveforms `x_BxT`.

    With train=True, BatchNorm uses and records batch statistics (collection
    "batch_stats" must be mutable); `views` as in BatchNorm.
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

    def conv(features, kernel, name):
      return nn.Conv(
        features,
        (kernel,),
        padding="SAME",
        dtype=self.dtype,
        kernel_init=_conv_init,
        name=name,
      )

    # The first convolution's windows do not overlap: it is a matrix product.
    T = T // POOL * POOL
    x = x_BxT[:, :T].reshape(x_BxT.shape[0], T // POOL, POOL)
    x = conv(stem, 1, "stem_conv")(x.astype(self.dtype))
    x = BatchNorm(name="stem_bn")(x, train=train, views=views)
    for i, features in enumerate(channels):
      x = conv(features, 3, f"block{i}_conv")(x)
      x = BatchNorm(pool=True, name=f"block{i}_bn")(x, train=train, views=views)
    x = conv(self.representation_size, last_kernel, "last_conv")(x)
    x = BatchNorm(name="last_bn")(x, train=train, views=views)
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
        z = BatchNorm(name=f"bn{i}")(z, train=train, views=views)
      else:
        z = nn.relu(z)
    return z


class Head(nn.Module):
  """A probe: linear, or one hidden layer of `hidden` units with ReLU."""

  classes: int
  hidden: int = 0

  @nn.compact
  def __call__(self, y_BxD: jax.Array) -> jax.Array:
    """Logits `s_BxK`."""
    if self.hidden:
      y_BxD = nn.relu(
        nn.Dense(self.hidden, kernel_init=_dense_init, name="hidden")(y_BxD)
      )
    return nn.Dense(self.classes, kernel_init=_dense_init, name="out")(y_BxD)
