"""Kendall's τ between what a search can go by and what it is after: subnets as they are judged, and trained alone.

The space is small enough to train all of it: every subset of five blocks, spread evenly over the model. The baseline
and the supernets of a seed are trained once and shared. Each subset is judged on the validation images, as a search
does it, and trained alone from the same baseline, as stage 3 trains the chosen one; the accuracy alone is of images
that nothing was trained on or chosen by.

What judges a subset, by its accuracy or by its cross entropy, BatchNorm's statistics taken again first:

- supernet: the subset in the supernet. Its cross entropy is what a search goes by, where
  the supernet is trained at all.
- longer: the same in a supernet that is trained four times as long.
- untrained: the subset in a supernet that is fitted to the baseline and not trained.
- brief: the subset after a few steps of training by itself. For as many subsets as a search judges that takes about as
  many passes as the supernet's training.
- table: the sum of what each block costs when it alone is pruned in the supernet.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

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

SPACE = 5
IMAGES, TEST_IMAGES = 4_000, 5_000  # that subnets and the supernet are trained on, and that subnets are judged by
EPOCHS, SUPERNET_LR = 2, 5e-4
SUPERNETS = {"supernet": 2, "longer": 8}  # epochs
BRIEF_STEPS = 32
CALIBRATION, RECALIBRATION = 512, 256  # training images
JUDGES = (*SUPERNETS, "untrained", "brief", "table")
BY = ("accuracy", "loss")
ALONE = "alone"


def cases(settings: Settings) -> Iterator[Case]:
    """Every subset under each seed. Their order is drawn, so that a study that is stopped has seen of all kinds."""
    subsets = [subset for count in range(1, SPACE + 1) for subset in combinations(range(SPACE), count)]
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


class Score(NamedTuple):
    """On the validation images."""

    accuracy: float
    loss: float

    def plus(self, other: Score, times: int = 1) -> Score:
        return Score(self.accuracy + times * other.accuracy, self.loss + times * other.loss)


@dataclass(frozen=True)
class Space:
    """What all subsets of a model and seed share.

    Attributes:
        fitted: the supernet as its training begins.
        supernets: trained ones.
        costs: accuracy and cross entropy of the first unpruned, and what pruning each block by itself adds to them.
    """

    images: Images
    baseline: nn.Module
    names: tuple[str, ...]
    fitted: nn.Module
    supernets: dict[str, nn.Module]
    batches: tuple[Tensor, ...]
    val: Loader
    costs: tuple[Score, dict[str, Score]]


@lru_cache(maxsize=1)
def space_of(
    name: str, seed: int, data: str, size: int, work: Path, baseline: tuple[int, float], place: torch.device
) -> Space:
    """The baseline and the supernets of a seed, trained by whoever comes first."""
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
    supernets = {
        judged: train_supernet(images, fitted, name, epochs, work).to(place) for judged, epochs in SUPERNETS.items()
    }
    val = make_loader(images.splits.val, 256, training=False)

    supernet = next(iter(supernets.values()))
    whole = judge(supernet, (), val, batches)
    costs = whole, {block: judge(supernet, (block,), val, batches).plus(whole, -1) for block in names}
    return Space(images, model, names, fitted.to(place), supernets, batches, val, costs)


def train_supernet(images: Images, fitted: nn.Module, name: str, epochs: int, work: Path) -> nn.Module:
    """A copy of `fitted`, trained; kept in the folder `work`."""
    words = f"{name}-{images.data}-{images.size[1]}-{SPACE}-blocks-{epochs}-epochs-seed-{images.seed}"
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
            Recipe(epochs, SUPERNET_LR, seed=images.seed),
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
def judge(supernet: nn.Module, blocks: Sequence[str], val: Loader, batches: Sequence[Tensor]) -> Score:
    """With these blocks pruned, statistics taken again on `batches`."""
    supernet = copy_model(supernet).eval()
    set_lambda(supernet, 1.0, blocks)
    recalibrate(supernet, batches)
    place = next(supernet.parameters()).device
    right, loss, count = 0, 0.0, 0
    for images, labels in val:
        logits, wanted = supernet(images.to(place)), labels.to(place)
        right += int((logits.argmax(-1) == wanted).sum())
        loss += float(F.cross_entropy(logits, wanted, reduction="sum"))
        count += len(labels)
    return Score(right / count, loss / count)


def train_briefly(images: Images, subnet: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of `subnet`, trained for a few steps at λ = 1."""
    brief = copy_model(subnet)
    few = make_loader(first(images.splits.train, BRIEF_STEPS * BATCH), BATCH, training=True, seed=images.seed)
    with TemporaryDirectory() as folder:
        fit(
            brief,
            few,
            progressive_losses(0),
            recipe,
            stage="brief",
            accelerator=make_accelerator(),
            progress=Progress(show=False),
            checkpoint=Path(folder) / "ckpt",
        )
    return brief


def measure(name: str, subset: Sequence[int], seed: int, budget: Budget, record: Record) -> Measured:
    """One subset by every judge, and trained alone."""
    settings = record.settings
    trained = (budget.baseline_epochs, budget.baseline_lr)
    space = space_of(name, seed, settings.data, settings.image_size, settings.work, trained, settings.place)
    chosen = [space.names[index] for index in subset]
    subnet = make_progressive(space.baseline, chosen)
    seed_everything(seed, "images", 0)
    calibrate(subnet, first_images(space.images.loader(), CALIBRATION))
    brief = train_briefly(space.images, subnet, Recipe(1, budget.lr, seed=seed)).to(settings.place)
    ramp = round(RAMP * budget.epochs * len(space.images.loader()))
    recipe = Recipe(budget.epochs, budget.lr, hold=RAMP, seed=seed)
    alone = space.images.train(subnet, progressive_losses(ramp), recipe, "subnet", record.scratch / "alone.ckpt")
    summed, costs = space.costs
    for block in chosen:
        summed = summed.plus(costs[block])
    scores = {
        name: judge(model, chosen, space.val, space.batches)
        for name, model in {**space.supernets, "untrained": space.fitted, "brief": brief}.items()
    }
    scores["table"] = summed
    values = {ALONE: {"accuracy": alone}, **{name: score._asdict() for name, score in scores.items()}}
    return Measured(values=values, about={"names": " ".join(chosen)})


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Of each model one: τ of every judge, and how far its choices are below the best."""
    grids = []
    for (model, data, epochs), members in grouped(rows, "model", "data", "epochs").items():
        seeds = {}
        for (seed,), chosen in grouped(members, "seed").items():
            whole = [case for case in by_case(chosen).values() if {ALONE, *JUDGES} <= set(case)]
            found = {str(case[ALONE]["blocks"]): case for case in whole}  # a table read has a number of a single block
            if len(found) > 1:
                seeds[seed] = found
        if not seeds:
            continue
        columns = ("what judges", "by", "seeds", "Kendall's τ", "within a size", "its choices, points below the best")
        grid = Grid(f"{model} on {data}: every subset of {SPACE} blocks, each alone for {epochs} epochs", columns)
        for judged, by in product(JUDGES, BY):
            taus, within, regrets = zip(*(_judged(found, judged, by) for found in seeds.values()), strict=True)
            grid.add(judged, by, ", ".join(map(str, seeds)), _mean(taus), _mean(within), _mean(regrets))
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


def _judged(found: dict[str, dict[str, Row]], judged: str, by: str) -> tuple[float, float, float]:
    """τ over all subsets, and over pairs of one size; and how far the one judged best of a size is below the best."""
    alone, scores = _scores(found, ALONE), _scores(found, judged, by)
    sizes = [len(blocks.split()) for blocks in found]
    regrets = []
    for size in set(sizes):
        alike = [pair for pair, each in zip(zip(scores, alone, strict=True), sizes, strict=True) if each == size]
        _, chosen = max(alike, key=lambda pair: pair[0])
        regrets.append(100 * (max(accuracy for _, accuracy in alike) - chosen))
    return kendall_tau(scores, alone), kendall_tau(scores, alone, sizes), statistics.mean(regrets)


def _scores(found: dict[str, dict[str, Row]], judged: str, by: str = "accuracy") -> list[float]:
    """Of every subset, more being better."""
    return [-row["loss"] if by == "loss" else row["accuracy"] for row in (case[judged] for case in found.values())]


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
