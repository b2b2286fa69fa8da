"""Calls that fail: the error is the call's own, and nothing of it is kept for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

import updp_rt
from tests.runtime.small import assert_same, small_model, twins
from updp_rt.ops import CONV2D, LINEAR, Problem, accuracy
from updp_rt.runtime import dispatch
from updp_rt.runtime.dispatch import Policy, choose
from updp_rt.runtime.table import Entry, forget_tables, table_for

CPU = torch.device("cpu")
HEALTHY = Path(__file__).parent / "data" / "healthy_but_refused.safetensors"


def new_process() -> None:
    """What was learned is read from the file again, as a new process would."""
    table_for(CPU).save()
    forget_tables()
    dispatch._checked.clear()
    dispatch._warned.clear()


def kept() -> tuple[set[str], dict[str, str]]:
    """The problems in the table's file, and why candidates in it are said to fail."""
    table_for(CPU).save()
    entries: dict[str, Any] = {}
    if table_for(CPU).path.exists():
        entries = json.loads(table_for(CPU).path.read_text())["entries"]
    return set(entries), {f"{key} {name}": why for key, e in entries.items() for name, why in e["failed"].items()}


def error_of(model: nn.Module, x: Any) -> tuple[type[Exception], str]:
    with pytest.raises(Exception) as caught, torch.no_grad():  # noqa: PT011 - compared with another
        model(x)
    return type(caught.value), str(caught.value)


BAD: dict[str, Any] = {
    "dtype": lambda x: x.double(),
    "half": lambda x: x.half(),
    "bytes": lambda x: (x * 9).to(torch.uint8),
    "complex": lambda x: x.to(torch.complex64),
    "channels": lambda x: x[:, :2],
    "too small": lambda x: x[..., :0],
    "flat": lambda x: x[0, 0],
    "five dimensions": lambda x: x[None],
    "meta": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", BAD)
def test_the_error_is_torchs_and_nothing_is_kept(bad: str, dtype: torch.dtype) -> None:
    source, fast, images = twins() if dtype == torch.float32 else in_bfloat16()
    before, x = kept(), BAD[bad](images)
    (found, message), (wanted, _) = error_of(fast, x), error_of(source, x)
    assert found is wanted  # torch names the bias where it named the weight, since the norm is in it
    assert "candidate" not in message
    assert kept() == before
    assert not before[1]
    new_process()
    assert_same(fast, source, images) if dtype == torch.float32 else fast(images)


def in_bfloat16() -> tuple[Any, Any, Tensor]:
    source, images = small_model().eval().bfloat16(), torch.randn(2, 3, 8, 8).bfloat16()
    return source, updp_rt.accelerate(source, images, backends=["vendor", "reference"]), images


@torch.no_grad()
def test_a_failing_first_call_says_what_torch_says() -> None:
    """No example has been measured: weights of one dtype are met by images of another."""
    source = small_model().eval()
    for x in (torch.randn(2, 3, 8, 8).double(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(RuntimeError, match="type"):
            source(x)
        with pytest.raises(RuntimeError, match=r"Input type \(.*\) and bias type \(float\) should be the same"):
            updp_rt.accelerate(source, x)
        assert not kept()[0]


@torch.no_grad()
def test_transformed_calls_leave_nothing_behind() -> None:
    source, fast, images = twins()
    before = kept()
    torch.func.vmap(fast)(images[:, None])
    torch.jit.trace(fast, images)
    torch.fx.symbolic_trace(fast)(images)
    torch.export.export(fast, (images,))
    with torch.autocast("cpu", torch.bfloat16):
        fast(images)
    assert kept() == before
    new_process()
    assert_same(fast, source, images)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"),
        OSError(28, "No space left on device"),
        PermissionError(13, "Permission denied"),
    ],
    ids=["Python's", "a GPU's", "the CPU's", "Triton's", "a library's", "a full disk", "a compiler's folder"],
)
@torch.no_grad()
def test_short_memory_and_a_full_disk_pass(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    from updp_rt.backends import BACKENDS

    def fail(*args: Any) -> Any:
        raise error

    with monkeypatch.context() as short:
        short.setattr(BACKENDS["onednn"], "prepare", fail)
        source, fast, images = twins()
        assert_same(fast, source, images)
        assert not kept()[1]
    new_process()
    fast = updp_rt.accelerate(source, images, backends=["onednn", "reference"])
    assert not kept()[1]
    rows = updp_rt.explain(fast).rows
    assert all(any(name.startswith("onednn") for name in row.times_ms) for row in rows)


class TimeLimitError(Exception):
    """As job queues raise it in whatever runs when the time is up."""


@pytest.mark.parametrize("error", [TimeoutError(), TimeLimitError(), Exception("timeout")], ids=repr)
@pytest.mark.parametrize("place", ["prepare", "run"])
@torch.no_grad()
def test_a_time_limit_is_no_kernels_failure(monkeypatch: pytest.MonkeyPatch, place: str, error: Exception) -> None:
    from updp_rt.backends import BACKENDS

    def end(*args: Any) -> Any:
        raise error

    source: Any = small_model().eval()
    images = torch.randn(2, 3, 8, 8)
    monkeypatch.setattr(BACKENDS["onednn"], "prepare", end if place == "prepare" else lambda *args: end)
    with pytest.raises(type(error)):
        updp_rt.accelerate(source, images, inplace=True)
    assert type(source[1]) is BasicBlock
    assert not kept()[1]


@torch.no_grad()
def test_a_kernel_that_fails_where_torch_does_not_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    from updp_rt.backends import BACKENDS

    def fail(*args: Any) -> Any:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(BACKENDS["onednn"], "prepare", fail)
    source, fast, images = twins()
    assert_same(fast, source, images)
    assert set(kept()[1].values()) == {"it could not be prepared: RuntimeError: no such instruction"}


@torch.no_grad()
def test_a_table_that_says_the_reference_fails_is_not_believed() -> None:
    source, _, images = twins()
    table = table_for(CPU)
    for key in list(table.entries):
        table.keep(key, Entry({}, {"reference": "it failed to run: RuntimeError: out of memory"}))
    new_process()
    again = updp_rt.accelerate(source, images, backends=["reference"], strict=True)
    assert_same(again, source, images)


@torch.no_grad()
def test_a_key_tells_other_dtypes_and_inputs_apart() -> None:
    x, w, r = torch.randn(4, 6), torch.randn(5, 6), torch.randn(4, 5)
    keys = {
        Problem.of(LINEAR, (x.to(dtype), residual), (w.to(dtype), None), (act,)).key
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
        for residual in (None, r.to(dtype), r[:1].to(dtype))
        for act in ("none", "relu")
    }
    assert len(keys) == 18


@torch.no_grad()
def test_what_torch_takes_without_a_batch_is_taken() -> None:
    for layer, x in (
        (nn.Conv2d(3, 8, 3), torch.randn(3, 9, 7)),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.randn(3, 9, 7)),
        (nn.Linear(7, 5), torch.randn(7)),
        (nn.Linear(7, 5), torch.randn(2, 3, 4, 7)),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.randn(0, 3, 9, 7)),
    ):
        source = nn.Sequential(layer).eval()
        batch = torch.randn(2, 3, 9, 7) if x.shape[-1:] == (7,) and not isinstance(layer, nn.Linear) else x
        fast = updp_rt.accelerate(source, batch, backends=["onednn", "reference"])
        assert torch.allclose(fast(x), source(x), atol=1e-5)
        assert torch.allclose(updp_rt.accelerate(source, x)(x), source(x), atol=1e-5)


@torch.no_grad()
def test_a_healthy_layer_runs_on_all_its_kernels() -> None:
    """Large terms cancel in this 1x1 convolution; the batch was judged by the error of its last image alone."""
    case = load_file(HEALTHY)
    x, weights = case["x"], (case["weight"], case["bias"])
    problem = Problem.of(CONV2D, (x, None), weights, ("none", (2, 2), (0, 0), 1))
    choice, call = choose(problem, weights, (x, None), Policy(strict=True), {})
    assert choice.demoted == {}
    assert {name.partition(":")[0] for name in choice.times_ms} >= {"onednn", "vendor", "reference"}
    exact = nn.functional.conv2d(x.double(), case["weight"].double(), case["bias"].double(), stride=2)
    assert float((call(x, None) - exact).abs().max()) < 1e-4


@torch.no_grad()
def test_the_reference_never_fails_its_own_check() -> None:
    for scale in (1e-30, 1.0, 1e20, float("inf"), float("nan")):
        x, w = torch.randn(64, 3000) * scale, torch.randn(4, 3000)
        w[:, ::2] = -w[:, 1::2]  # sums that nearly cancel
        x[:, ::2] = x[:, 1::2] + 1e-4 * x[:, ::2]
        problem = Problem.of(LINEAR, (x, None), (w, None), ("none",))
        choice, _ = choose(problem, (w, None), (x, None), Policy(strict=True, backends=("reference",)), {})
        assert choice.candidate == "reference"


@torch.no_grad()
def test_a_wrong_kernel_is_still_found_where_terms_cancel() -> None:
    """The bound knows the terms' sizes, and is no wider than rounding makes it."""
    case = load_file(HEALTHY)
    args = (case["x"], case["weight"], case["bias"], None, "none", (2, 2), (0, 0), 1)
    right = CONV2D.plain(*args)
    assert accuracy(CONV2D, right, args).passed
    assert not accuracy(CONV2D, right + 1e-2, args).passed
    assert not accuracy(CONV2D, CONV2D.plain(case["x"].bfloat16(), case["weight"].bfloat16(), case["bias"].bfloat16(),
                                             *args[3:]).float(), args).passed  # fmt: skip
