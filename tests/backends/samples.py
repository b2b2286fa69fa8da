"""Problems of dispatch from calls of the operators."""

from __future__ import annotations

from tests.ops.calls import Call
from updp_rt.backends import Backend, Geometry, Kernel, Problem
from updp_rt.ops import Accuracy, accuracy


def problem_of(call: Call) -> Problem:
    groups = call.x.shape[1] if call.operator == "depthwise_pointwise" else call.groups
    geometry = Geometry(call.stride, call.padding, groups)
    return Problem.of(call.operator, call.x, call.other, call.weights, call.act, geometry)


def prepare(backend: Backend, call: Call, config: str) -> Kernel:
    return backend.prepare(problem_of(call), call.weights, config)


def judge(kernel: Kernel, call: Call) -> Accuracy:
    return accuracy(call.operator, kernel(call.x, call.other), call.args)
