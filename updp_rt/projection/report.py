"""A whole model projected on an MI100, beside the same model as torch runs it: a report to print, or as JSON."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from updp_rt.ops import Problem, part_problems
from updp_rt.projection import LABEL
from updp_rt.projection.candidates import LANGUAGES, Candidate, candidates, least_seconds, refusal
from updp_rt.projection.machine import MI100
from updp_rt.projection.passes import Pass, plain_passes
from updp_rt.projection.problems import Images, run_of, unfused_passes


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
class Passes:
    """Torch's own passes of one kind: how many, the least milliseconds that all of them take, and why they are left."""

    name: str
    count: int
    ms: float
    why: str = ""


@dataclass(frozen=True)
class Report:
    """A whole model on an MI100.

    Attributes:
        rows: its fused operators, costliest first.
        left: what is left to torch between them, by its least time.
        unfused: all that torch runs for the same model as it is.
    """

    model: str
    dtype: str
    batch: int
    rows: list[Row]
    left: list[Passes]
    unfused: list[Passes]

    @property
    def total(self) -> dict[str, float]:
        """Milliseconds of all kernels (of those left to torch: at least), and of their launches beside them."""
        fused, left = sum(row.count * row.ms for row in self.rows), sum(one.ms for one in self.left)
        roofline = sum(row.count * least_seconds(row.problem) * 1e3 for row in self.rows)
        launches = sum(row.count for row in self.rows) + sum(one.count for one in self.left)
        return {"ms": fused + left, "fused_ms": fused, "left_ms": left, "roofline_ms": roofline, **_launching(launches)}

    @property
    def total_unfused(self) -> dict[str, float]:
        """The same of the unfused model: at least so much."""
        return {
            "ms": sum(one.ms for one in self.unfused),
            **_launching(sum(one.count for one in self.unfused)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "what": LABEL,
            "arch": "gfx908",
            "machine": asdict(MI100),
            "model": self.model,
            "dtype": self.dtype,
            "batch": self.batch,
            "total": self.total,
            "unfused_at_least": self.total_unfused,
            "rows": [row.to_dict() for row in self.rows],
            "left": [asdict(one) for one in self.left],
            "unfused": [{name: value for name, value in asdict(one).items() if value} for one in self.unfused],
        }

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(width=170, file=text).print(self)
        return text.getvalue()

    def __rich__(self) -> Any:
        table = rows_table(f"{self.model}, batch {self.batch}, {self.dtype}, on an MI100", self.rows)
        total, unfused = self.total, self.total_unfused
        counted = sum(one.count for one in self.left)
        left = f"; {counted} kernels left to torch, at least {total['left_ms']:.3f} ms" if counted else ""
        passes = ", ".join(f"{one.count} {one.name} {one.ms:.3f}" for one in self.unfused)
        notes = [
            f"the whole model: {total['ms']:.3f} ms; fused operators {total['fused_ms']:.3f} ms, by the roofline "
            f"{total['roofline_ms']:.3f} ms{left or '; no kernel is left to torch'}",
            *(f"  {one.count} {one.name}, at least {one.ms:.3f} ms: {one.why}" for one in self.left),
            f"unfused, as torch runs it: at least {unfused['ms']:.3f} ms, {unfused['ms'] / total['ms']:.2f} times that",
            f"  {passes}",
            f"launches: {total['launches']}, unfused {unfused['launches']}; they take the host about "
            f"{total['launch_ms']:.2f} and {unfused['launch_ms']:.2f} ms, unless a graph holds them",
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


class Kernels:
    """What kernels of some languages would run problems, each problem projected once.

    Args:
        languages: of the kernels, ``hip`` and ``triton``.

    Raises:
        MissingObjectsError: from its calls: HIP's kernels are not compiled for gfx908.
    """

    def __init__(self, languages: Sequence[str] = LANGUAGES) -> None:
        self.languages = languages
        self._found: dict[Problem, list[Candidate]] = {}

    def __call__(self, problem: Problem) -> list[Candidate]:
        """The kernels, fastest first; none where torch has to run it."""
        if problem not in self._found:
            self._found[problem] = [] if refusal(problem) else candidates(problem, self.languages)
        return self._found[problem]

    def why_none(self, problem: Problem) -> str:
        """Why there is none."""
        return refusal(problem) or f"{' and '.join(self.languages)} has no kernel for these sizes"

    def plan(self, problem: Problem) -> list[Problem]:
        """What runs `problem`: itself, or the separate operators it stands for where they are faster."""
        separate = [one for part in part_problems(problem) for one in self.plan(part)]
        found = self(problem)
        whole = not separate or (found and found[0].projection.time <= sum(map(self._least, separate)))
        return [problem] if whole else separate

    def seconds(self, problem: Problem) -> float:
        """Of the fastest kernels; where there is none, the least that torch takes."""
        return sum(map(self._least, self.plan(problem)))

    def _least(self, problem: Problem) -> float:
        found = self(problem)
        return found[0].projection.time if found else sum(one.seconds for one in plain_passes(problem))


def project_model(
    model: nn.Module,
    size: Images,
    batch: int,
    dtype: torch.dtype,
    kernels: Kernels | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Project a whole model at a batch size: each fused operator with every tile for gfx908, and what torch runs.

    Args:
        model: in eval mode, on the CPU, in float32.
        size: channels, height and width of the images to be served.
        batch: images at once.
        dtype: to run in.
        kernels: whose; by default of both languages.
        advance: called with the numbers of distinct operators done and to do, as they change.

    Raises:
        MissingObjectsError: HIP's kernels are not compiled for gfx908.
    """
    kernels = kernels or Kernels()
    run = run_of(model, size, batch, dtype)
    met = Counter(problem for _, problem in run.problems)
    counts: Counter[Problem] = Counter()
    for done, (problem, count) in enumerate(met.items()):
        advance(done, len(met))
        for one in kernels.plan(problem):
            counts[one] += count
    advance(len(met), len(met))
    rows, left = [], [(one, why) for _, one, why in run.left]
    for problem, count in counts.items():
        found = kernels(problem)
        if found:
            rows.append(Row(problem, count, found))
        else:
            why = f"{problem.operator.name}: {kernels.why_none(problem)}"
            left += [(one, why) for one in plain_passes(problem)] * count
    rows.sort(key=lambda row: -row.count * row.ms)
    unfused = unfused_passes(model, size, batch, dtype)
    name, kind = type(model).__name__, str(dtype).removeprefix("torch.")
    return Report(name, kind, batch, rows, _grouped(left), _grouped((one, "") for one in unfused))


def _grouped(passes: Iterable[tuple[Pass, str]]) -> list[Passes]:
    """By name and reason, costliest first."""
    groups: dict[tuple[str, str], list[float]] = {}
    for one, why in passes:
        groups.setdefault((one.name, why), []).append(one.seconds)
    found = [Passes(name, len(times), sum(times) * 1e3, why) for (name, why), times in groups.items()]
    return sorted(found, key=lambda one: -one.ms)


def _launching(launches: int) -> dict[str, float]:
    return {"launches": launches, "launch_ms": launches * MI100.launch_seconds * 1e3}


def _name(problem: Problem) -> str:
    return problem.key.removesuffix(f" {problem.device}")
