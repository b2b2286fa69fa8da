"""How far a fused operator may be from the truth: twice the error of torch's own operators, plus eps·sqrt(K)."""

from __future__ import annotations

import math
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
    torch_error = _largest(plain(*args), exact)
    eps = torch.finfo(args[0].dtype).eps
    finite = exact[exact.isfinite()].abs()
    slack = eps * math.sqrt(_sum_length(operator, args)) * (float(finite.max()) if finite.numel() else 0.0)
    return Accuracy(_largest(found, exact), 2 * torch_error + slack, finite.numel())


def _largest(found: Tensor, exact: Tensor) -> float:
    error = (found.double() - exact).abs()
    # Where the truth is no finite number, neither must the result be.
    return float(torch.where(exact.isfinite(), error, torch.where(found.isfinite(), math.inf, 0.0)).max())


def _sum_length(operator: str, args: tuple[Any, ...]) -> int:
    """K: how many products one element of the result sums."""
    if operator == "attention":
        return args[0].shape[1]
    weights = {"linear": (1,), "conv2d": (1,), "depthwise_pointwise": (1, 3), "dual_linear": (2, 3)}[operator]
    return sum(args[index][0].numel() for index in weights)
