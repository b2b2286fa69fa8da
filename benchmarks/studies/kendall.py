"""Kendall's τ between what the search goes by and what it is after: subnets in the supernet, and each trained alone.

The space is small enough to train all of it: the subsets of four of six blocks, spread evenly over the model. The
baseline and the supernet of a seed are trained once and shared. Each subset is then judged on the validation images, as
the search does it and in other ways, and trained alone from the same baseline, as stage 3 trains the chosen one; the
accuracy alone is of images that nothing was trained on or chosen by.

What judges a subset:

- supernet: its accuracy in the supernet, BatchNorm's statistics taken again first. That is what the search uses.
- loss: the same, by the cross entropy in place of the accuracy.
- as trained: the accuracy with the statistics that the supernet's training left.
- untrained: the accuracy as the search has it, in a supernet that is fitted to the baseline and not trained.
- table: the sum of what each block costs when it alone is pruned in the supernet.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.grid import Grid, grouped, what_is_missing
from benchmarks.protocol import Case, Measured, Record, Suite, known
from benchmarks.results import Row, by_case
from benchmarks.samples import kendall_tau
from benchmarks.settings import Settings
from benchmarks.studies.field import first
from benchmarks.studies.images import BATCH, Images
from benchmarks.studies.progressive_vs_direct import RAMP, SCANS, Budget
from updp_rt._copies import copy_model
from updp_rt.artifacts.atomic import atomic_path
from updp_rt.artifacts.weights import cpu_state
from updp_rt.blocks import make_progressive, prunable_blocks, set_lambda
from updp_rt.data import Loader, first_images, make_loader
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.progressive import progressive_losses
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.run import load_weights
from updp_rt.pruning.supernet import calibrate, sandwich_losses
from updp_rt.pruning.trainer import Recipe, fit, make_accelerator, seed_everything

SPACE, PRUNED = 6, 4
IMAGES, TEST_IMAGES = 4_000, 5_000  # that subnets and the supernet are trained on, and that subnets are judged by
EPOCHS, SUPERNET_EPOCHS, SUPERNET_LR = 2, 2, 5e-4
CALIBRATION, RECALIBRATION = 512, 256  # training images
SEARCHED, LOSS, AS_TRAINED, UNTRAINED, TABLE = JUDGES = ("supernet", "loss", "as trained", "untrained", "table")
ALONE = "alone"


def cases(settings: Settings) -> Iterator[Case]:
    """Every subset under each seed. Their order is drawn, so that a study that is stopped has seen of all kinds."""
    subsets = list(combinations(range(SPACE), PRUNED))
    random.Random(0).shuffle(subsets)
    for seed in settings.seeds:
        for name in known("model", settings.models or ("small_resnet",), SCANS):
            usual = SCANS[name]
            budget = replace(usual, epochs=settings.epochs or EPOCHS, lr=settings.lr or usual.lr)
            about = {"model": name, "data": settings.data, "seed": seed, "epochs": budget.epochs, "lr": budget.lr}
            for subset in subsets:
                blocks = " ".join(map(str, subset))
                key = f"{name} on {settings.data}, blocks {blocks} of {SPACE}, {budget.epochs} epochs, seed {seed}"
                measured = partial(measure, name, subset, seed, budget)
                yield Case(key, {**about, "blocks": blocks}, (ALONE, *JUDGES), measured, group=f"{name} seed {seed}")


@dataclass(frozen=True)
class Space:
    """What all subsets of a model and seed share.

    Attributes:
        fitted: the supernet as its training begins.
        costs: accuracy of the supernet unpruned, and what pruning each block by itself takes from it.
    """

    images: Images
    baseline: nn.Module
    names: tuple[str, ...]
    fitted: nn.Module
    supernet: nn.Module
    batches: tuple[Tensor, ...]
    val: Loader
    costs: tuple[float, dict[str, float]]


@lru_cache(maxsize=1)
def space_of(
    name: str, seed: int, data: str, size: int, work: Path, baseline: tuple[int, float], place: torch.device
) -> Space:
    """The baseline and the supernet of a seed, trained by whoever comes first."""
    images = Images(seed, data, size)
    model = images.baseline(name, *baseline, work)
    images.judge_by(first(images.splits.test, TEST_IMAGES))
    images.learn_from(first(images.splits.train, IMAGES))
    every = prunable_blocks(model)
    names = tuple(every[index * len(every) // SPACE] for index in range(SPACE))
    fitted = make_progressive(model, names)
    loader = images.loader()
    seed_everything(seed, "images", 0)
    calibrate(fitted, first_images(loader, CALIBRATION))
    seed_everything(seed, "images", 0)
    batches = tuple(batch.to(place) for batch in first_images(loader, RECALIBRATION).split(64))
    supernet = train_supernet(images, fitted, name, work).to(place)
    val = make_loader(images.splits.val, 256, training=False)

    def accuracy(*blocks: str) -> float:
        return judge(supernet, blocks, val, batches)[0]

    whole = accuracy()
    costs = whole, {block: whole - accuracy(block) for block in names}
    return Space(images, model, names, fitted.to(place), supernet, batches, val, costs)


def train_supernet(images: Images, fitted: nn.Module, name: str, work: Path) -> nn.Module:
    """A copy of `fitted`, trained; kept in the folder `work`."""
    words = f"{name}-{images.data}-{images.size[1]}-{SPACE}-blocks-{SUPERNET_EPOCHS}-epochs-seed-{images.seed}"
    path = work / "supernets" / f"{words.replace('/', '_')}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    supernet = copy_model(fitted)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return load_weights(path, supernet)
        checkpoint = path.with_suffix(".ckpt")
        fit(
            supernet,
            images.loader(),
            sandwich_losses(images.seed, 1),
            Recipe(SUPERNET_EPOCHS, SUPERNET_LR, seed=images.seed),
            stage="supernet",
            accelerator=make_accelerator(),
            progress=Progress(show=False),
            checkpoint=checkpoint,
        )
        set_lambda(supernet, 0.0)
        with atomic_path(path) as temporary:
            save_file(cpu_state(supernet), temporary)
        checkpoint.unlink(missing_ok=True)
    return supernet


@torch.no_grad()
def judge(
    supernet: nn.Module, blocks: Sequence[str], val: Loader, batches: Sequence[Tensor] = ()
) -> tuple[float, float]:
    """Accuracy and cross entropy with these blocks pruned, statistics taken again on `batches` where there are any."""
    supernet = copy_model(supernet).eval()
    set_lambda(supernet, 1.0, blocks)
    if batches:
        recalibrate(supernet, batches)
    place = next(supernet.parameters()).device
    right, loss, count = 0, 0.0, 0
    for images, labels in val:
        logits, wanted = supernet(images.to(place)), labels.to(place)
        right += int((logits.argmax(-1) == wanted).sum())
        loss += float(F.cross_entropy(logits, wanted, reduction="sum"))
        count += len(labels)
    return right / count, loss / count


def measure(name: str, subset: Sequence[int], seed: int, budget: Budget, record: Record) -> Measured:
    """One subset by every judge, and trained alone."""
    settings = record.settings
    trained = (budget.baseline_epochs, budget.baseline_lr)
    space = space_of(name, seed, settings.data, settings.image_size, settings.work, trained, settings.place)
    chosen = [space.names[index] for index in subset]
    searched, loss = judge(space.supernet, chosen, space.val, space.batches)
    whole, costs = space.costs
    subnet = make_progressive(space.baseline, chosen)
    seed_everything(seed, "images", 0)
    calibrate(subnet, first_images(space.images.loader(), CALIBRATION))
    ramp = round(RAMP * budget.epochs * len(space.images.loader()))
    recipe = Recipe(budget.epochs, budget.lr, hold=RAMP, seed=seed)
    alone = space.images.train(subnet, progressive_losses(ramp), recipe, "subnet", record.scratch / "alone.ckpt")
    values = {
        ALONE: {"accuracy": alone},
        SEARCHED: {"accuracy": searched},
        LOSS: {"loss": loss},
        AS_TRAINED: {"accuracy": judge(space.supernet, chosen, space.val)[0]},
        UNTRAINED: {"accuracy": judge(space.fitted, chosen, space.val, space.batches)[0]},
        TABLE: {"accuracy": whole - sum(costs[block] for block in chosen)},
    }
    return Measured(values=values, about={"names": " ".join(chosen)})


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Of each model one: τ of every judge, and how far its choice is below the best."""
    grids = []
    for (model, data, epochs), members in grouped(rows, "model", "data", "epochs").items():
        seeds = {}
        for (seed,), chosen in grouped(members, "seed").items():
            found = {case[ALONE]["blocks"]: case for case in by_case(chosen).values() if {ALONE, *JUDGES} <= set(case)}
            if len(found) > 1:
                seeds[seed] = found
        if not seeds:
            continue
        columns = ("what judges", "seeds", "Kendall's τ", "its choice, points below the best")
        grid = Grid(f"{model} on {data}: {PRUNED} of {SPACE} blocks, each subset alone for {epochs} epochs", columns)
        for judged in JUDGES:
            taus, regrets = [], []
            for found in seeds.values():
                alone, scores = _scores(found, ALONE), _scores(found, judged)
                taus.append(kendall_tau(scores, alone))
                regrets.append(100 * (max(alone) - alone[scores.index(max(scores))]))
            grid.add(judged, ", ".join(map(str, seeds)), _mean(taus), _mean(regrets))
        for seed, found in seeds.items():
            alone = [100 * value for value in _scores(found, ALONE)]
            grid.notes.append(
                f"Seed {seed}: {len(found)} subsets, alone {min(alone):.2f} to {max(alone):.2f}%, standard deviation "
                f"{statistics.stdev(alone):.2f}; without any relation τ has a standard error of "
                f"{_chance(len(found)):.2f}."
            )
        grid.notes += [
            f"Seeds {one} and {other}, alone against alone: τ {_between(seeds[one], seeds[other]):.2f}."
            for one, other in combinations(seeds, 2)
            if len(seeds[one].keys() & seeds[other].keys()) > 1
        ]
        grids.append(grid)
    grids = grids or [Grid("Kendall's τ", ("what judges",))]
    grids[-1].notes += what_is_missing(rows)
    return grids


def _scores(found: dict[str, dict[str, Row]], judged: str) -> list[float]:
    """Of every subset, more being better."""
    rows = [case[judged] for case in found.values()]
    return [-row["loss"] if judged == LOSS else row["accuracy"] for row in rows]


def _between(one: dict[str, dict[str, Row]], other: dict[str, dict[str, Row]]) -> float:
    both = [blocks for blocks in one if blocks in other]
    return kendall_tau(*(_scores({blocks: seed[blocks] for blocks in both}, ALONE) for seed in (one, other)))


def _chance(count: int) -> float:
    """Standard deviation of τ over random orders of so many (Kendall, 1938)."""
    return (2 * (2 * count + 5) / (9 * count * (count - 1))) ** 0.5


def _mean(values: Sequence[float]) -> str:
    """Of those that there are: a judge that tells nothing apart has no τ."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "-"
    words = f"{statistics.mean(values):.2f}"
    return f"{words} ± {statistics.stdev(values):.2f}" if len(values) > 1 else words


SUITE = Suite(
    "kendall",
    f"Kendall's τ between accuracies in the supernet and of subnets trained alone, in batches of {BATCH}.",
    cases,
    tables,
    options=("models", "data", "image_size", "seeds", "epochs", "lr", "shard", "work"),
    defaults={"image_size": 32, "data": "fashion-mnist", "seeds": (0,)},
)
