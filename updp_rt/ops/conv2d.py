"""``conv2d``: a convolution with bias, residual and activation in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import finish
from updp_rt.ops.checks import Pair, Shape, check_shape, check_window, conv_shape
from updp_rt.ops.folding import NORM, NORM_SCHEMA, fold_norm
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import ImageOperator, Shapes, Weights
from updp_rt.ops.problem import Problem


class Convolution(ImageOperator):
    """What convolutions have in common, whatever their groups: shapes, costs, and a norm that folds."""

    inputs = ("x", "residual")
    weights = ("weight", "bias")
    folds = NORM

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return conv_shape(shapes["x"], shapes["weight"], attributes["stride"], attributes["padding"])

    def check_window(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        """Raise ValueError unless the kernel fits the image, and bias and residual the result."""
        check_window(shapes["x"], "weight", shapes["weight"], attributes["stride"], attributes["padding"])
        check_shape("bias", shapes["bias"], shapes["weight"][:1])
        check_shape("residual", shapes["residual"], self.output_shape(shapes, attributes))

    def flops(self, problem: Problem) -> int:
        batch, _, height, width = problem.output
        return 2 * batch * height * width * math.prod(problem.shape("weight"))

    def sum_length(self, problem: Problem) -> int:
        return math.prod(problem.shape("weight")[1:])

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        return fold_norm(*weights, *folds)


class Conv2d(Convolution):
    """``act(conv2d(x, weight) + bias + residual)``: x ``[N, I, H, W]``, weight ``[O, I / groups, kh, kw]``."""

    name = "conv2d"
    schema = (
        "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str act, SymInt[2] stride, SymInt[2] padding, "
        f"SymInt groups, {NORM_SCHEMA}) -> Tensor"
    )
    examples = (
        {"x": (2, 5, 7, 11), "weight": (13, 5, 3, 3), "bias": (13,)}
        | {"residual": (2, 13, 7, 11), "act": "relu", "stride": (1, 1), "padding": (1, 1), "groups": 1},
        {"x": (2, 6, 9, 8), "weight": (9, 2, 3, 2), "act": "silu", "stride": (2, 3), "padding": (1, 0), "groups": 3},
        {"x": (3, 13, 1, 1), "weight": (5, 13, 1, 1), "bias": (5,)}
        | {"act": "none", "stride": (1, 1), "padding": (0, 0), "groups": 1},
    )

    def plain(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        act: str,
        stride: Pair,
        padding: Pair,
        groups: int,
    ) -> Tensor:
        return finish(F.conv2d(x, weight, bias, stride, padding, 1, groups), residual, act)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        weight, groups = shapes["weight"], attributes["groups"]
        check_shape("weight", weight, (None, None, None, None))
        check_shape("x", shapes["x"], (None, weight[1] * groups, None, None))
        if groups < 1 or weight[0] % groups:
            raise ValueError(f"weight has {weight[0]} output channels, which do not split into {groups} groups")
        self.check_window(shapes, attributes)


CONV2D = register(Conv2d())


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "none",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    groups: int = 1,
) -> Tensor:
    """``act(conv2d(x, weight, stride, padding, groups) + bias + residual)`` in one pass.

    Args:
        x: ``[N, I, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.
        weight: ``[O, I / groups, kh, kw]``.
        bias: ``[O]``.
        residual: ``[N, O, H', W']``.
        act: none, relu, relu6, gelu (erf) or silu.
        stride, padding: vertical and horizontal, in pixels; padding is with zeros, alike on both sides.

    Returns:
        ``[N, O, H', W']`` in channels_last.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    return call(CONV2D, x, weight, bias, residual, act, stride, padding, groups)
