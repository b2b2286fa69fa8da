"""``prepend_tokens``: a ViT's class token before its patches, and the embedding of every position added."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from updp_rt.ops.checks import Shape, check_shape
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import Operator, Shapes
from updp_rt.ops.problem import Problem


class PrependTokens(Operator):
    """``cat([prefix, x], 1) + position``: x ``[N, T, C]``, prefix ``[1, P, C]``, position ``[1, P + T, C]``."""

    name = "prepend_tokens"
    schema = "(Tensor x, Tensor prefix, Tensor position) -> Tensor"
    weights = ("prefix", "position")
    examples = (
        {"x": (2, 7, 45), "prefix": (1, 1, 45), "position": (1, 8, 45)},
        {"x": (3, 17, 32), "prefix": (1, 2, 32), "position": (1, 19, 32)},
    )

    def plain(self, x: Tensor, prefix: Tensor, position: Tensor) -> Tensor:
        return torch.cat([prefix.expand(x.shape[0], -1, -1), x], 1) + position

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        check_shape("x", shapes["x"], (None, None, None))
        _, tokens, channels = shapes["x"]
        check_shape("prefix", shapes["prefix"], (1, None, channels))
        check_shape("position", shapes["position"], (1, shapes["prefix"][1] + tokens, channels))

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        batch, _, channels = shapes["x"]
        return (batch, shapes["position"][1], channels)

    def flops(self, problem: Problem) -> int:
        return math.prod(problem.output)

    def sum_length(self, problem: Problem) -> int:
        return 1


PREPEND_TOKENS = register(PrependTokens())


def prepend_tokens(x: Tensor, prefix: Tensor, position: Tensor) -> Tensor:
    """``cat([prefix, x], 1) + position``: tokens behind others that are the same in each image, all with positions.

    Args:
        x: tokens ``[N, T, C]``; dtypes as for `linear`.
        prefix: ``[1, P, C]``, such as the class token.
        position: ``[1, P + T, C]``.

    Returns:
        ``[N, P + T, C]``, contiguous.

    Raises:
        ValueError: other shapes or dtypes.
    """
    return call(PREPEND_TOKENS, x, prefix, position)
