"""Calls of the fused operators at odd shapes, and what each must give, said another way and in float64."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]

OPERATORS = (
    "linear",
    "conv2d",
    "depthwise_conv2d",
    "depthwise_pointwise",
    "dual_linear",
    "attention",
    "mlp",
    "inverted_residual",
    "conv2d_max_pool",
    "layer_norm",
    "add_layer_norm",
    "norm_linear",
    "prepend_tokens",
    "max_pool",
    "average_pool",
)
POOLS = ("max_pool", "average_pool")
HIP_ALONE = ("conv2d_max_pool",)  # without a kernel in Triton
WITHOUT_RESIDUAL = ("norm_linear", "conv2d_max_pool")
WITHOUT_ACTIVATION = ("attention", "layer_norm", "add_layer_norm", "prepend_tokens", *POOLS)
EPS = 1e-3  # of norms
POOL = ((3, 3), (2, 2), (1, 1))  # behind a stem: window, stride, padding
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
    kernel: Pair = (1, 1)

    @property
    def args(self) -> tuple[Any, ...]:
        """All arguments in the order of the operator's signature."""
        alone = {
            "attention": (self.groups,),
            "prepend_tokens": (),
            "max_pool": (self.kernel, self.stride, self.padding),
            "average_pool": (),
        }
        if self.operator in alone:
            return self.x, *self.weights, *alone[self.operator]
        if self.operator == "conv2d_max_pool":
            return self.x, *self.weights, self.act, self.stride, self.padding, *POOL
        if "norm" in self.operator:
            return *self.inputs, *self.weights, EPS, *([self.act] if self.operator == "norm_linear" else [])
        if self.operator in ("linear", "mlp"):
            return self.x, *self.weights, self.other, self.act, *([EPS] if self.operator == "mlp" else [])
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
        alone = self.operator in (*WITHOUT_RESIDUAL, "attention", "layer_norm", "prepend_tokens", *POOLS)
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
        from tests.ops.exact import EXACT

        return EXACT[self.operator](self.map(Tensor.double))


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
        images = ("depthwise_conv2d", "depthwise_pointwise", "inverted_residual", *POOLS)
        return self.operator in ("conv2d", "conv2d_max_pool", *images)

    @property
    def layout(self) -> torch.memory_format:
        """Of the result."""
        images = self.is_on_images and len(self.shape) == 4
        return torch.channels_last if images else torch.contiguous_format

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
        elif self.operator in ("conv2d", "conv2d_max_pool"):
            weights = weight(self.out, self.x[1] // self.groups, *self.kernel), bias(self.out)
        elif self.operator == "depthwise_conv2d":
            weights = weight(self.x[1], 1, *self.kernel), bias(self.x[1])
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
        elif self.residual and self.operator not in ("dual_linear", *WITHOUT_RESIDUAL, *WITHOUT_ACTIVATION):
            other = random(*self.shape)
        if self.is_on_images:
            x = x.contiguous(memory_format=torch.channels_last)
            other = None if other is None else other.contiguous(memory_format=torch.channels_last)
        geometry = (self.stride, self.padding, self.groups, self.kernel)
        return Call(self.operator, x, other, weights, self.act, *geometry)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        if self.operator == "attention":
            return (*self.x[:-1], self.x[-1] // 3)
        if self.operator in ("layer_norm", "add_layer_norm"):
            return (*self.x[:-1], self.x[-1] * (1 if self.operator == "layer_norm" else 2))
        if self.operator == "prepend_tokens":
            return (self.x[0], self.k_a + self.x[1], self.x[2])
        if self.operator == "average_pool":
            return self.x[:2]
        if not self.is_on_images:
            return (*self.x[:-1], self.out)
        pixels = (
            len(range(0, size + 2 * pad - kernel + 1, step))
            for size, pad, kernel, step in zip(self.x[2:], self.padding, self.kernel, self.stride, strict=True)
        )
        if self.operator == "conv2d_max_pool":
            pixels = ((size - 1) // 2 + 1 for size in pixels)
        return (self.x[0], self.out or self.x[1], *pixels)


def _forms_on_rows() -> Iterator[Form]:
    """Odd shapes of every operator: single rows, primes, with and without everything."""
    yield Form("linear", (17, 31), 23)
    yield Form("linear", (2, 5, 13), 1, residual=False)
    yield Form("linear", (1, 1), 7, bias=False)
    yield Form("linear", (3, 2, 5, 64), 48, bias=False, residual=False)
    yield Form("linear", (11,), 3)
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


def _forms_on_images() -> Iterator[Form]:
    """The same: single pixels, strides, groups."""
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
    yield Form("depthwise_conv2d", (2, 19, 7, 9), kernel=(3, 3), padding=(1, 1))
    yield Form("depthwise_conv2d", (1, 7, 11, 13), kernel=(7, 7), padding=(3, 3), residual=False)
    yield Form("depthwise_conv2d", (2, 11, 9, 7), kernel=(5, 5), stride=(2, 2), padding=(2, 2), residual=False)
    yield Form("depthwise_conv2d", (2, 6, 9, 8), kernel=(3, 2), stride=(2, 3), padding=(1, 0), bias=False)
    yield Form("depthwise_conv2d", (3, 1, 1, 1), kernel=(3, 3), padding=(1, 1), bias=False, residual=False)
    yield Form("depthwise_pointwise", (2, 19, 7, 9), 23, 0, (3, 3), padding=(1, 1))
    yield Form("depthwise_pointwise", (1, 7, 11, 13), 5, 0, (7, 7), padding=(3, 3), residual=False)
    yield Form("depthwise_pointwise", (2, 11, 9, 7), 8, 0, (3, 5), (2, 1), (1, 2), bias=False)
    yield Form("depthwise_pointwise", (3, 1, 1, 1), 1, 0, (3, 3), padding=(1, 1), bias=False, residual=False)
    yield Form("inverted_residual", (2, 11, 7, 9), 13, 37, (3, 3), padding=(1, 1), act="relu6")
    yield Form("inverted_residual", (1, 8, 11, 8), 24, 48, (3, 3), (2, 2), (1, 1), residual=False, act="relu6")
    yield Form("inverted_residual", (2, 5, 9, 7), 8, 19, (3, 5), (2, 1), (1, 2), bias=False, act="silu")
    yield Form("inverted_residual", (3, 1, 1, 1), 1, 1, (3, 3), padding=(1, 1))
    yield Form("conv2d_max_pool", (2, 3, 23, 16), 16, 0, (7, 7), (2, 2), (3, 3), act="relu")
    yield Form("conv2d_max_pool", (1, 5, 9, 11), 7, 0, (3, 2), (1, 2), (1, 0), bias=False, act="silu")
    yield Form("max_pool", (2, 19, 9, 8), kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    yield Form("max_pool", (1, 5, 7, 11), kernel=(2, 5), stride=(1, 3), padding=(0, 2))
    yield Form("max_pool", (3, 1, 1, 1))
    yield Form("average_pool", (2, 19, 7, 9))
    yield Form("average_pool", (3, 5, 1, 1))


FORMS = (*_forms_on_rows(), *_forms_on_images())
# For each operator the first form, which has all the tensors the operator may take.
FULL = {operator: next(form for form in FORMS if form.operator == operator) for operator in OPERATORS}


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
