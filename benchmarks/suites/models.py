"""Whole models: the baseline (P0) and variants with blocks merged (P3, P6), eager, compiled and accelerated.

One case is one model at one batch size in one dtype, all variants and modes in turn, in a process of its own: what
cases before it left in the heap and the caches would weigh on it. The merged blocks are those that save most. Flags,
and the columns of ``--results-file``, are those of timm's benchmark.py; ours are medians where timm's are means.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.footprint import new_process, peak_memory
from benchmarks.grid import Grid, best, gain, grouped, median, ratio, slashed, what_is_missing
from benchmarks.models import (
    MODES,
    Choice,
    build_model,
    choose,
    costs,
    in_graph,
    make_ready,
    merge,
    model_cases,
    rotating_images,
    with_layout,
)
from benchmarks.numerics import require_merge, require_model
from benchmarks.others import ALONE_SECONDS, runtimes
from benchmarks.protocol import Case, LeftOut, Measured, Record, Suite, first_line, race, turning
from benchmarks.results import Row, by_case, to_csv
from benchmarks.settings import Settings
from updp_rt.artifacts.atomic import write_text
from updp_rt.blocks import prunable_blocks
from updp_rt.runtime.engines import RUNTIMES

PRUNED = (0, 3, 6)
BASELINES = ("P0 eager", "P0 eager graph", "P0 eager nchw", "P0 eager nchw graph", "P0 compiled")

Look = Callable[[str, nn.Module], None]  # at an accelerated candidate; may raise Wrong


def cases(settings: Settings) -> Iterator[Case]:
    """All models at all batch sizes and dtypes."""
    modes = [mode for mode in MODES if mode != "compiled" or settings.compiler != "none"]
    names = tuple(f"P{count} {mode}" for count in settings.pruned or PRUNED for mode in (*modes, *runtimes(settings)))
    return model_cases(settings, lambda name: names, measure)


def measure(settings: Settings, name: str, batch: int, dtype: str, names: tuple[str, ...], record: Record) -> Measured:
    """Times from one process; then peak memory, of each candidate in a process of its own."""
    with new_process(settings) as pool:
        found, choices = pool.submit(time_variants, settings, name, batch, dtype, names).result()
    if settings.memory:
        record.tell(f"{len(found.samples)} variants timed; now their peak memory")
        for candidate in found.samples:
            variant, mode = candidate.split()
            how = settings, name, batch, getattr(torch, dtype), choices[variant], mode
            try:
                with new_process(settings) as pool:
                    found.values[candidate]["peak_memory_mb"] = pool.submit(peak_memory, *how).result()
            except Exception as error:  # its time is still worth having
                found.values[candidate]["memory_failed"] = first_line(error)
                record.tell(f"no peak memory of {candidate}: {first_line(error)}")
    return found


@torch.inference_mode()
def time_variants(
    settings: Settings,
    name: str,
    batch: int,
    dtype_name: str,
    names: tuple[str, ...],
    look: Look | None = None,
) -> tuple[Measured, dict[str, Choice | None]]:
    """All variants in all modes ("P3 accelerated"), and the blocks merged in each.

    "graph" behind a mode: in a CUDA or HIP graph, an accelerated model by its engine of that name, with all that a call
    of it checks and copies. "nchw": in torch's own layout, whatever the settings say.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = settings.library_search
    dtype, size = getattr(torch, dtype_name), settings.image_size
    model = with_layout(build_model(name, size, settings.place, dtype), settings)
    images = with_layout(torch.randn(batch, 3, size, size, device=settings.place).to(dtype), settings)
    choices = choose(model, images, [int(candidate.split()[0][1:]) for candidate in names])
    values: dict[str, dict[str, Any]] = {}

    @cache
    def source_of(variant: str) -> tuple[nn.Module, dict[str, float]]:
        if variant not in choices:
            raise LeftOut(f"only {len(prunable_blocks(model))} blocks can be pruned")
        require_merge(model, choices[variant], images[:1])
        merged = with_layout(merge(model, choices[variant]), settings)
        return merged, costs(merged, size)

    @cache
    def ready_in(variant: str, mode: str, plain: bool, engine: str) -> Callable[[torch.Tensor], torch.Tensor]:
        source = source_of(variant)[0]
        if plain:
            source = _plain(copy.deepcopy(source))
        return make_ready(mode, source, _plain(images) if plain else images, settings, engine)

    def prepare(candidate: str) -> Callable[[], object]:
        variant, mode, *how = candidate.split()
        source, cost = source_of(variant)
        plain, graph = "nchw" in how, "graph" in how
        engine = "graph" if graph and mode == "accelerated" else "modules"
        ready, given = ready_in(variant, mode, plain, engine), _plain(images) if plain else images
        if look and isinstance(ready, nn.Module) and mode == "accelerated":
            look(candidate, ready)
        run = in_graph(ready, given) if graph and mode != "accelerated" else ready
        require_model(run, source, given)
        values[candidate] = {"variant": variant, "mode": " ".join((mode, *how)), **cost}
        layout = replace(settings, channels_last=False) if plain else settings
        return turning(run, rotating_images(tuple(images.shape), dtype, layout))

    alone = ALONE_SECONDS if any(name.split()[1] in RUNTIMES for name in names) else 0.0
    found = race(settings, {name: partial(prepare, name) for name in names}, 0.15, alone_seconds=alone)
    found.values = {candidate: values[candidate] for candidate in found.samples}
    return found, choices


def _plain(value: Any) -> Any:
    """A model or images in torch's own layout."""
    return value.to(memory_format=torch.contiguous_format)


def write_timm(path: Path, rows: Sequence[Row]) -> None:
    """Write rows under timm's columns, then ours."""
    timm = {"batch": "infer_batch_size", "size": "infer_img_size", "gmacs": "infer_gmacs", "macts": "infer_macts"}
    ours = ("rounds", "peak_memory_mb", "memory_failed", "wrong", "left_out")
    found = []
    for row in rows:
        speed = round(1e3 * row["batch"] / row["median_ms"], 2) if "median_ms" in row else None
        line = {"model": row["model"], "infer_samples_per_sec": speed, "infer_step_time": row.get("median_ms")}
        line |= {column: row.get(name) for name, column in timm.items()} | {"param_count": row.get("param_count")}
        line["variant"], line["mode"] = row["candidate"].split(maxsplit=1)
        line["precision"] = row["dtype"]
        line |= {f"step_time_{q}": row.get(f"{q}_ms") for q in ("q1", "q3")} | {key: row.get(key) for key in ours}
        found.append(line)
    write_text(path, to_csv(found))


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Accelerated models over eager and compiled ones, batch sizes side by side; their peak memory."""
    pairs = {
        "accelerated over eager": ("P0 eager", "P0 accelerated"),
        "accelerated over compiled": ("P0 compiled", "P0 accelerated"),
        "merged and accelerated over compiled": ("P0 compiled", "{} accelerated"),
        "the same over compiled merged": ("{} compiled", "{} accelerated"),
    }
    grid = Grid("models: × faster, ratios of medians", ["model", "dtype", "batch", "merged", *pairs])
    memory = Grid("models: peak memory of the unpruned, MB", ["model", "dtype", "batch", *MODES])
    for (model, dtype), members in grouped(rows, "model", "dtype").items():
        found, batches = list(by_case(members).values()), list(dict.fromkeys(row["batch"] for row in members))
        sizes, most = " / ".join(map(str, batches)), most_pruned(members)
        gains = [
            [ratio(median(case, slow.format(most)), median(case, fast.format(most))) for case in found]
            for slow, fast in pairs.values()
        ]
        grid.add(model, dtype, sizes, most, *map(slashed, gains))
        peaks = [[case.get(f"P0 {mode}", {}).get("peak_memory_mb") for case in found] for mode in MODES]
        if any(value is not None for values in peaks for value in values):
            memory.add(model, dtype, sizes, *(slashed(values, 0) for values in peaks))
    found_cases = by_case(rows).values()
    over = gain(ratio(median(case, "P0 compiled"), median(case, "P0 accelerated")) for case in found_cases)
    grid.notes += [f"Unpruned, accelerated over compiled: {over} in geometric mean (at least)."]
    grid.notes += what_is_missing(rows)
    others = in_runtimes(rows)
    return [one for one in (grid, others, memory) if one is grid or one.rows]


def in_runtimes(rows: Sequence[Row]) -> Grid:
    """What merging buys in other runtimes, and how accelerated models compare, batch sizes side by side."""
    columns = ("unpruned / merged in it", "it / accelerated, unpruned", "it / accelerated, merged")
    grid = Grid("models in other runtimes: × faster", ["model", "dtype", "batch", "merged", "runtime", *columns])
    for (model, dtype), members in grouped(rows, "model", "dtype").items():
        found, most = list(by_case(members).values()), most_pruned(members)
        sizes = " / ".join(map(str, dict.fromkeys(row["batch"] for row in members)))
        for name in RUNTIMES:
            pairs = ((f"P0 {name}", f"{most} {name}"), *((f"{p} {name}", f"{p} accelerated") for p in ("P0", most)))
            gains = [[ratio(median(case, slow), median(case, fast)) for case in found] for slow, fast in pairs]
            if any(value is not None for values in gains for value in values):
                grid.add(model, dtype, sizes, most, name, *map(slashed, gains))
    return grid


def over_best(case: Mapping[str, Row], name: str) -> float | None:
    """How much faster a candidate is than the best of the unpruned model in eager and compiled."""
    return ratio(best(case, BASELINES), median(case, name))


def most_pruned(rows: Sequence[Row]) -> str:
    """The variant with the most blocks merged."""
    return f"P{max((int(row['candidate'].split()[0][1:]) for row in rows if 'median_ms' in row), default=0)}"


SUITE = Suite(
    "models",
    "Whole models, P0, P3, P6: eager, compiled, accelerated; times and peak memory; flags and columns as timm's.",
    cases,
    tables,
    options=(
        "device",
        "models",
        "batches",
        "dtypes",
        "image_size",
        "pruned",
        "channels_last",
        "compiler",
        "compile_mode",
        "engines",
        "memory",
        "results_file",
    ),
    defaults={"seconds": 30.0},
    timed=True,
)
