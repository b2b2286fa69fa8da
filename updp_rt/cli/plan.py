"""``updp-rt prune --dry-run``: what a run would do and take, as a table or JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from updp_rt.cli.common import out, print_json

if TYPE_CHECKING:
    from updp_rt.cli.recipe import About
    from updp_rt.pruning import Run
    from updp_rt.pruning.plan import Plan

_ROUNDS = {"supernet": "epochs", "search": "candidates", "train": "epochs"}


def show_plan(run: Run, plan: Plan, about: About | None, json: bool) -> None:
    """Print `plan`, and beside it what the recipe says of itself."""
    if json:
        told: dict[str, Any] = {"folder": str(run.folder), **asdict(plan)}
        print_json(told if about is None else {**told, "about": about.model_dump(mode="json")})
        return
    from rich.table import Table

    from updp_rt.pruning.config import GOALS
    from updp_rt.pruning.progress import duration

    train, val = plan.images
    goals = {name: getattr(run.config, name) for name in GOALS}
    goal = next(f"{name} {value}" for name, value in goals.items() if value)
    table = Table(title=f"{run.identity['architecture']}, {goal}: nothing is written", title_justify="left")
    for column in ("stage", "", "steps", "EFLOP", "a step here", "memory"):
        table.add_column(column, justify="left" if column in ("stage", "") else "right")
    for name, stage in plan.stages.items():
        tried = plan.tried.get(name)
        here = ("", "") if tried is None else (f"{tried.seconds:.2f} s", f"{tried.memory / 2**30:.2f} GB")
        steps = str(stage.steps) if stage.steps else ""
        table.add_row(name, f"{stage.rounds} {_ROUNDS[name]}", steps, f"{stage.exaflops:.3g}", *here)
    started = "one process" if plan.processes == 1 else f"{plan.processes} processes"
    table.caption = (
        f"{train} images to train on, {val} to choose by; {plan.batch} a step, of {started}. A step of each stage was "
        f"tried on the first images: training alone would take {duration(plan.seconds)} at that pace, if images load "
        f"as fast. Memory is one process's: weights, gradients, moments, and what the backward pass needs. Results "
        f"would go to {run.folder}"
    )
    table.caption_justify = "left"
    out.print(table)
    if about is not None:
        out.print(_told(about), soft_wrap=True)


def _told(about: About) -> str:
    expected = about.expected
    figures = [
        *([] if expected.top1_lost is None else [f"{expected.top1_lost:g} points of top-1 lost"]),
        *([] if expected.speedup is None else [f"{expected.speedup:g} times as fast"]),
    ]
    wanted = f"{', '.join(figures)}{expected.on and f', {expected.on}'} ({expected.source})" if figures else ""
    return (
        f"the recipe: {about.devices} devices, {about.exaflops:g} EFLOP, {about.device_hours:g} device hours at an "
        f"assumed {about.tflops:g} TFLOP/s each; expected: {wanted or f'accuracy {expected.source}'}"
    )
