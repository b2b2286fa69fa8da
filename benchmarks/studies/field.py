"""The field: UPDP and its rivals on Fashion-MNIST, one study a table: depth of CNNs, ViTs, and width.

Each model is trained once a seed; every method starts from it, on the same images, with as many passes forward and back
(`updp_rt.comparison` says how each spends them), to the same goal: a share of the blocks, or of the parameters for
methods of width. The accuracy is of images that nothing was trained on or chosen by; baseline and pruned model are
timed in turn, both on fused kernels, once they have passed their certificates.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

import updp_rt
from benchmarks.grid import Grid, grouped, what_is_missing
from benchmarks.protocol import Case, Measured, Record, Suite, Wrong, known
from benchmarks.results import Row, by_case
from benchmarks.samples import spread
from benchmarks.settings import Settings
from benchmarks.studies.images import BATCH, Images
from benchmarks.studies.progressive_vs_direct import SCANS, Budget
from updp_rt.blocks import find_family, prunable_blocks
from updp_rt.comparison import WIDTHS, CompareConfig, Contest, Job, published_rows
from updp_rt.comparison.jobs import do_job, model_folder
from updp_rt.data import Splits
from updp_rt.pruning.run import SUMMARY
from updp_rt.runtime import FUSED

# Meant for six hours of two single-thread processes: pruning sees a quarter of the baseline's images.
PRUNING_IMAGES, CHOOSING_IMAGES, TEST_IMAGES = 3_000, 1_000, 5_000
ROUND = 0.1  # seconds of a round of timing: several calls, since other jobs run beside it
SUPERNET_EPOCHS, EPOCHS = 1, 3
TRIALS = 36  # twice as many as there are blocks in a MobileNetV2, with the model unpruned: see `default_engine`
SHARES = (0.5, 1 / 3)
UPDP, DIRECT = "updp", "updp:direct=true"
# On so few images UPDP chooses in a supernet that is fitted to the baseline and not trained; here it is.
TRAINED = f"updp:supernet_epochs={SUPERNET_EPOCHS}"
# What `drop` cuts, faded away, and chosen by UPDP's search.
SKIPPING = "updp:body=skip"
# What `toast` puts in their place, fitted alike, and trained.
MAPPING = "updp:body=affine"
# Asked for no number of blocks but for the speed-up of `RIVAL` at the share, which is measured first.
RIVAL, EQUAL = "drop", "updp:body=any:search=guided"
AHEAD, LEVEL = "UPDP as fast, points", 0.02  # a share by which speeds may differ and be called equal
UPDPS = (UPDP, SKIPPING, MAPPING, DIRECT, TRAINED, EQUAL)
_CNN = (RIVAL, *UPDPS, "depthshrinker", "layer-folding", "dp", "layermerge", "toast")
_VIT = (RIVAL, *UPDPS, "depthshrinker", "layer-folding", "hetdpt", "nose", "dp", "toast")
# Their goal is what UPDP saves in arithmetic: at one share, as UPDP's other way is, so that the table ends in time.
NARROWING = ("wdpruning", "wdpruning-as-coded", "s2vite", "scop", "xpruner", "hvt")
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "field_cnn": (_CNN, ("small_resnet", "small_mobilenetv2", "small_convnext")),
    "field_vit": ((*_VIT, *NARROWING), ("small_vit",)),
    "field_width": (WIDTHS, ("small_resnet", "small_mobilenetv2", "small_convnext", "small_vit")),
}
ORDER = tuple(dict.fromkeys(method for methods, _ in TABLES.values() for method in methods))


def cases(table: str, settings: Settings) -> Iterator[Case]:
    """Seed by seed, the larger share first: whenever it is stopped, all methods have been compared somewhere."""
    methods, usual = TABLES[table]
    models = known("model", settings.models or usual, SCANS)
    shares = settings.amounts or (SHARES if table != "field_width" else SHARES[:1])
    for seed in settings.seeds:
        for share in shares:
            for name in models:
                for method in known("method", settings.methods, methods):
                    if settings.amounts is None and method in (TRAINED, *NARROWING) and share != SHARES[0]:
                        continue
                    about = {"model": name, "data": settings.data, "seed": seed, "method": method, "share": share}
                    about |= {"supernet_epochs": SUPERNET_EPOCHS, "epochs": settings.epochs or EPOCHS}
                    key = key_of(name, settings.data, method, share, seed)
                    measured = partial(measure, name, method, share, seed)
                    yield Case(key, about, ("baseline", "pruned"), measured, group=f"{name} seed {seed}")


def key_of(name: str, data: str, method: str, share: float, seed: int) -> str:
    """What a case is called."""
    return f"{name} on {data}, {method} at {share:.2f}, seed {seed}"


def measure(name: str, method: str, share: float, seed: int, record: Record) -> Measured:
    """One method on one model: accuracy and latency beside the baseline's."""
    settings, budget = record.settings, SCANS[name]
    target = speedup(record.rows, key_of(name, settings.data, RIVAL, share, seed))
    if method == EQUAL and target is None:
        why = f"it is asked for the speed-up of {RIVAL}, which was not measured"
        return Measured(left_out=dict.fromkeys(("baseline", "pruned"), why))
    images, model, accuracy = trained(name, seed, settings.data, settings.image_size, settings.work, budget)
    contest = contest_of(record, name, model, images.splits, settings.lr or budget.lr)
    blocks = len(prunable_blocks(model))
    job = Job(method, share if method in WIDTHS else max(1, round(share * blocks)), seed)
    if method == EQUAL:
        job = Job(f"{method}:target_speedup={target}", 0, seed)
    outcome = do_job(contest, job)
    record.tell(f"{method}: {outcome.accuracy:.4f}")
    example = torch.randn(BATCH, *images.size, generator=torch.Generator().manual_seed(0)).to(settings.place)
    merged = updp_rt.load(model_folder(contest.folder, job))
    calls = {"baseline": ready(model, example), "pruned": ready(merged, example)}
    with torch.no_grad():
        samples = settings.sample(calls, ROUND)
    figures = {"depth": outcome.depth, "params": outcome.params, "macs": outcome.macs, "seconds": outcome.seconds}
    figures |= predicted(model_folder(contest.folder, job).with_name(SUMMARY)) if method in UPDPS else {}
    return Measured(
        samples=samples,
        values={"baseline": {"accuracy": accuracy}, "pruned": {"accuracy": outcome.accuracy, **figures}},
        about={"pruned": outcome.pruned, "blocks": blocks, "family": find_family(model).name},
    )


def speedup(rows: Sequence[Row], key: str) -> float | None:
    """How much faster than the baseline what a case pruned is; None where that was not measured."""
    case = by_case(rows).get(key, {})
    if not {"baseline", "pruned"} <= set(case):
        return None
    return round(case["baseline"]["median_ms"] / case["pruned"]["median_ms"], 2)


def predicted(summary: Path) -> dict[str, float]:
    """The speed-up that a run's search predicted for what it chose; nothing where it does not say."""
    found = json.loads(summary.read_text(encoding="utf-8")).get("prediction") if summary.exists() else None
    return {"predicted_speedup": found["predicted_speedup"]} if found else {}


def contest_of(record: Record, name: str, model: nn.Module, splits: Splits, lr: float) -> Contest:
    """The comparison that a job is of, in the case's own folder, from which it goes on."""
    epochs = record.settings.epochs or EPOCHS
    shared = {"supernet_epochs": SUPERNET_EPOCHS, "epochs": epochs, "trials": TRIALS, "batch_size": BATCH, "lr": lr}
    config = CompareConfig(methods=("updp",), num_pruned=(1,), amounts=(), seeds=1, settings=shared)
    few = replace(splits.first(PRUNING_IMAGES, CHOOSING_IMAGES), test=first(splits.test, TEST_IMAGES))
    return Contest(record.scratch, name, config, few, record.settings.data, lambda seed: model, None, False, FUSED)


@lru_cache(maxsize=1)
def trained(name: str, seed: int, data: str, size: int, work: Path, budget: Budget) -> tuple[Images, nn.Module, float]:
    """The images under a seed, a model's baseline, and its accuracy on the images that all are judged by."""
    images = Images(seed, data, size)
    model = images.baseline(name, budget.baseline_epochs, budget.baseline_lr, work)
    images.judge_by(first(images.splits.test, TEST_IMAGES))
    return images, model, images.accuracy(model)


def first(data: Any, count: int) -> Dataset[Any]:
    """The first `count` images, or as many as there are."""
    return Subset(data, range(min(count, len(data))))


def ready(model: nn.Module, example: Tensor) -> partial[Tensor]:
    """A call of `model` on fused kernels.

    Raises:
        Wrong: it fails its certificate.
    """
    model = model.to(example.device).eval()
    fast = updp_rt.accelerate(model, example)
    certificate = updp_rt.verify(model, fast, example)
    if not certificate.passed:
        raise Wrong(f"accelerated it fails its certificate: {', '.join(certificate.failed[:5])}")
    return partial(fast, example)


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Of each model and share one: means and standard deviations over the seeds, and what is published beside them."""
    grids = []
    known_rows = [row for row in rows if "share" in row]
    for (model, data, share, epochs), members in grouped(known_rows, "model", "data", "share", "epochs").items():
        entries = [Entry.of(str(method), chosen) for (method,), chosen in grouped(members, "method").items()]
        entries = sorted((entry for entry in entries if entry.cases), key=lambda entry: ORDER.index(entry.method))
        ours = [entry for entry in entries if entry.method in UPDPS]
        columns = ["method", "parts pruned", "seeds", "accuracy, %", "change, points", "speed-up"]
        grid = Grid(
            f"{model} on {data}, a share of {float(str(share)):.2f}, {epochs} epochs",
            (*columns, *([AHEAD] if ours else []), "published, on ImageNet"),
        )
        for entry in entries:
            ahead = [against(entry, ours)] if ours else []
            grid.add(entry.method, *entry.cells(), *ahead, entry.published())
        before = {seed: case["baseline"]["accuracy"] for entry in entries for seed, case in entry.cases.items()}
        if before:
            blocks, words = members[0]["blocks"], spread(list(before.values()))
            grid.notes.append(
                f"Baselines, of {blocks} blocks: {words} over {len(before)} seed{'s'[: len(before) > 1]}."
            )
        grid.notes += [
            f"Measured on {device}: seed{'s'[: len(seeds) > 1]} {', '.join(map(str, sorted(seeds)))}."
            for device, seeds in elsewhere(entries).items()
        ]
        fading, direct = (next((e for e in entries if e.method == method), None) for method in (UPDP, DIRECT))
        if fading and direct and set(fading.cases) & set(direct.cases):
            grid.notes.append(f"Fading, against λ = 1 from the start: {gain(fading, direct)} points.")
        off = [
            abs(guess / ratio - 1)
            for entry in entries
            for case, ratio in zip(entry.cases.values(), entry.speedups, strict=True)
            if (guess := case["pruned"].get("predicted_speedup"))
        ]
        if off:
            grid.notes.append(
                f"UPDP's search predicted these speed-ups of what it chose within {100 * statistics.mean(off):.1f}% in "
                f"the mean, and {100 * max(off):.1f}% at most ({len(off)} models)."
            )
        grids.append(grid)
    grids = grids or [Grid("accuracy in %", ("method",))]
    grids[-1].notes += what_is_missing(rows)
    return grids


@dataclass(frozen=True)
class Entry:
    """A method's line of a table: its complete cases, by their seeds."""

    method: str
    cases: Mapping[int, Mapping[str, Row]]

    @classmethod
    def of(cls, method: str, rows: Sequence[Row]) -> Entry:
        found = [case for case in by_case(rows).values() if {"baseline", "pruned"} <= set(case)]
        return cls(method, {case["pruned"]["seed"]: case for case in sorted(found, key=lambda c: c["pruned"]["seed"])})

    @property
    def speedups(self) -> list[float]:
        return [case["baseline"]["median_ms"] / case["pruned"]["median_ms"] for case in self.cases.values()]

    @property
    def accuracies(self) -> list[float]:
        return [case["pruned"]["accuracy"] for case in self.cases.values()]

    def cells(self) -> tuple[str, ...]:
        """How much was pruned, the seeds, and what came of it."""
        changes = [case["pruned"]["accuracy"] - case["baseline"]["accuracy"] for case in self.cases.values()]
        counts = sorted({case["pruned"]["pruned"] for case in self.cases.values()})
        pruned = "-" if self.method in WIDTHS else " or ".join(map(str, counts))
        seeds = ", ".join(map(str, self.cases))
        return pruned, seeds, spread(self.accuracies), spread(changes, signed=True), times(self.speedups)

    def published(self) -> str:
        family = str(next(iter(self.cases.values()))["pruned"]["family"])
        rows = published_rows((self.method.partition(":")[0],), family)
        if not rows:
            return "-"
        figures = " to ".join(f"{value:.2f}" for value in (rows[0].before, rows[0].after) if value is not None)
        return ": ".join(filter(None, (rows[0].network, ", ".join(filter(None, (figures, rows[0].gain))))))


def elsewhere(entries: Sequence[Entry]) -> dict[str, set[int]]:
    """The seeds whose cases come from another device than that of their file."""
    found: dict[str, set[int]] = {}
    for entry in entries:
        for seed, case in entry.cases.items():
            if "device" in case["pruned"]:
                found.setdefault(case["pruned"]["device"], set()).add(seed)
    return found


def against(rival: Entry, ours: Sequence[Entry]) -> str:
    """What the most accurate of UPDP's ways that are as fast as a rival adds to it, under the seeds of both."""
    least = (1 - LEVEL) * statistics.mean(rival.speedups)
    ways = [entry for entry in ours if entry.method != DIRECT and set(entry.cases) & set(rival.cases)]
    fast = [entry for entry in ways if statistics.mean(entry.speedups) >= least]
    if rival in ours or not fast:
        return "-"
    best = max(fast, key=lambda entry: statistics.mean(entry.accuracies))
    return f"{gain(best, rival)} ({best.method.removeprefix('updp:')})"


def gain(ours: Entry, theirs: Entry) -> str:
    """The difference of accuracy, seed by seed, over the seeds that both have."""
    both = [(ours.cases[seed], case) for seed, case in theirs.cases.items() if seed in ours.cases]
    return spread([a["pruned"]["accuracy"] - b["pruned"]["accuracy"] for a, b in both], signed=True)


def times(ratios: Sequence[float]) -> str:
    """Mean and standard deviation of speed-ups; of a single one itself."""
    mean = f"{statistics.mean(ratios):.2f}"
    return f"{mean} ± {statistics.stdev(ratios):.2f}×" if len(ratios) > 1 else f"{mean}×"


def _suite(table: str, words: str) -> Suite:
    return Suite(
        table,
        f"{words}: UPDP and its rivals under one budget, in batches of {BATCH}.",
        partial(cases, table),
        tables,
        options=("models", "methods", "data", "image_size", "seeds", "amounts", "epochs", "lr", "shard", "work"),
        defaults={"image_size": 32, "data": "fashion-mnist"},
    )


CNN = _suite("field_cnn", "Depth of CNNs")
VIT = _suite("field_vit", "Depth and width of a ViT")
WIDTH = _suite("field_width", "Channels")
SUITES = (CNN, VIT, WIDTH)
