"""The HIP backend on an emulated MI100: kernels prepared for any problem, memory layout and later shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.backends.samples import judge, prepare, problem_of
from tests.ops.calls import FORMS, FULL, Form
from tests.ops.test_operators import apart, backwards, expanded, offset
from updp_rt.backends import BACKENDS
from updp_rt.kernels import hip

HIP = BACKENDS["hip"]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OPERATORS = FULL.keys() - {"attention"}
ODD = [form for form in FORMS if form.operator in OPERATORS and form.groups == 1 and 0 not in form.x]
ODD = [form for form in ODD if form.operator != "inverted_residual" or form.kernel == (3, 3)]
ODD = [form for form in ODD if form.operator != "conv2d_max_pool" or form.kernel == (7, 7)]
# Channels that vectors of 16 bytes fit in every dtype.
EVEN = [
    Form("linear", (3, 7, 24), 40),
    Form("conv2d", (2, 16, 9, 7), 24, 0, (3, 3), padding=(1, 1)),
    Form("depthwise_pointwise", (2, 16, 9, 7), 24, 0, (7, 7), padding=(3, 3)),
    Form("depthwise_conv2d", (2, 16, 9, 7), kernel=(3, 3), padding=(1, 1)),
    Form("dual_linear", (3, 7, 24), 40, 16),
    Form("layer_norm", (3, 7, 24)),
    Form("add_layer_norm", (3, 7, 24)),
    Form("prepend_tokens", (3, 7, 24), k_a=1),
    Form("norm_linear", (3, 7, 24), 40),
    Form("mlp", (3, 7, 24), 40, 56),
    Form("inverted_residual", (2, 16, 9, 7), 24, 40, (3, 3), padding=(1, 1)),
    Form("conv2d_max_pool", (2, 3, 13, 40), 24, 0, (7, 7), (2, 2), (3, 3), act="relu6"),
    Form("max_pool", (2, 16, 9, 7), kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    Form("average_pool", (2, 16, 9, 7)),
]
every_form = pytest.mark.parametrize("form", [*ODD, *EVEN], ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _mi100() -> Iterator[None]:
    with hip.emulated_mi100():
        yield


@every_dtype
@every_form
def test_agrees_with_the_plain_operator(form: Form, dtype: torch.dtype) -> None:
    call = form.call(dtype)
    assert HIP.supports(problem_of(call)) == (True, "")
    for config in HIP.configs(problem_of(call)):
        judged = judge(prepare(HIP, call, config), call)
        assert judged.passed, (config, judged)


@pytest.mark.parametrize("form", EVEN, ids=str)
def test_tensors_may_lie_in_memory_in_any_way(form: Form) -> None:
    call = form.call(torch.float16)
    for config in HIP.configs(problem_of(call)):
        kernel = prepare(HIP, call, config)
        for placed in (Tensor.contiguous, backwards, apart, offset):
            x, other = placed(call.x), None if call.other is None else placed(call.other)
            judged = judge(kernel, replace(call, x=x, other=other))
            assert judged.passed, (config, placed.__name__, judged)
        for placed in (backwards, apart, offset, expanded):
            moved = replace(call, weights=tuple(None if w is None else placed(w) for w in call.weights))
            judged = judge(prepare(HIP, moved, config), moved)
            assert judged.passed, (config, placed.__name__, judged)


@pytest.mark.parametrize("form", EVEN, ids=str)
def test_a_prepared_kernel_serves_other_batches(form: Form) -> None:
    first = form.call(torch.float16)
    for config in HIP.configs(problem_of(first)):
        kernel = prepare(HIP, first, config)
        for batch in (1, 5):
            call = replace(replace(form, x=(batch, *form.x[1:])).call(torch.float16, seed=1), weights=first.weights)
            assert judge(kernel, call).passed, (config, batch)


def test_even_and_odd_sizes_take_kernels_of_their_own() -> None:
    even, odd = EVEN[0].call(torch.float16), replace(EVEN[0], x=(3, 7, 25)).call(torch.float16)
    arch = hip.load("gfx908")
    for call, aligned in ((even, True), (odd, False)):
        wanted = tuple(kernel.tile for kernel in arch.kernels("linear", torch.float16, aligned))
        assert HIP.configs(problem_of(call)) == wanted


@pytest.mark.parametrize(
    ("form", "dtype", "reason"),
    [
        (FULL["attention"], torch.float16, "kernels of attention take heads of 32"),
        (Form("conv2d", (1, 6, 5, 5), 6, 0, (3, 3), groups=3), torch.float16, "grouped convolutions have no kernel"),
        (Form("conv2d_max_pool", (1, 3, 9, 8), 8, 0, (3, 3)), torch.float16, "a convolution and a pool have a kernel"),
        (replace(FULL["conv2d_max_pool"], act="silu"), torch.float16, "silu may give values below 0"),
        (replace(FULL["conv2d_max_pool"], x=(2, 3, 23, 17)), torch.float16, "no kernel for these sizes"),
        (FULL["linear"], torch.float64, "no kernel for torch.float64"),
    ],
    ids=str,
)
def test_reasons(form: Form, dtype: torch.dtype, reason: str) -> None:
    supported, why = HIP.supports(problem_of(form.call(dtype)))
    assert not supported
    assert why.startswith(reason)


def test_absent_objects_are_a_reason_that_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(arch: str) -> None:
        raise hip.MissingObjectsError("no kernels here; run: updp-rt kernels build --arch gfx908")

    monkeypatch.setattr("updp_rt.kernels.hip.device.load", absent)
    supported, why = HIP.supports(problem_of(EVEN[0].call(torch.float16)))
    assert (supported, why) == (False, "no kernels here; run: updp-rt kernels build --arch gfx908")
