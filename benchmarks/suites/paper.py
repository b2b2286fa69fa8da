"""The paper's comparisons on this device: ConvNeXt's P-variants among their peers, and DeiT-Tiny's.

As the paper does: batch 128, throughput of whole models in plain torch, and a speedup column relative to the slowest.
The peers are of the families that the paper compares with. Which sizes it took is not known to us; these are timm's
nearest in cost to ConvNeXt-Tiny and its P-variants. Our variants also run accelerated, and all of them in other
runtimes, where they are installed. The methods of the paper's DeiT table are not in timm, so that table holds
DeiT-Tiny's variants alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from benchmarks.grid import Grid, ms, times, what_is_missing
from benchmarks.models import Choice, build_model, choose, costs, make_ready, merge, rotating_images, with_layout
from benchmarks.numerics import require_merge, require_model
from benchmarks.others import ALONE_SECONDS, runtimes
from benchmarks.protocol import Case, LeftOut, Measured, Record, Suite, race, turning
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.runtime.engines import RUNTIMES

SIZE = 224
PRUNED = (0, 3, 6, 9)
# By table: the model whose variants are compared, and its peers.
TABLES = {
    "ConvNeXt": (
        "convnext_tiny",
        (
            "efficientformerv2_s2",
            "efficientformerv2_l",
            "poolformer_s12",
            "poolformer_s24",
            "swin_tiny_patch4_window7_224",
            "regnetx_032",
            "regnety_032",
            "deit_small_patch16_224",
            "mobilenetv2_140",
        ),
    ),
    "DeiT": ("deit_tiny_patch16_224", ()),
}
_CHOSEN_ON = 8  # images that the blocks to merge are chosen on: their order hardly changes with more


def cases(settings: Settings) -> Iterator[Case]:
    """Both tables, of the models asked for."""
    for dtype in settings.dtypes or ("float32",):
        for batch in settings.batches or (128,):
            for table, (ours, peers) in TABLES.items():
                chosen = [name for name in (ours, *peers) if settings.models is None or name in settings.models]
                variants = [f"{ours} P{count}" for count in settings.pruned or PRUNED] if ours in chosen else []
                others = runtimes(settings)
                names = [f"{variant} {mode}" for variant in variants for mode in ("eager", "accelerated", *others)]
                names += [f"{name} {mode}" for name in chosen if name != ours for mode in ("eager", *others)]
                if names:
                    about = {"table": table, "batch": batch, "dtype": dtype}
                    measured = partial(measure, settings, batch, dtype, tuple(names))
                    yield Case(f"{table} b{batch} {dtype}", about, tuple(names), measured)


@torch.inference_mode()
def measure(settings: Settings, batch: int, dtype_name: str, names: tuple[str, ...], record: Record) -> Measured:
    """All models of a table in turn."""
    torch.manual_seed(0)
    dtype = getattr(torch, dtype_name)
    images = with_layout(torch.randn(batch, 3, SIZE, SIZE, device=settings.place).to(dtype), settings)
    counts = [int(word[1:]) for name in names for word in name.split()[1:-1]]
    values: dict[str, dict[str, Any]] = {}

    @cache
    def built(name: str) -> tuple[nn.Module, dict[str, Choice | None]]:
        with torch.inference_mode(False), torch.no_grad():
            model = with_layout(build_model(name, SIZE, settings.place, dtype), settings)
            return model, choose(model, images[:_CHOSEN_ON], counts) if counts and _has_variants(name) else {}

    @cache
    def source_of(name: str, variant: str) -> nn.Module:
        model, choices = built(name)
        if variant not in choices:
            raise LeftOut("it has not so many blocks that can be pruned")
        require_merge(model, choices[variant], images[-1:])
        with torch.inference_mode(False), torch.no_grad():
            return with_layout(merge(model, choices[variant]), settings)

    def prepare(candidate: str) -> Callable[[], object]:
        name, *variant, mode = candidate.split()
        source = source_of(name, variant[0]) if variant else built(name)[0]
        ready = make_ready(mode, source, images, settings)
        if mode != "eager":
            require_model(ready, source, images)
        values[candidate] = costs(source, SIZE)
        record.tell(f"{candidate} is ready")
        return turning(ready, rotating_images(tuple(images.shape), dtype, settings))

    entries = {name: partial(prepare, name) for name in names}
    alone = ALONE_SECONDS if any(name.split()[-1] in RUNTIMES for name in names) else 0.0
    found = race(settings, entries, 0.15, lambda done: record.tell(f"round {done} is done"), alone)
    medians = {name: statistics.median(seconds) for name, seconds in found.samples.items()}
    slowest = max((seconds for name, seconds in medians.items() if name.endswith(" eager")), default=math.nan)
    for name, seconds in medians.items():
        speed = {"samples_per_sec": round(batch / seconds, 2), "speedup": round(slowest / seconds, 3)}
        found.values[name] = values[name] | speed
    return found


def _has_variants(name: str) -> bool:
    return any(name == ours for ours, _ in TABLES.values())


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Each table's models, slowest first."""
    columns = ("model", "params, M", "GMACs", "ms (quartiles)", "images/s", "speedup")
    grids = []
    for key, case in by_case(rows).items():
        grid = Grid(f"{key}: × over the slowest in eager torch", columns)
        for name, row in sorted(case.items(), key=lambda item: -item[1]["median_ms"]):
            spread = f"{ms(row['median_ms'])} ({ms(row['q1_ms'])} to {ms(row['q3_ms'])})"
            cost = f"{row['param_count']:.2f}", f"{row['gmacs']:.2f}"
            grid.add(name, *cost, spread, f"{row['samples_per_sec']:.1f}", times(row.get("speedup")))
        grids.append(grid)
    grids = grids or [Grid("the paper's comparisons", columns)]
    grids[-1].notes += what_is_missing(rows)
    return grids


SUITE = Suite(
    "paper",
    "ConvNeXt's P-variants among peers from timm, and DeiT-Tiny's, at batch 128, with the paper's speedup column.",
    cases,
    tables,
    options=("device", "models", "batches", "dtypes", "pruned", "channels_last", "engines"),
    defaults={"warm_calls": 1, "rounds": 5},
    timed=True,
)
