"""`accuracy` passes what torch itself gives and nothing worse than its bound."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.ops.calls import FORMS, FULL, Form
from updp_rt import ops
from updp_rt.ops import OPERATORS, Accuracy, accuracy

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_operator = pytest.mark.parametrize("form", FULL.values(), ids=str)


def by_torch(form: Form, dtype: torch.dtype) -> tuple[Tensor, tuple[object, ...]]:
    call = form.call(dtype)
    return OPERATORS[form.operator].plain(*call.args), call.args


def judge(form: Form, found: Tensor, args: tuple[object, ...]) -> Accuracy:
    return accuracy(OPERATORS[form.operator], found, args)


def last(tensor: Tensor) -> tuple[int, ...]:
    """Index of the last value."""
    return (-1,) * tensor.dim()


@every_dtype
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_torch_itself_passes(form: Form, dtype: torch.dtype) -> None:
    found, args = by_torch(form, dtype)
    judged = judge(form, found, args)
    assert judged.passed
    assert 0 <= 2 * judged.error <= judged.bound


@every_dtype
@every_operator
def test_one_value_off_by_more_than_the_bound_fails(form: Form, dtype: torch.dtype) -> None:
    found, args = by_torch(form, dtype)
    bound = judge(form, found, args).bound
    off = found.double()
    off[last(off)] += 8 * bound
    judged = judge(form, off.to(dtype), args)
    assert not judged.passed
    assert judged.error == pytest.approx(8 * bound, rel=0.3)


@every_operator
def test_the_bound_is_where_it_ends(form: Form) -> None:
    found, args = by_torch(form, torch.float32)
    bound = judge(form, found, args).bound
    exact = form.call(torch.float32).exact()
    within, beyond = exact.clone(), exact.clone()
    within[last(within)] += 0.5 * bound
    beyond[last(beyond)] += 2 * bound
    assert judge(form, within.float(), args).passed
    assert not judge(form, beyond.float(), args).passed


@every_dtype
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@every_operator
def test_one_value_that_is_no_number_fails(form: Form, value: float, dtype: torch.dtype) -> None:
    found, args = by_torch(form, dtype)
    found[last(found)] = value
    assert not judge(form, found, args).passed


@every_operator
def test_another_shape_or_dtype_fails(form: Form) -> None:
    found, args = by_torch(form, torch.float32)
    for wrong in (found[1:], found[None], found.mT, found.double(), found.half()):
        assert not judge(form, wrong, args).passed


@every_operator
def test_an_empty_result_passes_in_its_own_shape_alone(form: Form) -> None:
    empty, args = by_torch(replace(form, x=(0, *form.x[1:])), torch.float32)
    assert empty.numel() == 0
    assert judge(form, empty, args).passed
    assert not judge(form, empty[..., :-1], args).passed


@every_operator
def test_the_bound_grows_with_the_dtypes_eps(form: Form) -> None:
    """Apart from what cancelling terms leave, since these are summed in float32 at least."""
    operator, bounds = OPERATORS[form.operator], {}
    for dtype in DTYPES:
        found, args = by_torch(form, dtype)
        length = ops.Problem.of(operator, *operator.separate(args)).sum_length
        sums = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
        cancelled = sums * math.sqrt(length) * float(operator.magnitude(*args).max())
        bounds[dtype] = judge(form, found, args).bound - cancelled
    for finer, coarser in pairwise(DTYPES):
        ratio = torch.finfo(coarser).eps / torch.finfo(finer).eps
        assert ratio / 4 < bounds[coarser] / bounds[finer] < 4 * ratio


@pytest.mark.parametrize(
    ("form", "products"),
    [
        (Form("linear", (5, 7), 3), 7),
        (Form("conv2d", (2, 6, 5, 4), 4, 0, (3, 2), groups=2), 3 * 3 * 2),
        (Form("depthwise_pointwise", (1, 7, 5, 5), 3, 0, (3, 3)), 3 * 3 + 7),
        (Form("dual_linear", (5, 7), 3, 11), 7 + 11),
        (Form("attention", (2, 8, 12), groups=2), 8),
    ],
    ids=str,
)
def test_where_torch_is_exact_the_bound_is_eps_times_the_root_of_the_sums_length(form: Form, products: int) -> None:
    """Small integers are added without error in any order; and equal scores weigh 8 tokens by 1/8 each."""
    call = form.call(torch.float32).map(lambda t: t.round().clamp(-4, 4))
    if form.operator == "attention":
        call.x[..., :8] = 0
    found = OPERATORS[form.operator].plain(*call.args)
    judged = judge(form, found, call.args)
    assert judged.error == 0
    largest = float(found.abs().max()) + float(call.map(Tensor.abs).exact().max())
    assert judged.bound == pytest.approx(torch.finfo(torch.float32).eps * math.sqrt(products) * largest)


@pytest.mark.parametrize("operator", ["linear", "conv2d"])
def test_where_large_terms_cancel_another_order_of_the_sum_passes(operator: str) -> None:
    """Even where torch happens to be exact: the results are small, and rounding acts on the terms."""
    half, order = 300 * torch.randn(4, 128), torch.randperm(256)
    x, weight = torch.cat([half, 1e-3 * torch.randn_like(half) - half], 1), torch.ones(3, 256)
    tail: tuple[object, ...] = (None, None, "none")
    if operator == "conv2d":
        x, weight, tail = x[:, :, None, None], weight[:, :, None, None], (*tail, (1, 1), (0, 0), 1)
    plain = OPERATORS[operator].plain
    exact, found = plain(x.double(), weight.double(), *tail), plain(x[:, order], weight[:, order], *tail)
    judged = accuracy(OPERATORS[operator], found, (x, weight, *tail), plain=exact.float())
    assert judged.passed
    assert judged.error > torch.finfo(torch.float32).eps * 16 * exact.abs().max(), "it shows nothing"
    assert not judge(FULL[operator], (exact + 2 * judged.bound).float(), (x, weight, *tail)).passed


@pytest.mark.parametrize("act", ["none", "relu6"])
def test_where_torch_overflows_the_rest_is_judged(act: str) -> None:
    x, weight, residual = torch.randn(6, 8).half(), torch.randn(5, 8).half(), torch.zeros(6, 5).half()
    x[0], weight[0], residual[0, 0] = 2.0**7, 2.0**7, -65504  # the product overflows in float16, the whole need not
    args = (x, weight, None, residual, act)
    linear = OPERATORS["linear"]
    plain, exact = linear.plain(*args), linear.plain(*(a.double() if isinstance(a, Tensor) else a for a in args))
    for right in (plain, exact.half()):
        judged = accuracy(linear, right, args)
        assert judged.passed
        assert judged.compared == 29 if act == "none" else 30
        for wrong in (2 * judged.bound + 0.1, math.nan, math.inf):
            off = right.clone()
            off[3, 3] += wrong
            assert not accuracy(linear, off, args).passed
