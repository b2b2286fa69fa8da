"""Progressive against direct training of the same pruned subnets on the digits: same start, budget, data and seeds.

Run ``python -m benchmarks.progressive_vs_direct``. For each model and seed a baseline is trained from scratch, half its
blocks are drawn by the seed, and the subnet is trained twice from the same calibrated start: with λ rising from 0 to 1,
and with λ = 1 throughout. The two differ in λ alone. Accuracy is of 719 images that neither sees in training.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import ConcatDataset

from benchmarks.common import MODELS, write_result
from updp_rt.blocks import make_progressive, prunable_blocks
from updp_rt.data import first_images, load_splits, make_loader
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.progressive import progressive_losses
from updp_rt.pruning.supernet import calibrate
from updp_rt.pruning.trainer import Losses, Recipe, evaluate, fit, label_losses, make_accelerator, seed_everything

RAMP = 0.3
BATCH = 32


@dataclass(frozen=True)
class Budget:
    """Epochs and learning rates of the baseline and of both subnets."""

    baseline_epochs: int
    baseline_lr: float
    epochs: int
    lr: float


BUDGETS = {
    "resnet34": Budget(10, 1e-3, 10, 1e-4),
    "mobilenetv2_100": Budget(30, 2e-3, 8, 1e-3),
    "convnext_tiny": Budget(10, 5e-4, 4, 5e-5),
    "deit_tiny_patch16_224": Budget(30, 1e-3, 8, 5e-4),
}


def main(models: str = ",".join(MODELS), seeds: str = "0,1,2") -> None:
    """Train and compare; one line a model and seed, then the table."""
    console = Console()
    table = Table(title="accuracy on the digits, half the blocks pruned", title_justify="left")
    for column in ("model", "baseline", "progressive", "direct", "difference"):
        table.add_column(column)
    for name in models.split(","):
        rows = []
        for seed in map(int, seeds.split(",")):
            rows.append({"seed": seed, **compare(name, seed)})
            console.print(name, rows[-1])
        differences = [row["progressive"] - row["direct"] for row in rows]
        cells = [_spread([row[arm] for row in rows]) for arm in ("baseline", "progressive", "direct")]
        table.add_row(name, *cells, _spread(differences))
        about = {"model": name, "ramp": RAMP, "batch": BATCH, "budget": vars(BUDGETS[name])}
        console.print(f"written: {write_result(f'progressive_vs_direct-{name}', rows, **about)}")
    console.print(table)


def compare(name: str, seed: int) -> dict[str, Any]:
    """Accuracies of baseline, progressive and direct subnet."""
    budget = BUDGETS[name]
    splits = load_splits("digits", (3, 32, 32))
    unseen = make_loader(ConcatDataset([splits.val, splits.test]), 256, training=False)
    seed_everything(seed, "weights", 0)
    baseline = timm.create_model(name, num_classes=splits.num_classes, **({"img_size": 32} if "deit" in name else {}))

    def train(model: nn.Module, losses: Losses, epochs: int, lr: float, stage: str, hold: float = 0.0) -> float:
        loader = make_loader(splits.train, BATCH, training=True, seed=seed)
        with TemporaryDirectory() as folder:
            fit(
                model,
                loader,
                losses,
                Recipe(epochs, lr, hold=hold, seed=seed),
                stage=stage,
                accelerator=make_accelerator(),
                progress=Progress(show=False),
                checkpoint=Path(folder) / "ckpt",
            )
        return evaluate(model, unseen)

    found = {"baseline": train(baseline, label_losses(), budget.baseline_epochs, budget.baseline_lr, "baseline")}
    names = prunable_blocks(baseline)
    chosen = sorted(random.Random(seed).sample(names, len(names) // 2), key=names.index)
    loader = make_loader(splits.train, BATCH, training=True, seed=seed)
    for arm in ("progressive", "direct"):
        subnet = make_progressive(baseline, chosen)
        seed_everything(seed, "images", 0)
        calibrate(subnet, first_images(loader, 512))
        ramp = round(RAMP * budget.epochs * len(loader)) if arm == "progressive" else 0
        found[arm] = train(subnet, progressive_losses(ramp), budget.epochs, budget.lr, "subnet", hold=RAMP)
    return {**found, "pruned": len(chosen), "blocks": len(names)}


def _spread(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


if __name__ == "__main__":
    typer.run(main)
