"""Unconstrained against constrained channel pruning on the digits, at the same number of parameters, without training.

Run ``python -m benchmarks.channels_accuracy``. For each model and seed a baseline is trained from scratch. Constrained
masks drop a share of the parameters (where the scope is local: of every coupled group's channels); unconstrained ones
are chosen for as many parameters, with 64 training images. "Averaged" are constrained masks whose groups score as the
mean of their layers, as Torch-Pruning's do by default, instead of the sum; "free" are unconstrained ones without
images, by scores alone. Accuracy is of the masked models, which the exported ones equal, on 719 images that training
never sees: as they are, and with BatchNorm statistics taken anew on 512 training images.
"""

from __future__ import annotations

import statistics
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.data import ConcatDataset

from benchmarks.common import write_result
from updp_rt.channels import Trace, mask_model, trace
from updp_rt.channels.coupling import choose_coupling
from updp_rt.channels.importance import MEASURES, Scores, score_inputs
from updp_rt.channels.layout import Masks, count_params
from updp_rt.channels.masks import choose_masks
from updp_rt.data import first_images, load_splits, make_loader
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.trainer import Recipe, evaluate, fit, label_losses, make_accelerator, seed_everything

# Epochs and learning rate of the baseline.
BUDGETS = {"resnet18": (6, 1e-3), "densenet121": (6, 1e-3), "mobilenetv2_100": (40, 5e-3)}
BATCH = 32
KINDS = ("averaged", "constrained", "free", "unconstrained")
ARMS = ("baseline", *KINDS, *(f"{kind} recalibrated" for kind in KINDS))


def main(
    models: str = ",".join(BUDGETS),
    seeds: str = "0,1,2",
    amounts: Annotated[str, typer.Option(help="Shares that are dropped.")] = "0.2,0.4,0.6,0.8",
    importance: str = ",".join(MEASURES),
    scope: Annotated[str, typer.Option(help="global: of the parameters; local: of each layer's inputs.")] = "global",
) -> None:
    """Train, prune and compare; one line a model, measure, share and seed, then the table."""
    console = Console()
    rows = []
    for name in models.split(","):
        for seed in map(int, seeds.split(",")):
            settings = product(importance.split(","), map(float, amounts.split(",")))
            for row in compare(name, seed, scope, list(settings)):
                rows.append({"model": name, "seed": seed, **row})
                shown = " ".join(f"{100 * row[arm]:.2f}" for arm in ARMS)
                console.print(name, seed, row["importance"], row["amount"], shown)
    table = Table(title="accuracy on the digits after pruning, no training", title_justify="left")
    for column in ("model", "measure", "share", "parameters", *ARMS, *(f"over {kind}" for kind in KINDS[:-1])):
        table.add_column(column, justify="right")
    keys = dict.fromkeys((row["model"], row["importance"], row["amount"]) for row in rows)
    for key in keys:
        found = [row for row in rows if (row["model"], row["importance"], row["amount"]) == key]
        share = statistics.mean(row["params"]["constrained"] / row["params"]["baseline"] for row in found)
        cells = [_spread([row[arm] for row in found]) for arm in ARMS]
        gains = [_spread([row["unconstrained"] - row[kind] for row in found]) for kind in KINDS[:-1]]
        table.add_row(*map(str, key), f"{100 * share:.0f}%", *cells, *gains)
    Console(width=320).print(table)
    about = {"scope": scope, "budgets": BUDGETS, "batch": BATCH}
    console.print(f"written: {write_result(f'channels_accuracy-{scope}', rows, **about)}")


def compare(name: str, seed: int, scope: str, settings: list[tuple[str, float]]) -> list[dict[str, Any]]:
    """Accuracies of a baseline and of every kind of pruning of it, for every measure and share."""
    splits = load_splits("digits", (3, 32, 32))
    unseen = make_loader(ConcatDataset([splits.val, splits.test]), 256, training=False)
    seed_everything(seed, "weights", 0)
    model = timm.create_model(name, num_classes=splits.num_classes)
    loader = make_loader(splits.train, BATCH, training=True, seed=seed)
    epochs, lr = BUDGETS[name]
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "ckpt"
        recipe = Recipe(epochs, lr, seed=seed)
        how = {"stage": "baseline", "accelerator": make_accelerator(), "progress": Progress(show=False)}
        fit(model, loader, label_losses(), recipe, checkpoint=checkpoint, **how)
    model.cpu().eval()
    images = first_images(loader, 64)
    batches = first_images(make_loader(splits.train, 256, training=True, seed=seed), 512).split(256)
    found = trace(model, torch.randn(1, 3, 32, 32))
    baseline = evaluate(model, unseen)
    scores = {measure: score_inputs(model, found, measure, [images]) for measure, _ in settings}
    rows = []
    for measure, amount in settings:
        constrained = choose_masks(found, scores[measure], amount, scope=scope, constrained=True)
        target = count_params(found, constrained)
        averaged = average(found, scores[measure])
        free = match_params(found, scores[measure], scope, target)
        masks = {
            "averaged": choose_masks(found, averaged, amount, scope=scope, constrained=True),
            "constrained": constrained,
            "free": free,
            "unconstrained": free,
        }
        if scope == "global":
            share = 1 - target / count_params(found, {})
            masks["unconstrained"] = choose_coupling(model, found, scores[measure], share, [images])[0]
        row: dict[str, Any] = {"importance": measure, "amount": amount, "baseline": baseline}
        row["params"] = {"baseline": count_params(found, {})}
        for arm, chosen in masks.items():
            row["params"][arm] = count_params(found, chosen)
            masked = mask_model(model, chosen)
            row[arm] = evaluate(masked, unseen)
            recalibrate(masked, batches)
            row[f"{arm} recalibrated"] = evaluate(masked, unseen)
        # How much of what is dropped both drop: 1 where being free changes nothing.
        row["shared"] = {kind: _shared(constrained, masks[kind]) for kind in ("free", "unconstrained")}
        rows.append(row)
    return rows


def average(found: Trace, scores: Scores) -> Scores:
    """Scores divided by the number of layers that read the channel, so that sums over these are means."""
    readers = np.zeros(found.size)
    for consumer in found.prunable.values():
        readers[np.unique(consumer.channels)] += 1
    return {name: score / readers[found.prunable[name].channels] for name, score in scores.items()}


def match_params(found: Trace, scores: Scores, scope: str, target: int) -> Masks:
    """Unconstrained masks of the smallest share whose model has no more parameters than `target`."""
    if scope == "global":
        return choose_masks(found, scores, 1 - target / count_params(found, {}))
    low, high = 0.0, 0.95
    for _ in range(9):
        middle = (low + high) / 2
        over = count_params(found, choose_masks(found, scores, middle, scope=scope)) > target
        low, high = (middle, high) if over else (low, middle)
    return choose_masks(found, scores, high, scope=scope)


def _shared(one: Masks, other: Masks) -> float:
    """Inputs that both masks drop over those that either drops."""
    both = sum(int((~one[name] & ~other[name]).sum()) for name in one)
    return both / max(1, sum(int((~one[name] | ~other[name]).sum()) for name in one))


def _spread(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


if __name__ == "__main__":
    typer.run(main)
