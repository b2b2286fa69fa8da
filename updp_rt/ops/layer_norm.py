"""``layer_norm``: each row less its mean, over its standard deviation, with a weight and a bias."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.checks import Shape, check_rows, check_shape
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import RowOperator, Shapes
from updp_rt.ops.problem import Problem

# For each value: the mean's addition; a difference, its square and their sum; scaling; weight and bias.
FLOPS = 8


class LayerNorm(RowOperator):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last dimension of x ``[..., C]``; var is biased."""

    name = "layer_norm"
    schema = "(Tensor x, Tensor? weight, Tensor? bias, float eps) -> Tensor"
    weights = ("weight", "bias")
    examples = (
        {"x": (17, 31), "weight": (31,), "bias": (31,), "eps": 1e-5},
        {"x": (2, 5, 48), "weight": (48,), "eps": 1e-6},
        {"x": (13,), "eps": 1e-3},
    )

    def plain(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        check_norm(shapes["x"], attributes["eps"], shapes["weight"], shapes["bias"])

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return tuple(shapes["x"])

    def flops(self, problem: Problem) -> int:
        return FLOPS * math.prod(problem.x)

    def sum_length(self, problem: Problem) -> int:
        return problem.x[1]

    def magnitude(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        return norm_magnitude(x, weight, bias, eps)


def check_norm(x: Shape, eps: float, weight: Shape | None = None, bias: Shape | None = None) -> None:
    """Raise ValueError unless rows of the shape `x` can be normed with a weight and a bias of these shapes."""
    check_rows("x", x)
    check_shape("weight", weight, x[-1:])
    check_shape("bias", bias, x[-1:])
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, not {eps}")


def norm_magnitude(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Magnitudes of a norm's terms: the value and the mean that is taken from it, scaled, and the bias."""
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    terms = (x.abs() + mean.abs()) * torch.rsqrt(var + eps)
    if weight is not None:
        terms = terms * weight.abs()
    return terms if bias is None else terms + bias.abs()


LAYER_NORM = register(LayerNorm())


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last dimension (Ba, Kiros & Hinton 2016).

    Args:
        x: ``[..., C]``; dtypes as for `linear`. Of images ``[N, C, H, W]`` in channels_last give
            ``x.permute(0, 2, 3, 1)``, whose rows are the pixels as they lie in memory.
        weight, bias: ``[C]``.
        eps: added to the variance, which is biased, as torch's.

    Returns:
        As `x` in shape, contiguous. Mean and variance are taken in float32, in two passes.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or a negative eps.
    """
    return call(LAYER_NORM, x, weight, bias, eps)
