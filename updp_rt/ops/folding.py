"""What stands behind a convolution or linear layer, worked into its weights."""

from __future__ import annotations

import torch
from torch import Tensor

# Arguments of an operator that takes a BatchNorm and a scale per output channel behind its weights.
NORM_SCHEMA = (
    "Tensor? mean=None, Tensor? var=None, Tensor? gamma=None, Tensor? beta=None, Tensor? batches=None, "
    "Tensor? scale=None, float eps=0."
)
NORM = ("mean", "var", "gamma", "beta", "batches", "scale", "eps")


def fold_norm(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    batches: Tensor | None,
    scale: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor | None]:
    """``scale * (gamma * (conv(x) - mean) / sqrt(var + eps) + beta)`` as one weight and bias, computed in float64.

    Args:
        weight, bias: ``[O, ...]``, ``[O]``.
        mean, var, gamma, beta: of a BatchNorm (Ioffe & Szegedy 2015), each ``[O]``; all may be None.
        batches: how many batches the BatchNorm has seen. It changes nothing; it tells that mean and var have changed,
            which torch does without moving their version counters.
        scale: ``[O]``, or None.
    """
    factor, shift = torch.ones((), dtype=torch.float64, device=weight.device), None
    if mean is not None and var is not None:
        factor = torch.rsqrt(var.double() + eps)
        if gamma is not None:
            factor = factor * gamma.double()
        shift = -mean.double() * factor
        if beta is not None:
            shift = shift + beta.double()
    if scale is not None:
        factor, shift = factor * scale.double(), None if shift is None else shift * scale.double()
    folded = weight.double() * factor.view(-1, *(1,) * (weight.dim() - 1))
    folded_bias = None if bias is None else bias.double() * factor
    if shift is not None:
        folded_bias = shift if folded_bias is None else folded_bias + shift
    return folded.to(weight.dtype), None if folded_bias is None else folded_bias.to(weight.dtype)


def fold_scale(weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
    """``scale * layer(x)`` as one weight and bias; shapes as of `fold_norm`."""
    return fold_norm(weight, bias, None, None, None, None, None, scale, 0.0)
