"""CPU: oneDNN's fused primitives, with weights in the layout oneDNN likes, packed once.

The primitives are those torch's own compiler uses (``torch.ops.mkldnn``). They cover bias, and either an activation or
a residual, with ReLU after the residual in a convolution; other activations after a residual follow in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from updp_rt.backends.base import IN_PLACE, Backend, Kernel
from updp_rt.backends.problem import Geometry, Problem, Weights, contiguous_biases
from updp_rt.ops.reference import split_heads

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

    def supports(self, problem: Problem) -> tuple[bool, str]:
        if problem.device != "cpu":
            return False, "oneDNN runs on the CPU"
        if not torch.backends.mkldnn.is_available():
            return False, "this torch was built without oneDNN"
        if problem.dtype == torch.bfloat16:
            if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                return False, "this CPU has no bfloat16 instructions"
        elif problem.dtype != torch.float32:
            return False, f"{problem.dtype} has no fused primitives"
        if not math.prod(problem.x):
            return False, "oneDNN takes no empty tensors"
        return True, ""

    def configs(self, problem: Problem) -> tuple[str, ...]:
        if problem.operator == "depthwise_pointwise" or (problem.operator == "conv2d" and _is_pointwise(problem)):
            return "convolution", "matmul"  # how the 1x1 convolution is done
        if problem.operator == "dual_linear":
            return "concatenated", "two"
        if problem.operator == "attention":
            return ("matmul",)
        return ("matmul",) if problem.operator == "linear" else ("convolution",)

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Kernel:
        # The primitives read a bias by its address alone.
        return _PREPARE[problem.operator, config](problem, contiguous_biases(weights))


def _is_pointwise(problem: Problem) -> bool:
    return problem.shape("weight")[2:] == (1, 1) and problem.geometry == Geometry()


def _conv2d(shape: tuple[int, ...], weights: Weights, act: str, residual: bool, geometry: Geometry) -> Kernel:
    weight, bias = weights
    stride, padding, groups = list(geometry.stride), list(geometry.padding), geometry.groups
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
        return finish(binary(x, other, packed, bias, *tail, "add", None, fused, [], None))

    return with_residual if residual else with_activation


def _linear(rows: int, weights: Weights, act: str, residual: bool) -> Kernel:
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


def _pointwise_as_linear(shape: tuple[int, ...], weights: Weights, act: str, residual: bool) -> Kernel:
    weight, bias = weights
    run = _linear(math.prod(shape) // shape[1], (weight[:, :, 0, 0], bias), act, residual)

    def kernel(x: Tensor, other: Tensor | None) -> Tensor:
        rows_of_other = None if other is None else other.permute(0, 2, 3, 1)
        return run(x.permute(0, 2, 3, 1), rows_of_other).permute(0, 3, 1, 2)

    return kernel


def _depthwise_pointwise(problem: Problem, weights: Weights, config: str) -> Kernel:
    w_dw, b_dw, w_pw, b_pw = weights
    g = problem.geometry
    depthwise = _conv2d(problem.x, (w_dw, b_dw), "none", False, Geometry(g.stride, g.padding, problem.x[1]))
    between = (problem.x[0], problem.x[1], *problem.output[2:])
    if config == "matmul":
        pointwise = _pointwise_as_linear(between, (w_pw, b_pw), problem.act, problem.residual)
    else:
        pointwise = _conv2d(between, (w_pw, b_pw), problem.act, problem.residual, Geometry())
    return lambda x, other: pointwise(depthwise(x, None), other)


def _dual_linear(problem: Problem, weights: Weights, config: str) -> Kernel:
    w_x, w_a, bias = weights
    rows = problem.x[0]
    if config == "concatenated":
        whole = _linear(rows, (torch.cat([w_x, w_a], 1), bias), problem.act, residual=False)

        def concatenated(x: Tensor, a: Tensor | None) -> Tensor:
            assert a is not None
            return whole(torch.cat([x, a], -1), None)

        return concatenated
    first = _linear(rows, (w_x, bias), "none", residual=False)
    second = _linear(rows, (w_a, None), problem.act, residual=True)

    def two(x: Tensor, a: Tensor | None) -> Tensor:
        assert a is not None
        return second(a, first(x, None))

    return two


def _attention(heads: int) -> Kernel:
    # In bfloat16 two batched products and a softmax are about twice as fast as torch's flash attention for the CPU.
    def kernel(qkv: Tensor, other: Tensor | None) -> Tensor:
        q, k, v = split_heads(qkv, heads)
        batch, _, tokens, dim = q.shape
        rows = (batch * heads, tokens, dim)
        empty = q.new_empty(1).expand(batch * heads, tokens, tokens)  # not read, since beta is 0
        scores = torch.baddbmm(empty, q.reshape(rows), k.reshape(rows).transpose(1, 2), beta=0, alpha=dim**-0.5)
        y = torch.bmm(torch.softmax(scores, -1), v.reshape(rows))
        return y.view(batch, heads, tokens, dim).transpose(1, 2).flatten(2)

    return kernel


_PREPARE: dict[tuple[str, str], Callable[[Problem, Weights], Kernel]] = {
    ("linear", "matmul"): lambda p, weights: _linear(p.x[0], weights, p.act, p.residual),
    ("conv2d", "convolution"): lambda p, weights: _conv2d(p.x, weights, p.act, p.residual, p.geometry),
    ("conv2d", "matmul"): lambda p, weights: _pointwise_as_linear(p.x, weights, p.act, p.residual),
    ("depthwise_pointwise", "convolution"): lambda p, weights: _depthwise_pointwise(p, weights, "convolution"),
    ("depthwise_pointwise", "matmul"): lambda p, weights: _depthwise_pointwise(p, weights, "matmul"),
    ("dual_linear", "concatenated"): lambda p, weights: _dual_linear(p, weights, "concatenated"),
    ("dual_linear", "two"): lambda p, weights: _dual_linear(p, weights, "two"),
    ("attention", "matmul"): lambda p, weights: _attention(p.geometry.groups),
}
