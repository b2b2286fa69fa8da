"""The plain operators of torch, unfused: always a candidate, so that accelerating never makes a model slower."""

from __future__ import annotations

from torch import Tensor

from updp_rt.backends.base import Backend, Kernel
from updp_rt.backends.problem import Problem, Weights, arguments
from updp_rt.ops.library import plain_operator


class ReferenceBackend(Backend):
    """`updp_rt.ops.reference` as it stands; it runs everything."""

    name = "reference"

    def supports(self, problem: Problem) -> tuple[bool, str]:
        return True, ""

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Kernel:
        operator = plain_operator(problem.operator)

        def kernel(x: Tensor, other: Tensor | None) -> Tensor:
            return operator(*arguments(problem, x, other, weights))

        return kernel
