"""The separate operators that one of a whole block stands for: its second plan, which dispatch measures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from updp_rt.ops.problem import Problem

if TYPE_CHECKING:
    from updp_rt.ops.operator import Operator


@dataclass(frozen=True)
class Part:
    """One of several operators in a row: it is given the result of the one before, and the last one the residual too.

    Attributes:
        weights: names of the whole's weights, in the order of this operator's.
        attributes: values, in the order of this operator's.
    """

    operator: Operator
    weights: tuple[str, ...]
    attributes: tuple[Any, ...]

    def inputs(self, *given: Any) -> tuple[Any, ...]:
        """All inputs of the operator; those that are not given are None."""
        return (*given, *(None,) * (len(self.operator.inputs) - len(given)))


def part_problems(problem: Problem) -> list[Problem]:
    """The problems of the separate operators that `problem` stands for, in order; none if it has none."""
    found: list[Problem] = []
    parts = problem.operator.parts(problem)
    for one in parts:
        x = found[-1].output if found else problem.x
        inputs = one.inputs(x, *problem.inputs[1:] if one is parts[-1] else ())
        weights = tuple(problem.shape(name) if problem.has(name) else None for name in one.weights)
        found.append(Problem(one.operator, inputs, weights, one.attributes, problem.dtype, problem.device))
    return found
