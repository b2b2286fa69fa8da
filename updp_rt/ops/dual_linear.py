"""``dual_linear``: two linear layers into one sum, with bias and activation in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import finish
from updp_rt.ops.checks import Shape, check_rows, check_shape
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import RowOperator, Shapes, Weights
from updp_rt.ops.problem import Problem


class DualLinear(RowOperator):
    """``act(x @ w_x.T + a @ w_a.T + bias)``: x ``[..., K]``, a ``[..., J]``, w_x ``[N, K]``, w_a ``[N, J]``.

    With ``proj`` ``[C, J]``, ``proj_bias`` and ``scale`` ``[C]`` given, w_a is ``[N, C]``, and
    ``scale * (a @ proj.T + proj_bias)`` stands for a: attention's projection before the layer that follows its skip.
    """

    name = "dual_linear"
    schema = (
        "(Tensor x, Tensor a, Tensor w_x, Tensor w_a, Tensor? bias, str act, "
        "Tensor? proj=None, Tensor? proj_bias=None, Tensor? scale=None) -> Tensor"
    )
    inputs = ("x", "a")
    weights = ("w_x", "w_a", "bias")
    folds = ("proj", "proj_bias", "scale")
    examples = (
        {"x": (17, 31), "a": (17, 53), "w_x": (23, 31), "w_a": (23, 53), "bias": (23,), "act": "gelu"},
        {"x": (2, 5, 7), "a": (2, 5, 3), "w_x": (11, 7), "w_a": (11, 3), "act": "none"},
    )

    def plain(self, x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None, act: str) -> Tensor:
        return finish(F.linear(x, w_x, bias) + F.linear(a, w_a), None, act)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        x, a, w_x = shapes["x"], shapes["a"], shapes["w_x"]
        check_rows("x", x)
        check_rows("a", a)
        check_shape("a", a, (*x[:-1], None))
        check_shape("w_x", w_x, (None, x[-1]))
        check_shape("w_a", shapes["w_a"], (w_x[0], a[-1]))
        check_shape("bias", shapes["bias"], w_x[:1])

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return (*shapes["x"][:-1], shapes["w_x"][0])

    def flops(self, problem: Problem) -> int:
        return 2 * problem.x[0] * sum(math.prod(problem.shape(name)) for name in ("w_x", "w_a"))

    def sum_length(self, problem: Problem) -> int:
        return problem.shape("w_x")[1] + problem.shape("w_a")[1]

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        (w_x, w_a, bias), (proj, proj_bias, scale) = weights, folds
        outer = w_a.double()
        if scale is not None:
            outer = outer * scale.double()
        folded = outer if proj is None else outer @ proj.double()
        if proj_bias is not None:
            shift = outer @ proj_bias.double()
            bias = (shift if bias is None else bias.double() + shift).to(w_x.dtype)
        return w_x, folded.to(w_x.dtype), bias


DUAL_LINEAR = register(DualLinear())


def dual_linear(
    x: Tensor, a: Tensor, w_x: Tensor, w_a: Tensor, bias: Tensor | None = None, act: str = "none"
) -> Tensor:
    """``act(x @ w_x.T + a @ w_a.T + bias)`` in one pass: two linear layers into one sum.

    Args:
        x, a: ``[..., K]`` and ``[..., J]``; dtypes as for `linear`.
        w_x, w_a: ``[N, K]`` and ``[N, J]``.
        bias: ``[N]``.
        act: none, relu, relu6, gelu (erf) or silu.

    Returns:
        ``[..., N]``, contiguous.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    return call(DUAL_LINEAR, x, a, w_x, w_a, bias, act)
