"""Whole models on the engines that people pick, and on what ``engine="auto"`` picks; on that with blocks merged, too.

Each candidate runs alone for a moment before it is timed, since threads of other runtimes go on spinning after a call;
what slows a whole round down is taken out of its times.
The blocks merged are those that save most. What merging buys in each of the others is in the suite ``models``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

import updp_rt
from benchmarks.footprint import new_process
from benchmarks.grid import Grid, gain, grouped, median, ratio, slashed, what_is_missing
from benchmarks.models import build_model, choose, merge, model_cases
from benchmarks.numerics import require_merge, require_model
from benchmarks.others import ALONE_SECONDS, run_in
from benchmarks.protocol import Case, LeftOut, Measured, Record, Suite, race
from benchmarks.results import Row, by_case
from benchmarks.samples import Summary
from benchmarks.settings import Settings
from benchmarks.suites.models import most_pruned
from updp_rt._timing import paced
from updp_rt.runtime.engines import ENGINES, RUNTIMES, engine_of
from updp_rt.runtime.fastest import choice_of

OTHERS = ("eager", "inductor", "onnxruntime", "openvino")
_OURS = ("modules", "auto", "torch-only")  # the last: ``auto`` as it is where no other runtime is installed
_MERGED = {"resnet34": 8}
# What is wanted of their ratios: of each, and of their geometric mean; and of each model's with blocks merged.
LEAST, MEAN, MERGED_MEAN = 0.97, 1.0, 1.26
LEAST_TORCH_ONLY = 0.95  # of the compiler's speed


def cases(settings: Settings) -> Iterator[Case]:
    """The models at their batch sizes and dtypes."""

    def names_of(name: str) -> tuple[str, ...]:
        counts = settings.pruned or (0, _MERGED.get(name, 6))
        return (*(f"P0 {mode}" for mode in (*OTHERS, *_OURS)), *(f"P{count} auto" for count in counts if count))

    return model_cases(settings, names_of, measure)


def measure(settings: Settings, name: str, batch: int, dtype: str, names: tuple[str, ...], record: Record) -> Measured:
    """One case, in a process of its own: what others left in the heap would weigh on it."""
    with new_process(settings) as pool:
        return pool.submit(measure_here, settings, name, batch, dtype, names).result()


@torch.inference_mode()
def measure_here(settings: Settings, name: str, batch: int, dtype_name: str, names: tuple[str, ...]) -> Measured:
    """All candidates ("P6 auto") in turn."""
    torch.manual_seed(0)
    dtype, size = getattr(torch, dtype_name), settings.image_size
    model = build_model(name, size, settings.place, dtype)
    images = torch.randn(batch, 3, size, size, device=settings.place).to(dtype)
    choices = choose(model, images, [int(candidate.split()[0][1:]) for candidate in names])
    values: dict[str, dict[str, str]] = {}

    @cache
    def source_of(variant: str) -> nn.Module:
        if variant not in choices:
            raise LeftOut("the model has not as many blocks that can be pruned")
        require_merge(model, choices[variant], images[:1])
        return merge(model, choices[variant])

    def prepare(candidate: str) -> Callable[[], object]:
        variant, mode = candidate.split()
        source = source_of(variant)
        run, about = _ready(mode, source, images)
        require_model(run, source, images)
        values[candidate] = about
        return partial(run, images)

    entries = {candidate: partial(prepare, candidate) for candidate in names}
    found = race(settings, entries, round_seconds=0.15, alone_seconds=ALONE_SECONDS)
    found.samples = paced(found.samples)
    found.values = {candidate: about for candidate, about in values.items() if about}
    return found


def _ready(mode: str, source: nn.Module, images: Tensor) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    if mode == "eager":
        return source, {}
    if mode == "modules":
        return updp_rt.accelerate(source, images), {}
    if mode in ("auto", "torch-only"):
        left_out = RUNTIMES if mode == "torch-only" else ()
        with patch.dict(ENGINES, {name: each for name, each in ENGINES.items() if name not in left_out}, clear=True):
            fast = updp_rt.accelerate(source, images, engine="auto")
        refused = "; ".join(f"{name}: {why}" for name, why in choice_of(fast).refused.items())
        return fast, {"engine": engine_of(fast), "refused": refused}
    return run_in(mode, source, images), {}


def tables(rows: Sequence[Row]) -> list[Grid]:
    """``auto`` over the best of the others, unpruned and with blocks merged, batch sizes side by side."""
    grid = Grid(
        f"engines: × faster than the best of {', '.join(OTHERS)} on the unpruned model, ratios of medians",
        ["model", "dtype", "batch", "best other", "picked", "auto", "merged", "picked, merged", "auto, merged"],
    )
    plain: list[float | None] = []
    noise: list[float] = []
    torch_only: list[float | None] = []
    merged: dict[object, list[float | None]] = {}
    for (model, dtype), members in grouped(rows, "model", "dtype").items():
        found = list(by_case(members).values())
        batches = " / ".join(str(batch) for batch in dict.fromkeys(row["batch"] for row in members))
        most = most_pruned(members)
        rivals = [best_other(case) for case in found]
        gains = {
            name: [
                ratio(median(case, f"P0 {rival}"), median(case, name))
                for rival, case in zip(rivals, found, strict=True)
            ]
            for name in ("P0 auto", f"{most} auto")
        }
        picked = {name: " / ".join(str(case.get(name, {}).get("engine", "")) for case in found) for name in gains}
        shown = (part for name in gains for part in (picked[name], slashed(gains[name])))
        first, second, *rest = shown
        grid.add(model, dtype, batches, " / ".join(rivals), first, second, most, *(rest or ("", "")))
        plain += gains["P0 auto"]
        noise += [
            math.hypot(one.noise, other.noise)
            for rival, case in zip(rivals, found, strict=True)
            if (one := _summary(case, f"P0 {rival}")) and (other := _summary(case, "P0 auto"))
        ]
        torch_only += [ratio(median(case, "P0 inductor"), median(case, "P0 torch-only")) for case in found]
        if most != "P0":
            merged.setdefault(model, []).extend(gains[f"{most} auto"])
    grid.notes += [f"Unpruned: {gain(plain)} in geometric mean (at least); wanted {MEAN:.2f} ({LEAST})."]
    if noise:
        grid.notes += [f"95% intervals of these ratios: ±{100 * statistics.median(noise):.1f}% in the median."]
    grid.notes += [
        f"With torch alone: {gain(torch_only)} over the compiler in geometric mean (at least); "
        f"wanted {MEAN:.2f} ({LEAST_TORCH_ONLY})."
    ]
    grid.notes += [
        f"{model}, merged: {gain(gains)} in geometric mean (at least); wanted {MERGED_MEAN}."
        for model, gains in merged.items()
    ]
    grid.notes += what_is_missing(rows)
    return [grid]


def _summary(case: Mapping[str, Row], candidate: str) -> Summary | None:
    row = case.get(candidate, {})
    return Summary(row["median_ms"], row["q1_ms"], row["q3_ms"], row["rounds"]) if "q1_ms" in row else None


def best_other(case: Mapping[str, Row]) -> str:
    """The quickest of the other engines on the unpruned model; empty where none has a time."""
    times = {mode: found for mode in OTHERS if (found := median(case, f"P0 {mode}")) is not None}
    return min(times, key=times.__getitem__, default="")


SUITE = Suite(
    "engines",
    "Whole models on eager torch, Inductor, ONNX Runtime, OpenVINO, and on what engine=auto picks, P6 too.",
    cases,
    tables,
    options=("device", "models", "batches", "dtypes", "image_size", "pruned"),
    defaults={"rounds": 101, "seconds": 60.0},
    timed=True,
)
