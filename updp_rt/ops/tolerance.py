"""How far a fused operator may be from the truth: twice the error of torch's own operators, plus eps·sqrt(K)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from updp_rt.ops import reference


@dataclass(frozen=True)
class Accuracy:
    """Largest absolute error of a result against float64, the error allowed, and how many finite values that is of.

    The bound calibrates itself, as flash-attention's tests do: torch's own unfused operators in the same dtype on the
    same inputs set it. ``eps * sqrt(K) * max|y|`` (K: the length of a sum) keeps it from being unfair where torch
    happens to be exact.
    """

    error: float
    bound: float
    compared: int

    @property
    def passed(self) -> bool:
        # Written so that a NaN fails.
        return self.error <= self.bound


def accuracy(operator: str, found: Tensor, args: tuple[Any, ...]) -> Accuracy:
    """Judge `found`, a result of ``updp_rt::operator(*args)``, against the plain operator in float64.

    Args:
        operator: a name of `updp_rt.ops.library.SCHEMAS`.
        found: the result to judge.
        args: all arguments, in the order of the operator's schema.
    """
    plain = getattr(reference, operator)
    exact = plain(*(arg.double() if isinstance(arg, Tensor) else arg for arg in args))
    if found.shape != exact.shape or found.dtype != args[0].dtype:
        return Accuracy(math.inf, 0.0, 0)
    if not exact.numel():
        return Accuracy(0.0, 0.0, 0)
    kernels = [args[index].shape for index in _KERNELS[operator]]
    bound = error_bound(plain(*args), exact, sum_length(operator, args[0].shape, kernels))
    return Accuracy(largest_error(found, exact), bound, int(exact.isfinite().sum()))


def error_bound(plain: Tensor, exact: Tensor, length: int) -> float:
    """Twice the largest error of `plain`, torch's own result, and ``eps * sqrt(length) * max|exact|`` of its dtype."""
    finite = exact[exact.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return 2 * largest_error(plain, exact) + torch.finfo(plain.dtype).eps * math.sqrt(length) * scale


def largest_error(found: Tensor, exact: Tensor) -> float:
    """``max |found - exact|``; infinite where `exact` alone is no finite number, NaN where `found` alone is NaN."""
    error = (found.double() - exact).abs()
    # Where the truth is no finite number, neither must the result be.
    return float(torch.where(exact.isfinite(), error, torch.where(found.isfinite(), math.inf, 0.0)).max())


# Which arguments of an operator are its kernels.
_KERNELS: dict[str, tuple[int, ...]] = {
    "linear": (1,),
    "conv2d": (1,),
    "depthwise_pointwise": (1, 3),
    "dual_linear": (2, 3),
    "attention": (),
}


def sum_length(operator: str, x: Sequence[int], kernels: Iterable[Sequence[int]]) -> int:
    """K: how many products one element of the result sums, by the shapes of the input and of the kernels."""
    if operator == "attention":
        return x[1]
    return sum(math.prod(kernel[1:]) for kernel in kernels)
