"""The plain operators of torch, unfused: always a candidate, so that accelerating never makes a model slower."""

from __future__ import annotations

from torch import Tensor

from updp_rt.backends.base import Backend, Prepared
from updp_rt.ops import Problem, Weights


class ReferenceBackend(Backend):
    """The operators' plain meaning as it stands; it runs everything."""

    name = "reference"
    sources = ("ops/*.py", "backends/base.py", "backends/reference.py")

    def supports(self, problem: Problem) -> tuple[bool, str]:
        return True, ""

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        operator, attributes = problem.operator, problem.attributes

        def call(*inputs: Tensor | None) -> Tensor:
            return operator.in_layout(operator.plain(*operator.assemble(inputs, weights, attributes)))

        return call
