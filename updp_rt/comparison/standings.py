"""What a comparison found: of each method and goal the mean and spread over the seeds, and which no other beats."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from updp_rt.artifacts.describe import skeleton
from updp_rt.artifacts.manifest import Description
from updp_rt.blocks import find_family
from updp_rt.comparison.jobs import IDENTITY, ROWS, Outcome, read_outcome
from updp_rt.comparison.plan import BASELINE, CompareConfig, Job, plan_jobs
from updp_rt.comparison.timing import Latencies, read_latencies
from updp_rt.pruning.claim import read_identity


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder, read: what was asked for, what was found, and what is still missing."""

    folder: Path
    identity: dict[str, Any]
    config: CompareConfig
    family: str
    outcomes: list[Outcome]
    failed: list[Outcome]
    waiting: list[Job]
    latencies: Latencies | None


@dataclass(frozen=True)
class Standing:
    """One method and goal: a value a seed, in the order of the seeds.

    Attributes:
        changes: of accuracy against the baseline of the same seed.
        speedups: against the baseline, measured in turn with it; empty where nothing was measured yet.
        ms: milliseconds of a batch that come of them, where the baseline takes its mean over all seeds: a machine that
            was slower while one seed was measured does not count.
    """

    method: str
    goal: float
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    changes: tuple[float, ...]
    pruned: tuple[int, ...]
    params: tuple[int, ...]
    speedups: tuple[float, ...]
    ms: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def latency(self) -> float:
        return statistics.mean(self.ms)

    @property
    def label(self) -> str:
        return Job(self.method, self.goal, 0).label


def read_comparison(folder: str | Path) -> Comparison:
    """Read a comparison's folder; raises `RunError` where it is none, or damaged."""
    folder = Path(folder)
    identity = read_identity(folder / IDENTITY, {"config", "model", "data"})
    config = CompareConfig.model_validate(identity["config"])
    rows = [read_outcome(path) for path in sorted((folder / ROWS).glob("*.json"))]
    done = {Job(row.method, row.goal, row.seed).key for row in rows}
    known = {key: identity[key] for key in Description.model_fields if key in identity}
    return Comparison(
        folder=folder,
        identity=identity,
        config=config,
        family=find_family(skeleton(Description.model_validate(known))).name,
        outcomes=[row for row in rows if not row.failed],
        failed=[row for row in rows if row.failed],
        waiting=[job for job in plan_jobs(config) if job.key not in done],
        latencies=read_latencies(folder),
    )


def standings(found: Comparison) -> list[Standing]:
    """The baseline, and every method and goal with results, in the order asked for."""
    base = {row.seed: row for row in found.outcomes if row.method == BASELINE}
    groups: dict[tuple[str, float], list[Outcome]] = {}
    for row in found.outcomes:
        if row.seed in base:
            groups.setdefault((row.method, row.goal), []).append(row)
    asked = list(dict.fromkeys([BASELINE, *found.config.methods]))
    order = sorted(groups, key=lambda group: (asked.index(group[0]) if group[0] in asked else len(asked), group[1]))
    ms = found.latencies.ms if found.latencies else {}
    baselines = [ms[key] for seed in base if (key := Job(BASELINE, 0, seed).key) in ms]
    made = []
    for method, goal in order:
        rows = sorted(groups[method, goal], key=lambda row: row.seed)
        keys = [(Job(method, goal, row.seed).key, Job(BASELINE, 0, row.seed).key) for row in rows]
        speedups = tuple(ms[before] / ms[key] for key, before in keys if key in ms and before in ms)
        made.append(
            Standing(
                method=method,
                goal=goal,
                seeds=tuple(row.seed for row in rows),
                accuracies=tuple(row.accuracy for row in rows),
                changes=tuple(row.accuracy - base[row.seed].accuracy for row in rows),
                pruned=tuple(row.pruned for row in rows),
                params=tuple(row.params for row in rows),
                speedups=speedups,
                ms=tuple(statistics.mean(baselines) / speedup for speedup in speedups),
            )
        )
    return made


def front(found: Sequence[Standing]) -> list[Standing]:
    """Those that no other beats in both mean accuracy and mean latency, fastest first; of those that were measured."""
    best: list[Standing] = []
    for standing in sorted((s for s in found if s.ms), key=lambda s: (s.latency, -s.accuracy)):
        if not best or standing.accuracy > best[-1].accuracy:
            best.append(standing)
    return best


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
