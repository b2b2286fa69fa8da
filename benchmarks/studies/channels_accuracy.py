"""Unconstrained against constrained channel pruning on the digits, at the same number of parameters, without training.

For each model and seed a baseline is trained from scratch. Constrained masks drop a share of the parameters (where
the scope is local: of every coupled group's channels); unconstrained ones are chosen for as many parameters, with 64
training images. "Averaged" are constrained masks whose groups score as the mean of their layers, as Torch-Pruning's
do by default, instead of the sum; "free" are unconstrained ones without images, by scores alone. Accuracy is of the
masked models, which the exported ones equal, on 719 images that training never sees: as they are, and with BatchNorm
statistics taken again on 512 training images.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.grid import Grid, grouped, what_is_missing
from benchmarks.protocol import Case, Measured, Record, Suite, known
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from benchmarks.studies.images import BATCH, Images
from updp_rt.channels import Trace, mask_model, trace
from updp_rt.channels.coupling import choose_coupling
from updp_rt.channels.importance import MEASURES, Scores, score_inputs
from updp_rt.channels.layout import Masks, count_params
from updp_rt.channels.masks import check_budget, choose_masks
from updp_rt.data import first_images, make_loader
from updp_rt.pruning.recalibrate import recalibrate

# Epochs and learning rate of the baseline.
BUDGETS = {"resnet18": (6, 1e-3), "densenet121": (6, 1e-3), "mobilenetv2_100": (40, 5e-3)}
AMOUNTS = (0.2, 0.4, 0.6, 0.8)
KINDS = ("averaged", "constrained", "free", "unconstrained")


def cases(settings: Settings) -> Iterator[Case]:
    """The models, seeds, measures and shares."""
    amounts = settings.amounts or AMOUNTS
    for amount in amounts:
        check_budget(amount, settings.scope, {})
    for name in known("model", settings.models, BUDGETS):
        for seed in settings.seeds:
            for importance in known("measure", settings.importance, MEASURES):
                for amount in amounts:
                    about = {"model": name, "seed": seed, "scope": settings.scope}
                    about |= {"importance": importance, "amount": amount}
                    key = f"{name} seed {seed} {settings.scope} {importance} {amount:g}"
                    measured = partial(measure, name, seed, settings.scope, importance, amount)
                    yield Case(key, about, ("baseline", *KINDS), measured, group=f"{name} seed {seed}")


@dataclass(frozen=True)
class Trained:
    """A baseline, and what its pruning is chosen and judged by."""

    model: nn.Module
    found: Trace
    digits: Images
    accuracy: float
    images: Tensor
    batches: tuple[Tensor, ...]


@lru_cache(maxsize=1)
def trained(name: str, seed: int, work: Path) -> Trained:
    """The baseline of a model and seed, for all measures and shares."""
    digits = Images(seed)
    model = digits.baseline(name, *BUDGETS[name], work)
    images = first_images(digits.loader(), 64)
    batches = first_images(make_loader(digits.splits.train, 256, training=True, seed=seed), 512).split(256)
    found = trace(model, torch.randn(1, 3, 32, 32))
    return Trained(model, found, digits, digits.accuracy(model), images, batches)


@lru_cache(maxsize=1)
def scores_of(name: str, seed: int, importance: str, work: Path) -> Scores:
    base = trained(name, seed, work)
    return score_inputs(base.model, base.found, importance, [base.images])


def measure(name: str, seed: int, scope: str, importance: str, amount: float, record: Record) -> Measured:
    """Accuracies and parameters of every kind of pruning of a baseline."""
    work = record.settings.work
    base = trained(name, seed, work)
    model, found, scores = base.model, base.found, scores_of(name, seed, importance, work)
    constrained = choose_masks(found, scores, amount, scope=scope, constrained=True)
    target = count_params(found, constrained)
    free = match_params(found, scores, scope, target)
    masks = {
        "averaged": choose_masks(found, average(found, scores), amount, scope=scope, constrained=True),
        "constrained": constrained,
        "free": free,
        "unconstrained": free,
    }
    if scope == "global":
        share = 1 - target / count_params(found, {})
        masks["unconstrained"] = choose_coupling(model, found, scores, share, [base.images])[0]
    values: dict[str, dict[str, Any]] = {"baseline": {"params": count_params(found, {}), "accuracy": base.accuracy}}
    for kind, chosen in masks.items():
        masked = mask_model(model, chosen)
        values[kind] = {"params": count_params(found, chosen), "accuracy": base.digits.accuracy(masked)}
        recalibrate(masked, base.batches)
        values[kind]["recalibrated"] = base.digits.accuracy(masked)
        # How much of what is dropped the constrained masks drop too: 1 where being free changes nothing.
        values[kind]["shared"] = _shared(constrained, chosen)
    return Measured(values=values)


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


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Means over measures and seeds, as the model is / recalibrated."""
    grids = []
    for (scope,), members in grouped(rows, "scope").items():
        found = by_case(members)
        columns = ("model", "before", "share", "parameters removed", *KINDS)
        title = f"accuracy in %, scope {scope}: as the model is / recalibrated, means over measures and seeds"
        grid = Grid(title, columns)
        for (model, amount), chosen in grouped(members, "model", "amount").items():
            alike = list(by_case(chosen).values())
            if alike:
                before = 100 * statistics.mean(case["baseline"]["accuracy"] for case in alike)
                left = statistics.mean(case["constrained"]["params"] / case["baseline"]["params"] for case in alike)
                cells = [_accuracies(alike, kind) for kind in KINDS]
                grid.add(model, f"{before:.1f}", f"{amount:.0%}", f"{1 - left:.0%}", *cells)
        cases = list(found.values())
        means = (f"{kind} {_accuracies(cases, kind)}" for kind in reversed(KINDS))
        grid.notes.append(f"In the mean: {', '.join(means)}.")
        for column, state in (("accuracy", "As they are"), ("recalibrated", "Recalibrated")):
            gains = [_gain(case, column) for case in cases if "unconstrained" in case and "constrained" in case]
            better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
            grid.notes.append(
                f"{state}, of {len(gains)} cases unconstrained is better than constrained in {better} (by up to "
                f"{100 * max(gains, default=0.0):.1f} points) and worse in {worse}."
            )
        grids.append(grid)
    grids = grids or [Grid("accuracy in %", ("model",))]
    grids[-1].notes += what_is_missing(rows)
    return grids


def _accuracies(cases: Sequence[Mapping[str, Row]], kind: str) -> str:
    rows = [case[kind] for case in cases if kind in case]
    if not rows:
        return "-"
    return " / ".join(f"{100 * statistics.mean(row[key] for row in rows):.1f}" for key in ("accuracy", "recalibrated"))


def _gain(case: Mapping[str, Row], column: str) -> float:
    return float(case["unconstrained"][column] - case["constrained"][column])


SUITE = Suite(
    "channels_accuracy",
    f"Unconstrained against constrained channel pruning on the digits, after training in batches of {BATCH}.",
    cases,
    tables,
    options=("models", "seeds", "amounts", "importance", "scope", "shard", "work"),
)
