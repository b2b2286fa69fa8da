"""``depthwise_pointwise``: a depthwise convolution, then a 1x1 one, bias, residual and activation in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import finish
from updp_rt.ops.checks import Pair, Shape, check_shape, check_window, conv_shape
from updp_rt.ops.conv2d import CONV2D
from updp_rt.ops.depthwise_conv2d import DEPTHWISE_CONV2D
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import ImageOperator, Shapes
from updp_rt.ops.parts import Part
from updp_rt.ops.problem import Problem


class DepthwisePointwise(ImageOperator):
    """``act(pw(dw(x) + b_dw) + b_pw + residual)``: w_dw ``[C, 1, kh, kw]``, w_pw ``[O, C, 1, 1]``."""

    name = "depthwise_pointwise"
    schema = (
        "(Tensor x, Tensor w_dw, Tensor? b_dw, Tensor w_pw, Tensor? b_pw, Tensor? residual, str act, "
        "SymInt[2] stride, SymInt[2] padding) -> Tensor"
    )
    inputs = ("x", "residual")
    weights = ("w_dw", "b_dw", "w_pw", "b_pw")
    examples = (
        {"x": (2, 19, 7, 9), "w_dw": (19, 1, 3, 3), "b_dw": (19,), "w_pw": (23, 19, 1, 1), "b_pw": (23,)}
        | {"residual": (2, 23, 7, 9), "act": "relu6", "stride": (1, 1), "padding": (1, 1)},
        {"x": (2, 11, 9, 7), "w_dw": (11, 1, 3, 5), "w_pw": (8, 11, 1, 1)}
        | {"act": "none", "stride": (2, 1), "padding": (1, 2)},
    )

    def plain(
        self,
        x: Tensor,
        w_dw: Tensor,
        b_dw: Tensor | None,
        w_pw: Tensor,
        b_pw: Tensor | None,
        residual: Tensor | None,
        act: str,
        stride: Pair,
        padding: Pair,
    ) -> Tensor:
        y = F.conv2d(x, w_dw, b_dw, stride, padding, 1, w_dw.shape[0])
        return finish(F.conv2d(y, w_pw, b_pw), residual, act)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        x, w_dw, w_pw = shapes["x"], shapes["w_dw"], shapes["w_pw"]
        check_shape("x", x, (None, None, None, None))
        check_shape("w_dw", w_dw, (x[1], 1, None, None))
        check_window(x, "w_dw", w_dw, attributes["stride"], attributes["padding"])
        check_shape("b_dw", shapes["b_dw"], x[1:2])
        check_shape("w_pw", w_pw, (None, x[1], 1, 1))
        check_shape("b_pw", shapes["b_pw"], w_pw[:1])
        check_shape("residual", shapes["residual"], self.output_shape(shapes, attributes))

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        kernel = (shapes["w_pw"][0], *shapes["w_dw"][1:])
        return conv_shape(shapes["x"], kernel, attributes["stride"], attributes["padding"])

    def flops(self, problem: Problem) -> int:
        batch, _, height, width = problem.output
        return 2 * batch * height * width * sum(math.prod(problem.shape(name)) for name in ("w_dw", "w_pw"))

    def sum_length(self, problem: Problem) -> int:
        return sum(math.prod(problem.shape(name)[1:]) for name in ("w_dw", "w_pw"))

    def parts(self, problem: Problem) -> tuple[Part, ...]:
        act, stride, padding = problem.attributes
        return (
            Part(DEPTHWISE_CONV2D, ("w_dw", "b_dw"), ("none", stride, padding)),
            Part(CONV2D, ("w_pw", "b_pw"), (act, (1, 1), (0, 0), 1)),
        )


DEPTHWISE_POINTWISE = register(DepthwisePointwise())


def depthwise_pointwise(
    x: Tensor,
    w_dw: Tensor,
    b_dw: Tensor | None,
    w_pw: Tensor,
    b_pw: Tensor | None,
    residual: Tensor | None = None,
    act: str = "none",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
) -> Tensor:
    """A depthwise convolution, then a 1x1 one: ``act(pw(dw(x) + b_dw) + b_pw + residual)`` in one pass.

    Args:
        x: ``[N, C, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.
        w_dw, b_dw: ``[C, 1, kh, kw]``, ``[C]``.
        w_pw, b_pw: ``[O, C, 1, 1]``, ``[O]``.
        residual: ``[N, O, H', W']``.
        act: none, relu, relu6, gelu (erf) or silu.
        stride, padding: of the depthwise convolution, as for `conv2d`.

    Returns:
        ``[N, O, H', W']`` in channels_last.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    return call(DEPTHWISE_POINTWISE, x, w_dw, b_dw, w_pw, b_pw, residual, act, stride, padding)
