"""Which search finds the better subsets in as many trials, on supernets as UPDP's searches have them.

The supernet is fitted to a trained baseline, and half of its blocks are to be pruned: merged, or left out where they
can be. Every engine judges by the cross entropy on the validation images, BatchNorm's statistics taken again first, and
knows nothing but what it judged. What counts is the best that it found: its cross entropy, and its accuracy. A seed
draws the baseline; the genetic search draws subsets, too, and is the mean of several draws.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from benchmarks.grid import Grid, grouped, what_is_missing
from benchmarks.protocol import Case, Measured, Record, Suite, known
from benchmarks.results import Row, by_case
from benchmarks.samples import spread
from benchmarks.settings import Settings
from benchmarks.studies.field import CHOOSING_IMAGES, PRUNING_IMAGES
from benchmarks.studies.images import BATCH, Images
from benchmarks.studies.kendall import CALIBRATION, RECALIBRATION, Score, judge
from benchmarks.studies.progressive_vs_direct import SCANS
from updp_rt.blocks import make_progressive, prunable_blocks, skippable_blocks
from updp_rt.blocks.parts import SKIP
from updp_rt.data import Loader, first_images, make_loader
from updp_rt.pruning.genes import Genes
from updp_rt.pruning.search import Engine, search_blocks
from updp_rt.pruning.supernet import calibrate
from updp_rt.pruning.trainer import seed_everything

ENGINES: tuple[Engine, ...] = ("genetic", "dp", "guided")
TRIALS = (24, 48)
DRAWS = 3  # of the genetic search
BODIES = ("merged", SKIP)
MODELS = ("small_resnet", "small_mobilenetv2")


def cases(settings: Settings) -> Iterator[Case]:
    """Seed by seed, the models, what becomes of their blocks, and the numbers of trials."""
    for seed in settings.seeds:
        for name in known("model", settings.models or MODELS, SCANS):
            for body in BODIES:
                for trials in TRIALS:
                    about = {"model": name, "data": settings.data, "seed": seed, "body": body, "trials": trials}
                    key = f"{name} on {settings.data}, {body}, {trials} trials, seed {seed}"
                    measured = partial(measure, name, body, trials, seed)
                    yield Case(key, about, ENGINES, measured, group=f"{name} seed {seed}")


class Judged:
    """A fitted supernet and what was judged in it: no subset is judged twice, whichever engine asks."""

    def __init__(self, supernet: nn.Module, names: Sequence[str], val: Loader, batches: Sequence[Tensor]) -> None:
        self.supernet, self.names, self.val, self.batches = supernet, names, val, batches
        self.known: dict[Genes, Score] = {}

    def __call__(self, genes: Genes) -> Score:
        if genes not in self.known:
            self.known[genes] = judge(self.supernet, genes, self.val, self.batches)
        return self.known[genes]

    def best(self, engine: Engine, trials: int, seed: int, scratch: Path) -> Score:
        """The best subset of half the blocks that a search finds; all blocks save as much."""
        candidates, _, _ = search_blocks(
            self.names,
            lambda genes: -self(genes).loss,
            lambda genes: float(len(self.names) - len(genes)),
            storage=scratch / "study.journal",
            trials=trials,
            seed=seed,
            engine=engine,
            num_pruned=len(self.names) // 2,
        )
        found = [self(each.blocks) for each in candidates if len(each.blocks) == len(self.names) // 2]
        return min(found, key=lambda score: score.loss)


@lru_cache(maxsize=1)
def judged_of(name: str, body: str, seed: int, data: str, size: int, work: Path, place: torch.device) -> Judged:
    """The supernet of a seed, fitted to its baseline."""
    images, budget = Images(seed, data, size), SCANS[name]
    model = images.baseline(name, budget.baseline_epochs, budget.baseline_lr, work)
    names, skipped = prunable_blocks(model), skippable_blocks(model) if body == SKIP else []
    supernet = make_progressive(model, {block: SKIP if block in skipped else "" for block in names})
    few = images.splits.first(PRUNING_IMAGES, CHOOSING_IMAGES)
    loader = make_loader(few.train, BATCH, training=True, seed=seed)
    seed_everything(seed, "images", 0)
    calibrate(supernet, first_images(loader, CALIBRATION))
    seed_everything(seed, "images", 0)
    batches = tuple(batch.to(place) for batch in first_images(loader, RECALIBRATION).split(64))
    return Judged(supernet.to(place), names, make_loader(few.val, 256, training=False), batches)


def measure(name: str, body: str, trials: int, seed: int, record: Record) -> Measured:
    """Of every engine the best subset that it finds in so many trials."""
    settings = record.settings
    judged = judged_of(name, body, seed, settings.data, settings.image_size, settings.work, settings.place)
    values: dict[str, dict[str, float]] = {}
    for engine in ENGINES:
        found = []
        for draw in range(DRAWS if engine == "genetic" else 1):
            with TemporaryDirectory() as folder:
                found.append(judged.best(engine, trials, draw, Path(folder)))
        values[engine] = {
            "loss": statistics.mean(score.loss for score in found),
            "accuracy": statistics.mean(score.accuracy for score in found),
        }
        record.tell(f"{engine}: {values[engine]['loss']:.4f}")
    return Measured(values=values, about={"blocks": len(judged.names), "pruned": len(judged.names) // 2})


def tables(rows: Sequence[Row]) -> list[Grid]:
    """One: by model, body and trials the best cross entropy and accuracy of each engine."""
    found_by = (f"{engine}: {what}" for what in ("cross entropy", "accuracy, %") for engine in ENGINES)
    grid = Grid("the best subset found", ("model", "half of its blocks", "trials", "seeds", *found_by))
    for (model, body, trials), members in grouped(rows, "model", "body", "trials").items():
        found = [case for case in by_case(members).values() if set(ENGINES) <= set(case)]
        if found:
            seeds = ", ".join(str(case[ENGINES[0]]["seed"]) for case in found)
            losses = (f"{statistics.mean(case[engine]['loss'] for case in found):.3f}" for engine in ENGINES)
            accuracies = (spread([case[engine]["accuracy"] for case in found]) for engine in ENGINES)
            grid.add(model, body, trials, seeds, *losses, *accuracies)
    grid.notes += what_is_missing(rows)
    return [grid]


SUITE = Suite(
    "searches",
    "The best subsets that each search finds in as many trials, on supernets fitted to trained baselines.",
    cases,
    tables,
    options=("models", "data", "image_size", "seeds", "shard", "work"),
    defaults={"image_size": 32, "data": "fashion-mnist", "seeds": (0,)},
)
