"""Whole models: the baseline (P0) and variants with blocks merged (P3, P6), eager, compiled and accelerated.

One case is one model at one batch size in one dtype, all variants and modes in turn, in a process of its own: what
cases before it left in the heap and the caches would weigh on it. The merged blocks are those that save most. Flags and
CSV columns are those of timm's benchmark.py where it has them; ours are medians where timm's are means.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.common import MODELS, Choice, build_model
from benchmarks.gpu_shapes import first_line
from benchmarks.suite import CLOCK, Case, Measured, Settings, Tell, flat_rows, parametrize, settings_of
from benchmarks.variants import (
    MODES,
    choose,
    costs,
    make_ready,
    merged_variant,
    peak_memory,
    turning,
    why_merge_is_wrong,
    why_model_is_wrong,
    with_layout,
)
from updp_rt.blocks import prunable_blocks

SUITE = "models"
pytestmark = pytest.mark.benchmark(timer=CLOCK)

PRUNED = (0, 3, 6)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, list(model_cases(settings_of(metafunc.config))))


def test_model(case: Case, candidate: str, report: Callable[[Case, str], None]) -> None:
    report(case, candidate)


def model_cases(settings: Settings) -> Iterator[Case]:
    """All models at all batch sizes and dtypes."""
    modes = [mode for mode in MODES if mode != "compiled" or settings.compiler != "none"]
    names = tuple(f"P{count} {mode}" for count in settings.pruned or PRUNED for mode in modes)
    for name in settings.models or MODELS:
        for dtype in settings.dtypes_or_default:
            for batch in settings.batches_or((1, 8), (1, 128)):
                about = {"model": name, "batch": batch, "dtype": dtype, "size": settings.image_size}
                key = f"{name} b{batch} {dtype} {settings.image_size}"
                yield Case(key, about, names, partial(measure, settings, name, batch, dtype, names))


def measure(settings: Settings, name: str, batch: int, dtype: str, names: tuple[str, ...], tell: Tell) -> Measured:
    """Times from one process; then peak memory, of each candidate in a process of its own."""
    with _process(settings) as pool:
        found, choices = pool.submit(time_variants, settings, name, batch, dtype, names).result()
    if settings.memory:
        tell(f"{len(found.samples)} variants timed; now their peak memory")
        for candidate in found.samples:
            variant, mode = candidate.split()
            how = settings, name, batch, getattr(torch, dtype), choices[variant], mode
            try:
                with _process(settings) as pool:
                    found.candidates[candidate]["peak_memory_mb"] = pool.submit(peak_memory, *how).result()
            except Exception as error:  # its time is still worth having
                found.candidates[candidate]["memory_failed"] = first_line(error)
                tell(f"no peak memory of {candidate}: {first_line(error)}")
    return found


def _process(settings: Settings) -> ProcessPoolExecutor:
    """A process that has imported all it needs and done nothing else."""
    if settings.on_gpu:
        context: Any = multiprocessing.get_context("spawn")  # one that has looked for GPUs may not be forked
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.variants"])
    return ProcessPoolExecutor(1, mp_context=context)


@torch.inference_mode()
def time_variants(
    settings: Settings, name: str, batch: int, dtype_name: str, names: tuple[str, ...]
) -> tuple[Measured, dict[str, Choice | None]]:
    """All variants in all modes, and the blocks merged in each."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    dtype, size = getattr(torch, dtype_name), settings.image_size
    model = with_layout(build_model(name, size, settings.place, dtype), settings)
    images = with_layout(torch.randn(batch, 3, size, size, device=settings.place).to(dtype), settings)
    choices = choose(model, images, [int(candidate.split()[0][1:]) for candidate in names])
    found, calls, about = Measured(), {}, {}
    for candidate in names:
        variant, mode = candidate.split()
        if variant not in choices:
            found.left_out[candidate] = f"only {len(prunable_blocks(model))} blocks can be pruned"
            continue
        if variant not in about:
            merged = merged_variant(model, choices[variant], settings)
            about[variant] = (merged, costs(merged, size), why_merge_is_wrong(model, choices[variant], images[:1]))
        source, cost, reason = about[variant]
        try:
            ready = make_ready(mode, source, images, settings)
            reason = reason or why_model_is_wrong(ready, source, images)
        except Exception as error:
            reasons = found.left_out if mode == "compiled" else found.red
            reasons[candidate] = f"it failed: {first_line(error)}"
            continue
        if reason is not None:
            found.red[candidate] = reason
            continue
        calls[candidate] = turning(ready, tuple(images.shape), dtype, settings)
        found.candidates[candidate] = {"variant": variant, "mode": mode, **cost}
    found.samples = settings.sample(calls, round_seconds=0.15)
    return found, choices


def flatten(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The CSV: timm's columns, then ours."""
    for row in flat_rows(rows):
        timm_columns = {
            "model": row["model"],
            "infer_samples_per_sec": round(1e3 * row["batch"] / row["median_ms"], 2) if "median_ms" in row else None,
            "infer_step_time": row.get("median_ms"),
            "infer_batch_size": row["batch"],
            "infer_img_size": row["size"],
            "infer_gmacs": row.get("gmacs"),
            "infer_macts": row.get("macts"),
            "param_count": row.get("param_count"),
        }
        variant, mode = row["candidate"].split()
        ours = {"variant": variant, "mode": mode, "precision": row["dtype"]}
        ours |= {f"step_time_{q}": row.get(f"{q}_ms") for q in ("q1", "q3")}
        ours |= {key: row.get(key) for key in ("rounds", "peak_memory_mb", "memory_failed", "withheld")}
        yield timm_columns | ours
