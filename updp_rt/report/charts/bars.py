"""Horizontal bars in groups: a label on the left, the value at each bar's end."""

from __future__ import annotations

from dataclasses import dataclass

from updp_rt.report.charts.scale import Scale, axis_below, milliseconds, times
from updp_rt.report.charts.svg import Cell, Chart, Drawing, Legend, Table, drawings, rect, text_width
from updp_rt.report.schema import ModelTimes, Times


@dataclass(frozen=True)
class Bar:
    """One bar: its value, the class that colours it, what is written at its end, and what it says when pointed at."""

    value: float
    css: str
    note: str
    tip: str


@dataclass(frozen=True)
class Group:
    label: str
    bars: list[Bar]


def draw_model_times(found: ModelTimes, batch: int, where: str) -> Chart:
    """The model as it was and as it is, plainly, on fused kernels, and on another engine where one was there."""
    rows = [
        ("baseline", found.baseline, "baseline"),
        ("baseline, fused kernels", found.baseline_accelerated, "baseline-fast"),
        ("merged", found.merged, "merged"),
        ("merged, fused kernels", found.accelerated, "accelerated"),
    ]
    if found.other is not None:
        rows += [
            (f"baseline, {found.other.engine}", found.other.baseline, "baseline-fast"),
            (f"merged, {found.other.engine}", found.other.merged, "accelerated"),
        ]
    groups = [
        Group(
            label, [Bar(ms, css, f"{milliseconds(ms)} · {times(found.baseline / ms)}", f"{label}: {milliseconds(ms)}")]
        )
        for label, ms, css in rows
    ]
    fastest = min(rows, key=lambda row: row[1])
    return Chart(
        name="speed",
        title="Speed of the whole model",
        description=f"Batch {batch} on {where}, timed in turn. Fastest: {fastest[0]}, "
        f"{milliseconds(fastest[1])}, {times(found.baseline / fastest[1])} the baseline's speed.",
        drawings=drawings(lambda width: _draw(groups, width, 22.0, "ms per batch")),
        table=Table(
            "Speed of the whole model",
            ["model", "latency, ms", "images per second", "speed-up"],
            [
                [
                    Cell(label),
                    Cell(milliseconds(ms), ms),
                    Cell(f"{batch / ms * 1e3:.0f}", batch / ms),
                    Cell(times(found.baseline / ms), found.baseline / ms),
                ]
                for label, ms, _ in rows
            ],
            frozenset({1, 2, 3}),
        ),
    )


def draw_block_times(blocks: dict[str, Times], merged: set[str]) -> Chart:
    """Every block as it was, merged where it was, and on fused kernels."""
    groups = []
    for name, ms in blocks.items():
        bars = [
            Bar(ms.baseline, "baseline", milliseconds(ms.baseline), f"{name}, baseline: {milliseconds(ms.baseline)}")
        ]
        named = [("merged", ms.merged, "merged")] if name in merged else []
        for label, value, css in [*named, ("fused kernels", ms.accelerated, "accelerated")]:
            note = f"{milliseconds(value)} · {times(ms.baseline / value)}"
            bars.append(Bar(value, css, note, f"{name}, {label}: {milliseconds(value)}, {times(ms.baseline / value)}"))
        groups.append(Group(name, bars))
    best = max(blocks, key=lambda name: blocks[name].baseline / blocks[name].accelerated)
    gain = blocks[best].baseline / blocks[best].accelerated
    total = sum(ms.baseline for ms in blocks.values()) / sum(ms.accelerated for ms in blocks.values())
    return Chart(
        name="block-times",
        title="Time of each block",
        description="Each block alone, on the input it sees in the model. All blocks together are "
        f"{times(total)} as fast on fused kernels as in the baseline; {best} gains most, {times(gain)}.",
        drawings=drawings(lambda width: _draw(groups, width, 11.0, "ms per batch")),
        table=Table(
            "Time of each block, ms",
            ["block", "merged", "baseline", "as merged", "on fused kernels", "speed-up"],
            [
                [
                    Cell(name, index),
                    Cell("yes" if name in merged else "no"),
                    *(Cell(milliseconds(value), value) for value in (ms.baseline, ms.merged, ms.accelerated)),
                    Cell(times(ms.baseline / ms.accelerated), ms.baseline / ms.accelerated),
                ]
                for index, (name, ms) in enumerate(blocks.items())
            ],
            frozenset({2, 3, 4, 5}),
        ),
        legend=[
            Legend("baseline", "box", "baseline"),
            Legend("merged", "box", "merged, plain torch"),
            Legend("accelerated", "box", "on fused kernels"),
        ],
    )


def _draw(groups: list[Group], width: float, thick: float, title: str) -> Drawing:
    gap, inner = (10.0, 2.0) if thick < 16 else (8.0, 2.0)
    above = width < 600 and max(text_width(group.label) for group in groups) > 0.25 * width
    head = 16.0 if above else 0.0  # on a phone long labels stand above their bars
    left = 1.0 if above else max(text_width(group.label) for group in groups) + 10
    notes = max(text_width(bar.note, 11) for group in groups for bar in group.bars) + 8
    heights = [head + len(group.bars) * (thick + inner) - inner + gap for group in groups]
    bottom = 6 + sum(heights)
    drawing = Drawing(width, bottom + 44)
    scale = Scale(0.0, max(bar.value for group in groups for bar in group.bars), left, width - notes)
    axis_below(drawing, scale, 0, bottom, title, 8 if width > 600 else 4)
    y = 6.0
    for group, height in zip(groups, heights, strict=True):
        middle = y + (height - gap) / 2
        drawing.text(
            *((left, y + 11) if above else (left - 8, middle + 4)),
            group.label,
            "row-label",
            "start" if above else "end",
        )
        top = y + head
        for bar in group.bars:
            drawing.mark(bar.tip, rect(left, top, scale(bar.value) - left, thick, bar.css, 2))
            drawing.text(scale(bar.value) + 6, top + thick / 2 + 4, bar.note, "note")
            top += thick + inner
        y += height
    return drawing
