"""``attention``: every head's softmax(q k^T / sqrt(D)) v, from the joint projection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from updp_rt.ops.checks import Shape, check_shape
from updp_rt.ops.library import call, register
from updp_rt.ops.operator import Operator, Shapes
from updp_rt.ops.problem import Problem


class Attention(Operator):
    """``softmax(q k^T / sqrt(D)) v`` of each head: qkv ``[N, T, 3 * heads * D]``, result ``[N, T, heads * D]``."""

    name = "attention"
    schema = "(Tensor qkv, SymInt heads) -> Tensor"
    inputs = ("qkv",)
    examples = ({"qkv": (2, 7, 45), "heads": 3}, {"qkv": (3, 17, 96), "heads": 2})

    def plain(self, qkv: Tensor, heads: int) -> Tensor:
        q, k, v = split_heads(qkv, heads)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        qkv, heads = shapes["qkv"], attributes["heads"]
        check_shape("qkv", qkv, (None, None, None))
        if heads < 1 or qkv[-1] % (3 * heads):
            raise ValueError(f"the last dimension of qkv, {qkv[-1]}, does not split into 3 x {heads} heads")

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        return (*shapes["qkv"][:-1], shapes["qkv"][-1] // 3)

    def flops(self, problem: Problem) -> int:
        return 4 * math.prod(problem.output) * problem.x[1]

    def exponentials(self, problem: Problem) -> int:
        images, tokens, _ = problem.x
        return images * int(problem["heads"]) * tokens**2

    def sum_length(self, problem: Problem) -> int:
        return problem.x[1]

    def magnitude(self, qkv: Tensor, heads: int) -> Tensor:
        # The weights of a head are positive and stay; errors of the scores grow with theirs.
        q, k, v = split_heads(qkv, heads)
        scores = 1 + torch.einsum("nhid,nhjd->nhij", q.abs(), k.abs()).amax(-1, keepdim=True) / math.sqrt(q.shape[-1])
        return (scores * F.scaled_dot_product_attention(q, k, v.abs())).transpose(1, 2).flatten(2)


ATTENTION = register(Attention())


def attention(qkv: Tensor, heads: int) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` of every head, from the joint projection of queries, keys and values.

    Args:
        qkv: ``[N, T, 3 * heads * D]``; dtypes as for `linear`.

    Returns:
        ``[N, T, heads * D]``, contiguous.

    Raises:
        ValueError: another shape, or a last dimension that does not split into 3 x heads.
    """
    return call(ATTENTION, qkv, heads)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each ``[N, heads, T, D]``, as views of timm's joint projection."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def join_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The joint projection ``[N, T, 3 * heads * D]`` of which `split_heads` gives these."""
    return torch.stack([part.transpose(1, 2) for part in (q, k, v)], 2).flatten(2)
