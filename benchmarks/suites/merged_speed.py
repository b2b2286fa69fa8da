"""Merged models against their baselines in plain eager torch, half the blocks pruned.

Weights are random: speed does not depend on them. The merged blocks, their bodies and forms are those that are fastest
in eager torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from benchmarks.grid import Grid, grouped, median, ratio, slashed, what_is_missing
from benchmarks.models import MODELS, build_model, choose_fastest, merge
from benchmarks.numerics import require_merge
from benchmarks.protocol import Case, Measured, Record, Suite, race
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.blocks import merge_origins, prunable_blocks

_CANDIDATES = ("baseline", "merged")


def cases(settings: Settings) -> Iterator[Case]:
    """The models at their batch sizes."""
    for name in settings.models or MODELS:
        for dtype in settings.dtypes or ("float32",):
            for batch in settings.batches or (1, 8):
                about = {"model": name, "batch": batch, "dtype": dtype, "size": settings.image_size}
                key = f"{name} b{batch} {dtype} {settings.image_size}"
                yield Case(key, about, _CANDIDATES, partial(measure, settings, name, batch, dtype))


@torch.inference_mode()
def measure(settings: Settings, name: str, batch: int, dtype_name: str, record: Record) -> Measured:
    """Baseline and merged model in turn."""
    torch.manual_seed(0)
    dtype, size = getattr(torch, dtype_name), settings.image_size
    model = build_model(name, size, settings.place, dtype)
    images = torch.randn(batch, 3, size, size, device=settings.place).to(dtype)
    blocks = len(prunable_blocks(model))
    choice = choose_fastest(model, images, [blocks // 2])[blocks // 2]
    merged = merge(model, choice)

    def prepare_merged() -> Callable[[], object]:
        require_merge(model, choice, images[-1:])
        return partial(merged, images)

    entries: dict[str, Callable[[], Callable[[], object]]] = {
        "baseline": lambda: partial(model, images),
        "merged": prepare_merged,
    }
    found = race(settings, entries, round_seconds=2e-3)
    forms = sorted({"/".join(origin) for origin in merge_origins(merged).values()})
    found.about = {"pruned": blocks // 2, "blocks": blocks, "forms": ", ".join(forms)}
    return found


def tables(rows: Sequence[Row]) -> list[Grid]:
    """How much faster merged models are, batch sizes side by side."""
    columns = ("model", "dtype", "blocks merged", "forms", "batch", "merged over baseline")
    grid = Grid("merged models in eager torch: × over the baseline", columns)
    for (model, dtype), members in grouped(rows, "model", "dtype").items():
        found, first = by_case(members).values(), members[0]
        gains = slashed(ratio(median(case, "baseline"), median(case, "merged")) for case in found)
        forms = ", ".join(dict.fromkeys(form for row in members for form in row.get("forms", "").split(", ")))
        batches = " / ".join(str(batch) for batch in dict.fromkeys(row["batch"] for row in members))
        grid.add(model, dtype, f"{first.get('pruned')} of {first.get('blocks')}", forms, batches, gains)
    grid.notes += what_is_missing(rows)
    return [grid]


SUITE = Suite(
    "merged_speed",
    "Merged models against their baselines in plain eager torch, half of the blocks merged.",
    cases,
    tables,
    options=("device", "models", "batches", "dtypes", "image_size"),
    defaults={"rounds": 15},
    timed=True,
)
