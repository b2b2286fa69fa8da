"""``max_pool``: the largest value under a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.checks import Pair, Shape, check_shape, conv_shape
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import ImageOperator, Shapes
from updp_rt.ops.problem import Problem


class MaxPool(ImageOperator):
    """``max_pool2d(x, kernel, stride, padding)``: x ``[N, C, H, W]``; NaN is larger than any number."""

    name = "max_pool"
    schema = "(Tensor x, SymInt[2] kernel, SymInt[2] stride, SymInt[2] padding) -> Tensor"
    examples = (
        {"x": (2, 13, 9, 8), "kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)},
        {"x": (1, 8, 7, 11), "kernel": (2, 5), "stride": (1, 3), "padding": (0, 2)},
    )

    def plain(self, x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        return F.max_pool2d(x, kernel, stride, padding)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        kernel, stride, padding = (attributes[name] for name in ("kernel", "stride", "padding"))
        check_shape("x", shapes["x"], (None, None, None, None))
        if min(kernel) < 1 or min(stride) < 1:
            raise ValueError(f"kernel and stride must be at least 1, not {tuple(kernel)} and {tuple(stride)}")
        if min(padding) < 0 or any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
            raise ValueError(f"padding must be from 0 to half of the kernel {tuple(kernel)}, not {tuple(padding)}")
        if min(self.output_shape(shapes, attributes)[2:]) < 1:
            image = list(shapes["x"][2:])
            raise ValueError(f"a window of {tuple(kernel)} does not fit an image of {image} padded by {tuple(padding)}")

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        kernel = (shapes["x"][1], 1, *attributes["kernel"])
        return conv_shape(shapes["x"], kernel, attributes["stride"], attributes["padding"])

    def flops(self, problem: Problem) -> int:
        return 0  # nothing is multiplied or added

    def sum_length(self, problem: Problem) -> int:
        return 1


MAX_POOL = register(MaxPool())


def max_pool(x: Tensor, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Tensor:
    """The largest value of each channel under a window that moves over the image; NaN where one is under it.

    Args:
        x: ``[N, C, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.
        kernel, stride, padding: vertical and horizontal, in pixels; what is padded is never the largest.

    Returns:
        ``[N, C, H', W']`` in channels_last.

    Raises:
        ValueError: another shape, a window that does not fit, or more padding than half of it.
    """
    return call(MAX_POOL, x, kernel, stride, padding)
