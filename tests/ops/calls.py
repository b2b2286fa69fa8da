"""Calls of the fused operators at odd shapes, and what each must give, said another way and in float64."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

OPERATORS = (
    "linear",
    "conv2d",
    "depthwise_pointwise",
    "dual_linear",
    "attention",
    "mlp",
    "inverted_residual",
    "layer_norm",
    "add_layer_norm",
    "norm_linear",
    "prepend_tokens",
)
WITHOUT_ACTIVATION = ("attention", "layer_norm", "add_layer_norm", "prepend_tokens")
EPS = 1e-3  # of norms
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": lambda y: torch.where(y > 0, y, 0.0),
    "relu6": lambda y: torch.where(y > 0, torch.where(y < 6, y, 6.0), 0.0),
    "gelu": lambda y: y * (1 + torch.erf(y / math.sqrt(2))) / 2,
    "silu": lambda y: y / (1 + torch.exp(-y)),
}


@dataclass(frozen=True)
class Call:
    """The tensors of one call. `other` is the residual, or dual_linear's second input."""

    operator: str
    x: Tensor
    other: Tensor | None
    weights: tuple[Tensor | None, ...]
    act: str
    stride: Pair
    padding: Pair
    groups: int

    @property
    def args(self) -> tuple[Any, ...]:
        """All arguments in the order of the operator's signature."""
        if self.operator == "attention":
            return self.x, self.groups
        if self.operator == "prepend_tokens":
            return self.x, *self.weights
        if "norm" in self.operator:
            return *self.inputs, *self.weights, EPS, *([self.act] if self.operator == "norm_linear" else [])
        if self.operator in ("linear", "mlp"):
            return self.x, *self.weights, self.other, self.act
        if self.operator == "dual_linear":
            return self.x, self.other, *self.weights, self.act
        tail = (self.stride, self.padding)
        return (
            self.x,
            *self.weights,
            self.other,
            self.act,
            *tail,
            *((self.groups,) if self.operator == "conv2d" else ()),
        )

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """What a prepared call takes."""
        alone = self.operator in ("attention", "layer_norm", "norm_linear", "prepend_tokens")
        return (self.x,) if alone else (self.x, self.other)

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in (self.x, self.other, *self.weights) if tensor is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> Call:
        """With `change` made to every tensor."""
        weights = tuple(None if w is None else change(w) for w in self.weights)
        return replace(
            self, x=change(self.x), other=None if self.other is None else change(self.other), weights=weights
        )

    def exact(self) -> Tensor:
        """What the operator means, in float64."""
        call = self.map(Tensor.double)
        return _EXACT[self.operator](call)


@dataclass(frozen=True)
class Form:
    """Shapes of a call.

    Attributes:
        x: shape of the input.
        out: features or channels of the result.
        k_a: features of dual_linear's second input, or those between mlp's and inverted_residual's layers, or how many
            tokens are prepended.
        groups: of a convolution, or attention's heads.
    """

    operator: str
    x: tuple[int, ...]
    out: int = 0
    k_a: int = 0
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    bias: bool = True
    residual: bool = True
    act: str = "none"

    def __str__(self) -> str:
        sizes = [self.operator, _times(self.x), str(self.out)]
        if self.k_a:
            sizes.append(f"a{self.k_a}")
        if self.is_on_images:
            sizes.append(f"k{_times(self.kernel)}s{_times(self.stride)}p{_times(self.padding)}")
        if self.groups != 1:
            sizes.append(f"g{self.groups}")
        sizes += ["nobias"] * (not self.bias) + ["residual"] * self.residual
        return "-".join([*sizes, self.act])

    @property
    def is_on_images(self) -> bool:
        return self.operator in ("conv2d", "depthwise_pointwise", "inverted_residual")

    def call(self, dtype: torch.dtype, seed: int = 0) -> Call:
        """Random tensors; results spread to about 4, so that every part of an activation is met."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self} {dtype} {seed}".encode()))

        def random(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(*shape, generator=generator)).to(dtype)

        def weight(*shape: int) -> Tensor:
            return random(*shape, scale=3 / math.sqrt(max(1, math.prod(shape[1:]))))

        def bias(size: int) -> Tensor | None:
            return random(size) if self.bias else None

        x, other = random(*self.x), None
        weights: tuple[Tensor | None, ...] = ()
        if self.operator in ("linear", "norm_linear"):
            weights = weight(self.out, self.x[-1]), bias(self.out)
        elif self.operator in ("layer_norm", "add_layer_norm"):
            weights = bias(self.x[-1]), bias(self.x[-1])
        elif self.operator == "prepend_tokens":
            weights = tuple(random(1, count, self.x[-1]) for count in (self.k_a, self.k_a + self.x[1]))
        elif self.operator == "mlp":
            weights = weight(self.k_a, self.x[-1]), bias(self.k_a), weight(self.out, self.k_a), bias(self.out)
        elif self.operator == "inverted_residual":
            weights = (
                *(weight(self.k_a, self.x[1], 1, 1), bias(self.k_a)),
                *(weight(self.k_a, 1, *self.kernel), bias(self.k_a)),
                *(weight(self.out, self.k_a, 1, 1), bias(self.out)),
            )
        elif self.operator == "dual_linear":
            weights = weight(self.out, self.x[-1]), weight(self.out, self.k_a), bias(self.out)
            other = random(*self.x[:-1], self.k_a)
        elif self.operator == "conv2d":
            weights = weight(self.out, self.x[1] // self.groups, *self.kernel), bias(self.out)
        elif self.operator == "depthwise_pointwise":
            channels = self.x[1]
            weights = (
                weight(channels, 1, *self.kernel),
                bias(channels),
                weight(self.out, channels, 1, 1),
                bias(self.out),
            )
        if self.operator == "add_layer_norm":
            other = random(*self.x)
        elif self.residual and self.operator not in ("dual_linear", "norm_linear", *WITHOUT_ACTIVATION):
            other = random(*self.shape)
        if self.is_on_images:
            x = x.contiguous(memory_format=torch.channels_last)
            other = None if other is None else other.contiguous(memory_format=torch.channels_last)
        return Call(self.operator, x, other, weights, self.act, self.stride, self.padding, self.groups)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        if self.operator == "attention":
            return (*self.x[:-1], self.x[-1] // 3)
        if self.operator in ("layer_norm", "add_layer_norm"):
            return (*self.x[:-1], self.x[-1] * (1 if self.operator == "layer_norm" else 2))
        if self.operator == "prepend_tokens":
            return (self.x[0], self.k_a + self.x[1], self.x[2])
        if not self.is_on_images:
            return (*self.x[:-1], self.out)
        pixels = (
            len(range(0, size + 2 * pad - kernel + 1, step))
            for size, pad, kernel, step in zip(self.x[2:], self.padding, self.kernel, self.stride, strict=True)
        )
        return (self.x[0], self.out, *pixels)


def _forms() -> Iterator[Form]:
    """Odd shapes of every operator: single pixels and rows, primes, strides, groups, with and without everything."""
    yield Form("linear", (17, 31), 23)
    yield Form("linear", (2, 5, 13), 1, residual=False)
    yield Form("linear", (1, 1), 7, bias=False)
    yield Form("linear", (3, 2, 5, 64), 48, bias=False, residual=False)
    yield Form("linear", (11,), 3)
    yield Form("conv2d", (2, 5, 7, 11), 13, 0, (3, 3), padding=(1, 1))
    yield Form("conv2d", (1, 3, 23, 19), 17, 0, (7, 7), (2, 2), (3, 3), residual=False)
    yield Form("conv2d", (2, 7, 9, 5), 11, 0, (3, 3), (2, 2), (1, 1), bias=False)
    yield Form("conv2d", (1, 1, 1, 1), 1, 0, (3, 3), padding=(1, 1))
    yield Form("conv2d", (3, 13, 1, 1), 5)
    yield Form("conv2d", (2, 13, 5, 3), 7, residual=False)
    yield Form("conv2d", (1, 13, 7, 7), 6, stride=(2, 2), bias=False, residual=False)
    yield Form("conv2d", (2, 6, 9, 8), 9, 0, (3, 2), (2, 3), (1, 0), groups=3)
    yield Form("conv2d", (1, 11, 13, 9), 11, 0, (7, 7), padding=(3, 3), groups=11, residual=False)
    yield Form("conv2d", (2, 5, 6, 7), 10, 0, (5, 5), (2, 1), (2, 2), groups=5)
    yield Form("conv2d", (1, 3, 12, 8), 19, 0, (4, 4), (4, 4), residual=False)
    yield Form("depthwise_pointwise", (2, 19, 7, 9), 23, 0, (3, 3), padding=(1, 1))
    yield Form("depthwise_pointwise", (1, 7, 11, 13), 5, 0, (7, 7), padding=(3, 3), residual=False)
    yield Form("depthwise_pointwise", (2, 11, 9, 7), 8, 0, (3, 5), (2, 1), (1, 2), bias=False)
    yield Form("depthwise_pointwise", (3, 1, 1, 1), 1, 0, (3, 3), padding=(1, 1), bias=False, residual=False)
    yield Form("dual_linear", (17, 31), 23, 53)
    yield Form("dual_linear", (2, 5, 7), 11, 3, bias=False)
    yield Form("dual_linear", (1, 1), 1, 1)
    yield Form("attention", (2, 7, 3 * 3 * 5), groups=3)
    yield Form("attention", (1, 1, 3), groups=1)
    yield Form("attention", (3, 17, 3 * 2 * 16), groups=2)
    yield Form("attention", (2, 19, 3 * 2 * 32), groups=2)
    yield Form("layer_norm", (17, 31))
    yield Form("layer_norm", (2, 3, 5, 64), bias=False)
    yield Form("layer_norm", (1, 3))
    yield Form("add_layer_norm", (17, 31))
    yield Form("add_layer_norm", (2, 5, 48), bias=False)
    yield Form("norm_linear", (17, 31), 23)
    yield Form("norm_linear", (2, 3, 5, 64), 48, bias=False)
    yield Form("norm_linear", (11,), 3)
    yield Form("prepend_tokens", (2, 7, 45), k_a=1)
    yield Form("prepend_tokens", (3, 17, 32), k_a=2)
    yield Form("prepend_tokens", (1, 1, 3), k_a=5)
    yield Form("mlp", (17, 31), 23, 45, act="gelu")
    yield Form("mlp", (2, 5, 13), 1, 3, residual=False, act="relu")
    yield Form("mlp", (11,), 5, 7, bias=False)
    yield Form("mlp", (1, 1), 1, 1, act="silu")
    yield Form("inverted_residual", (2, 11, 7, 9), 13, 37, (3, 3), padding=(1, 1), act="relu6")
    yield Form("inverted_residual", (1, 8, 11, 8), 24, 48, (3, 3), (2, 2), (1, 1), residual=False, act="relu6")
    yield Form("inverted_residual", (2, 5, 9, 7), 8, 19, (3, 5), (2, 1), (1, 2), bias=False, act="silu")
    yield Form("inverted_residual", (3, 1, 1, 1), 1, 1, (3, 3), padding=(1, 1))


FORMS = tuple(_forms())
# For each operator the first form, which has all the tensors the operator may take.
FULL = {operator: next(form for form in FORMS if form.operator == operator) for operator in OPERATORS}


def _finish(y: Tensor, call: Call) -> Tensor:
    return ACTIVATIONS[call.act](y if call.other is None else y + call.other)


def _linear(call: Call) -> Tensor:
    weight, bias = call.weights
    assert weight is not None
    y = torch.einsum("...k,nk->...n", call.x, weight)
    return _finish(y if bias is None else y + bias, call)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, weight.shape[2], stride[0]).unfold(3, weight.shape[3], stride[1])
    y = torch.einsum("ngchwij,gocij->ngohw", windows.unflatten(1, (groups, -1)), weight.unflatten(0, (groups, -1)))
    return y.flatten(1, 2) if bias is None else y.flatten(1, 2) + bias[:, None, None]


def _conv2d(call: Call) -> Tensor:
    weight, bias = call.weights
    assert weight is not None
    return _finish(_convolve(call.x, weight, bias, call.stride, call.padding, call.groups), call)


def _depthwise_pointwise(call: Call) -> Tensor:
    w_dw, b_dw, w_pw, b_pw = call.weights
    assert w_dw is not None
    assert w_pw is not None
    y = _convolve(call.x, w_dw, b_dw, call.stride, call.padding, call.x.shape[1])
    y = torch.einsum("nchw,oc->nohw", y, w_pw[:, :, 0, 0])
    return _finish(y if b_pw is None else y + b_pw[:, None, None], call)


def _dual_linear(call: Call) -> Tensor:
    w_x, w_a, bias = call.weights
    assert call.other is not None
    assert w_x is not None
    assert w_a is not None
    y = torch.einsum("...k,nk->...n", call.x, w_x) + torch.einsum("...k,nk->...n", call.other, w_a)
    return ACTIVATIONS[call.act](y if bias is None else y + bias)


def _mlp(call: Call) -> Tensor:
    w1, b1, w2, b2 = call.weights
    between = ACTIVATIONS[call.act](_linear(replace(call, weights=(w1, b1), other=None, act="none")))
    return _linear(replace(call, x=between, weights=(w2, b2), act="none"))


def _inverted_residual(call: Call) -> Tensor:
    w_pw, b_pw, w_dw, b_dw, w_pwl, b_pwl = call.weights
    assert w_pw is not None
    assert w_dw is not None
    assert w_pwl is not None
    y = ACTIVATIONS[call.act](_convolve(call.x, w_pw, b_pw, (1, 1), (0, 0), 1))
    y = ACTIVATIONS[call.act](_convolve(y, w_dw, b_dw, call.stride, call.padding, y.shape[1]))
    return _finish(_convolve(y, w_pwl, b_pwl, (1, 1), (0, 0), 1), replace(call, act="none"))


def _attention(call: Call) -> Tensor:
    width = call.x.shape[-1] // 3
    dim = width // call.groups
    results = []
    for head in range(call.groups):
        q, k, v = (call.x[..., part + head * dim : part + (head + 1) * dim] for part in (0, width, 2 * width))
        weights = torch.exp(torch.einsum("nid,njd->nij", q, k) / math.sqrt(dim))
        results.append(torch.einsum("nij,njd->nid", weights / weights.sum(-1, keepdim=True), v))
    return torch.cat(results, -1)


def _norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    away = x - x.sum(-1, keepdim=True) / x.shape[-1]
    y = away / ((away * away).sum(-1, keepdim=True) / x.shape[-1] + EPS).sqrt()
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def _add_layer_norm(call: Call) -> Tensor:
    assert call.other is not None
    total = call.x + call.other
    return torch.cat([total, _norm(total, *call.weights)], -1)


def _prepend_tokens(call: Call) -> Tensor:
    prefix, position = call.weights
    assert prefix is not None
    assert position is not None
    return torch.stack([torch.cat([prefix[0], image]) + position[0] for image in call.x])


_EXACT: dict[str, Callable[[Call], Tensor]] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "depthwise_pointwise": _depthwise_pointwise,
    "dual_linear": _dual_linear,
    "attention": _attention,
    "layer_norm": lambda call: _norm(call.x, *call.weights),
    "add_layer_norm": _add_layer_norm,
    "prepend_tokens": _prepend_tokens,
    "norm_linear": lambda call: _linear(replace(call, x=_norm(call.x))),
    "mlp": _mlp,
    "inverted_residual": _inverted_residual,
}


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
