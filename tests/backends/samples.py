"""Problems of dispatch from calls of the operators."""

from __future__ import annotations

from tests.ops.calls import Call
from updp_rt.backends import Backend, Prepared
from updp_rt.ops import OPERATORS, Accuracy, Problem, accuracy


def problem_of(call: Call) -> Problem:
    operator = OPERATORS[call.operator]
    return Problem.of(operator, *operator.separate(call.args))


def prepare(backend: Backend, call: Call, config: str) -> Prepared:
    return backend.prepare(problem_of(call), call.weights, config)


def judge(prepared: Prepared, call: Call) -> Accuracy:
    return accuracy(OPERATORS[call.operator], prepared(*call.inputs), call.args)
