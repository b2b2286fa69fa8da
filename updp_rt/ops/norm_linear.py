"""``norm_linear``: a layer norm before a linear layer with bias and activation, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import finish
from updp_rt.ops.checks import Shape, check_shape
from updp_rt.ops.layer_norm import FLOPS, check_norm, norm_magnitude
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import RowOperator, Shapes, Weights
from updp_rt.ops.problem import Problem


class NormLinear(RowOperator):
    """``act(norm(x) @ weight.T + bias)``, norm being ``(x - mean) / sqrt(var + eps)`` over x's last dimension.

    The norm's own weight `gamma` and bias `beta`, where there are any, fold into those of the linear layer.
    """

    name = "norm_linear"
    schema = (
        "(Tensor x, Tensor weight, Tensor? bias, float eps, str act, Tensor? gamma=None, Tensor? beta=None) -> Tensor"
    )
    weights = ("weight", "bias")
    folds = ("gamma", "beta")
    examples = (
        {"x": (17, 31), "weight": (23, 31), "bias": (23,), "eps": 1e-5, "act": "gelu"},
        {"x": (2, 5, 48), "weight": (8, 48), "eps": 1e-6, "act": "none"},
        {"x": (13,), "weight": (3, 13), "bias": (3,), "eps": 1e-3, "act": "relu"},
    )

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, act: str) -> Tensor:
        return finish(F.linear(F.layer_norm(x, x.shape[-1:], None, None, eps), weight, bias), None, act)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        x, weight = shapes["x"], shapes["weight"]
        check_norm(x, attributes["eps"])
        check_shape("weight", weight, (None, x[-1]))
        check_shape("bias", shapes["bias"], weight[:1])

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return (*shapes["x"][:-1], shapes["weight"][0])

    def flops(self, problem: Problem) -> int:
        return 2 * problem.x[0] * math.prod(problem.shape("weight")) + FLOPS * math.prod(problem.x)

    def sum_length(self, problem: Problem) -> int:
        return problem.x[1]

    def magnitude(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, act: str) -> Tensor:
        return F.linear(norm_magnitude(x, None, None, eps), weight.abs(), None if bias is None else bias.abs())

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        (weight, bias), (gamma, beta) = weights, folds
        if beta is not None:
            shift = weight.double() @ beta.double()
            bias = (shift if bias is None else bias.double() + shift).to(weight.dtype)
        return weight if gamma is None else (weight.double() * gamma.double()).to(weight.dtype), bias


NORM_LINEAR = register(NormLinear())


def norm_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, act: str = "none") -> Tensor:
    """``act(norm(x) @ weight.T + bias)`` in one pass, norm being `layer_norm` without a weight and a bias.

    Args:
        x: ``[..., K]``; dtypes as for `linear`.
        weight: ``[N, K]``; one of the norm's own multiplies its columns.
        bias: ``[N]``.
        eps: of the norm.
        act: none, relu, relu6, gelu (erf) or silu.

    Returns:
        ``[..., N]``, contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, a negative eps, or an unknown activation.
    """
    return call(NORM_LINEAR, x, weight, bias, eps, act)
