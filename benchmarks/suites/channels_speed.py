"""Copies and latency of channel-pruned models: baseline, naive export, reordered with the least time or fewest copies.

A share of every layer's inputs is dropped at random, in each layer apart, the hardest case for reordering. All exports
of a model are timed in turn in one run, each batch size with exports made for it. ``--upscale PATH`` also runs the
published package (apple-upscale) from an unpacked copy, on the same masks: channels that it leaves to gather, and how
long it takes. Our time of export is without the check in float64, which the package does not make.
"""

from __future__ import annotations

import copy
import importlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from benchmarks.grid import Grid, grouped, median, ratio, slashed, what_is_missing
from benchmarks.protocol import Case, Measured, Record, Suite, first_line, race
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.blocks import model_input_size
from updp_rt.channels import Trace, mask_model, prune_channels, trace
from updp_rt.channels.export import export_model
from updp_rt.channels.layout import Layout, Masks, find_alive
from updp_rt.channels.order import find_order
from updp_rt.channels.plan import choose
from updp_rt.channels.prune import EXPORTS

MODELS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "densenet121",
    "mobilenetv2_100",
    "efficientnetv2_rw_t",
    "convnext_tiny",
    "regnetx_002",
    "vgg11_bn",
    "deit_tiny_patch16_224",
)
PUBLISHED = "apple-upscale"
_REPEATS = 3  # exports, of which the median time is taken


def cases(settings: Settings) -> Iterator[Case]:
    """The models, shares, dtypes and batch sizes."""
    choices = product(settings.models or MODELS, settings.amounts or (0.5,), settings.dtypes or ("float32",))
    for name, amount, dtype in choices:
        for batch in settings.batches or (1, 8):
            about = {"model": name, "amount": amount, "dtype": dtype, "batch": batch}
            published = (PUBLISHED,) if settings.upscale and batch == 1 else ()
            measured = partial(measure, settings, name, amount, dtype, batch)
            yield Case(f"{name} {amount:g} b{batch} {dtype}", about, ("baseline", *EXPORTS, *published), measured)


def measure(settings: Settings, name: str, amount: float, dtype_name: str, batch: int, record: Record) -> Measured:
    """Copies, latencies and time of export of one model, for one batch size."""
    _warm_up()
    torch.manual_seed(0)
    model = timm.create_model(name).eval().to(getattr(torch, dtype_name))
    example = torch.randn(batch, *model_input_size(model)).to(getattr(torch, dtype_name))
    masks = random_masks(trace(model, torch.randn(1, *model_input_size(model)).to(example)), amount)
    with torch.inference_mode():
        results = {export: prune_channels(model, example, masks=masks, copies=export) for export in EXPORTS}
        calls: dict[str, Any] = {"baseline": partial(model, example)}
        calls |= {export: partial(result.model, example) for export, result in results.items()}
        # Each was compared with the masked model in float64 before it was returned.
        found = race(settings, {key: partial(_given, call) for key, call in calls.items()}, round_seconds=2e-3)
    found.values = {
        export: {
            "gathered": result.copies.gathered,
            "concatenated": result.copies.concatenated,
            "error": result.error,
            "params": result.pruned_cost.params,
            "macs": result.pruned_cost.macs,
        }
        for export, result in results.items()
    }
    found.values["cheapest"]["export_seconds"] = export_seconds(model, example, masks)
    optimum = results["naive"].optimum
    found.about = {"optimum": "not proven" if optimum is None else optimum}
    if settings.upscale and batch == 1:
        try:
            found.values[PUBLISHED] = run_published(model, masks, settings.upscale)
        except Exception as error:  # whatever it raises is a result
            found.left_out[PUBLISHED] = f"it fails: {first_line(error)[:120]}"
    return found


@cache
def _warm_up() -> None:
    """torch.export's own start, which is not the first model's."""
    trace(timm.create_model("test_vit").eval(), torch.randn(1, 3, 160, 160))


def _given(call: Any) -> Any:
    return call


def random_masks(found: Trace, amount: float, seed: int = 0) -> dict[str, Any]:
    """Every layer drops a random share of its inputs."""
    draw = np.random.default_rng(seed)
    widths = {name: len(consumer.channels) for name, consumer in found.prunable.items()}
    return {name: draw.permutation(width) < max(1, round((1 - amount) * width)) for name, width in widths.items()}


def export_seconds(model: nn.Module, example: Tensor, masks: Masks) -> float:
    """From a model and masks to the exported model, without checking it: the median of a few runs."""
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        found = trace(model, example)
        alive = find_alive(found, masks)
        layout = Layout(alive, find_order(found, masks, alive).occupant)
        export_model(model, found, masks, layout, choose(found, masks, layout, "cheapest"))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def run_published(model: nn.Module, masks: Masks, folder: Path) -> dict[str, Any]:
    """Channels that the published package gathers after its reordering, its error and median time."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    manager = importlib.import_module("upscale.pruning").PruningManager

    masked, seconds = mask_model(model, masks), []
    dropped = [(f"{name}.weight", int(i)) for name, mask in masks.items() for i in np.flatnonzero(~mask)]
    example = torch.randn(1, *model_input_size(model)).to(next(model.parameters()))
    for _ in range(_REPEATS):
        pruned = copy.deepcopy(masked)
        start = time.perf_counter()
        manager(pruned).compute([example], pruned_inputs=dropped).prune()
        seconds.append(time.perf_counter() - start)
    with torch.no_grad():
        wanted = masked(example)
        error = float((pruned(example) - wanted).abs().max() / wanted.abs().max())
    gathers: list[Any] = [module.indices for module in pruned.modules() if type(module).__name__ == "Subselect"]
    gathered = sum(len(indices) for indices in gathers if max(indices) - min(indices) + 1 != len(indices))
    return {"gathered": gathered, "export_seconds": statistics.median(seconds), "error": error}


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Channels gathered, seconds of export, and how much faster than the naive export, batch sizes side by side."""
    columns = ["model", "dropped", "dtype", "naive", "best order", "`cheapest`", "`fewest`", PUBLISHED]
    columns += ["seconds, ours and its", "batch", "`cheapest` over naive", "`fewest` over naive"]
    grid, nothing = Grid("channels gathered, and × over the naive export", columns), []
    for (model, amount, dtype), members in grouped(rows, "model", "amount", "dtype").items():
        found = list(by_case(members).values())
        if not found:
            continue
        first, known = found[0], {row["candidate"]: row for row in members if row["batch"] == members[0]["batch"]}
        gathered = [first[export]["gathered"] for export in ("naive", "cheapest", "fewest")]
        gains = [[ratio(median(c, "naive"), median(c, arm)) for c in found] for arm in ("cheapest", "fewest")]
        if not any(gathered):
            spread = [value for values in gains for value in values if value is not None]
            nothing.append(f"{model} ({min(spread):.2f} to {max(spread):.2f})")
            continue
        its = known.get(PUBLISHED, {})
        took = (row.get("export_seconds") for row in (first["cheapest"], its))
        seconds = ("-" if value is None else f"{value:.1f}" for value in took)
        published = its.get("gathered", "fails" if its else "-")
        batches = " / ".join(str(row["naive"]["batch"]) for row in found)
        cells = (gathered[0], first["naive"]["optimum"], *gathered[1:], published, ", ".join(seconds), batches)
        grid.add(model, f"{amount:.0%}", dtype, *cells, *map(slashed, gains))
    if nothing:
        same = "Their exports are the same model, so that the ratios show the noise."
        grid.notes.append(f"Nothing to gather: {', '.join(nothing)}. {same}")
    grid.notes += what_is_missing(rows)
    return [grid]


SUITE = Suite(
    "channels_speed",
    "Copies and latency of channel-pruned models, on the CPU: naive export, reordered, and the published package's.",
    cases,
    tables,
    options=("models", "batches", "dtypes", "amounts", "upscale"),
    defaults={"device": "cpu", "rounds": 16},
    timed=True,
)
