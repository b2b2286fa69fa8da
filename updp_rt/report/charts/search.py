"""Every candidate of the search, the front that no other beats, and the one chosen."""

from __future__ import annotations

import math
from itertools import pairwise

from updp_rt.pruning.search import Candidate, SearchResult
from updp_rt.report.charts.scale import Scale, axis_below, axis_left, milliseconds, padded, percent, significant
from updp_rt.report.charts.svg import Cell, Chart, Drawing, Legend, Table, drawings, shape, text_width


def draw_search(
    search: SearchResult, where: str, *, baseline: tuple[float, float] | None = None, goal_ms: float | None = None
) -> Chart:
    """Accuracy against latency.

    Args:
        where: what the latencies are by.
        baseline: its latency by the same table and its accuracy on the same images, where known.
        goal_ms: the latency allowed, where the run had such a goal.
    """
    chosen, front = search.chosen, search.front()
    ranked = sorted(search.candidates, key=lambda c: (-c.accuracy, c.latency_ms))
    return Chart(
        name="search",
        title="Search",
        description=f"{len(search.candidates)} candidates by validation accuracy in the supernet, before training, "
        f"and by latency {where}. Chosen: {chosen.pruned} blocks pruned, {percent(chosen.accuracy)}, "
        f"{milliseconds(chosen.latency_ms)}. The front, which no candidate beats in both, has {len(front)}. "
        "Candidates that would hide each other stand side by side.",
        drawings=drawings(lambda width: _draw(search, front, baseline, goal_ms, width)),
        table=Table(
            "Candidates, best first",
            ["blocks pruned", "how many", "accuracy", "latency", "on the front", "chosen"],
            [
                [
                    Cell(", ".join(c.blocks) or "none", index),
                    Cell(str(c.pruned), c.pruned),
                    Cell(percent(c.accuracy), c.accuracy),
                    Cell(milliseconds(c.latency_ms), c.latency_ms),
                    Cell("yes" if c in front else ""),
                    Cell("chosen" if c == chosen else ""),
                ]
                for index, c in enumerate(ranked)
            ],
            frozenset({1, 2, 3}),
        ),
        legend=[
            Legend("candidate", "circle", "candidate"),
            *([Legend("front", "line", "front")] if len(front) > 1 else []),
            Legend("chosen", "diamond", "chosen"),
            *([Legend("point-baseline", "square", "baseline")] if baseline else []),
            *([Legend("dashed", "dash", "latency allowed")] if goal_ms else []),
        ],
    )


def _draw(
    search: SearchResult,
    front: list[Candidate],
    baseline: tuple[float, float] | None,
    goal_ms: float | None,
    width: float,
) -> Drawing:
    left, bottom = (52.0, 270.0) if width > 600 else (46.0, 242.0)
    drawing = Drawing(width, bottom + 44)
    known = [(c.latency_ms, c.accuracy) for c in search.candidates] + ([baseline] if baseline else [])
    low, high = padded([100 * accuracy for _, accuracy in known], least=0.5)
    latencies = [ms for ms, _ in known] + ([goal_ms] if goal_ms else [])
    across = Scale(*padded(latencies, least=0.05 * max(latencies)), left, width - 14)
    up = Scale(max(0.0, low), min(100.0 + 0.02 * (high - low), high), bottom, 24)
    axis_below(drawing, across, 8, bottom, "latency, ms", 9 if width > 600 else 4)
    axis_left(drawing, up, left, width - 2, 6, "%")
    if goal_ms:
        drawing.line(across(goal_ms), 8, across(goal_ms), bottom, "dashed")
    steps = [(across(front[0].latency_ms), bottom)] if len(front) > 1 else []
    for a, b in pairwise(front):
        steps += [(across(a.latency_ms), up(100 * a.accuracy)), (across(b.latency_ms), up(100 * a.accuracy))]
    if front:
        drawing.polyline([*steps, (across(front[-1].latency_ms), up(100 * front[-1].accuracy))], "front")
    taken: set[tuple[int, int]] = set()
    chosen = search.chosen
    reserved = (across(chosen.latency_ms), up(100 * chosen.accuracy))
    for c in sorted(search.candidates, key=lambda c: (c.latency_ms, -c.accuracy)):
        if c != chosen:
            x, y = _dodge(across(c.latency_ms), up(100 * c.accuracy), taken, reserved, width - 8)
            tip = f"{percent(c.accuracy)}, {milliseconds(c.latency_ms)}: {', '.join(c.blocks) or 'nothing pruned'}"
            drawing.mark(tip, shape("circle", x, y, 4.5, "candidate"))
    if baseline:
        x, y = across(baseline[0]), up(100 * baseline[1])
        tip = f"baseline: {percent(baseline[1])}, {milliseconds(baseline[0])}"
        drawing.mark(tip, shape("square", x, y, 5, "point-baseline"))
    x, y = across(chosen.latency_ms), up(100 * chosen.accuracy)
    tip = f"chosen: {percent(chosen.accuracy)}, {milliseconds(chosen.latency_ms)}: {', '.join(chosen.blocks)}"
    drawing.mark(tip, shape("diamond", x, y, 6.5, "chosen"))
    words = f"chosen: {percent(chosen.accuracy, 1)}, {significant(chosen.latency_ms)} ms"
    beside = len(front) == 1 and x + 13 + text_width(words) < width  # there the front would run through them
    if not beside and x - text_width(words) < left:
        words = "chosen"
    if x - text_width(words) > left:  # nothing is both faster and more accurate: there is room
        drawing.text(x - 6, y - 9, words, "strong halo", "end")
    else:
        drawing.text(x + 13, y + 4, words, "strong halo")
    return drawing


def _dodge(
    x: float, y: float, taken: set[tuple[int, int]], reserved: tuple[float, float], limit: float
) -> tuple[float, float]:
    """The nearest free place right of a point, on a grid of the dots' size; `reserved` is the chosen one's.

    Where there is none up to `limit`, dots do hide each other.
    """
    row = round(y / 9)
    while (round(x / 10), row) in taken or math.hypot(x - reserved[0], y - reserved[1]) < 11:
        if x + 10 > limit:
            break
        x += 10
    taken.add((round(x / 10), row))
    return x, y
