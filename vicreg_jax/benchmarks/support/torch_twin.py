"""The study in PyTorch, to compare ours with: its numbers and its speed.

Written from the thesis's table 2.1, the layers' descriptions, and the releases
of VICReg and CLMR. Needs PyTorch; nothing that trains imports it.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vicreg_jax.model import samplecnn


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
