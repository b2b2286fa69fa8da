"""Unconstrained against constrained channel pruning on the digits, at the same number of parameters, without training.

Run ``python -m benchmarks.channels_accuracy``. For each model and seed a baseline is trained from scratch. Constrained
masks drop a share of every coupled group; the unconstrained share is then chosen, by bisection, for the same number of
parameters. Accuracy is of the masked models, which the exported ones equal, on 719 images that training never sees.
"""

from __future__ import annotations

import statistics
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import ConcatDataset

from benchmarks.common import write_result
from updp_rt.channels import Trace, mask_model, trace
from updp_rt.channels.importance import Scores, score_inputs
from updp_rt.channels.layout import Masks, find_alive
from updp_rt.channels.masks import choose_masks
from updp_rt.data import first_images, load_splits, make_loader
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.trainer import Recipe, evaluate, fit, label_losses, make_accelerator, seed_everything

# Epochs and learning rate of the baseline.
BUDGETS = {"resnet18": (6, 1e-3), "densenet121": (6, 1e-3), "mobilenetv2_100": (20, 2e-3)}
BATCH = 32


def main(
    models: str = ",".join(BUDGETS),
    seeds: str = "0,1,2",
    amounts: str = "0.05,0.1,0.2,0.3",
    importance: str = "magnitude,lamp,fpgm,hrank",
    scopes: str = "local,global",
) -> None:
    """Train, prune and compare; one line a model, measure, share and seed, then the table."""
    console = Console()
    rows = []
    for name in models.split(","):
        for seed in map(int, seeds.split(",")):
            settings = product(importance.split(","), scopes.split(","), map(float, amounts.split(",")))
            for row in compare(name, seed, list(settings)):
                rows.append({"model": name, "seed": seed, **row})
                arms = (row[arm] for arm in ("baseline", "constrained", "unconstrained"))
                shown = " ".join(f"{100 * accuracy:.2f}" for accuracy in arms)
                console.print(name, seed, row["importance"], row["scope"], row["amount"], shown)
    table = Table(title="accuracy on the digits after pruning, no training", title_justify="left")
    arms = ("baseline", "constrained", "unconstrained")
    for column in ("model", "measure", "scope", "share", "parameters", *arms, "difference"):
        table.add_column(column, justify="right")
    keys = dict.fromkeys((row["model"], row["importance"], row["scope"], row["amount"]) for row in rows)
    for key in keys:
        found = [row for row in rows if (row["model"], row["importance"], row["scope"], row["amount"]) == key]
        share = statistics.mean(row["params"]["constrained"] / row["params"]["baseline"] for row in found)
        cells = [_spread([row[arm] for row in found]) for arm in arms]
        differences = _spread([row["unconstrained"] - row["constrained"] for row in found])
        table.add_row(*map(str, key), f"{100 * share:.0f}%", *cells, differences)
    console.print(table)
    console.print(f"written: {write_result('channels_accuracy', rows, budgets=BUDGETS, batch=BATCH)}")


def compare(name: str, seed: int, settings: list[tuple[str, str, float]]) -> list[dict[str, Any]]:
    """Accuracies of a baseline and of both prunings of it, for every measure, scope and share."""
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
    found = trace(model, torch.randn(1, 3, 32, 32))
    baseline = evaluate(model, unseen)
    scores = {measure: score_inputs(model, found, measure, images) for measure, _, _ in settings}
    rows = []
    for measure, scope, amount in settings:
        constrained = choose_masks(found, scores[measure], amount, scope=scope, constrained=True)
        target = count_params(model, found, constrained)
        share, unconstrained = match_params(model, found, scores[measure], scope, target)
        row: dict[str, Any] = {"importance": measure, "scope": scope, "amount": amount, "unconstrained_amount": share}
        row["params"] = {
            "baseline": sum(p.numel() for p in model.parameters()),
            "constrained": target,
            "unconstrained": count_params(model, found, unconstrained),
        }
        row["baseline"] = baseline
        row["constrained"] = evaluate(mask_model(model, constrained), unseen)
        row["unconstrained"] = evaluate(mask_model(model, unconstrained), unseen)
        rows.append(row)
    return rows


def count_params(model: nn.Module, found: Trace, masks: Masks) -> int:
    """Parameters of the exported model, which reads exactly what every layer keeps."""
    alive = find_alive(found, masks)
    sizes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for (name, dim), channels in found.slots.items():
        if name not in sizes:
            continue
        owner, _, attribute = name.rpartition(".")
        keeps = masks.get(owner) if dim == 1 and attribute == "weight" else None
        sizes[name][dim] = int((alive[channels] if keeps is None else keeps & alive[channels]).sum())
    return int(sum(np.prod(shape) for shape in sizes.values()))


def match_params(model: nn.Module, found: Trace, scores: Scores, scope: str, target: int) -> tuple[float, Masks]:
    """The smallest unconstrained share, and its masks, whose model has no more parameters than `target`."""
    low, high = 0.0, 0.95
    for _ in range(9):
        middle = (low + high) / 2
        over = count_params(model, found, choose_masks(found, scores, middle, scope=scope)) > target
        low, high = (middle, high) if over else (low, middle)
    return high, choose_masks(found, scores, high, scope=scope)


def _spread(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


if __name__ == "__main__":
    typer.run(main)
