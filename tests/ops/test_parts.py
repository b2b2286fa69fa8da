"""Operators of whole blocks as the separate ones that they stand for: what those compute in a row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.conftest import relative_error
from tests.ops.calls import FORMS, Form
from updp_rt.ops import OPERATORS, Problem, part_problems

WHOLE = ("depthwise_pointwise", "mlp", "inverted_residual", "conv2d_max_pool")


@pytest.mark.parametrize("form", [form for form in FORMS if form.operator in WHOLE], ids=str)
def test_separate_operators_in_a_row_compute_the_whole(form: Form) -> None:
    call = form.call(torch.float64)
    operator = OPERATORS[form.operator]
    inputs, weights, attributes = operator.separate(call.args)
    problem = Problem.of(operator, inputs, weights, attributes)
    held = dict(zip(operator.weights, weights, strict=True))
    parts = operator.parts(problem)
    y: Tensor = call.x
    for part, met in zip(parts, part_problems(problem), strict=True):
        others = (call.other,) if part is parts[-1] else (None,)
        given = tuple(held[name] for name in part.weights)
        takes = (y, *others)[: len(part.operator.inputs)]
        args = part.operator.assemble(takes, given, part.attributes)
        part.operator.check(*args)
        assert met == Problem.of(part.operator, takes, given, part.attributes)
        y = part.operator.plain(*args)
    assert relative_error(y, call.exact()) <= 1e-12
