"""Whole models projected on an MI100, unpruned and merged, beside the least time of torch's passes: no measurements.

The HIP kernels are compiled first: ``updp-rt kernels build --arch gfx908``. P6 has the six blocks merged that save most
by projection at batch 128, each in its fastest form; so has "all" with all of them. What torch is left with counts by
its least time, and so does the unfused model (`updp_rt.projection.passes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.grid import Grid, gain, ms, ratio, slashed, times, what_is_missing
from benchmarks.models import MODELS
from benchmarks.problems import PROJECTED_BATCH
from benchmarks.protocol import Case, Measured, Record, Suite, known
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.blocks import prunable_blocks
from updp_rt.projection import LABEL
from updp_rt.projection.choice import merge_fastest, project_latency
from updp_rt.projection.report import Kernels, Report, project_model
from updp_rt.pruning.latency import LatencyTable

BATCHES = (1, 8, 128)
PRUNED = 6
VARIANTS = ("P0", f"P{PRUNED}", "all")
BOUND = 1.26  # P0 over P6


class _Model:
    """One model in its variants; every problem is projected once."""

    def __init__(self, name: str, size: int, dtype: torch.dtype, kernels: Kernels) -> None:
        options = {"img_size": size} if "vit" in name or "deit" in name else {}  # those are built for one size
        self._plain = timm.create_model(name, **options).eval()
        self.size, self.dtype, self.kernels = (3, size, size), dtype, kernels

    @cached_property
    def _latency(self) -> LatencyTable:
        return project_latency(self._plain, self.size, PROJECTED_BATCH, self.dtype, self.kernels)

    def count(self, variant: str) -> int:
        """How many blocks are merged."""
        return {"P0": 0, "all": len(prunable_blocks(self._plain))}.get(variant, PRUNED)

    def variant(self, name: str) -> nn.Module:
        count = self.count(name)
        return merge_fastest(self._plain, self._latency, count) if count else self._plain


def cases(settings: Settings) -> Iterator[Case]:
    """Each model at each batch size."""
    kernels = Kernels()
    for name in known("model", settings.models, MODELS):
        model = _Model(name, settings.image_size, torch.float16, kernels)
        for batch in settings.batches or BATCHES:
            about = {"model": name, "batch": batch, "dtype": "float16"}
            yield Case(f"{name} b{batch}", about, VARIANTS, partial(_measure, model, batch))


def _measure(model: _Model, batch: int, record: Record) -> Measured:
    found = Measured()
    for variant in VARIANTS:
        report = project_model(model.variant(variant), model.size, batch, model.dtype, model.kernels)
        found.values[variant] = {"blocks": model.count(variant), **_values(report)}
        record.tell(f"{variant}: {report.total['ms']:.4g} ms, unfused at least {report.total_unfused['ms']:.4g} ms")
    return found


def _values(report: Report) -> dict[str, Any]:
    total, unfused = report.total, report.total_unfused
    reasons: dict[str, list[str]] = {}
    for one in report.left:
        reasons.setdefault(one.why, []).append(f"{one.count} {one.name}")
    return {
        "projected_ms": total["ms"],
        "fused_ms": total["fused_ms"],
        "left_ms": total["left_ms"],
        "roofline_ms": total["roofline_ms"],
        "launches": total["launches"],
        "unfused_least_ms": unfused["ms"],
        "unfused_launches": unfused["launches"],
        "left_kernels": sum(one.count for one in report.left),
        "left": "; ".join(f"{', '.join(kernels)} ({why})" for why, kernels in reasons.items()),
    }


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Times of the variants beside the unfused model, launches, and what is left to torch."""
    whole = Grid(
        f"whole models on an MI100, float16, ms ({LABEL}); unfused: at least",
        ("model", "batch", "unfused", *VARIANTS, "unfused / P0", f"P0 / {VARIANTS[1]}", "P0 / all"),
    )
    launches = Grid("kernels launched", ("model", "unfused", *VARIANTS, f"left to torch in {' / '.join(VARIANTS)}"))
    left = Grid("left to torch, views aside", ("model", "variant", "kernels and why"))
    gains: list[float | None] = []
    for case in by_case(rows).values():
        row, found = next(iter(case.values())), [case.get(variant, {}) for variant in VARIANTS]
        plain, *_ = found
        projected = [one.get("projected_ms") for one in found]
        over = [
            ratio(plain.get("unfused_least_ms"), projected[0]),
            *(ratio(projected[0], one) for one in projected[1:]),
        ]
        shown = map(ms, (plain.get("unfused_least_ms"), *projected))
        whole.add(row["model"], row["batch"], *shown, *map(times, over))
        if row["batch"] == PROJECTED_BATCH:
            gains.append(over[1])
            counts = [one.get("launches", "-") for one in found]
            launches.add(
                row["model"],
                plain.get("unfused_launches", "-"),
                *counts,
                slashed((one.get("left_kernels") for one in found), 0),
            )
            for variant, one in zip(VARIANTS, found, strict=True):
                if one.get("left"):
                    left.add(row["model"], variant, one["left"])
    reached = sum(value is not None and value >= BOUND for value in gains)
    if gains:
        whole.notes.append(
            f"At batch {PROJECTED_BATCH} merging six blocks gives {gain(gains)} (geometric mean, least); {reached} of "
            f"{len(gains)} models reach {BOUND}."
        )
    whole.notes += what_is_missing(rows)
    return [whole, launches, left]


SUITE = Suite(
    "whole_models",
    "Whole models projected on an MI100, beside the least time of the same unfused; nothing is measured.",
    cases,
    tables,
    options=("models", "batches", "image_size"),
    place="gfx908-projection",
)
