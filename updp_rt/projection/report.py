"""A whole model's fused operators, projected on an MI100: a report to print, or as JSON."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.ops import Problem
from updp_rt.projection import LABEL
from updp_rt.projection.candidates import Candidate, candidates, least_seconds, refusal
from updp_rt.projection.machine import MI100
from updp_rt.projection.problems import model_problems


@dataclass(frozen=True)
class Row:
    """One distinct problem of a model, how often the model runs it, and its kernels, fastest first."""

    problem: Problem
    count: int
    kernels: Sequence[Candidate]

    @property
    def best(self) -> Candidate:
        """The kernel that projects fastest."""
        return self.kernels[0]

    @property
    def ms(self) -> float:
        """Of one run of the best kernel, launching left out."""
        return self.best.projection.time * 1e3

    @property
    def name(self) -> str:
        """The problem's."""
        return _name(self.problem)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "problem": self.name,
            "operator": self.problem.operator.name,
            "count": self.count,
            "roofline_ms": least_seconds(self.problem) * 1e3,
            "kernels": [kernel.to_dict() for kernel in self.kernels],
        }


@dataclass(frozen=True)
class Report:
    """Rows of a model, costliest first, and what they leave out: operators and modules that are not projected."""

    model: str
    dtype: str
    batch: int
    rows: list[Row]
    not_projected: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "what": LABEL,
            "arch": "gfx908",
            "machine": asdict(MI100),
            "model": self.model,
            "dtype": self.dtype,
            "batch": self.batch,
            "total": self._total(),
            "rows": [row.to_dict() for row in self.rows],
            "not_projected": self.not_projected,
        }

    def _total(self) -> dict[str, float]:
        launches = sum(row.count for row in self.rows)
        return {
            "ms": sum(row.count * row.ms for row in self.rows),
            "roofline_ms": sum(row.count * least_seconds(row.problem) * 1e3 for row in self.rows),
            "launches": launches,
            "launch_ms": launches * MI100.launch_seconds * 1e3,
        }

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(width=170, file=text).print(self)
        return text.getvalue()

    def __rich__(self) -> Any:
        table = rows_table(f"{self.model}, batch {self.batch}, {self.dtype}, on an MI100", self.rows)
        total = self._total()
        notes = [
            f"together {total['ms']:.3f} ms, by the roofline {total['roofline_ms']:.3f} ms; {total['launches']} "
            f"launches take the host about {total['launch_ms']:.2f} ms, unless a graph holds them",
            *(f"not projected: {what}: {why}" for what, why in self.not_projected.items()),
        ]
        table.caption = "\n".join(notes)
        return table


def rows_table(title: str, rows: Sequence[Row]) -> Any:
    """Rows as a table, which says that they are projections; of the kernels, the three fastest."""
    from rich.table import Table

    table = Table(title=f"{title} ({LABEL})", title_justify="left", caption_justify="left")
    table.add_column("operator and shapes", overflow="fold")
    table.add_column("count", justify="right")
    table.add_column("kernel", no_wrap=True)
    for column in ("ms", "bound", "roofline", "waves/SIMD", "LDS/MFMA", "global/MFMA"):
        table.add_column(column, justify="left" if column == "bound" else "right")
    table.add_column("next kernels, ms", overflow="fold")
    for row in rows:
        best, *others = row.kernels[:3]
        ratios = ("–" if r is None else f"{r:.2f}" for r in (best.lds_per_mfma, best.global_per_mfma))
        table.add_row(
            row.name,
            str(row.count),
            best.name,
            f"{row.ms:.3f}",
            best.projection.bound,
            f"{best.share:.0%}",
            f"{best.launch.occupancy:g}",
            *ratios,
            ", ".join(f"{other.name} {other.projection.time * 1e3:.3f}" for other in others),
        )
    return table


def project_model(
    model: nn.Module,
    image: Tensor,
    batch: int,
    dtype: torch.dtype,
    languages: Sequence[str],
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Project every fused operator of `model` at a batch size, with each tile for gfx908.

    Args:
        model: in eval mode, on the CPU, in float32.
        image: one image ``[1, C, H, W]`` of the size to be served.
        batch: images at once.
        dtype: to run in.
        languages: of the kernels, ``hip`` and ``triton``.
        advance: called with the numbers of distinct operators done and to do, as they change.

    Raises:
        MissingObjectsError: HIP's kernels are not compiled for gfx908.
    """
    problems, unfused = model_problems(model, image, batch, dtype)
    rows = []
    not_projected = {f"{count} {kind}": "runs as it is in torch" for kind, count in unfused.items()}
    for done, (problem, count) in enumerate(problems.items()):
        advance(done, len(problems))
        reason = refusal(problem)
        if reason is not None:
            not_projected[_counted(problem, count)] = reason
            continue
        found = candidates(problem, languages)
        if found:
            rows.append(Row(problem, count, found))
        else:
            not_projected[_counted(problem, count)] = f"{' and '.join(languages)} has no kernel for these sizes"
    advance(len(problems), len(problems))
    rows.sort(key=lambda row: -row.count * row.ms)
    return Report(type(model).__name__, str(dtype).removeprefix("torch."), batch, rows, not_projected)


def _name(problem: Problem) -> str:
    return problem.key.removesuffix(f" {problem.device}")


def _counted(problem: Problem, count: int) -> str:
    return f"{count} {_name(problem)}"
