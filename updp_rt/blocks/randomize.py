"""Weights that hide nothing: defaults (mean 0, variance 1, bias 0, gamma 1e-6) make many wrong merges look right."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw the norms' statistics and affine parts, all biases and layer scales at random, in place."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        tensor.copy_(low + (high - low) * drawn)

    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            uniform(module.running_mean, -0.5, 0.5)
            uniform(module.running_var, 0.5, 2.0)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                uniform(parameter, -0.5, 0.5)
            elif name == "gamma" or (name == "weight" and parameter.dim() == 1):
                uniform(parameter, 0.5, 1.5)
    return model
