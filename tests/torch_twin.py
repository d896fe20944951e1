"""SampleCNN and projectors in PyTorch, written from the thesis's table 2.1
and the layers' descriptions, to compare ours with."""

import numpy as np
import torch
from torch import nn


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
