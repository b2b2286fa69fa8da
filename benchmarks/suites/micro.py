"""Every fused operator on the frozen problems: unfused eager torch, torch.compile, the vendor's library, our kernels.

One case is one problem of `benchmarks.problems` at one batch size in one dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from benchmarks.grid import Grid, best, gain, grouped, median, ratio, what_is_missing
from benchmarks.models import MODELS
from benchmarks.operators import candidates, race_kernels
from benchmarks.problems import frozen_problems
from benchmarks.protocol import Case, Measured, Record, Suite
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.backends.frozen import Met
from updp_rt.ops import Problem
from updp_rt.runtime.memory import keep_freed_memory

BASELINES = ("eager", "compiled")  # what remains are kernels


def cases(settings: Settings) -> Iterator[Case]:
    """All problems, the batch sizes in the order given."""
    for batch in settings.batches_or((1, 8), (1, 128)):
        for dtype in settings.dtypes_or_default:
            chosen = frozen_problems(settings.models or MODELS, batch, getattr(torch, dtype), settings.device)
            for problem, met in chosen:
                about = {"operator": problem.operator.name, "dtype": dtype, "batch": batch, "met": _where(met)}
                yield _case(problem, about, settings)


def _case(problem: Problem, about: dict[str, object], settings: Settings) -> Case:
    baselines = BASELINES if settings.compiler != "none" else BASELINES[:1]
    names = (*baselines, *candidates(problem))

    def measure(record: Record) -> Measured:
        if not settings.on_gpu:
            keep_freed_memory()  # as accelerated models have it, for all candidates alike
        return race_kernels(problem, names, settings)

    return Case(problem.key, about, names, measure)


def operator_times(case: Mapping[str, Row]) -> dict[str, float | None]:
    """Of a problem: eager's time, the compiled one's, the vendor's best, and the best of our kernels and oneDNN's."""
    kernels = [name for name in case if name not in BASELINES]
    vendor = [name for name in kernels if name.startswith("vendor")]
    fused = [name for name in kernels if name.partition(":")[0] not in ("vendor", "reference")]
    return {
        "eager": median(case, "eager"),
        "compiled": median(case, "compiled"),
        "vendor": best(case, vendor),
        "fused": best(case, fused),
    }


def tables(rows: Sequence[Row]) -> list[Grid]:
    """By operator, dtype and batch: how much faster the best fused kernel is, in geometric mean and at least."""
    columns = ("operator", "dtype", "batch", "problems", "over eager", "over compiled", "over vendor")
    grid = Grid("operators: the best fused kernel, × faster in geometric mean (at least)", columns)
    for key, members in grouped(rows, "operator", "dtype", "batch").items():
        times = [operator_times(case) for case in by_case(members).values()]
        gains = [gain(ratio(t[name], t["fused"]) for t in times) for name in ("eager", "compiled", "vendor")]
        grid.add(*key, len(times), *gains)
    grid.notes += what_is_missing(rows)
    return [grid]


def _where(met: Met) -> str:
    return ", ".join(f"{model} {'/'.join(variants)}" for model, variants in met.items())


SUITE = Suite(
    "micro",
    "Every fused operator on the frozen problems of the four models.",
    cases,
    tables,
    options=("device", "models", "batches", "dtypes", "compiler", "compile_mode"),
    defaults={"seconds": 2.0},
    timed=True,
)
