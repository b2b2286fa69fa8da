"""Copies and latency of channel-pruned models: baseline, naive export, reordered with the least time or fewest copies.

Run ``python -m benchmarks.channels_speed``. A share of every layer's inputs is dropped at random, in each layer apart,
the hardest case for reordering. All exports of a model are timed in turn in one run, each batch size with exports made
for it; ratios are of medians. ``--upscale PATH`` also runs the published package (apple-upscale) from an unpacked copy,
on the same masks: channels that it leaves to gather, and how long it takes. Our time of export is without the check in
float64, which the package does not make.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from functools import partial
from itertools import product
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common import write_result
from updp_rt._timing import time_side_by_side
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
_ARMS = ("baseline", *EXPORTS)
_REPEATS = 3  # exports, of which the median time is taken


def main(
    models: str = ",".join(MODELS),
    batches: str = "1,8",
    amounts: Annotated[str, typer.Option(help="Shares of each layer's inputs that are dropped.")] = "0.5",
    dtypes: str = "float32",
    rounds: int = 16,
    upscale: Annotated[str | None, typer.Option(help="Folder that holds the published package `upscale`.")] = None,
) -> None:
    """Measure the models at the given batch sizes."""
    table = Table(title="random masks, 224x224", title_justify="left")
    for column in ("model", "dropped", "dtype", "batch", "gathered", "best order", "published", *_ARMS, "export"):
        table.add_column(column, justify="right")
    trace(timm.create_model("test_vit").eval(), torch.randn(1, 3, 160, 160))  # torch.export's own start
    rows = []
    for name, amount, dtype in product(models.split(","), map(float, amounts.split(",")), dtypes.split(",")):
        torch.manual_seed(0)
        model = timm.create_model(name).eval().to(getattr(torch, dtype))
        masks: dict[str, Any] | None = None
        for batch in map(int, batches.split(",")):
            example = torch.randn(batch, *model_input_size(model)).to(getattr(torch, dtype))
            masks = masks or random_masks(trace(model, example), amount)
            row = measure(model, example, masks, rounds)
            if upscale is not None and batch == 1:
                row["published"] = run_published(model, masks, upscale)
            rows.append({"model": name, "amount": amount, "dtype": dtype, "batch": batch, **row})
            gathered = "/".join(str(row["gathered"][export]) for export in reversed(EXPORTS))
            published = row["published"].get("gathered", "fails") if "published" in row else ""
            times = (f"{row['ms'][arm]:.1f} ms" for arm in _ARMS)
            told = (gathered, row["optimum"], published, *times, f"{row['export_seconds']:.1f} s")
            table.add_row(name, f"{amount:g}", dtype, str(batch), *map(str, told))
            Console().print(rows[-1])
    Console(width=160).print(table)
    Console().print(f"written: {write_result('channels_speed', rows, size=224, rounds=rounds)}")


def random_masks(found: Trace, amount: float, seed: int = 0) -> dict[str, Any]:
    """Every layer drops a random share of its inputs."""
    draw = np.random.default_rng(seed)
    widths = {name: len(consumer.channels) for name, consumer in found.prunable.items()}
    return {name: draw.permutation(width) < max(1, round((1 - amount) * width)) for name, width in widths.items()}


@torch.inference_mode()
def measure(model: nn.Module, example: Tensor, masks: Masks, rounds: int) -> dict[str, Any]:
    """Copies, latencies and time of export of one model, for one example."""
    results = {export: prune_channels(model, example, masks=masks, copies=export) for export in EXPORTS}
    calls: dict[str, Any] = {"baseline": partial(model, example)}
    calls |= {export: partial(result.model, example) for export, result in results.items()}
    times = time_side_by_side(calls, rounds=rounds)
    return {
        "gathered": {export: result.copies.gathered for export, result in results.items()},
        "concatenated": {export: result.copies.concatenated for export, result in results.items()},
        "optimum": results["naive"].optimum,
        "error": max(result.error for result in results.values()),
        "params": {export: result.pruned_cost.params for export, result in results.items()},
        "macs": {export: result.pruned_cost.macs for export, result in results.items()},
        "ms": {name: seconds * 1e3 for name, seconds in times.items()},
        "over_naive": {name: times["naive"] / seconds for name, seconds in times.items()},
        "export_seconds": export_seconds(model, example, masks),
    }


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


def run_published(model: nn.Module, masks: Masks, folder: str) -> dict[str, Any]:
    """Channels that the published package gathers after its reordering, its error and median time; or why it fails."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from upscale.pruning import PruningManager

    masked, seconds = mask_model(model, masks), []
    dropped = [(f"{name}.weight", int(i)) for name, mask in masks.items() for i in np.flatnonzero(~mask)]
    example = torch.randn(1, *model_input_size(model)).to(next(model.parameters()))
    try:
        for _ in range(_REPEATS):
            pruned = copy.deepcopy(masked)
            start = time.perf_counter()
            PruningManager(pruned).compute([example], pruned_inputs=dropped).prune()
            seconds.append(time.perf_counter() - start)
        with torch.no_grad():
            wanted = masked(example)
            error = float((pruned(example) - wanted).abs().max() / wanted.abs().max())
    except Exception as error:  # whatever it raises is a result
        return {"fails": f"{type(error).__name__}: {str(error)[:120]}"}
    gathers = [module.indices for module in pruned.modules() if type(module).__name__ == "Subselect"]
    gathered = sum(len(indices) for indices in gathers if max(indices) - min(indices) + 1 != len(indices))
    return {"gathered": gathered, "seconds": statistics.median(seconds), "error": error}


if __name__ == "__main__":
    typer.run(main)
