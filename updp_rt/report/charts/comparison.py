"""Methods against each other: accuracy against measured latency, with the spread over the seeds of both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from updp_rt.comparison import Standing
from updp_rt.comparison.plan import BASELINE
from updp_rt.comparison.standings import spread
from updp_rt.report.charts.scale import Scale, axis_below, axis_left, milliseconds, padded, percent, significant
from updp_rt.report.charts.svg import SMALL, Cell, Chart, Drawing, Legend, Table, drawings, shape, text_width

_ROW = SMALL + 2  # pixels between lines of text


def draw_comparison(found: Sequence[Standing], front: Sequence[Standing], where: str, images: str) -> Chart:
    """A point a method and goal.

    Args:
        found: those that were measured.
        front: those of them that no other beats in both.
        where: what the latencies are of; `images`: what the accuracies are of.
    """
    seeds = max(len(standing.seeds) for standing in found)
    return Chart(
        name="comparison",
        title="Accuracy against latency",
        description=f"Top-1 on {images} against latency, {where}: means over {seeds} "
        f"seed{'s' if seeds > 1 else ''}, bars of one standard deviation each way. The front, which no point beats in "
        f"both: {', '.join(standing.label for standing in front)}.",
        drawings=drawings(lambda width: _draw(found, front, width)),
        table=Table(
            "Points, fastest first",
            ["method", "latency", "± ms", "accuracy", "± points", "on the front"],
            [
                [
                    Cell(standing.label, index),
                    Cell(milliseconds(standing.latency), standing.latency),
                    Cell(significant(spread(standing.ms)), spread(standing.ms)),
                    Cell(percent(standing.accuracy), standing.accuracy),
                    Cell(f"{100 * spread(standing.accuracies):.2f}", spread(standing.accuracies)),
                    Cell("yes" if standing in front else ""),
                ]
                for index, standing in enumerate(sorted(found, key=lambda standing: standing.latency))
            ],
            frozenset({1, 2, 3, 4}),
        ),
        legend=[
            Legend("candidate", "circle", "method, and blocks pruned or share of parameters removed"),
            Legend("chosen", "diamond", "on the front"),
            Legend("point-baseline", "square", "baseline"),
            *([Legend("front", "line", "front")] if len(front) > 1 else []),
            Legend("whisker", "line", "one standard deviation"),
        ],
    )


def _draw(found: Sequence[Standing], front: Sequence[Standing], width: float) -> Drawing:
    left, bottom = (52.0, 330.0) if width > 600 else (46.0, 300.0)
    drawing = Drawing(width, bottom + 44)
    ends = [(s.latency + n * spread(s.ms), s.accuracy + n * spread(s.accuracies)) for s in found for n in (-1, 1)]
    across = Scale(*padded([ms for ms, _ in ends], least=0.05 * max(ms for ms, _ in ends)), left, width - 14)
    low, high = padded([100 * accuracy for _, accuracy in ends], least=0.5)
    up = Scale(max(0.0, low), min(100.0 + 0.02 * (high - low), high), bottom, 24)
    axis_below(drawing, across, 8, bottom, "latency, ms", 9 if width > 600 else 4)
    axis_left(drawing, up, left, width - 2, 6, "%")
    steps: list[tuple[float, float]] = []
    for a, b in pairwise(front):
        steps += [(across(a.latency), up(100 * a.accuracy)), (across(b.latency), up(100 * a.accuracy))]
    if steps:
        drawing.polyline([*steps, (across(front[-1].latency), up(100 * front[-1].accuracy))], "front")
    for s in found:
        x, y = across(s.latency), up(100 * s.accuracy)
        wide, tall = spread(s.ms), 100 * spread(s.accuracies)
        drawing.line(across(s.latency - wide), y, across(s.latency + wide), y, "whisker")
        drawing.line(x, up(100 * s.accuracy - tall), x, up(100 * s.accuracy + tall), "whisker")
    taken: list[tuple[float, float, float]] = []
    # Those on the front are named first: where there is no room the others go without; all are in the table.
    for s in sorted(found, key=lambda s: (s.method != BASELINE, s not in front, s.latency)):
        x, y = across(s.latency), up(100 * s.accuracy)
        tip = f"{s.label}: {percent(s.accuracy)} ± {100 * spread(s.accuracies):.2f}, {milliseconds(s.latency)}"
        kind = ("square", 5.0, "point-baseline") if s.method == BASELINE else ("circle", 4.5, "candidate")
        kind = ("diamond", 6.0, "chosen") if s in front and s.method != BASELINE else kind
        drawing.mark(tip, shape(kind[0], x, y, kind[1], kind[2]))
        place = _free(x, y, text_width(s.label), taken, left, width)
        if place is not None:
            taken.append((*place, text_width(s.label)))
            drawing.text(*place, s.label, "label halo")
    return drawing


def _free(
    x: float, y: float, length: float, taken: Sequence[tuple[float, float, float]], left: float, right: float
) -> tuple[float, float] | None:
    """Where a text of `length` pixels can stand beside a point without running through another or over the edge."""
    for dx, dy in ((8, -8), (8, 17), (-8 - length, -8), (-8 - length, 17)):
        start, line = x + dx, y + dy
        inside = left <= start and start + length <= right and line > 12
        if inside and not any(
            abs(line - other) < _ROW and start < begun + long and begun < start + length for begun, other, long in taken
        ):
            return start, line
    return None
