"""``conv2d_max_pool``: a stem's convolution with bias and activation, and the max pooling behind it, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.activations import finish
from updp_rt.ops.checks import Pair, Shape, conv_shape
from updp_rt.ops.conv2d import CONV2D
from updp_rt.ops.folding import NORM, NORM_SCHEMA, fold_norm
from updp_rt.ops.library import call, register
from updp_rt.ops.max_pool import MAX_POOL
from updp_rt.ops.operator import ImageOperator, Shapes, Weights
from updp_rt.ops.parts import Part
from updp_rt.ops.problem import Problem


class Conv2dMaxPool(ImageOperator):
    """``max_pool2d(act(conv2d(x, weight) + bias))``: x ``[N, I, H, W]``, weight ``[O, I, kh, kw]``."""

    name = "conv2d_max_pool"
    schema = (
        "(Tensor x, Tensor weight, Tensor? bias, str act, SymInt[2] stride, SymInt[2] padding, SymInt[2] window, "
        f"SymInt[2] pool_stride, SymInt[2] pool_padding, {NORM_SCHEMA}) -> Tensor"
    )
    weights = ("weight", "bias")
    folds = NORM
    examples = (
        {
            "x": (2, 3, 24, 16),
            "weight": (16, 3, 7, 7),
            "bias": (16,),
            "act": "relu",
            "stride": (2, 2),
            "padding": (3, 3),
        }
        | {"window": (3, 3), "pool_stride": (2, 2), "pool_padding": (1, 1)},
        {"x": (1, 5, 9, 11), "weight": (7, 5, 3, 2), "act": "silu", "stride": (1, 2), "padding": (1, 0)}
        | {"window": (2, 3), "pool_stride": (1, 2), "pool_padding": (0, 1)},
    )

    def plain(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        act: str,
        stride: Pair,
        padding: Pair,
        window: Pair,
        pool_stride: Pair,
        pool_padding: Pair,
    ) -> Tensor:
        y = finish(F.conv2d(x, weight, bias, stride, padding), None, act)
        return F.max_pool2d(y, window, pool_stride, pool_padding)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        CONV2D.check_shapes({**shapes, "residual": None}, {**attributes, "groups": 1})
        MAX_POOL.check_shapes({"x": CONV2D.output_shape(shapes, attributes)}, _of_pool(attributes))

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return MAX_POOL.output_shape({"x": CONV2D.output_shape(shapes, attributes)}, _of_pool(attributes))

    def flops(self, problem: Problem) -> int:
        batch, _, height, width = conv_shape(problem.x, problem.shape("weight"), problem["stride"], problem["padding"])
        return 2 * batch * height * width * math.prod(problem.shape("weight"))

    def sum_length(self, problem: Problem) -> int:
        return math.prod(problem.shape("weight")[1:])

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        return fold_norm(*weights, *folds)

    def parts(self, problem: Problem) -> tuple[Part, ...]:
        act, stride, padding, *pool = problem.attributes
        return Part(CONV2D, ("weight", "bias"), (act, stride, padding, 1)), Part(MAX_POOL, (), tuple(pool))


def _of_pool(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `max_pool`."""
    return {
        name: attributes[own]
        for name, own in (("kernel", "window"), ("stride", "pool_stride"), ("padding", "pool_padding"))
    }


CONV2D_MAX_POOL = register(Conv2dMaxPool())


def conv2d_max_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    act: str = "relu",
    stride: Pair = (2, 2),
    padding: Pair = (3, 3),
    window: Pair = (3, 3),
    pool_stride: Pair = (2, 2),
    pool_padding: Pair = (1, 1),
) -> Tensor:
    """A ResNet's stem in one pass: ``max_pool2d(act(conv2d(x, weight, stride, padding) + bias))``.

    Args:
        x: ``[N, I, H, W]`` in any memory format, best in channels_last; dtypes as for `linear`.
        weight: ``[O, I, kh, kw]``.
        bias: ``[O]``.
        act: none, relu, relu6, gelu (erf) or silu.
        stride, padding: of the convolution, vertical and horizontal, in pixels; padding is with zeros.
        window, pool_stride, pool_padding: of the pool, as those of `max_pool`.

    Returns:
        ``[N, O, H', W']`` in channels_last.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown activation.
    """
    return call(CONV2D_MAX_POOL, x, weight, bias, act, stride, padding, window, pool_stride, pool_padding)
