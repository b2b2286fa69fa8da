"""Projected times on an MI100 of all HIP and Triton kernels on the frozen problems: projections, not measurements.

The HIP kernels are compiled first: ``updp-rt kernels build --arch gfx908``. Beside the frozen problems stand square
products, for which users have measured Triton and rocBLAS on an MI100 (ROCm/triton, issue 396): they show how far the
model may be from a card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.grid import Grid, gain, what_is_missing
from benchmarks.problems import PROJECTED, projected_problems, square
from benchmarks.protocol import Case, Measured, Record, Suite, known
from benchmarks.results import Row, by_case
from benchmarks.settings import Settings
from updp_rt.ops import Problem
from updp_rt.projection import LABEL
from updp_rt.projection.candidates import LANGUAGES, Candidate, candidates, least_seconds

# TFLOP/s of float16 products of square matrices, as users measured them on an MI100.
MEASURED = {
    1024: {"rocblas": 53.0, "triton": 39.0},
    1920: {"rocblas": 113.0, "triton": 80.0},
    2176: {"rocblas": 65.0, "triton": 72.0},
}
BOUND = 0.7  # of the roofline, for the best HIP kernel


def cases(settings: Settings) -> Iterator[Case]:
    """The frozen problems, and the squares."""
    dtypes = [getattr(torch, name) for name in settings.dtypes or ("float16", "bfloat16", "float32")]
    for problem in projected_problems(dtypes, known("model", settings.models, PROJECTED)):
        about = {"operator": problem.operator.name, "dtype": str(problem.dtype).removeprefix("torch.")}
        key = problem.key.removesuffix(f" {problem.device}")
        yield Case(key, about, (), partial(_measure, problem))
    if settings.models is None and torch.float16 in dtypes:
        for size in MEASURED:
            yield Case(f"square {size}", {"dtype": "float16"}, (), partial(_measure_square, size))


def _measure(problem: Problem, record: Record) -> Measured:
    """All kernels' times; and of the best in each language what its time comes from."""
    found = Measured(about={"roofline_ms": least_seconds(problem) * 1e3})
    for kernel in candidates(problem):
        best = not any(name.startswith(f"{_language(kernel.name)}:") for name in found.values)
        found.values[kernel.name] = _values(kernel) if best else {"projected_ms": kernel.projection.time * 1e3}
    return found


def _measure_square(size: int, record: Record) -> Measured:
    """The fastest kernel of each language beside what users measured, in TFLOP/s."""
    problem, found = square(size), Measured()
    for library, tflops in MEASURED[size].items():
        found.values[f"{library}, measured by users"] = {"tflops": tflops}
    for language in LANGUAGES:
        kernel = candidates(problem, (language,))[0]
        tflops = problem.flops / kernel.projection.time / 1e12
        found.values[kernel.name] = {"tflops": round(tflops, 1), **_values(kernel)}
    return found


def _values(kernel: Candidate) -> dict[str, Any]:
    known = kernel.to_dict()
    names = ("share", "bound", "workgroups", "tail", "occupancy", "lds_per_mfma", "global_per_mfma")
    return {"projected_ms": known["ms"], **{name: known[name] for name in names}}


def _language(name: str) -> str:
    return name.partition(":")[0]


def _best_of(language: str, case: Mapping[str, Row]) -> Row | None:
    """The fastest of one language's kernels, which stand fastest first."""
    return next((row for name, row in case.items() if _language(name) == language), None)


def tables(rows: Sequence[Row]) -> list[Grid]:
    """How near the best kernels come to the roofline, what falls short, and the squares."""
    found = by_case(rows)
    problems = {key: case for key, case in found.items() if not key.startswith("square")}
    title = f"share of the roofline on an MI100 ({LABEL}), geometric mean over problems (least)"
    grid = Grid(title, ("operator", "dtype", "problems", *(f"best {language}" for language in LANGUAGES)))
    short = Grid(f"below {BOUND:.0%} of the roofline ({LABEL})", ("problem", "best HIP kernel", "share", "bound by"))
    groups: dict[tuple[str, str], list[Mapping[str, Row]]] = {}
    for key, case in problems.items():
        row, hip = next(iter(case.values())), _best_of("hip", case)
        groups.setdefault((row["operator"], row["dtype"]), []).append(case)
        if hip is None or hip["share"] < BOUND:
            short.add(key, *((hip["candidate"], f"{hip['share']:.0%}", hip["bound"]) if hip else ("none", "-", "-")))
    for kind, members in groups.items():
        best = [[_best_of(language, case) for case in members] for language in LANGUAGES]
        grid.add(*kind, len(members), *(gain(row["share"] if row else None for row in kernels) for kernels in best))
    reached = len(problems) - len(short.rows)
    grid.notes.append(f"{reached} of {len(problems)} problems reach {BOUND:.0%} of the roofline by a HIP kernel.")
    grid.notes += what_is_missing(rows)
    squares = Grid(
        "square float16 products on an MI100, TFLOP/s: users' measurements, our projections",
        ("size", "rocBLAS, measured", "Triton, measured", "our Triton, projected", "our HIP, projected"),
    )
    for size in MEASURED:
        if f"square {size}" in found:
            case = found[f"square {size}"]
            ours = [_best_of(language, case) for language in ("triton", "hip")]
            users = [case[f"{name}, measured by users"] for name in ("rocblas", "triton")]
            squares.add(size, *(f"{row['tflops']:.0f}" if row else "-" for row in (*users, *ours)))
    return [grid, short, squares]


SUITE = Suite(
    "projection",
    "Projected times of the HIP and Triton kernels on an MI100; nothing is measured.",
    cases,
    tables,
    options=("models", "dtypes"),
    place="gfx908-projection",
)
