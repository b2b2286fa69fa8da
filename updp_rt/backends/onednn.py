"""CPU: oneDNN's fused primitives, with weights in the layout oneDNN likes, packed once.

The primitives are those torch's own compiler uses (``torch.ops.mkldnn``). They cover bias, and either an activation or
a residual, with ReLU after the residual in a convolution; other activations after a residual follow in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from updp_rt.backends.base import IN_PLACE, Backend, Prepared
from updp_rt.ops import (
    ATTENTION,
    CONV2D,
    DEPTHWISE_CONV2D,
    DEPTHWISE_POINTWISE,
    DUAL_LINEAR,
    LINEAR,
    NORM_LINEAR,
    Operator,
    Problem,
    Weights,
)
from updp_rt.ops.attention import split_heads
from updp_rt.ops.checks import Pair
from updp_rt.ops.problem import contiguous_biases

_UNARY: dict[str, tuple[str, list[float], str]] = {
    "none": ("none", [], ""),
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
    "gelu": ("gelu", [], "none"),
    "silu": ("swish", [], ""),
}


class OneDnnBackend(Backend):
    """Fused convolutions and linear layers of oneDNN in float32 and bfloat16."""

    name = "onednn"
    sources = ("ops/*.py", "backends/base.py", "backends/onednn.py")

    def supports(self, problem: Problem) -> tuple[bool, str]:
        bfloat16 = problem.dtype == torch.bfloat16
        for refused, reason in (
            (problem.operator not in _PREPARE, f"{problem.operator.name} has no fused primitive"),
            (problem.device != "cpu", "oneDNN runs on the CPU"),
            (not torch.backends.mkldnn.is_available(), "this torch was built without oneDNN"),
            (not bfloat16 and problem.dtype != torch.float32, f"{problem.dtype} has no fused primitives"),
            (not math.prod(problem.x), "oneDNN takes no empty tensors"),
        ):
            if refused:
                return False, reason
        if bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False, "this CPU has no bfloat16 instructions"
        return True, ""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        configs = tuple(_PREPARE[problem.operator])
        return configs[:1] if problem.operator is CONV2D and not _is_pointwise(problem) else configs

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        # The primitives read a bias by its address alone.
        return _PREPARE[problem.operator][config](problem, contiguous_biases(weights))


def _is_pointwise(problem: Problem) -> bool:
    _, stride, padding, groups = problem.attributes
    return problem.shape("weight")[2:] == stride == (1, 1) and padding == (0, 0) and groups == 1


def _conv2d(
    shape: tuple[int, ...],
    weights: Weights,
    act: str,
    residual: bool,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    groups: int = 1,
) -> Prepared:
    weight, bias = weights
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    packed = reorder(weight.to_mkldnn(), padding, stride, [1, 1], groups, list(shape))
    unary, scalars, algorithm = _UNARY[act]
    plain = torch.ops.mkldnn._convolution_pointwise.default
    binary = torch.ops.mkldnn._convolution_pointwise.binary
    channels_last = torch.channels_last
    tail = (padding, stride, [1, 1], groups)

    def with_activation(x: Tensor, other: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=channels_last)
        return plain(x, packed, bias, *tail, unary, scalars, algorithm)

    fused = act if act == "relu" and groups == 1 else None  # grouped ones lack it in bfloat16
    finish = IN_PLACE["none" if fused else act]

    def with_residual(x: Tensor, other: Tensor | None) -> Tensor:
        assert other is not None
        x = x.contiguous(memory_format=channels_last)
        other = other.contiguous(memory_format=channels_last)
        if other.is_contiguous():  # in both layouts at once, one pixel or channel, which torch 2.10 cannot add
            return IN_PLACE[act](plain(x, packed, bias, *tail, "none", [], "").add_(other))
        return finish(binary(x, other, packed, bias, *tail, "add", None, fused, [], None))

    return with_residual if residual else with_activation


def _linear(rows: int, weights: Weights, act: str, residual: bool) -> Prepared:
    weight, bias = weights
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    unary, scalars, algorithm = _UNARY[act]
    plain = torch.ops.mkldnn._linear_pointwise.default
    binary = torch.ops.mkldnn._linear_pointwise.binary
    finish = IN_PLACE[act]

    def with_activation(x: Tensor, other: Tensor | None) -> Tensor:
        return plain(x.contiguous(), packed, bias, unary, scalars, algorithm)

    def with_residual(x: Tensor, other: Tensor | None) -> Tensor:
        assert other is not None
        return finish(binary(x.contiguous(), other.contiguous(), packed, bias, "add"))

    return with_residual if residual else with_activation


def _pointwise_as_linear(shape: tuple[int, ...], weights: Weights, act: str, residual: bool) -> Prepared:
    weight, bias = weights
    run = _linear(math.prod(shape) // shape[1], (weight[:, :, 0, 0], bias), act, residual)

    def call(x: Tensor, other: Tensor | None) -> Tensor:
        rows_of_other = None if other is None else other.permute(0, 2, 3, 1)
        return run(x.permute(0, 2, 3, 1), rows_of_other).permute(0, 3, 1, 2)

    return call


def _depthwise_pointwise(problem: Problem, weights: Weights, pointwise_as_linear: bool) -> Prepared:
    w_dw, b_dw, w_pw, b_pw = weights
    act, stride, padding = problem.attributes
    depthwise = _conv2d(problem.x, (w_dw, b_dw), "none", False, stride, padding, problem.x[1])
    between = (problem.x[0], problem.x[1], *problem.output[2:])
    make = _pointwise_as_linear if pointwise_as_linear else _conv2d
    pointwise = make(between, (w_pw, b_pw), act, problem.residual)
    return lambda x, other: pointwise(depthwise(x, None), other)


def _concatenated(problem: Problem, weights: Weights) -> Prepared:
    w_x, w_a, bias = weights
    whole = _linear(problem.x[0], (torch.cat([w_x, w_a], 1), bias), problem.act, residual=False)
    return lambda x, a: whole(torch.cat([x, a], -1), None)


def _two(problem: Problem, weights: Weights) -> Prepared:
    w_x, w_a, bias = weights
    first = _linear(problem.x[0], (w_x, bias), "none", residual=False)
    second = _linear(problem.x[0], (w_a, None), problem.act, residual=True)
    return lambda x, a: second(a, first(x, None))


def _norm_linear(problem: Problem, weights: Weights) -> Prepared:
    linear, eps = _linear(problem.x[0], weights, problem.act, residual=False), problem["eps"]
    return lambda x: linear(F.layer_norm(x, x.shape[-1:], None, None, eps), None)


def _attention(problem: Problem, weights: Weights) -> Prepared:
    heads = problem["heads"]

    # In bfloat16 two batched products and a softmax are about twice as fast as torch's flash attention for the CPU.
    def call(qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, heads)
        batch, _, tokens, dim = q.shape
        rows = (batch * heads, tokens, dim)
        empty = q.new_empty(1).expand(batch * heads, tokens, tokens)  # not read, since beta is 0
        scores = torch.baddbmm(empty, q.reshape(rows), k.reshape(rows).transpose(1, 2), beta=0, alpha=dim**-0.5)
        y = torch.bmm(torch.softmax(scores, -1), v.reshape(rows))
        return y.view(batch, heads, tokens, dim).transpose(1, 2).flatten(2)

    return call


# The first of a convolution's runs any, the second 1x1 ones.
_PREPARE: dict[Operator, dict[str, Callable[[Problem, Weights], Prepared]]] = {
    LINEAR: {"matmul": lambda p, weights: _linear(p.x[0], weights, p.act, p.residual)},
    CONV2D: {
        "convolution": lambda p, weights: _conv2d(p.x, weights, p.act, p.residual, *p.attributes[1:]),
        "matmul": lambda p, weights: _pointwise_as_linear(p.x, weights, p.act, p.residual),
    },
    DEPTHWISE_CONV2D: {
        "convolution": lambda p, weights: _conv2d(p.x, weights, p.act, p.residual, p["stride"], p["padding"], p.x[1]),
    },
    DEPTHWISE_POINTWISE: {
        "convolution": lambda p, weights: _depthwise_pointwise(p, weights, False),
        "matmul": lambda p, weights: _depthwise_pointwise(p, weights, True),
    },
    DUAL_LINEAR: {"concatenated": _concatenated, "two": _two},
    ATTENTION: {"matmul": _attention},
    NORM_LINEAR: {"matmul": _norm_linear},
}
