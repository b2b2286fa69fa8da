"""Every backend, operator and variant: it agrees with the plain operator, or says why it does not run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.backends.samples import judge, prepare, problem_of
from tests.ops.calls import ACTIVATIONS, FORMS, FULL, HIP_ALONE, POOLS, WITHOUT_ACTIVATION, Call, Form
from tests.ops.test_operators import apart, backwards, expanded, offset
from updp_rt.backends import BACKENDS, Backend, base, vendor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def cases(*, supported: bool, slow: Sequence[torch.dtype] = ()) -> list[object]:
    """Backend, form and dtype wherever the backend runs them here, or wherever it does not; `slow` are marked so."""
    return [
        pytest.param(
            backend,
            form,
            dtype,
            id=f"{backend.name}-{form}-{dtype}".replace("torch.", ""),
            marks=[pytest.mark.slow] if dtype in slow else [],
        )
        for backend in BACKENDS.values()
        for form in FORMS
        for dtype in DTYPES
        if backend.supports(problem_of(form.call(dtype)))[0] is supported
    ]


every_supported_case = pytest.mark.parametrize(("backend", "form", "dtype"), cases(supported=True))


def runs(backend: Backend, form: Form, dtype: torch.dtype) -> Iterator[tuple[Call, str]]:
    """A call with each activation, and each of the backend's variants for it."""
    for act in ACTIVATIONS if form.operator not in WITHOUT_ACTIVATION else ("none",):
        call = replace(form, act=act).call(dtype)
        for config in backend.configs(problem_of(call)):
            yield call, config


def test_every_operator_runs_somewhere_in_every_dtype() -> None:
    reference = BACKENDS["reference"]
    assert list(BACKENDS.values())[-1] is reference
    assert all(reference.supports(problem_of(form.call(dtype))) == (True, "") for form in FORMS for dtype in DTYPES)
    assert all(name == backend.name for name, backend in BACKENDS.items())


BLOCKS = ("mlp", "inverted_residual", "conv2d_max_pool")  # whole ones, whose separate operators it runs


def test_on_a_cpu_onednn_runs_every_operator_that_contracts() -> None:
    assert torch.backends.mkldnn.is_available()
    for form in FORMS:
        contracts = form.operator not in ("layer_norm", "add_layer_norm", "prepend_tokens", *POOLS, *BLOCKS)
        assert BACKENDS["onednn"].supports(problem_of(form.call(torch.float32)))[0] == contracts, form


@every_supported_case
def test_agrees_with_the_plain_operator(backend: Backend, form: Form, dtype: torch.dtype) -> None:
    for call, config in runs(backend, form, dtype):
        judged = judge(prepare(backend, call, config), call)
        assert judged.passed, (config, call.act, judged)


@every_supported_case
def test_results_are_new_and_in_the_operators_layout(backend: Backend, form: Form, dtype: torch.dtype) -> None:
    for call, config in runs(backend, form, dtype):
        kernel = prepare(backend, call, config)
        before = call.map(Tensor.clone)
        first = kernel(*call.inputs)
        kept = first.clone()
        second = kernel(*call.inputs)
        assert first.shape == form.shape
        assert first.dtype is dtype
        assert first.is_contiguous(memory_format=form.layout), (config, call.act, first.stride())
        for tensor, copy in zip(call.tensors, before.tensors, strict=True):
            assert torch.equal(tensor, copy), (config, call.act)
        held = {tensor.untyped_storage().data_ptr() for tensor in call.tensors}
        assert first.untyped_storage().data_ptr() not in held, (config, call.act)
        assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr(), (config, call.act)
        assert torch.equal(first, kept), (config, call.act)


@pytest.mark.parametrize(("backend", "form", "dtype"), cases(supported=True, slow=(torch.float16, torch.float64)))
def test_inputs_may_lie_in_memory_in_any_way(backend: Backend, form: Form, dtype: torch.dtype) -> None:
    for call, config in runs(backend, form, dtype):
        kernel = prepare(backend, call, config)
        for placed in (Tensor.contiguous, backwards, apart, offset):
            moved = replace(call, x=placed(call.x), other=None if call.other is None else placed(call.other))
            judged = judge(kernel, moved)
            assert judged.passed, (config, call.act, placed.__name__, judged)
            assert kernel(*moved.inputs).is_contiguous(memory_format=form.layout), (config, call.act, placed.__name__)


@pytest.mark.parametrize("placed", [Tensor.contiguous, backwards, apart, offset, expanded])
@pytest.mark.parametrize("form", FULL.values(), ids=str)
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_weights_and_biases_may_lie_in_memory_in_any_way(
    backend: Backend, form: Form, placed: Callable[[Tensor], Tensor]
) -> None:
    call = form.call(torch.float32)
    call = replace(call, weights=tuple(None if w is None else placed(w) for w in call.weights))
    problem = problem_of(call)
    for config in backend.configs(problem) if backend.supports(problem)[0] else ():
        judged = judge(prepare(backend, call, config), call)
        assert judged.passed, (config, judged)


@every_supported_case
def test_a_prepared_kernel_serves_other_batches_and_sizes(backend: Backend, form: Form, dtype: torch.dtype) -> None:
    if len(form.x) == 1:
        others = [replace(form, x=(3, *form.x))]
    else:
        others = [replace(form, x=(batch, *form.x[1:])) for batch in (1, 5)]
    if form.is_on_images:
        others.append(replace(form, x=(2, form.x[1], form.x[2] + 4, form.x[3] + 3)))
    if form.operator == "attention":
        others.append(replace(form, x=(2, form.x[1] + 4, form.x[2])))
    first = form.call(dtype)
    for config in backend.configs(problem_of(first)):
        kernel = prepare(backend, first, config)
        for other in others:
            call = replace(other.call(dtype, seed=1), weights=first.weights)
            judged = judge(kernel, call)
            assert judged.passed, (config, str(other), judged)


# Refusals


@pytest.mark.parametrize(("backend", "form", "dtype"), cases(supported=False))
def test_a_refusal_has_a_reason_that_is_logged_once(
    backend: Backend,
    form: Form,
    dtype: torch.dtype,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_logged", set())
    caplog.set_level(logging.INFO, logger="updp_rt")
    problem = problem_of(form.call(dtype))
    reason = backend.refuses(problem)
    assert reason == backend.supports(problem)[1]
    assert len(reason.split()) >= 3
    assert backend.refuses(replace(problem, inputs=((problem.x[0] + 1, *problem.x[1:]), *problem.inputs[1:]))) == reason
    assert [(record.name, record.levelname) for record in caplog.records] == [("updp_rt", "INFO")]
    assert caplog.messages == [f"{backend.name} does not run {form.operator}: {reason}"]


def test_what_runs_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="updp_rt")
    assert BACKENDS["reference"].refuses(problem_of(FULL["linear"].call(torch.float32))) is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "form", "change", "reason"),
    [
        ("onednn", FULL["linear"], {"device": "cuda"}, "oneDNN runs on the CPU"),
        ("onednn", FULL["linear"], {"dtype": torch.float16}, "torch.float16 has no fused primitives"),
        ("onednn", FULL["conv2d"], {"dtype": torch.float64}, "torch.float64 has no fused primitives"),
        ("onednn", replace(FULL["conv2d"], x=(0, 5, 7, 11)), {}, "oneDNN takes no empty tensors"),
        ("triton", FULL["linear"], {}, "Triton kernels run on GPUs"),
        ("triton", FULL["attention"], {"device": "cuda"}, "kernels of attention take heads of 32, 64, 96, 128 values"),
        ("triton", FULL["linear"], {"device": "cuda", "dtype": torch.float64}, "no kernel for torch.float64"),
        (
            "triton",
            Form("conv2d", (1, 6, 5, 5), 6, 0, (3, 3), groups=3),
            {"device": "cuda"},
            "grouped convolutions have no kernel of the project's own",
        ),
        ("vendor", FULL["attention"], {"device": "cuda"}, "no library call followed by one epilogue makes attention"),
    ],
)
def test_reasons(
    name: str, form: Form, change: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    problem = replace(problem_of(form.call(torch.float32)), **change)
    assert BACKENDS[name].supports(problem) == (False, reason)


def test_triton_runs_three_dtypes_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for operator in FULL.keys() - {"attention"}:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            wanted = (True, "") if operator not in HIP_ALONE else (False, f"{operator} has no kernel in Triton")
            problem = replace(problem_of(FULL[operator].call(dtype)), device="cuda")
            assert BACKENDS["triton"].supports(problem) == wanted


@pytest.mark.parametrize(
    ("form", "configs"),
    [
        (FULL["linear"], ("matmul",)),
        (FULL["conv2d"], ("convolution",)),
        (Form("conv2d", (1, 5, 3, 3), 4), ("convolution", "matmul")),
        (Form("conv2d", (1, 5, 3, 3), 4, stride=(2, 2)), ("convolution",)),
        (Form("conv2d", (1, 5, 3, 3), 4, padding=(1, 1)), ("convolution",)),
        (Form("conv2d", (1, 4, 3, 3), 4, groups=2), ("convolution",)),
        (FULL["dual_linear"], ("concatenated", "two")),
    ],
    ids=str,
)
def test_onednn_offers_a_matrix_product_for_plain_pointwise_convolutions(form: Form, configs: tuple[str, ...]) -> None:
    assert BACKENDS["onednn"].configs(problem_of(form.call(torch.float32))) == configs


@pytest.mark.parametrize("operator", ["conv2d", "depthwise_pointwise"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("before", [None, "0"])
def test_vendor_convolves_in_the_layout_that_is_named(
    operator: str, layout: str, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch reads the variable at each call; who runs other convolutions finds it as it was."""
    variable, seen = "PYTORCH_MIOPEN_SUGGEST_NHWC", set()
    monkeypatch.delenv(variable, raising=False)
    if before is not None:
        monkeypatch.setenv(variable, before)
    plain, named = F.conv2d, torch.channels_last if layout == "nhwc" else torch.contiguous_format

    def convolve(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        assert x.is_contiguous(memory_format=named)
        assert weight.is_contiguous(memory_format=named)
        seen.add(os.environ.get(variable))
        return plain(x, weight, *rest).contiguous(memory_format=named)

    call = FULL[operator].call(torch.float32)
    problem = problem_of(call)
    monkeypatch.setattr(vendor.F, "conv2d", convolve)
    prepared = BACKENDS["vendor"].prepare(problem, call.weights, f"{layout}-epilogue")
    found = prepared(*call.inputs)
    assert os.environ.get(variable) == before
    monkeypatch.undo()
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert seen == {"1" if layout == "nhwc" else before}
    wanted = BACKENDS["reference"].prepare(problem, call.weights, "")(*call.inputs)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "hip", "configs"),
    [
        (replace(FULL["conv2d"], act="relu"), None, ("epilogue", "library")),
        (replace(FULL["conv2d"], act="relu"), "6.4", ("nhwc-epilogue", "nchw-epilogue")),
        (FULL["depthwise_pointwise"], "6.4", ("nhwc-epilogue", "nchw-epilogue")),
        (replace(FULL["linear"], act="relu"), "6.4", ("epilogue",)),
        (replace(FULL["conv2d"], act="gelu"), None, ("epilogue",)),
        (replace(FULL["linear"], act="relu", residual=False), None, ("epilogue", "library")),
        (replace(FULL["linear"], act="relu"), None, ("epilogue",)),
        # cuBLASLt's epilogue is reached through an operator that takes no None for the bias.
        (replace(FULL["linear"], act="relu", residual=False, bias=False), None, ("epilogue",)),
    ],
    ids=str,
)
def test_vendor_offers_the_librarys_own_epilogue_where_it_has_one(
    form: Form, hip: str | None, configs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(vendor, "_hip_epilogues", lambda device, dtype: ())  # which ask the GPU
    problem = problem_of(form.call(torch.float32))
    assert BACKENDS["vendor"].configs(replace(problem, device="cuda")) == configs
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    on_cpu = ("epilogue", "packed") if form.operator == "linear" else ("epilogue",)
    assert BACKENDS["vendor"].configs(problem) == on_cpu
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert BACKENDS["vendor"].configs(problem) == ("epilogue",)
