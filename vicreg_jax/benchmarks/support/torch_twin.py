"""The study in PyTorch, to compare ours with: its numbers and its speed.

Written from the thesis's table 2.1, the layers' descriptions, and the releases
of VICReg and CLMR. Needs PyTorch; nothing that trains imports it.
"""

import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch import nn
from torch.nn import functional as F

from vicreg_jax.model import samplecnn

# PyTorch's names of Flax's leaves.
_NAMES = {
  "kernel": "weight",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}


class SampleCNN(nn.Module):
  """`channels` of the pooled blocks; the last convolution's size and kernel."""

  def __init__(self, stem, channels, size, last_kernel):
    super().__init__()
    layers = [nn.Conv1d(1, stem, 3, stride=3), nn.BatchNorm1d(stem), nn.ReLU()]
    before = stem
    for c in channels:
      layers += [
        nn.Conv1d(before, c, 3, padding=1),
        nn.BatchNorm1d(c),
        nn.ReLU(),
        nn.MaxPool1d(3, 3),
      ]
      before = c
    layers += [
      nn.Conv1d(before, size, last_kernel, padding=last_kernel // 2),
      nn.BatchNorm1d(size),
      nn.ReLU(),
    ]
    self.layers = nn.Sequential(*layers)

  def forward(self, x_BxT):
    return self.layers(x_BxT[:, None])[:, :, 0]


class ResidualBlock(nn.Module):
  """ "ReSE-2" of Kim, Lee and Nam (2018), without dropout."""

  def __init__(self, before, channels, amplifying=16):
    super().__init__()
    self.first = _conv_norm(before, channels, 3)
    self.second = _conv_norm(channels, channels, 3)
    self.shortcut = nn.Identity()
    if before != channels:
      self.shortcut = _conv_norm(before, channels, 1)
    self.squeeze = nn.Linear(channels, amplifying * channels)
    self.excite = nn.Linear(amplifying * channels, channels)

  def forward(self, x_BxCxT):
    y = self.second(F.relu(self.first(x_BxCxT)))
    gate_BxC = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean(2)))))
    return F.max_pool1d(
      F.relu(self.shortcut(x_BxCxT) + gate_BxC[:, :, None] * y), 3
    )


def _conv_norm(before, channels, width):
  conv = nn.Conv1d(before, channels, width, padding=width // 2, bias=False)
  return nn.Sequential(conv, nn.BatchNorm1d(channels))


class ResidualSampleCNN(nn.Module):
  """ "rese-2-multi": `channels` of the blocks; the representation's size."""

  def __init__(self, stem, channels, size, levels=3):
    super().__init__()
    self.stem = nn.Sequential(
      nn.Conv1d(1, stem, 3, stride=3), nn.BatchNorm1d(stem)
    )
    self.blocks = nn.ModuleList(map(ResidualBlock, [stem, *channels], channels))
    self.levels = levels
    self.last = nn.Sequential(
      nn.Linear(sum(channels[-levels:]), size), nn.BatchNorm1d(size)
    )

  def forward(self, x_BxT):
    x = F.relu(self.stem(x_BxT[:, None]))
    maxima = []
    for block in self.blocks:
      x = block(x)
      maxima.append(x.amax(2))
    return F.relu(self.last(torch.cat(maxima[-self.levels :], 1)))


class VicregReleaseLars(torch.optim.Optimizer):
  """LARS of the VICReg release: `exclude_bias_and_norm` for both filters."""

  def __init__(self, params, lr, weight_decay, momentum=0.9, eta=0.001):
    super().__init__(
      params,
      dict(lr=lr, weight_decay=weight_decay, momentum=momentum, eta=eta),
    )

  @torch.no_grad()
  def step(self):
    for g in self.param_groups:
      for p in g["params"]:
        dp = p.grad
        if p.ndim != 1:
          dp = dp.add(p, alpha=g["weight_decay"])
          param_norm, update_norm = torch.norm(p), torch.norm(dp)
          one = torch.ones_like(param_norm)
          q = torch.where(
            param_norm > 0.0,
            torch.where(
              update_norm > 0, g["eta"] * param_norm / update_norm, one
            ),
            one,
          )
          dp = dp.mul(q)
        state = self.state[p]
        if "mu" not in state:
          state["mu"] = torch.zeros_like(p)
        mu = state["mu"]
        mu.mul_(g["momentum"]).add_(dp)
        p.add_(mu, alpha=-g["lr"])


def projector(size, widths, batch_norm):
  layers = []
  for width in widths[:-1]:
    layers.append(nn.Linear(size, width, bias=batch_norm))
    layers += [nn.BatchNorm1d(width)] if batch_norm else []
    layers.append(nn.ReLU())
    size = width
  return nn.Sequential(*layers, nn.Linear(size, widths[-1], bias=False))


def copy_encoder(variables, twin):
  """Copies Flax SampleCNN variables into the twin, layer by layer."""
  blocks = sum(k.startswith("block") for k in variables["params"]) // 2
  names = ["stem", *(f"block{i}" for i in range(blocks)), "last"]
  convs = [m for m in twin.layers if isinstance(m, nn.Conv1d)]
  norms = [m for m in twin.layers if isinstance(m, nn.BatchNorm1d)]
  for name, conv, norm in zip(names, convs, norms, strict=True):
    p = variables["params"][name + "_conv"]
    kernel = np.asarray(p["kernel"])  # [width, in, out]
    if name == "stem":  # a matrix over windows of three samples
      kernel = kernel.transpose(1, 0, 2)
    _set(conv.weight, kernel.transpose(2, 1, 0))
    _set(conv.bias, p["bias"])
    _copy_norm(variables, name + "_bn", norm)


def copy_residual_encoder(variables, twin):
  """As `copy_encoder`, of variant "rese-2-multi" into `ResidualSampleCNN`."""
  state = {}
  for path, array in flatten_dict(variables["params"]).items():
    state[residual_name(path)] = residual_array(path, array)
  for path, array in flatten_dict(variables["batch_stats"]).items():
    state[residual_name(path)] = np.asarray(array)
  for name, tensor in twin.state_dict().items():
    if not name.endswith("num_batches_tracked"):
      _set(tensor, state.pop(name))
  assert not state, list(state)


def residual_name(path):
  """Where `ResidualSampleCNN` keeps what Flax keeps at a path."""
  *scope, layer, leaf = path
  layer, _, kind = layer.partition("_")  # "first_conv", or "squeeze"
  leaf = _NAMES.get(leaf, leaf)
  scope = [name.replace("block", "blocks.") for name in scope]
  place = {"conv": [layer, "0"], "bn": [layer, "1"], "": [layer]}[kind]
  return ".".join([*scope, *place, leaf])


def residual_array(path, array):
  """An array of Flax's in PyTorch's order of axes."""
  array = np.asarray(array)
  if path[-1] != "kernel":
    return array
  if path[0] == "stem_conv":  # a matrix over windows of three samples
    array = array.transpose(1, 0, 2)
  if path[0] == "last_conv":  # of one frame
    array = array[0]
  return array.T


def copy_projector(variables, twin):
  """Copies Flax Projector variables into the twin."""
  linears = [m for m in twin if isinstance(m, nn.Linear)]
  norms = [m for m in twin if isinstance(m, nn.BatchNorm1d)]
  for i, linear in enumerate(linears):
    p = variables["params"][f"dense{i}"]
    _set(linear.weight, np.asarray(p["kernel"]).T)
    if linear.bias is not None:
      _set(linear.bias, p["bias"])
  for i, norm in enumerate(norms):
    _copy_norm(variables, f"bn{i}", norm)


def _copy_norm(variables, name, norm):
  p, s = variables["params"][name], variables["batch_stats"][name]
  _set(norm.weight, p["scale"])
  _set(norm.bias, p["bias"])
  _set(norm.running_mean, s["mean"])
  _set(norm.running_var, s["var"])


def _set(tensor, array):
  array = torch.tensor(np.array(array))
  assert tensor.shape == array.shape, (tensor.shape, array.shape)
  with torch.no_grad():
    tensor.copy_(array)


def vicreg_loss(z1_BxD, z2_BxD, loss):
  """Loss of the VICReg release; `loss` is the config's section."""
  d = z1_BxD.shape[1]
  invariance = F.mse_loss(z1_BxD, z2_BxD)
  variance = covariance = 0.0
  for z_BxD in (z1_BxD, z2_BxD):
    z_BxD = z_BxD - z_BxD.mean(0)
    std_D = torch.sqrt(z_BxD.var(0) + loss.eps)
    variance += F.relu(loss.gamma - std_D).mean() / 2
    cov_DxD = z_BxD.T @ z_BxD / (len(z_BxD) - 1)
    off_diagonal = cov_DxD.flatten()[:-1].view(d - 1, d + 1)[:, 1:]
    covariance += off_diagonal.pow(2).sum() / d
  return (
    loss.sim_coeff * invariance
    + loss.std_coeff * variance
    + loss.cov_coeff * covariance
  )


def nt_xent_loss(z1_BxD, z2_BxD, loss):
  """Cross entropy of each of the 2B views against all others (CLMR)."""
  n = len(z1_BxD)
  u_AxD = F.normalize(torch.cat([z1_BxD, z2_BxD]), dim=1)
  logits_AxA = u_AxD @ u_AxD.T / loss.temperature
  logits_AxA = logits_AxA.masked_fill(
    torch.eye(2 * n, dtype=torch.bool, device=u_AxD.device), -torch.inf
  )
  target_A = torch.arange(2 * n, device=u_AxD.device).roll(n)
  return F.cross_entropy(logits_AxA, target_A)


def set_threads(number):
  """So many threads for PyTorch's operations."""
  torch.set_num_threads(number)


class Trainer:
  """Our train step in PyTorch, at a constant learning rate.

  Args:
    config: of a pretraining; `dtype` bfloat16 is PyTorch's autocast.
    state: our TrainState, whose weights it starts from.
    learning_rate: of every step.
    device: PyTorch's name of where it runs.
    compiled: forward pass and loss by torch.compile (and so the gradients).
    loss: of the views' embeddings; None for `vicreg_loss` or `nt_xent_loss`.
  """

  def __init__(
    self,
    config,
    state,
    learning_rate,
    *,
    device="cpu",
    compiled=False,
    loss=None,
  ):
    model = config.model
    self._device = torch.device(device)
    self._half = config.dtype == "bfloat16"
    widths, last_kernel = samplecnn.VARIANTS[model.variant]
    self._encoder = SampleCNN(
      round(samplecnn.STEM_CHANNELS * model.width),
      [round(c * model.width) for c in widths[: model.blocks]],
      model.representation_size,
      last_kernel,
    )
    self._projector = projector(
      model.representation_size, model.projector, model.projector_batch_norm
    )
    for name, copy, twin in (
      ("encoder", copy_encoder, self._encoder),
      ("projector", copy_projector, self._projector),
    ):
      variables = {"params": state.params[name]}
      copy(variables | {"batch_stats": state.batch_stats[name]}, twin)
      twin.to(self._device)
    parameters = [*self._encoder.parameters(), *self._projector.parameters()]
    keys = config.optim
    if keys.name == "adam":
      self._optimizer = torch.optim.Adam(
        parameters,
        learning_rate,
        (keys.b1, keys.b2),
        weight_decay=keys.weight_decay,
      )
    else:
      self._optimizer = VicregReleaseLars(
        parameters, learning_rate, keys.weight_decay, keys.momentum,
        keys.trust_coefficient,
      )  # fmt: skip
    plain = vicreg_loss if config.loss.name == "vicreg" else nt_xent_loss
    self._loss = loss or (lambda z1, z2: plain(z1, z2, config.loss))
    forward = self._forward
    self._objective = torch.compile(forward) if compiled else forward

  def _forward(self, x1_BxT, x2_BxT):
    with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
      z1_BxD, z2_BxD = (
        self._projector(self._encoder(x_BxT)) for x_BxT in (x1_BxT, x2_BxT)
      )
    return self._loss(z1_BxD.float(), z2_BxD.float())

  def __call__(self, views_BxVxT) -> float:
    """One step on a NumPy batch; the loss before it."""
    x1_BxT, x2_BxT = (
      torch.from_numpy(np.ascontiguousarray(views_BxVxT[:, v])).to(self._device)
      for v in (0, 1)
    )
    loss = self._objective(x1_BxT, x2_BxT)
    self._optimizer.zero_grad()
    loss.backward()
    self._optimizer.step()
    return loss.item()
