"""``add_layer_norm``: a residual added, and the norm of the sum, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.checks import Shape, check_shape
from updp_rt.ops.layer_norm import FLOPS, check_norm, norm_magnitude
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import RowOperator, Shapes
from updp_rt.ops.problem import Problem


class AddLayerNorm(RowOperator):
    """Rows ``[..., 2 * C]``: first ``x + residual``, then its `layer_norm`."""

    name = "add_layer_norm"
    schema = "(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps) -> Tensor"
    inputs = ("x", "residual")
    weights = ("weight", "bias")
    examples = (
        {"x": (17, 31), "residual": (17, 31), "weight": (31,), "bias": (31,), "eps": 1e-5},
        {"x": (2, 5, 48), "residual": (2, 5, 48), "bias": (48,), "eps": 1e-6},
    )

    def plain(self, x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        total = x + residual
        return torch.cat([total, F.layer_norm(total, x.shape[-1:], weight, bias, eps)], -1)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        check_norm(shapes["x"], attributes["eps"], shapes["weight"], shapes["bias"])
        check_shape("residual", shapes["residual"], shapes["x"])

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return (*shapes["x"][:-1], 2 * shapes["x"][-1])

    def flops(self, problem: Problem) -> int:
        return (FLOPS + 1) * math.prod(problem.x)

    def sum_length(self, problem: Problem) -> int:
        return problem.x[1]

    def magnitude(self, x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        total = x.abs() + residual.abs()
        return torch.cat([total, norm_magnitude(x + residual, weight, bias, eps)], -1)


ADD_LAYER_NORM = register(AddLayerNorm())


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """``x + residual``, and the `layer_norm` of it, in one pass.

    The sum is rounded to its dtype before it is normed, as it would be in memory.

    Args:
        x, residual: ``[..., C]``; dtypes as for `linear`.
        weight, bias, eps: as for `layer_norm`.

    Returns:
        The sum and its norm, each as `x` in shape: views of one tensor, their rows ``2 * C`` values apart.

    Raises:
        ValueError: as `layer_norm`.
    """
    total, normed = call(ADD_LAYER_NORM, x, residual, weight, bias, eps).chunk(2, -1)
    return total, normed
