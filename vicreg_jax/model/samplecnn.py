"""SampleCNN, projectors and heads, in Flax.

Parameters, BatchNorm statistics and outputs are float32; `dtype` is the type
that convolutions and matrix products compute in (bfloat16 on TPU).

Variant "rese-2-multi" is of Kim, Lee and Nam 2018 (arXiv:1710.10451).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vicreg_jax.model.view_norm import (
  POOL,
  Block,
  NormRelu,
  Stem,
  larger,
  max_pool,
)

# Output channels of the nine pooled blocks, and the kernel of the convolution
# after them: thesis table 2.1, CLMR's released code, and Kim et al., whose
# blocks are residual.
RESIDUAL = "rese-2-multi"
VARIANTS = {
  "thesis": ((128, 128, 256, 256, 256, 256, 256, 512, 512), 1),
  "clmr": ((128, 128, 256, 256, 256, 256, 256, 256, 512), 3),
  RESIDUAL: ((128, 128, 256, 256, 256, 256, 256, 256, 512), 1),
}
LEVELS = 3  # number of residual blocks that the representation sees
AMPLIFYING = 16  # width of a gate's hidden layer over its channels
STEM_CHANNELS = 128

# He et al. 2015, uniform, as CLMR initialises its convolutions.
_conv_init = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
# PyTorch's default for Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
_dense_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Keras's default, of gates and shortcuts.
_glorot_init = nn.initializers.glorot_uniform()


def crop_for(blocks: int) -> int:
  """Samples that `blocks` blocks reduce to one frame: 59,049 for nine."""
  return POOL ** (blocks + 1)


class _Weights(nn.Module):
  """Kernel and bias of a convolution, for the layer that normalises it."""

  shape: tuple[int, ...]

  @nn.compact
  def __call__(self):
    kernel = self.param("kernel", _conv_init, self.shape)
    # Normalisation removes a bias, whose gradient is exactly zero; the bias
    # keeps running statistics and weights equal to PyTorch's.
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
    return nn.relu(max_pool(x_NxTxC + y, larger))  # the ReLU is monotone


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
    remat: gradients compute blocks anew, instead of keeping their activations.
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
        functools.reduce(larger, jnp.unstack(level, axis=1))
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
