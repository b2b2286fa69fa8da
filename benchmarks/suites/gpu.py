"""One run on a GPU, NVIDIA's or AMD's: is every kernel right, how fast are whole models, how fast single operators.

Within its minutes it does first what matters most, and says what it left out. Three parts:

- numerics: each kernel, tile and dtype on odd shapes against float64; no speed is reported of one that fails, nor of a
  model that runs it.
- models: as the suite ``models`` measures them, unpruned and with blocks merged, each also in a CUDA or HIP graph.
- operators: a spread of the problems that these models meet, and all of ConvNeXt's merged blocks, on the device alone,
  beside ``torch.compile`` of the unfused operators; `dispatch_ms` is what dispatch measured, launches included.

Each model, and every few operators, have a process of their own: where the driver aborts, which nothing can catch, one
case is lost and the rest is measured. Results are written as they come.

HIP kernels take part where they were built for the device: ``updp-rt kernels build --arch sm_90``, say. On a CPU it
runs too, without graphs and without Triton's and HIP's kernels, to try it out.
"""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.grid import Grid, best, gain, median, ms, ratio, times, what_is_missing
from benchmarks.isolation import Worker
from benchmarks.models import MODELS
from benchmarks.operators import candidates, check_kernel, epilogue_checks, problems_met, race_kernels, spread
from benchmarks.problems import DTYPES, ODD, has_bound, odd_problems
from benchmarks.protocol import Case, Measured, Record, Suite, Wrong, first_line
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from benchmarks.suites.models import over_best, time_variants
from updp_rt.backends.vendor import MIOPEN_NHWC
from updp_rt.ops import Operator, Problem
from updp_rt.runtime.roofline import peak

ROOFLINE_BOUND = 0.7  # what ConvNeXt's merged block must reach of the memory's bandwidth
SPREAD = 12
PRUNED = (6,)
GRAPHS = 40  # captured in one process, at most: MI100 owners report an abort after 50 to 99
EPILOGUE = "epilogue"  # the vendor backend's second half, checked as an operator

# Up to which share of the time something may still be begun: each part leaves room for those after it.
_UNTIL = {"numerics": 0.2, "models": 0.8, "compiled": 0.6, "compiled operators": 0.92, "operators": 0.97}

Wrongs = dict[tuple[str, str, str], str]  # why a kernel is not to be timed, by operator, dtype and candidate


@dataclass
class Met:
    """A problem that a model met, what dispatch measured, and where."""

    problem: Problem
    kernel: str
    times_ms: Mapping[str, float]
    demoted: Mapping[str, str]
    where: list[str] = field(default_factory=list)


def cases(settings: Settings) -> Iterator[Case]:
    """Numerics, then models, then the operators that these models met."""
    settings = replace(settings, channels_last=True)
    dtype, *others = settings.dtypes or ("float16",)
    if others:
        raise ValueError("models are measured in one precision a run: give one, such as --precision float16")
    with Worker(settings, settings.on_gpu, partial(_set_libraries, settings)) as worker:
        yield from _all_cases(settings, dtype, worker)


def _set_libraries(settings: Settings) -> None:
    torch.backends.cudnn.benchmark = settings.library_search
    torch.backends.cudnn.allow_tf32 = False  # products do not use it by default, nor do the fused kernels
    if settings.on_gpu and torch.version.hip:
        os.environ[MIOPEN_NHWC] = "1"  # channels_last is then channels_last for MIOpen too


def _all_cases(settings: Settings, dtype: str, worker: Worker) -> Iterator[Case]:
    wrong: Wrongs = {}
    met: dict[str, Met] = {}
    first = getattr(torch, dtype)
    for checked in sorted(DTYPES, key=lambda other: other != first):
        for operator in (*ODD, *([None] if settings.on_gpu else [])):
            yield from _numerics_cases(operator, checked, settings, worker, wrong)
    for batch in settings.batches or (1, 128, 32):
        for name in settings.models or MODELS:
            yield _model_case(name, batch, dtype, settings, worker, wrong, met)
    problems = {key: found.problem for key, found in met.items()}
    chosen, graphs = spread(problems, SPREAD), 0
    for key in [*chosen, *(key for key in problems if key not in chosen)]:
        on_device, compiled = key in chosen or has_bound(problems[key]), key in chosen
        compiled = compiled and settings.compiler != "none"
        case = _operator_case(
            key, met[key], settings, worker, f"operators {graphs // GRAPHS}", wrong, on_device, compiled
        )
        graphs += len(case.candidates) if on_device else 0
        yield case


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _numerics_cases(
    operator: Operator | None, dtype: torch.dtype, settings: Settings, worker: Worker, wrong: Wrongs
) -> Iterator[Case]:
    """One case an odd problem of `operator`, or of the epilogue where that is None; what fails is noted in `wrong`."""
    checks: dict[str, dict[str, Callable[[], dict[str, float]]]] = {}
    tested = EPILOGUE if operator is None else operator.name
    if operator is None:
        for key, name, check in epilogue_checks(dtype, settings.place):
            checks.setdefault(f"{key} {_short(dtype)}", {})[name] = check
    else:
        for problem in odd_problems(operator, dtype, settings.place):
            names = candidates(problem)
            checks[problem.key] = {name: partial(check_kernel, name, problem, settings.place) for name in names}

    def measure(key: str, record: Record) -> Measured:
        found = Measured()
        for name, check in checks[key].items():
            try:
                found.values[name] = worker.run("numerics", check)
            except Exception as error:  # a kernel that cannot even run is a finding, not the end
                found.wrong[name] = str(error) if isinstance(error, Wrong) else f"it failed: {first_line(error)}"
                wrong[tested, _short(dtype), name] = found.wrong[name]
        return found

    for key, named in checks.items():
        about = {"part": "numerics", "operator": tested, "dtype": _short(dtype)}
        measured = partial(measure, key)
        yield Case(f"numerics {key}", about, tuple(named), measured, part="numerics", until=_UNTIL["numerics"])


def _model_case(
    name: str, batch: int, dtype: str, settings: Settings, worker: Worker, wrong: Wrongs, met: dict[str, Met]
) -> Case:
    """One model at one batch size."""
    # The layout in which MIOpen is fastest differs from model to model; cuDNN's is channels_last.
    eager = ("eager", "eager nchw") if torch.version.hip else ("eager",)
    kinds = [f"P0 {mode}" for mode in (*eager, "compiled", "accelerated")]
    kinds += [f"P{count} accelerated" for count in settings.pruned or PRUNED]
    names = [kind for kind in kinds if settings.compiler != "none" or "compiled" not in kind]
    if settings.on_gpu:
        names += [f"{kind} graph" for kind in kinds if "compiled" not in kind]  # which may have graphs of its own
    key = f"{name} b{batch} {dtype} {settings.image_size}"

    def measure(record: Record) -> Measured:
        tried, late = list(names), "P0 compiled"
        if late in tried and not record.budget.allows("models", _UNTIL["compiled"]):
            tried.remove(late)
        measured, seen = worker.run(key, _time_model, settings, name, batch, dtype, tuple(tried), wrong)
        for problem, found in seen.items():
            if met.setdefault(problem, found) is not found:
                met[problem].where += found.where
        if late in names and late not in tried:
            measured.left_out[late] = "no time is left for compiling"
        return measured

    about = {"part": "models", "model": name, "batch": batch, "dtype": dtype, "size": settings.image_size}
    return Case(key, about, tuple(names), measure, part="models", until=_UNTIL["models"])


def _time_model(
    settings: Settings, name: str, batch: int, dtype: str, names: tuple[str, ...], wrong: Wrongs
) -> tuple[Measured, dict[str, Met]]:
    """Times of one model's variants, none of those that run a wrong kernel; and the problems that they met."""
    met: dict[str, Met] = {}

    def look(candidate: str, fast: nn.Module) -> None:
        where, reasons = f"{name} b{batch} {candidate}".removesuffix(" graph"), []
        for key, (problem, row) in problems_met(fast).items():
            found = met.setdefault(key, Met(problem, row.kernel, row.times_ms, row.demoted))
            found.where += [where] if where not in found.where else []
            if reason := wrong.get((problem.operator.name, _short(problem.dtype), row.kernel)):
                reasons.append(f"{row.kernel} for {key} was found wrong: {reason}")
        if reasons:
            raise Wrong("; ".join(reasons))

    try:
        return time_variants(settings, name, batch, dtype, names, look)[0], met
    finally:
        torch._dynamo.reset()
        gc.collect()
        if settings.on_gpu:
            torch.cuda.empty_cache()


def _operator_case(
    key: str,
    met: Met,
    settings: Settings,
    worker: Worker,
    group: str,
    wrong: Wrongs,
    on_device: bool,
    compiled: bool,
) -> Case:
    """One problem: as dispatch measured it, and if asked for on the device alone."""
    problem = met.problem
    known = dict(met.demoted)
    for name in met.times_ms:
        if reason := wrong.get((problem.operator.name, _short(problem.dtype), name)):
            known[name] = reason
    # Dispatch may have measured only the best of a projection; what is timed here is timed whole.
    kernels = candidates(problem) if on_device else [name for name in met.times_ms if name != "reference"]
    names = ("eager", *(["compiled"] if compiled and on_device else []), *dict.fromkeys((*kernels, *known)))
    dispatched = {
        "eager" if name == "reference" else name: ms for name, ms in met.times_ms.items() if name not in known
    }

    def measure(record: Record) -> Measured:
        found = Measured(wrong=dict(known))
        if on_device:
            found = worker.run(group, race_kernels, problem, names, settings, known)
        bandwidth = peak(settings.place).bandwidth
        for name, seconds in found.samples.items():
            median_s = statistics.median(seconds)
            found.values[name]["memory_roofline"] = round(problem.bytes_moved / bandwidth / median_s, 3)
        for name, milliseconds in dispatched.items():
            found.values.setdefault(name, {})["dispatch_ms"] = milliseconds
        return found

    about: dict[str, Any] = {"part": "operators", "operator": problem.operator.name, "dtype": _short(problem.dtype)}
    about |= {"met": ", ".join(met.where), "chosen": met.kernel}
    about |= {"limit": ROOFLINE_BOUND} if has_bound(problem) else {}
    part = "compiled operators" if compiled and on_device else "operators"
    return Case(f"operator {key}", about, names, measure, part=part, until=_UNTIL[part])


def tables(rows: Sequence[Row]) -> list[Grid]:
    """What holds of each part."""
    parts = {part: [row for row in rows if row.get("part") == part] for part in ("numerics", "models", "operators")}
    return [
        _numerics_table(parts["numerics"]),
        _models_table(parts["models"]),
        _operators_table(parts["operators"]),
    ]


def _numerics_table(rows: Sequence[Row]) -> Grid:
    grid = Grid("numerics", ("operator", "dtype", "kernels", "problems", "wrong"))
    for operator, dtype in dict.fromkeys((row["operator"], row["dtype"]) for row in rows):
        these = [row for row in rows if (row["operator"], row["dtype"]) == (operator, dtype)]
        kernels, problems = ({row[key] for row in these} for key in ("candidate", "case"))
        grid.add(operator, dtype, len(kernels), len(problems), sum("wrong" in row for row in these))
    grid.notes += what_is_missing(rows)
    return grid


def _models_table(rows: Sequence[Row]) -> Grid:
    """Times of the baselines, and each variant's speed over the best of them."""
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    baselines = [name for name in names if name.startswith("P0") and "accelerated" not in name]
    variants = [name for name in names if name not in baselines]
    columns = ["model", "batch", *(f"{name}, ms" for name in baselines), *variants]
    grid, found = Grid("models: × over the best of the baselines", columns), by_case(rows)
    for case in found.values():
        row = next(iter(case.values()))
        gains = [times(over_best(case, name)) for name in variants]
        grid.add(row["model"], row["batch"], *(ms(median(case, name)) for name in baselines), *gains)
    for kind in dict.fromkeys(name.removesuffix(" graph") for name in variants):
        over = gain(ratio(best(case, baselines), best(case, (kind, f"{kind} graph"))) for case in found.values())
        grid.notes.append(f"{kind}, in a graph or not: {over} in geometric mean (at least)")
    grid.notes += what_is_missing(rows)
    return grid


def _operators_table(rows: Sequence[Row]) -> Grid:
    """The problems timed on the device alone, and what holds over all that dispatch measured."""
    columns = ("problem", "unfused", "compiled", "vendor", "best Triton", "best HIP", "over unfused", "memory roofline")
    grid, found = Grid("operators on the device, ms", columns), by_case(rows)
    met = []  # of each bounded problem: whether it reaches its bound
    for key, case in found.items():
        took, fused = _times(case, "median_ms"), None
        share = max((row["memory_roofline"] for row in case.values() if "memory_roofline" in row), default=None)
        if share is None:
            continue
        fused = min((took[name] for name in ("vendor", "triton", "hip", "other") if name in took), default=None)
        cells = [ms(took.get(name)) for name in ("eager", "compiled", "vendor", "triton", "hip")]
        grid.add(key.removeprefix("operator "), *cells, times(ratio(took.get("eager"), fused)), f"{share:.0%}")
        met += [share >= row["limit"] for row in list(case.values())[:1] if "limit" in row]
    dispatched = [_times(case, "dispatch_ms") for case in found.values()]
    grid.notes.append(f"All {len(found)} problems, as dispatch measured them, launches included:")
    for name, slow, fast in (
        ("chosen over unfused", "eager", "chosen"),
        ("Triton over the vendor", "vendor", "triton"),
        ("HIP over the vendor", "vendor", "hip"),
        ("HIP over Triton", "triton", "hip"),
    ):
        ratios = [took[slow] / took[fast] for took in dispatched if slow in took and fast in took]
        grid.notes += [f"{name}: {gain(ratios)} in geometric mean (at least)"] if ratios else []
    if met:
        grid.notes.append(f"merged ConvNeXt blocks: {sum(met)} of {len(met)} reach their bound")
    grid.notes += what_is_missing(rows)
    return grid


def _times(case: Mapping[str, Row], column: str) -> dict[str, float]:
    """The least time of each kind of candidate: eager, compiled, each backend, other; and the kernel's chosen."""
    found: dict[str, float] = {}
    for name, row in case.items():
        kind = name.partition(":")[0]
        kind = kind if kind in ("eager", "compiled", "vendor", "triton", "hip") else "other"
        if column in row:
            found[kind] = min(row[column], found.get(kind, row[column]))
            found |= {"chosen": row[column]} if name == row.get("chosen", "").replace("reference", "eager") else {}
    return found


SUITE = Suite(
    "gpu",
    "On a GPU: the numerics of every kernel, models and operators, in 8 minutes.",
    cases,
    tables,
    options=(
        "device",
        "models",
        "batches",
        "dtypes",
        "image_size",
        "pruned",
        "compiler",
        "compile_mode",
        "library_search",
        "warm_calls",
        "rounds",
        "seconds",
    ),
    defaults={
        "device": "cuda",
        "dtypes": ("float16",),
        "minutes": 8.0,
        "compile_mode": "max-autotune",
        "rounds": 9,
        "seconds": 10.0,
        "memory": False,
    },
)
