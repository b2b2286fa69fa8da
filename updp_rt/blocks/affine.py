"""Affine maps of pixels or tokens: one that stands in a whole block's place, and how it is fitted to the block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from updp_rt.blocks.norms import channels_last_rows
from updp_rt.blocks.steps import stride_of

# Shares of each channel's variance: what keeps the sums solvable, and what draws a block that adds to its input to that
# input. The latter keeps small what is learnt by heart from few images, or is large because channels go together: on
# half of small_convnext's blocks, trained on from there, 84.2% for 81.9. A hundredth is as good.
RIDGE, TO_INPUT = 1e-6, 0.1
_CHUNK = 65_536  # rows that are held in float64 at once


def affine_layer(layers: Sequence[nn.Conv2d | nn.Linear]) -> nn.Conv2d | nn.Linear:
    """A 1x1 convolution of a chain's channels and stride, or a linear layer if it has no convolution; all zeros."""
    first, last = layers[0], layers[-1]
    inside = first.in_channels if isinstance(first, nn.Conv2d) else first.in_features
    outside = last.out_channels if isinstance(last, nn.Conv2d) else last.out_features
    layer: nn.Conv2d | nn.Linear = nn.Linear(inside, outside)
    if any(isinstance(each, nn.Conv2d) for each in layers):
        layer = nn.Conv2d(inside, outside, 1, stride_of(layers))
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer.to(first.weight.device, first.weight.dtype)


def fit_affine(layer: nn.Module, x: Tensor, y: Tensor, *, adds: bool = False) -> float:
    """Give `layer` the least-squares map from `x` to `y`, by closed form; the share of `y`'s variance that it leaves.

    Args:
        layer: one of `affine_layer`; for a convolution `x` and `y` are ``[N, C, H, W]``, otherwise ``[N, T, C]``.
        adds: `y` is `x` and something added, which is fitted with the ridge `TO_INPUT`; it is its variance that counts.
    """
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        x = x[:, :, :: layer.stride[0], :: layer.stride[1]]
    if adds:
        weight, bias, left = least_squares(channels_last_rows(x), channels_last_rows(y - x), TO_INPUT)
        weight += torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    else:
        weight, bias, left = least_squares(channels_last_rows(x), channels_last_rows(y))
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(bias)
    return left


def least_squares(inputs: Tensor, outputs: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor, float]:
    """``(W, b)`` of the least ``|x Wᵀ + b - y|² + ridge |x - x̄|² W²``, over rows ``[M, C]``, in float64.

    The ridge is a share of each input channel's variance, so that it minds no channel's scale (Hoerl and Kennard 1970,
    in correlation form). Last, the share of the outputs' variance that is left.
    """
    x_mean, y_mean = inputs.mean(0, dtype=torch.float64), outputs.mean(0, dtype=torch.float64)
    gram = torch.zeros(len(x_mean), len(x_mean), dtype=torch.float64, device=inputs.device)
    cross = torch.zeros(len(x_mean), len(y_mean), dtype=torch.float64, device=inputs.device)
    total = 0.0
    for some, wanted in zip(inputs.split(_CHUNK), outputs.split(_CHUNK), strict=True):
        x, y = some.double() - x_mean, wanted.double() - y_mean
        gram += x.T @ x
        cross += x.T @ y
        total += float(y.square().sum())
    least = torch.finfo(gram.dtype).eps * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
    # The least is for channels that never change, whose weights are 0.
    solved = torch.linalg.solve(gram + torch.diag(ridge * gram.diagonal() + least), cross)
    left = total - float((2 * cross - gram @ solved).mul(solved).sum())  # |y - xS|²
    return solved.T, y_mean - x_mean @ solved, max(0.0, left / total) if total > 0 else 0.0
