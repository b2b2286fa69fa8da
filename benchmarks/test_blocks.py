"""Blocks: each kind of prunable block as it is, in its pruned form, merged, and merged on fused kernels.

One case is one kind of block of one model, on the input it meets at one batch size in one dtype. The pruned body and
the merged form are those that run fastest on fused kernels here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache, partial

import pytest
import torch
from torch import nn

import updp_rt
from benchmarks.common import MODELS, build_model
from benchmarks.gpu_shapes import first_line
from benchmarks.suite import CLOCK, Case, Measured, Settings, Tell, parametrize, settings_of
from benchmarks.variants import make_ready, turning, why_model_is_wrong, why_not_merged
from updp_rt.blocks import ProgressiveBlock, find_family, prunable_blocks
from updp_rt.pruning.latency import block_inputs, measure_block
from updp_rt.runtime.memory import keep_freed_memory

SUITE = "blocks"
pytestmark = pytest.mark.benchmark(timer=CLOCK)

# Name, what is run, and how.
CANDIDATES = {
    "baseline": ("baseline", "eager"),
    "compiled": ("baseline", "compiled"),
    "accelerated": ("baseline", "accelerated"),
    "pruned": ("pruned", "eager"),
    "merged": ("merged", "eager"),
    "merged compiled": ("merged", "compiled"),
    "merged accelerated": ("merged", "accelerated"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, list(block_cases(settings_of(metafunc.config))))


def test_block(case: Case, candidate: str, report: Callable[[Case, str], None]) -> None:
    report(case, candidate)


def block_cases(settings: Settings) -> Iterator[Case]:
    """All kinds of blocks, at all batch sizes and dtypes."""
    names = tuple(name for name, (_, mode) in CANDIDATES.items() if mode != "compiled" or settings.compiler != "none")
    for model in settings.models or MODELS:
        kinds = block_kinds(model, settings.image_size)
        for dtype in settings.dtypes_or_default:
            for batch in settings.batches_or((1, 8), (1, 128)):
                for block, (first, *rest) in kinds.items():
                    about = {"model": model, "block": block, "batch": batch, "dtype": dtype}
                    key = f"{model} {block} b{batch} {dtype} {settings.image_size}"
                    measure = partial(measure_kind, settings, model, block, (first * batch, *rest), dtype, names)
                    yield Case(key, about, names, measure)


@cache
def block_kinds(model_name: str, size: int) -> dict[str, tuple[int, ...]]:
    """The first of each kind of prunable block, and its input's shape at batch 1; by shapes alone."""
    model = build_model(model_name, size, torch.device("cpu"), torch.float32).to("meta")
    with torch.no_grad():
        inputs = block_inputs(model, prunable_blocks(model), torch.zeros(1, 3, size, size, device="meta"))
    kinds = {f"{model.get_submodule(name)} {x.shape}": (name, tuple(x.shape)) for name, x in reversed(inputs.items())}
    return dict(reversed(kinds.values()))


@torch.inference_mode()
def measure_kind(
    settings: Settings,
    model_name: str,
    name: str,
    shape: tuple[int, ...],
    dtype_name: str,
    names: tuple[str, ...],
    tell: Tell,
) -> Measured:
    """One block in all its forms, in turn."""
    place, dtype = settings.place, getattr(torch, dtype_name)
    if place.type == "cpu":
        keep_freed_memory()  # as accelerated models have it, for all candidates alike
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(shape, device=place).to(dtype)
    with torch.inference_mode(False), torch.no_grad():
        model = build_model(model_name, settings.image_size, place, dtype)
        block, progressive = model.get_submodule(name), find_family(model).progressive
        latency = measure_block(progressive, block, x, updp_rt.accelerate)
        body = latency.best_body()
        form = latency.best_form(body)
        pruned = _pruned(progressive, block, body)
        modules = {"baseline": block, "pruned": pruned, "merged": pruned.merge(form).eval()}
        precise, image = _pruned(progressive, copy.deepcopy(block).double(), body), x[-1:].double()
        merge_reason = why_not_merged(precise(image), precise.merge(form).eval()(image))
    found, calls = Measured(about={"form": f"{body}/{form}" if body else form}), {}
    for candidate in names:
        which, mode = CANDIDATES[candidate]
        try:
            ready = make_ready(mode, modules[which], x, settings)
            reason = why_model_is_wrong(ready, modules[which], x)
        except Exception as error:
            reasons = found.left_out if mode == "compiled" else found.red
            reasons[candidate] = f"it failed: {first_line(error)}"
            continue
        reason = reason or (merge_reason if which == "merged" else None)
        if reason is not None:
            found.red[candidate] = reason
        else:
            calls[candidate] = turning(ready, shape, dtype, settings)
    found.samples = settings.sample(calls, round_seconds=0.02)
    return found


def _pruned(progressive: type[ProgressiveBlock], block: nn.Module, body: str) -> ProgressiveBlock:
    pruned = progressive(copy.deepcopy(block), "block", body)
    pruned.lam = 1.0
    return pruned.eval()
