"""A problem of dispatch: what it keeps of a call, its size counted by hand, and the line it is known by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.backends.samples import problem_of
from tests.ops.calls import FORMS, FULL, Form
from updp_rt.ops import CONV2D, DEPTHWISE_POINTWISE, DUAL_LINEAR, LINEAR, OPERATORS, Problem, RowOperator

CONV = Form("conv2d", (2, 6, 9, 8), 4, 0, (3, 2), (2, 1), (1, 0), groups=2)
MIXED = Form("depthwise_pointwise", (2, 5, 7, 9), 3, 0, (3, 3), (2, 2), (1, 1))


def problem(form: Form, dtype: torch.dtype = torch.float32) -> Problem:
    return problem_of(form.call(dtype))


def test_of_a_call_it_keeps_shapes_dtype_and_device() -> None:
    found = problem(replace(CONV, act="gelu", bias=False), torch.bfloat16)
    assert found == Problem(
        operator=CONV2D,
        inputs=((2, 6, 9, 8), (2, 4, 5, 7)),
        weights=((4, 3, 3, 2), None),
        attributes=("gelu", (2, 1), (1, 0), 2),
        dtype=torch.bfloat16,
        device="cpu",
    )


def test_leading_dimensions_of_linear_operators_are_rows() -> None:
    assert problem(Form("linear", (2, 3, 5, 7), 11)).x == (30, 7)
    assert problem(Form("linear", (7,), 11)).x == (1, 7)
    assert problem(Form("dual_linear", (2, 3, 7), 11, 13)).x == (6, 7)
    assert problem(Form("attention", (2, 3, 12), groups=2)).x == (2, 3, 12)


def test_the_second_input_of_dual_linear_is_no_residual() -> None:
    assert not problem(FULL["dual_linear"]).residual
    assert problem(FULL["linear"]).residual
    assert not problem(replace(FULL["linear"], residual=False)).residual


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_output_is_the_results_shape_with_leading_dimensions_as_rows(form: Form) -> None:
    call = form.call(torch.float64)
    exact = call.exact()
    if isinstance(problem_of(call).operator, RowOperator):
        exact = exact.reshape(-1, exact.shape[-1])
    assert problem_of(call).output == exact.shape


@pytest.mark.parametrize(
    ("form", "flops"),
    [
        (Form("linear", (2, 3, 5), 7), 2 * 6 * 7 * 5),
        (Form("linear", (2, 3, 5), 7, bias=False, residual=False, act="gelu"), 2 * 6 * 7 * 5),
        (CONV, 2 * (2 * 5 * 7) * 4 * (3 * 3 * 2)),
        (MIXED, 2 * (2 * 4 * 5) * (5 * 3 * 3 + 5 * 3)),
        (Form("dual_linear", (2, 3, 5), 7, 11), 2 * 6 * 7 * (5 + 11)),
        (Form("attention", (2, 3, 3 * 4 * 5), groups=4), 2 * (2 * 4) * (3 * 3 * 5 + 3 * 3 * 5)),
        (Form("linear", (0, 5), 7), 0),
    ],
    ids=str,
)
def test_flops_are_two_for_each_product_of_the_contractions(form: Form, flops: int) -> None:
    assert problem(form).flops == flops


@pytest.mark.parametrize(
    ("form", "elements"),
    [
        (Form("linear", (2, 3, 5), 7), 6 * 5 + 7 * 5 + 7 + 6 * 7 + 6 * 7),
        (Form("linear", (2, 3, 5), 7, residual=False), 6 * 5 + 7 * 5 + 7 + 6 * 7),
        (Form("linear", (2, 3, 5), 7, bias=False), 6 * 5 + 7 * 5 + 6 * 7 + 6 * 7),
        (CONV, 2 * 6 * 9 * 8 + 4 * 3 * 3 * 2 + 4 + 2 * (2 * 4 * 5 * 7)),
        (MIXED, 2 * 5 * 7 * 9 + 5 * 9 + 5 + 3 * 5 + 3 + 2 * (2 * 3 * 4 * 5)),
        (Form("dual_linear", (2, 3, 5), 7, 11), 6 * 5 + 6 * 11 + 7 * 5 + 7 * 11 + 7 + 6 * 7),
        (Form("attention", (2, 3, 12), groups=2), 2 * 3 * 12 + 2 * 3 * 4),
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)])
def test_bytes_are_of_each_input_weight_and_result_once(
    form: Form, elements: int, dtype: torch.dtype, size: int
) -> None:
    assert problem(form, dtype).bytes_moved == elements * size


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    """Tables that were measured elsewhere are read by these lines, so a change of them must be meant."""
    keys = [
        problem(Form("linear", (2, 3, 5), 7, act="gelu")).key,
        problem(replace(CONV, bias=False, residual=False), torch.bfloat16).key,
        problem(MIXED).key,
        problem(Form("dual_linear", (6, 5), 7, 11)).key,
        problem(Form("attention", (2, 3, 12), groups=2)).key,
    ]
    assert keys == [
        "linear 6x5 7x5 residual gelu float32 cpu",
        "conv2d 2x6x9x8 4x3x3x2 nobias s2x1 p1x0 g2 bfloat16 cpu",
        "depthwise_pointwise 2x5x7x9 5x1x3x3 3x5x1x1 residual s2x2 p1x1 float32 cpu",
        "dual_linear 6x5 7x5 7x11 a6x11 float32 cpu",
        "attention 2x3x12 h2 float32 cpu",
    ]


def test_the_values_of_tensors_are_no_part_of_a_key() -> None:
    first, second = (problem_of(MIXED.call(torch.float32, seed)) for seed in (1, 2))
    assert first == second
    assert first.key == second.key


def test_problems_that_differ_have_keys_that_differ() -> None:
    variants = [
        replace(form, **change)
        for form in (*FORMS, CONV, MIXED)
        for change in ({}, {"act": "relu"}, {"act": "gelu"}, {"bias": not form.bias}, {"residual": not form.residual})
    ]
    variants += [replace(CONV, **change) for change in ({"stride": (1, 2)}, {"padding": (0, 1)}, {"groups": 1})]
    variants += [replace(CONV, kernel=(2, 3)), replace(CONV, out=6), replace(CONV, x=(6, 6, 3, 8))]
    variants += [replace(FULL["attention"], groups=heads) for heads in (1, 5)]
    problems = {problem(form, dtype) for form in variants for dtype in (torch.float32, torch.bfloat16)}
    problems |= {replace(one, device="cuda") for one in problems}
    assert len(problems) > 400
    assert len({one.key for one in problems}) == len(problems)


def test_each_bias_of_two_convolutions_counts_in_the_key() -> None:
    full = problem(MIXED)
    w_dw, b_dw, w_pw, b_pw = full.weights
    partial = [replace(full, weights=(w_dw, first, w_pw, last)) for first in (b_dw, None) for last in (b_pw, None)]
    assert len({one.key for one in partial}) == 4


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_arguments_are_in_the_operators_own_order(form: Form) -> None:
    call = form.call(torch.float32)
    operator = OPERATORS[form.operator]
    inputs, weights, attributes = operator.separate(call.args)
    assert inputs == call.inputs
    assert weights == call.weights
    found = operator.assemble(inputs, weights, attributes)
    assert len(found) == len(call.args)
    for mine, given in zip(found, call.args, strict=True):
        assert mine is given if isinstance(given, torch.Tensor) else mine == given


def test_a_weight_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="linear is given no w_pw here"):
        problem(FULL["linear"]).shape("w_pw")
    with pytest.raises(KeyError, match="linear is given no bias here"):
        problem(replace(FULL["linear"], bias=False)).shape("bias")


@pytest.mark.parametrize(
    ("made", "form"),
    [
        (
            Problem.make(LINEAR, torch.float32, x=(2, 3, 5), weight=(7, 5), bias=(7,), residual=True, act="gelu"),
            Form("linear", (2, 3, 5), 7, act="gelu"),
        ),
        (
            Problem.make(
                CONV2D,
                torch.float32,
                x=(2, 6, 9, 8),
                weight=(4, 3, 3, 2),
                residual=True,
                act="none",
                stride=(2, 1),
                padding=(1, 0),
                groups=2,
            ),
            replace(CONV, bias=False),
        ),
        (
            Problem.make(
                DEPTHWISE_POINTWISE,
                torch.float32,
                x=(2, 5, 7, 9),
                w_dw=(5, 1, 3, 3),
                b_dw=(5,),
                w_pw=(3, 5, 1, 1),
                b_pw=(3,),
                act="relu",
                stride=(2, 2),
                padding=(1, 1),
            ),
            replace(MIXED, residual=False, act="relu"),
        ),
        (
            Problem.make(
                DUAL_LINEAR, torch.float32, x=(6, 5), a=(6, 11), w_x=(7, 5), w_a=(7, 11), bias=(7,), act="none"
            ),
            Form("dual_linear", (6, 5), 7, 11),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Form) else "",
)
def test_a_problem_made_of_shapes_is_that_of_a_call_with_them(made: Problem, form: Form) -> None:
    assert made == problem(form)
    assert made.key == problem(form).key
