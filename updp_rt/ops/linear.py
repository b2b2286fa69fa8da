"""``linear``: a linear layer with bias, residual and activation in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import finish
from updp_rt.ops.checks import Shape, check_rows, check_shape
from updp_rt.ops.folding import NORM, NORM_SCHEMA, fold_norm
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import RowOperator, Shapes, Weights
from updp_rt.ops.problem import Problem


class Linear(RowOperator):
    """``act(x @ weight.T + bias + residual)``: x ``[..., K]``, weight ``[N, K]``, residual and result ``[..., N]``."""

    name = "linear"
    schema = f"(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str act, {NORM_SCHEMA}) -> Tensor"
    inputs = ("x", "residual")
    weights = ("weight", "bias")
    folds = NORM
    examples = (
        {"x": (17, 31), "weight": (23, 31), "bias": (23,), "residual": (17, 23), "act": "gelu"},
        {"x": (2, 5, 13), "weight": (1, 13), "bias": (1,), "act": "none"},
        {"x": (11,), "weight": (3, 11), "act": "relu"},
    )

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, act: str) -> Tensor:
        return finish(F.linear(x, weight, bias), residual, act)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        x, weight = shapes["x"], shapes["weight"]
        check_rows("x", x)
        check_shape("weight", weight, (None, x[-1]))
        check_shape("bias", shapes["bias"], weight[:1])
        check_shape("residual", shapes["residual"], self.output_shape(shapes, attributes))

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return (*shapes["x"][:-1], shapes["weight"][0])

    def flops(self, problem: Problem) -> int:
        return 2 * problem.x[0] * math.prod(problem.shape("weight"))

    def sum_length(self, problem: Problem) -> int:
        return problem.x[1]

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        return fold_norm(*weights, *folds)


LINEAR = register(Linear())


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, act: str = "none"
) -> Tensor:
    """``act(x @ weight.T + bias + residual)`` in one pass.

    Args:
        x: ``[..., K]``; float32, float16 or bfloat16, as all the others; sums are in float32.
        weight: ``[N, K]``.
        bias: ``[N]``.
        residual: ``[..., N]``.
        act: none, relu, relu6, gelu (erf) or silu.

    Returns:
        ``[..., N]``, contiguous. There is no gradient: `InferenceOnlyError` in backward.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    return call(LINEAR, x, weight, bias, residual, act)
