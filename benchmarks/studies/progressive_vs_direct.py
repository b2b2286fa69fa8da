"""Progressive against direct training of the same pruned subnets: same start, budget, data and seeds.

For each model and seed a baseline is trained from scratch, half its blocks are drawn by the seed, and the subnet is
trained twice from the same calibrated start: with λ rising from 0 to 1, and with λ = 1 throughout. The two differ in λ
alone. Accuracy is of images that neither sees in training: 719 of the digits, 10,000 of Fashion-MNIST.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from torch import nn

from benchmarks.grid import Grid, grouped, what_is_missing
from benchmarks.protocol import Case, Measured, Record, Suite, known
from benchmarks.results import Row, by_case
from benchmarks.samples import spread
from benchmarks.settings import Settings
from benchmarks.studies.images import BATCH, Images
from updp_rt._names import SMALL_MODELS
from updp_rt.blocks import make_progressive, prunable_blocks
from updp_rt.data import first_images
from updp_rt.pruning.progressive import progressive_losses
from updp_rt.pruning.supernet import calibrate
from updp_rt.pruning.trainer import Recipe, seed_everything

RAMP = 0.3
ARMS = ("baseline", "progressive", "direct")


@dataclass(frozen=True)
class Budget:
    """Epochs and learning rates of the baseline and of both subnets."""

    baseline_epochs: int
    baseline_lr: float
    epochs: int
    lr: float


DIGITS = {
    "resnet34": Budget(10, 1e-3, 10, 1e-4),
    "mobilenetv2_100": Budget(30, 2e-3, 8, 1e-3),
    "convnext_tiny": Budget(10, 5e-4, 4, 5e-5),
    "deit_tiny_patch16_224": Budget(30, 1e-3, 8, 5e-4),
}
# On 12,000 images; of the four large models only on a GPU, with --img-size 224.
SCANS = {
    "small_resnet": Budget(6, 2e-3, 4, 5e-4),
    "small_mobilenetv2": Budget(12, 3e-3, 4, 1e-3),
    "small_convnext": Budget(6, 2e-3, 4, 5e-4),
    "small_vit": Budget(30, 1e-3, 4, 5e-4),
    **{name: Budget(10, 1e-3, 5, 2e-4) for name in DIGITS},
}


def cases(settings: Settings) -> Iterator[Case]:
    """The models and seeds."""
    budgets = DIGITS if settings.data == "digits" else SCANS
    usually = tuple(budgets) if settings.data == "digits" else SMALL_MODELS
    for name in known("model", settings.models or usually, budgets):
        usual = budgets[name]
        budget = replace(usual, epochs=settings.epochs or usual.epochs, lr=settings.lr or usual.lr)
        for seed in settings.seeds:
            about = {"model": name, "data": settings.data, "seed": seed, **asdict(budget)}
            key = f"{name} seed {seed}, {budget.epochs} epochs at {budget.lr:g}"
            where = "" if settings.data == "digits" else f" on {settings.data} at {settings.image_size}"
            yield Case(key + where, about, ARMS, partial(measure, name, seed, budget))


def measure(name: str, seed: int, budget: Budget, record: Record) -> Measured:
    """Accuracies of baseline, progressive and direct subnet."""
    settings = record.settings
    images = Images(seed, settings.data, settings.image_size)
    baseline = images.baseline(name, budget.baseline_epochs, budget.baseline_lr, settings.work)
    found = {"baseline": images.accuracy(baseline)}
    names = prunable_blocks(baseline)
    chosen = sorted(random.Random(seed).sample(names, len(names) // 2), key=names.index)
    loader = images.loader()
    for arm in ("progressive", "direct"):
        subnet: nn.Module = make_progressive(baseline, chosen)
        seed_everything(seed, "images", 0)
        calibrate(subnet, first_images(loader, 512))
        ramp = round(RAMP * budget.epochs * len(loader)) if arm == "progressive" else 0
        recipe = Recipe(budget.epochs, budget.lr, hold=RAMP, seed=seed)
        found[arm] = images.train(subnet, progressive_losses(ramp), recipe, "subnet", record.scratch / f"{arm}.ckpt")
        record.tell(f"{arm}: {found[arm]:.4f}")
    return Measured(
        values={arm: {"accuracy": accuracy} for arm, accuracy in found.items()},
        about={"pruned": len(chosen), "blocks": len(names)},
    )


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Mean and standard deviation over the seeds."""
    title = "accuracy in %, mean ± standard deviation over the seeds"
    grid = Grid(title, ("model", "data", "blocks pruned", "epochs, rate", "seeds", *ARMS, "progressive - direct"))
    for (model, data, epochs, lr), members in grouped(rows, "model", "data", "epochs", "lr").items():
        found = by_case(members).values()
        if not found:
            continue
        accuracies = {arm: [case[arm]["accuracy"] for case in found] for arm in ARMS}
        pairs = zip(accuracies["progressive"], accuracies["direct"], strict=True)
        difference = spread([one - other for one, other in pairs], signed=True)
        pruned = f"{members[0]['pruned']} of {members[0]['blocks']}"
        seeds = ", ".join(str(seed) for seed in dict.fromkeys(row["seed"] for row in members))
        words = (model, data or "digits", pruned, f"{epochs}, {lr:g}", seeds)
        grid.add(*words, *map(spread, accuracies.values()), difference)
    grid.notes += what_is_missing(rows)
    return [grid]


SUITE = Suite(
    "progressive_vs_direct",
    f"Progressive against direct training of the same subnets, in batches of {BATCH}.",
    cases,
    tables,
    options=("models", "data", "image_size", "seeds", "epochs", "lr", "shard", "work"),
    defaults={"image_size": 32},
)
