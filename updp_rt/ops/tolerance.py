"""How far a fused operator may be from the truth: twice the error of torch's own operators, plus rounding's share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from updp_rt.ops.operator import Operator
from updp_rt.ops.problem import Problem


@dataclass(frozen=True)
class Accuracy:
    """Largest absolute error of a result against float64, the error allowed, and how many finite values that is of.

    The bound calibrates itself, as flash-attention's tests do: torch's own unfused operators in the same dtype on the
    same inputs set it. ``eps * sqrt(K) * max|y|`` (K: the length of a sum) keeps it from being unfair where torch
    happens to be exact, and ``eps * sqrt(K) * max sum|terms|``, with the eps of float32 in which sums are taken, where
    large terms cancel. Values at which torch's own operators overflow show nothing and are not compared.
    """

    error: float
    bound: float
    compared: int

    @property
    def passed(self) -> bool:
        # Written so that a NaN fails.
        return self.error <= self.bound


def accuracy(operator: Operator, found: Tensor, args: tuple[Any, ...], plain: Tensor | None = None) -> Accuracy:
    """Judge `found`, a result of `operator` for `args`, against the plain operator in float64.

    Args:
        found: the result to judge.
        args: arguments of ``operator.plain``.
        plain: torch's own result, where it was taken in a larger batch, as `found` was; by default it is computed.
    """
    exact = operator.plain(*(arg.double() if isinstance(arg, Tensor) else arg for arg in args))
    if found.shape != exact.shape or found.dtype != args[0].dtype:
        return Accuracy(math.inf, 0.0, 0)
    if not exact.numel():
        return Accuracy(0.0, 0.0, 0)
    plain = operator.plain(*args) if plain is None else plain
    length = Problem.of(operator, *operator.separate(args)).sum_length
    magnitude = operator.magnitude(*(arg.double() if isinstance(arg, Tensor) else arg for arg in args))
    bound = error_bound(plain, exact, length, magnitude)
    return Accuracy(largest_error(found, exact, plain), bound, int((exact.isfinite() & plain.isfinite()).sum()))


def error_bound(plain: Tensor, exact: Tensor, length: int, magnitude: Tensor | None = None) -> float:
    """Twice the largest error of `plain`, torch's own result, and what rounding may do besides.

    Args:
        length: K, products in a sum.
        magnitude: sums of the terms' magnitudes; None: no more than the results are.
    """
    shown = plain.isfinite()
    bound = 2 * largest_error(plain, exact, plain)
    bound += torch.finfo(plain.dtype).eps * math.sqrt(length) * _largest(exact[shown])
    if magnitude is not None:
        sums = torch.float64 if plain.dtype == torch.float64 else torch.float32
        bound += torch.finfo(sums).eps * math.sqrt(length) * _largest(magnitude[shown])
    return bound


def largest_error(found: Tensor, exact: Tensor, *plain: Tensor) -> float:
    """``max |found - exact|``; infinite where `exact` alone is no finite number, NaN where `found` alone is NaN.

    Where one of `plain`, torch's own results, is no finite number but the truth is, nothing is compared.
    """
    error = (found.double() - exact).abs()
    # Where the truth is no finite number, neither must the result be.
    error = torch.where(exact.isfinite(), error, torch.where(found.isfinite(), math.inf, 0.0))
    for one in plain:
        error = torch.where(one.isfinite() | ~exact.isfinite(), error, 0.0)
    return float(error.max())


def _largest(values: Tensor) -> float:
    finite = values[values.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
