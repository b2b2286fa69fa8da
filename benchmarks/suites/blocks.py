"""Blocks: each kind of prunable block as it is, in its pruned form, merged, and merged on fused kernels.

One case is one kind of block of one model, on the input it meets at one batch size in one dtype. The pruned body and
the merged form are those that run fastest on fused kernels here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
from torch import nn

import updp_rt
from benchmarks.grid import Grid, gain, grouped, median, ratio, what_is_missing
from benchmarks.models import MODELS, build_model, make_ready, rotating_images
from benchmarks.numerics import require_merged, require_model
from benchmarks.others import ALONE_SECONDS, runtimes
from benchmarks.protocol import Case, Measured, Record, Suite, Wrong, race, turning
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.blocks import ProgressiveBlock, find_family, prunable_blocks
from updp_rt.pruning.latency import block_inputs, measure_block
from updp_rt.runtime.engines import RUNTIMES
from updp_rt.runtime.memory import keep_freed_memory

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


def cases(settings: Settings) -> Iterator[Case]:
    """All kinds of blocks, at all batch sizes and dtypes."""
    names = tuple(name for name, (_, mode) in CANDIDATES.items() if mode != "compiled" or settings.compiler != "none")
    names += tuple(name for runtime in runtimes(settings) for name in (runtime, f"merged {runtime}"))
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
    record: Record,
) -> Measured:
    """One block in all its forms, in turn."""
    place, dtype = settings.place, getattr(torch, dtype_name)
    if place.type == "cpu":
        keep_freed_memory()  # as accelerated models have it, for all candidates alike
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(shape, device=place).to(dtype)
    merge_fault: Wrong | None = None
    with torch.inference_mode(False), torch.no_grad():
        model = build_model(model_name, settings.image_size, place, dtype)
        block, progressive = model.get_submodule(name), find_family(model).progressive
        latency = measure_block(progressive, block, x, updp_rt.accelerate)
        body = latency.best_body()
        form = latency.best_form(body)
        pruned = _pruned(progressive, block, body)
        modules = {"baseline": block, "pruned": pruned, "merged": pruned.merge(form).eval()}
        precise, image = _pruned(progressive, copy.deepcopy(block).double(), body), x[-1:].double()
        try:
            require_merged(precise(image), precise.merge(form).eval()(image))
        except Wrong as fault:
            merge_fault = fault

    def prepare(candidate: str) -> Callable[[], object]:
        *merged, runtime = candidate.split()
        which, mode = CANDIDATES.get(candidate, ("merged" if merged else "baseline", runtime))
        if which == "merged" and merge_fault:
            raise merge_fault
        ready = make_ready(mode, modules[which], x, settings)
        require_model(ready, modules[which], x)
        return turning(ready, rotating_images(shape, dtype, settings))

    alone = ALONE_SECONDS if any(name.split()[-1] in RUNTIMES for name in names) else 0.0
    found = race(settings, {name: partial(prepare, name) for name in names}, 0.02, alone_seconds=alone)
    found.about = {"form": f"{body}/{form}" if body else form}
    return found


def _pruned(progressive: type[ProgressiveBlock], block: nn.Module, body: str) -> ProgressiveBlock:
    pruned = progressive(copy.deepcopy(block), "block", body)
    pruned.lam = 1.0
    return pruned.eval()


def tables(rows: Sequence[Row]) -> list[Grid]:
    """How much faster the other forms are than the baseline block in eager torch, over a model's kinds of blocks."""
    names = [name for name in CANDIDATES if name not in ("baseline", "merged compiled")]
    there = {row["candidate"] for row in rows}
    names += [name for runtime in RUNTIMES for name in (runtime, f"merged {runtime}") if name in there]
    columns = ("model", "dtype", "batch", "blocks", *names)
    grid = Grid("blocks: × over the baseline block in eager torch, geometric mean over its kinds (least)", columns)
    for key, members in grouped(rows, "model", "dtype", "batch").items():
        kinds = by_case(members).values()
        gains = [gain(ratio(median(kind, "baseline"), median(kind, name)) for kind in kinds) for name in names]
        grid.add(*key, len(kinds), *gains)
    grid.notes += what_is_missing(rows)
    return [grid]


SUITE = Suite(
    "blocks",
    "Baseline block, pruned block, merged block, merged block on fused kernels: every kind of block of each model.",
    cases,
    tables,
    options=("device", "models", "batches", "dtypes", "image_size", "compiler", "compile_mode", "engines"),
    defaults={"seconds": 5.0},
    timed=True,
)
