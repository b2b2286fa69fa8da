"""``average_pool``: the mean of each channel over a whole image, which a classifier takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.checks import Shape, check_shape
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import ImageOperator, Shapes
from updp_rt.ops.problem import Problem


class AveragePool(ImageOperator):
    """``x.mean((2, 3))``: x ``[N, C, H, W]``, result ``[N, C]``."""

    name = "average_pool"
    schema = "(Tensor x) -> Tensor"
    memory_format = torch.contiguous_format
    examples = ({"x": (2, 13, 7, 9)}, {"x": (3, 8, 1, 1)})

    def plain(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        check_shape("x", shapes["x"], (None, None, None, None))
        if not math.prod(shapes["x"][1:]):
            raise ValueError(f"x has shape {list(shapes['x'])}, which has no values to take the mean of")

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return tuple(shapes["x"][:2])

    def flops(self, problem: Problem) -> int:
        return math.prod(problem.x)

    def sum_length(self, problem: Problem) -> int:
        return math.prod(problem.x[2:])


AVERAGE_POOL = register(AveragePool())


def average_pool(x: Tensor) -> Tensor:
    """The mean of each channel over all pixels, summed in float32.

    Args:
        x: ``[N, C, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.

    Returns:
        ``[N, C]``, contiguous.

    Raises:
        ValueError: another shape, or images without pixels.
    """
    return call(AVERAGE_POOL, x)
