"""What an accelerated model runs where, why, and how fast: a report to print, or as JSON."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.runtime.dispatch import Choice
from updp_rt.runtime.engines import engine_of
from updp_rt.runtime.engines.base import state_of
from updp_rt.runtime.fastest import EngineChoice, choice_of
from updp_rt.runtime.fused import fused_modules
from updp_rt.runtime.recording import recorded, why_copied, why_left
from updp_rt.runtime.roofline import peak
from updp_rt.runtime.table import table_for

_OF_TORCH = ("reference", "vendor")  # backends that run torch's own kernels


@dataclass(frozen=True)
class Row:
    """One operator of one module at one shape.

    Attributes:
        kernel: the candidate chosen, as ``backend`` or ``backend:config``.
        times_ms: the measured time of each candidate.
        roofline: share of what the device could do at most, by the time of the kernel chosen; None if not measured.
        flops, bytes_moved: multiplications and additions, and the bytes that any implementation must move.
        refused: why a backend cannot run it; demoted: why a candidate is not trusted.
    """

    module: str
    source: str
    operator: str
    problem: str
    kernel: str
    why: str
    times_ms: dict[str, float]
    roofline: float | None
    flops: int
    bytes_moved: int
    refused: dict[str, str]
    demoted: dict[str, str]


@dataclass(frozen=True)
class Left:
    """Torch's own kernels that a run of the model is left with, views aside: how often one operator, where, and why.

    Attributes:
        operator: torch's name of it, or a fused one that torch's own operators run.
        source: class of the module.
    """

    operator: str
    source: str
    count: int
    why: str


@dataclass(frozen=True)
class Explanation:
    """All rows of a model, the environment and engine they hold for, and what runs as it is.

    Attributes:
        ready: the inputs for which the engine runs the whole model; the modules run others.
        unfused: the modules that run as they are.
        left: the operators of torch's that run; None where `explain` was given no images to find them with.
        engines: what was found of the engines, where more than one could be chosen.
    """

    environment: dict[str, str]
    engine: str
    ready: list[str]
    peak: str
    rows: list[Row]
    unfused: list[str]
    left: list[Left] | None = None
    engines: EngineChoice = field(default_factory=EngineChoice)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(width=180, file=text).print(self)
        return text.getvalue()

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=f"fused operators on {self.environment['device']}", title_justify="left")
        for column in ("module", "operator and shapes", "kernel", "why"):
            table.add_column(column, overflow="fold")
        table.add_column("ms", justify="right")
        table.add_column("other candidates, ms", overflow="fold")
        table.add_column("roofline", justify="right")
        for row in self.rows:
            others = ", ".join(
                f"{name} {ms:.3f}"
                for name, ms in sorted(row.times_ms.items(), key=lambda t: t[1])
                if name != row.kernel
            )
            others += "".join(f"; {name}: {reason}" for name, reason in row.demoted.items())
            table.add_row(
                row.module,
                row.problem,
                row.kernel,
                row.why,
                f"{row.times_ms[row.kernel]:.3f}" if row.kernel in row.times_ms else "",
                others,
                "" if row.roofline is None else f"{row.roofline:.0%}",
            )
        refused = {f"{name}: {reason}" for row in self.rows for name, reason in row.refused.items()}
        notes = [
            f"roofline: share of what the device could do at most ({self.peak}); above 100% the data came from caches",
            *sorted(refused),
        ]
        if self.engine != "modules":
            notes.insert(0, f"engine {self.engine}, ready for {'; '.join(self.ready) or 'no input: call prewarm'}")
        if self.unfused:
            kinds = Counter(name.rsplit("(", 1)[1].rstrip(")") for name in self.unfused)
            notes.append("run as they are: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        if self.left is not None:
            total = sum(left.count for left in self.left)
            notes.append(f"{total or 'no'} kernels are torch's own, views aside" + (":" if total else ""))
            notes += [f"  {left.count} {left.operator} in {left.source}: {left.why}" for left in self.left]
        notes += self._engines()
        table.caption = "\n".join(notes)
        table.caption_justify = "left"
        return table

    def _engines(self) -> list[str]:
        """Lines on the engines, the fastest first."""
        notes = []
        for shape, times in self.engines.times_ms.items():
            ordered = sorted(times.items(), key=lambda t: t[1])
            notes.append(f"engines at {shape}, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in ordered))
        for name, seconds in self.engines.seconds.items():
            notes.append(f"{name}: built in {seconds:.1f} s, {self.engines.bytes[name] / 1e6:.0f} MB of memory")
        return [*notes, *(f"engine {name}: {reason}" for name, reason in self.engines.refused.items())]


def explain(model: nn.Module, images: Tensor | None = None) -> Explanation:
    """Say per module of an accelerated model what it runs: operator, shapes, kernel, why, times, share of the roofline.

    Print the result, or take its ``to_dict()``. It tells of the shapes that `accelerate` and `prewarm` measured and of
    those met since.

    Args:
        images: ``[N, C, H, W]`` for the model to run on once, which counts the kernels that are still torch's own.

    Raises:
        ValueError: a model that is not accelerated.
    """
    fused = list(fused_modules(model))
    if not fused:
        raise ValueError("this model is not accelerated: call updp_rt.accelerate(model, example_input) first")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    rows, inside = [], set()
    for name, module, fusion in fused:
        inside |= {id(member) for _, _, member, _ in fusion.members}
        whole = fusion.rule.method == "forward"
        if whole:
            inside.add(id(module))
        paths = [path for *_, path in fusion.members]
        for own, site in fusion.sites.items():
            inner = "" if whole else own if own in paths else fusion.rule.method
            place = ".".join(filter(None, (name, inner)))
            source = type(model.get_submodule(place)) if inner in paths else fusion.source
            rows += [_row(place, source.__name__, choice, device) for choice in site.choices.values()]
    unfused = [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if id(module) not in inside and not list(module.children()) and not isinstance(module, nn.Identity | nn.Dropout)
    ]
    left = None if images is None else _left(model, images, rows)
    state, about = state_of(model), table_for(device).environment
    ready = [] if state is None else sorted(map(_input, state.ready))
    return Explanation(about, engine_of(model), ready, peak(device).source, rows, unfused, left, choice_of(model))


def _input(key: Any) -> str:
    """``float16 1x3x224x224``, with strides where they are not those of a fresh tensor; N for any number of images."""
    *form, dtype, _ = key
    shape = form[0] if form[1:] else ("N", *form[0])
    text = f"{str(dtype).removeprefix('torch.')} {'x'.join(map(str, shape))}"
    usual = not form[1:] or form[1] == torch.empty(shape, device="meta").stride()
    return text if usual else f"{text}, strides {'x'.join(map(str, form[1]))}"


@torch.no_grad()
def _left(model: nn.Module, images: Tensor, rows: list[Row]) -> list[Left]:
    with recorded(model) as steps:
        model(images)
    found: Counter[tuple[str, str, str]] = Counter()
    for step in steps:
        source = source_type(model.get_submodule(step.place)).__name__
        if step.operator is None:
            found[step.name, source, why_left(model, step.place)] += 1
        elif step.copied():
            found["copy", source, why_copied(step.operator)] += len(step.copied())
    for row in rows:
        if row.kernel.partition(":")[0] in _OF_TORCH:
            refused = "; ".join(f"{name}: {why}" for name, why in row.refused.items())
            found[row.operator, row.source, refused or row.why] += 1
    return [Left(operator, source, count, why) for (operator, source, why), count in found.most_common()]


def _row(name: str, source: str, choice: Choice, device: torch.device) -> Row:
    time = choice.times_ms.get(choice.candidate)
    return Row(
        module=name,
        source=source,
        operator=choice.problem.operator.name,
        problem=choice.problem.key,
        kernel=choice.candidate,
        why=choice.why,
        times_ms=dict(choice.times_ms),
        roofline=None if not time else peak(device).least_seconds(choice.problem) * 1e3 / time,
        flops=choice.problem.flops,
        bytes_moved=choice.problem.bytes_moved,
        refused=dict(choice.refused),
        demoted=dict(choice.demoted),
    )
