"""Where fading pays: the same pruned subnets after budgets from short to long, by how λ rises and what they learn from.

For each model and seed half of the blocks are drawn by the seed, or all are taken, and the subnet is trained from the
same calibrated start: with λ = 1 throughout, with λ rising over a share of the steps, linearly or along half a cosine,
and with the baseline's outputs as half of the target. A ramp's rate is full until λ is 1, as `updp-rt prune` has it;
that of the others falls after the usual share. Accuracy is of images that nothing was trained on or chosen by.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from benchmarks.grid import Grid, grouped, what_is_missing
from benchmarks.protocol import Case, Measured, Record, Suite, known
from benchmarks.results import Row, by_case
from benchmarks.samples import spread
from benchmarks.settings import Settings
from benchmarks.studies.field import TEST_IMAGES, first
from benchmarks.studies.images import BATCH, Images
from benchmarks.studies.progressive_vs_direct import RAMP, SCANS
from updp_rt._copies import copy_model
from updp_rt.blocks import make_progressive, prunable_blocks
from updp_rt.data import first_images
from updp_rt.pruning.progressive import progressive_losses, ramp_steps
from updp_rt.pruning.supernet import calibrate
from updp_rt.pruning.trainer import Recipe, seed_everything

IMAGES = 6_000
EPOCHS = (1, 3, 9)  # 187 to 1,683 steps
SHARES = (0.5, 1.0)
CALIBRATION = 512


@dataclass(frozen=True)
class Arm:
    """How a subnet is trained: the share of its steps in which λ rises, or 0; the baseline's share of the target."""

    ramp: float = 0.0
    schedule: str = "linear"
    distill: float = 0.0


DIRECT = "direct"
ARMS = {
    DIRECT: Arm(),
    "ramp 0.1": Arm(0.1),
    "ramp 0.3": Arm(0.3),
    "ramp 0.5": Arm(0.5),
    "cosine 0.3": Arm(0.3, "cosine"),
    "direct, distilled": Arm(distill=0.5),
    "ramp 0.3, distilled": Arm(0.3, distill=0.5),
}


def cases(settings: Settings) -> Iterator[Case]:
    """Seed by seed, the models, shares and budgets."""
    budgets = (settings.epochs,) if settings.epochs else EPOCHS
    for seed in settings.seeds:
        for name in known("model", settings.models or ("small_resnet",), SCANS):
            lr = settings.lr or SCANS[name].lr
            for share, epochs in product(settings.amounts or SHARES, budgets):
                about = {"model": name, "data": settings.data, "seed": seed, "epochs": epochs, "lr": lr}
                key = f"{name} on {settings.data}, {share:.2f} of its blocks, {epochs} epochs at {lr:g}, seed {seed}"
                measured = partial(measure, name, share, seed, epochs, lr)
                yield Case(key, about, tuple(ARMS), measured, group=f"{name} seed {seed}")


def measure(name: str, share: float, seed: int, epochs: int, lr: float, record: Record) -> Measured:
    """Accuracy of the baseline, and of the subnet trained in each way."""
    settings, budget = record.settings, SCANS[name]
    images = Images(seed, settings.data, settings.image_size)
    baseline = images.baseline(name, budget.baseline_epochs, budget.baseline_lr, settings.work)
    images.judge_by(first(images.splits.test, TEST_IMAGES))
    images.learn_from(first(images.splits.train, IMAGES))
    names = prunable_blocks(baseline)
    chosen = sorted(random.Random(seed).sample(names, round(share * len(names))), key=names.index)
    loader = images.loader()
    steps = epochs * len(loader)
    values = {}
    for key, arm in ARMS.items():
        subnet = make_progressive(baseline, chosen)
        seed_everything(seed, "images", 0)
        calibrate(subnet, first_images(loader, CALIBRATION))
        losses = progressive_losses(
            ramp_steps(arm.ramp, steps) if arm.ramp else 0,
            arm.schedule,
            teacher=copy_model(baseline).eval() if arm.distill else None,
            distill=arm.distill,
        )
        recipe = Recipe(epochs, lr, hold=arm.ramp or RAMP, seed=seed)
        checkpoint = record.scratch / f"{list(ARMS).index(key)}.ckpt"
        accuracy = images.train(subnet, losses, recipe, "subnet", checkpoint)
        values[key] = {"accuracy": accuracy}
        record.tell(f"{key}: {accuracy:.4f}")
    about = {"steps": steps, "baseline": images.accuracy(baseline), "pruned": len(chosen), "blocks": len(names)}
    return Measured(values=values, about=about)


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Of each model and count one: by the budget, the accuracy without fading, and what each other way adds to it."""
    grids = []
    measured = [row for row in rows if "pruned" in row]
    for (model, data, lr, pruned), members in grouped(measured, "model", "data", "lr", "pruned").items():
        columns = ("epochs", "steps", "seeds", "direct, %", *(f"{name}, points" for name in ARMS if name != DIRECT))
        blocks = members[0]["blocks"]
        grid = Grid(f"{pruned} of the {blocks} blocks of {model} on {data}, at {float(str(lr)):g}", columns)
        baselines: dict[object, float] = {}
        for (epochs,), chosen in sorted(grouped(members, "epochs").items()):
            found = [case for case in by_case(chosen).values() if set(ARMS) <= set(case)]
            found.sort(key=lambda case: case[DIRECT]["seed"])
            if not found:
                continue
            baselines |= {case[DIRECT]["seed"]: case[DIRECT]["baseline"] for case in found}
            seeds = ", ".join(str(case[DIRECT]["seed"]) for case in found)
            gains = [[case[name]["accuracy"] - case[DIRECT]["accuracy"] for case in found] for name in ARMS]
            direct = spread([case[DIRECT]["accuracy"] for case in found])
            grid.add(
                epochs, found[0][DIRECT]["steps"], seeds, direct, *(spread(gain, signed=True) for gain in gains[1:])
            )
        if baselines:
            grid.notes.append(f"The baselines have {spread(list(baselines.values()))}%.")
        grids.append(grid)
    grids = grids or [Grid("accuracy in %", ("epochs",))]
    grids[-1].notes += what_is_missing(rows)
    return grids


SUITE = Suite(
    "fading",
    f"Accuracy of the same subnets against their budget, by how λ rises, in batches of {BATCH}.",
    cases,
    tables,
    options=("models", "data", "image_size", "seeds", "amounts", "epochs", "lr", "shard", "work"),
    defaults={"image_size": 32, "data": "fashion-mnist"},
)
