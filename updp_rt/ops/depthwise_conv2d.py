"""``depthwise_conv2d``: each channel convolved with a kernel of its own, bias, residual and activation in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import finish
from updp_rt.ops.checks import Pair, check_shape
from updp_rt.ops.conv2d import Convolution
from updp_rt.ops.folding import NORM_SCHEMA
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import Shapes


class DepthwiseConv2d(Convolution):
    """``act(conv2d(x, weight, groups=C) + bias + residual)``: x ``[N, C, H, W]``, weight ``[C, 1, kh, kw]``."""

    name = "depthwise_conv2d"
    schema = (
        "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str act, SymInt[2] stride, SymInt[2] padding, "
        f"{NORM_SCHEMA}) -> Tensor"
    )
    examples = (
        {"x": (2, 13, 7, 11), "weight": (13, 1, 3, 3), "bias": (13,)}
        | {"residual": (2, 13, 7, 11), "act": "relu6", "stride": (1, 1), "padding": (1, 1)},
        {"x": (2, 6, 9, 8), "weight": (6, 1, 5, 2), "act": "silu", "stride": (2, 3), "padding": (1, 0)},
        {"x": (1, 9, 15, 9), "weight": (9, 1, 7, 7), "bias": (9,), "act": "none", "stride": (1, 1), "padding": (3, 3)},
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
    ) -> Tensor:
        return finish(F.conv2d(x, weight, bias, stride, padding, 1, weight.shape[0]), residual, act)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        check_shape("x", shapes["x"], (None, None, None, None))
        check_shape("weight", shapes["weight"], (shapes["x"][1], 1, None, None))
        self.check_window(shapes, attributes)


DEPTHWISE_CONV2D = register(DepthwiseConv2d())


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "none",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
) -> Tensor:
    """``act(conv2d(x, weight, stride, padding, groups=C) + bias + residual)`` in one pass.

    Args:
        x: ``[N, C, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.
        weight: ``[C, 1, kh, kw]``.
        bias: ``[C]``.
        residual: ``[N, C, H', W']``.
        act: none, relu, relu6, gelu (erf) or silu.
        stride, padding: vertical and horizontal, in pixels; padding is with zeros, alike on both sides.

    Returns:
        ``[N, C, H', W']`` in channels_last.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    return call(DEPTHWISE_CONV2D, x, weight, bias, residual, act, stride, padding)
