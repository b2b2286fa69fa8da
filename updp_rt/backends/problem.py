"""One problem of dispatch: an operator, the shapes it meets, its dtype and its device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from updp_rt.ops.library import conv_shape
from updp_rt.ops.reference import Pair
from updp_rt.ops.tolerance import sum_length

Weights = tuple[Any, ...]  # each a Tensor, or None for a bias that is not there

# Weights of each operator, in the order of its signature.
WEIGHTS = {
    "linear": ("weight", "bias"),
    "conv2d": ("weight", "bias"),
    "depthwise_pointwise": ("w_dw", "b_dw", "w_pw", "b_pw"),
    "dual_linear": ("w_x", "w_a", "bias"),
    "attention": (),
}
ON_IMAGES = ("conv2d", "depthwise_pointwise")


@dataclass(frozen=True)
class Geometry:
    """What an operator is besides its weights; `groups` are attention's heads. The defaults serve the linear ones."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1


@dataclass(frozen=True)
class Problem:
    """Everything a choice of kernel may depend on.

    Attributes:
        operator: linear, conv2d, depthwise_pointwise, dual_linear or attention.
        x: shape of the input, ``(M, K)`` for linear operators with all leading dimensions as M.
        weights: shapes of the weights in the operator's order, None for a bias that is not there.
        residual: whether a residual is added.
    """

    operator: str
    x: tuple[int, ...]
    weights: tuple[tuple[int, ...] | None, ...]
    residual: bool
    act: str
    geometry: Geometry
    dtype: torch.dtype
    device: str

    @classmethod
    def of(
        cls, operator: str, x: Tensor, other: Tensor | None, weights: Weights, act: str, geometry: Geometry
    ) -> Problem:
        """The problem of calling `operator` on these tensors."""
        shape = _rows(x.shape) if "linear" in operator else tuple(x.shape)
        shapes = tuple(None if w is None else tuple(w.shape) for w in weights)
        residual = other is not None and operator != "dual_linear"
        return cls(operator, shape, shapes, residual, act, geometry, x.dtype, x.device.type)

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the result, with linear operators' leading dimensions as one."""
        if self.operator == "attention":
            return (*self.x[:-1], self.x[-1] // 3)
        first = self.shape("weight", "w_x", "w_dw")
        if self.operator == "conv2d":
            return conv_shape(self.x, first, self.geometry.stride, self.geometry.padding)
        if self.operator == "depthwise_pointwise":
            out_channels = self.shape("w_pw")[0]
            return conv_shape(self.x, (out_channels, *first[1:]), self.geometry.stride, self.geometry.padding)
        return (self.x[0], first[0])

    def shape(self, *names: str) -> tuple[int, ...]:
        """Shape of the first weight that has one of these names."""
        for name, shape in zip(WEIGHTS[self.operator], self.weights, strict=True):
            if name in names and shape is not None:
                return shape
        raise KeyError(f"{self.operator} has no weight {' or '.join(names)}")

    @property
    def flops(self) -> int:
        """Multiplications and additions of the contractions."""
        if self.operator == "attention":
            return 4 * math.prod(self.output) * self.x[1]
        pixels = math.prod(self.output) // max(1, self.output[1])
        kernels = [shape for shape in self.weights if shape is not None and len(shape) > 1]
        return 2 * pixels * sum(math.prod(shape) for shape in kernels)

    @property
    def sum_length(self) -> int:
        """How many products one element of the result sums."""
        return sum_length(self.operator, self.x, [s for s in self.weights if s is not None and len(s) > 1])

    @property
    def bytes_moved(self) -> int:
        """Bytes that any implementation must move: each input, weight and result once."""
        elements = math.prod(self.x) + (2 if self.residual else 1) * math.prod(self.output)
        elements += sum(math.prod(shape) for shape in self.weights if shape is not None)
        if self.operator == "dual_linear":
            elements += self.x[0] * self.shape("w_a")[1]
        return elements * self.dtype.itemsize

    @property
    def key(self) -> str:
        """A line that names the problem in tables and reports."""
        shapes = [_times(shape) for shape in self.weights if shape is not None and len(shape) > 1]
        parts = [self.operator, _times(self.x), *shapes]
        biases = [name for name in WEIGHTS[self.operator] if name.startswith("b")]
        given = dict(zip(WEIGHTS[self.operator], self.weights, strict=True))
        missing = [name for name in biases if given[name] is None]
        if missing:
            parts += ["nobias"] if missing == biases else [f"no{name}" for name in missing]
        parts += ["residual"] if self.residual else []
        parts += [self.act] if self.act != "none" else []
        g = self.geometry
        if self.operator == "attention":
            parts.append(f"h{g.groups}")
        elif self.operator in ON_IMAGES:
            parts.append(f"s{_times(g.stride)} p{_times(g.padding)} g{g.groups}")
        return " ".join([*parts, str(self.dtype).removeprefix("torch."), self.device])


def arguments(problem: Problem, x: Tensor, other: Tensor | None, weights: Weights) -> tuple[Any, ...]:
    """The operator's arguments in the order of its schema."""
    g = problem.geometry
    if problem.operator == "dual_linear":
        return (x, other, *weights, problem.act)
    if problem.operator == "attention":
        return (x, g.groups)
    rest = {"linear": (), "conv2d": (g.stride, g.padding, g.groups), "depthwise_pointwise": (g.stride, g.padding)}
    return (x, *weights, other, problem.act, *rest[problem.operator])


def contiguous_biases(weights: Weights) -> Weights:
    """`weights` with every bias contiguous, as kernels that read it by address need it."""
    return tuple(w if w is None or w.dim() != 1 else w.contiguous() for w in weights)


def _rows(shape: torch.Size) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1]


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
