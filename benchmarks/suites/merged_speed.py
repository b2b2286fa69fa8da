"""Merged models against their baselines: in plain torch, eager and compiled, and both exported, in ONNX Runtime.

Weights are random: speed does not depend on them. The merged blocks, their bodies and forms are those that are fastest
in eager torch here; what is compiled and exported is the same. Compiled is frozen Inductor. ONNX files are written by
`updp_rt.export`, for any number of images, and run as they are, on as many threads as torch. Each candidate runs alone
for a moment before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import torch
from torch import nn

from benchmarks.grid import Grid, gain, grouped, median, ratio, slashed, what_is_missing
from benchmarks.models import build_model, choose_fastest, merge, model_cases
from benchmarks.numerics import require_merge, require_model
from benchmarks.others import ALONE_SECONDS, run_exported, run_in
from benchmarks.protocol import Case, Measured, Record, Suite, race
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.blocks import merge_origins, prunable_blocks

# Where a variant runs, and how a table calls it.
_WHERE = {"eager": "eager torch", "compiled": "compiled torch", "exported": "ONNX Runtime"}
_CANDIDATES = tuple(f"{variant} {where}" for where in _WHERE for variant in ("baseline", "merged"))
# What is wanted of ONNX Runtime's gain from merging, as a share of torch's.
LEAST_KEPT = 0.9


def cases(settings: Settings) -> Iterator[Case]:
    """The models at their batch sizes, half of the blocks merged or as many as are asked for."""
    for count in settings.pruned or (None,):
        for case in model_cases(settings, lambda name: _CANDIDATES, partial(measure, count)):
            yield case if count is None else replace(case, key=f"{case.key} P{count}")


@torch.inference_mode()
def measure(
    count: int | None, settings: Settings, name: str, batch: int, dtype_name: str, names: Sequence[str], record: Record
) -> Measured:
    """Baseline and merged model, in torch, eager and compiled, and in ONNX Runtime, in turn."""
    torch.manual_seed(0)
    dtype, size = getattr(torch, dtype_name), settings.image_size
    model = build_model(name, size, settings.place, dtype)
    images = torch.randn(batch, 3, size, size, device=settings.place).to(dtype)
    blocks = len(prunable_blocks(model))
    pruned = blocks // 2 if count is None else count
    if pruned > blocks:
        return Measured(left_out=dict.fromkeys(names, f"only {blocks} blocks can be pruned"))
    choice = choose_fastest(model, images, [pruned])[pruned]
    merged = merge(model, choice)

    @cache
    def source_of(variant: str) -> nn.Module:
        if variant == "baseline":
            return model
        require_merge(model, choice, images[-1:])
        return merged

    def prepare(candidate: str) -> Callable[[], object]:
        variant, where = candidate.split()
        source = source_of(variant)
        if where == "eager":
            return partial(source, images)
        run = run_exported(source, images) if where == "exported" else run_in("inductor", source, images)
        record.tell(f"{candidate} is ready")
        require_model(run, source, images)
        return partial(run, images)

    entries = {candidate: partial(prepare, candidate) for candidate in names}
    found = race(settings, entries, round_seconds=0.15, alone_seconds=ALONE_SECONDS)
    forms = sorted({"/".join(origin) for origin in merge_origins(merged).values()})
    found.about = {"pruned": pruned, "blocks": blocks, "forms": ", ".join(forms)}
    return found


def tables(rows: Sequence[Row]) -> list[Grid]:
    """How much faster merged models are in each, batch sizes side by side, and how much of it exported ones keep."""
    there = {row["candidate"].split()[1] for row in rows if "median_ms" in row}
    shown = [where for where in _WHERE if where in there]
    torchs = [where for where in shown if where != "exported"] if "exported" in shown else []
    columns = ["model", "dtype", "blocks merged", "forms", "batch", *(f"in {_WHERE[where]}" for where in shown)]
    columns += [f"ONNX Runtime's over {_WHERE[where]}'s" for where in torchs]
    grid = Grid("merged models: × over the baseline, ratios of medians", columns)
    kept: dict[str, list[float | None]] = {where: [] for where in torchs}
    for (model, dtype, pruned), members in grouped(rows, "model", "dtype", "pruned").items():
        found = by_case(members).values()
        if not found:
            continue
        gains = {
            where: [ratio(median(case, f"baseline {where}"), median(case, f"merged {where}")) for case in found]
            for where in shown
        }
        shares = {
            where: [ratio(there, here) for there, here in zip(gains["exported"], gains[where], strict=True)]
            for where in torchs
        }
        for where, share in shares.items():
            kept[where] += share
        forms = ", ".join(dict.fromkeys(form for row in members for form in row.get("forms", "").split(", ")))
        batches = " / ".join(str(batch) for batch in dict.fromkeys(row["batch"] for row in members))
        cells = (f"{pruned} of {members[0].get('blocks')}", forms, batches)
        grid.add(model, dtype, *cells, *map(slashed, gains.values()), *map(slashed, shares.values()))
    for where, share in kept.items():
        told = f"{gain(share)} in geometric mean (at least); wanted {LEAST_KEPT} at least."
        grid.notes.append(f"ONNX Runtime's gain over {_WHERE[where]}'s: {told}")
    grid.notes += what_is_missing(rows)
    return [grid]


SUITE = Suite(
    "merged_speed",
    "Merged models against their baselines in plain torch, eager and compiled, and both exported in ONNX Runtime.",
    cases,
    tables,
    options=("device", "models", "batches", "dtypes", "image_size", "pruned"),
    defaults={"rounds": 15, "dtypes": ("float32",)},
    timed=True,
)
