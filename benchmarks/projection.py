"""Projected times on an MI100 of all problems in `benchmarks.projection_shapes`: projections, not measurements.

Run ``python -m benchmarks.projection`` once the HIP kernels are compiled (``updp-rt kernels build --arch gfx908``).
Writes ``benchmarks/results/gfx908-projection/projection.json``. Beside the frozen problems stand square products, for
which users have measured Triton and rocBLAS on an MI100 (ROCm/triton, issue 396): they show how far the model may be
from a card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.common import RESULTS, commit
from benchmarks.projection_shapes import BATCH, DTYPES, MODELS, problems, square
from updp_rt.artifacts import versions
from updp_rt.artifacts.atomic import write_json
from updp_rt.projection import LABEL, MI100
from updp_rt.projection.candidates import LANGUAGES, Candidate, candidates
from updp_rt.projection.report import Row, rows_table

# TFLOP/s of float16 products of square matrices, as users measured them on an MI100.
MEASURED = {
    1024: {"rocblas": 53.0, "triton": 39.0},
    1920: {"rocblas": 113.0, "triton": 80.0},
    2176: {"rocblas": 65.0, "triton": 72.0},
}
BOUND = 0.7  # of the roofline, for the best HIP kernel
RESULT = RESULTS / "gfx908-projection" / "projection.json"

console = Console(width=170)


def main(dtypes: str = ",".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)) -> None:
    """Project the frozen problems in the given dtypes."""
    chosen: list[torch.dtype] = [getattr(torch, name) for name in dtypes.split(",")]
    wanted = list(dict.fromkeys(problem for dtype in chosen for model in MODELS for problem in problems(model, dtype)))
    rows = [
        Row(problem, 1, candidates(problem))
        for problem in track(wanted, f"projecting ({LABEL})", console=console, transient=True)
    ]
    for dtype in chosen:
        title = f"batch {BATCH}, {str(dtype).removeprefix('torch.')}, on an MI100"
        console.print(rows_table(title, [row for row in rows if row.problem.dtype is dtype]))
    short = [row for row in rows if share(best_of("hip", row.kernels)) < BOUND]
    console.print(_misfits(short))
    console.print(f"{len(rows) - len(short)} of {len(rows)} problems reach {BOUND:.0%} of the roofline by a HIP kernel")
    squares = [_square(size) for size in MEASURED]
    console.print(_squares_table(squares))
    about = {"what": LABEL, "arch": "gfx908", "machine": asdict(MI100), "versions": versions(), "commit": commit()}
    write_json(RESULT, {**about, "bound": BOUND, "squares": squares, "rows": [_record(row) for row in rows]})
    console.print(f"written: {RESULT}")


def _record(row: Row) -> dict[str, Any]:
    """A row with all kernels' times, and the rest of what is known of the best in each language."""
    best = {language: kernel.to_dict() for language in LANGUAGES if (kernel := best_of(language, row.kernels))}
    times = {kernel.name: kernel.projection.time * 1e3 for kernel in row.kernels}
    return {"problem": row.name, "roofline_ms": row.to_dict()["roofline_ms"], "times_ms": times, "best": best}


def best_of(language: str, kernels: Sequence[Candidate]) -> Candidate | None:
    """The fastest of one language's kernels, which stand fastest first; None where it has none."""
    return next((kernel for kernel in kernels if kernel.name.startswith(f"{language}:")), None)


def share(kernel: Candidate | None) -> float:
    """Of the roofline; 0 of no kernel."""
    return 0.0 if kernel is None else kernel.share


def _misfits(rows: Sequence[Row]) -> Table:
    table = Table(title=f"below {BOUND:.0%} of the roofline ({LABEL})", title_justify="left")
    for column in ("problem", "best HIP kernel", "roofline", "bound", "its resources, ms"):
        table.add_column(column, overflow="fold")
    for row in rows:
        best = best_of("hip", row.kernels)
        if best is None:
            table.add_row(row.name, "none")
            continue
        ordered = sorted(best.projection.resources.items(), key=lambda item: -item[1])
        resources = ", ".join(f"{name} {seconds * 1e3:.4f}" for name, seconds in ordered)
        table.add_row(row.name, best.name, f"{best.share:.0%}", best.projection.bound, resources)
    return table


def _square(size: int) -> dict[str, Any]:
    """The fastest kernel of each language beside what users measured, in TFLOP/s."""
    problem = square(size)
    found = {language: candidates(problem, (language,))[0] for language in LANGUAGES}
    return {
        "size": size,
        "measured": MEASURED[size],
        "projected": {language: problem.flops / best.projection.time / 1e12 for language, best in found.items()},
        "kernels": {language: best.to_dict() for language, best in found.items()},
    }


def _squares_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="square float16 products, TFLOP/s: users' measurements, our projections", title_justify="left")
    for column in ("size", "rocBLAS, measured", "Triton, measured", "our Triton, projected", "our HIP, projected"):
        table.add_column(column, justify="right")
    for row in rows:
        values = (
            *(row["measured"][name] for name in ("rocblas", "triton")),
            *(row["projected"][n] for n in ("triton", "hip")),
        )
        table.add_row(str(row["size"]), *(f"{value:.0f}" for value in values))
    return table


if __name__ == "__main__":
    typer.run(main)
