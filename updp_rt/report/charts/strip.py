"""The model before and after, as strips of its blocks: each as wide as it is slow, joined to what it became."""

from __future__ import annotations

import re
from dataclasses import dataclass

from updp_rt.report.charts.scale import SPACE, Scale, axis_below, fits, milliseconds, quantity, significant, times
from updp_rt.report.charts.svg import Cell, Chart, Drawing, Legend, Table, drawings, rect

_HEIGHT, _RIBBON, _HEAD = 46.0, 34.0, 24.0


@dataclass(frozen=True)
class Block:
    """One block: its size in each row (latency or MACs), its parameters before and after, and the form it merged into.

    `form` is "" for a block that was kept.
    """

    name: str
    kind: str
    sizes: tuple[float, ...]
    params: tuple[int, int]
    form: str


@dataclass(frozen=True)
class Strips:
    """The picture's data: rows by label with their totals, blocks in order; what the sizes are, and where from."""

    rows: list[str]
    totals: list[float]
    blocks: list[Block]
    unit: str
    measure: str
    source: str

    def show(self, value: float) -> str:
        return milliseconds(value) if self.unit == "ms" else f"{significant(value)}{SPACE}M"


def draw_strips(strips: Strips) -> Chart:
    merged = [block for block in strips.blocks if block.form]
    saved = strips.totals[0] / strips.totals[-1]
    description = (
        f"{strips.source} {len(merged)} of {len(strips.blocks)} blocks became merged ones: "
        f"{', '.join(b.name for b in merged) or 'none'}. From {strips.show(strips.totals[0])} to "
        f"{strips.show(strips.totals[-1])} in all, {times(saved)}."
    )
    columns = ["block", "kind", "became", *(f"{row}, {strips.unit}" for row in strips.rows), "parameters"]
    rows = [
        [
            Cell(block.name, index),
            Cell(block.kind),
            Cell(f"merged: {block.form}" if block.form else "kept"),
            *(Cell(strips.show(size), size) for size in block.sizes),
            Cell(
                quantity(block.params[0])
                + (f" → {quantity(block.params[1])}" if block.params[1] != block.params[0] else ""),
                block.params[1],
            ),
        ]
        for index, block in enumerate(strips.blocks)
    ]
    return Chart(
        name="strip",
        title="Blocks before and after",
        description=description,
        drawings=drawings(lambda width: _draw(strips, width)),
        table=Table("Blocks before and after", columns, rows, frozenset(range(3, 4 + len(strips.rows)))),
        legend=[
            Legend("kept", "box", "kept"),
            Legend("fated", "box", "to be merged"),
            Legend("merged", "box", "merged"),
            Legend("rest", "box", "stem, head and what lies between blocks"),
        ],
    )


def _draw(strips: Strips, width: float) -> Drawing:
    stages = _stages(strips.blocks)
    top = 22.0 if len(stages) > 1 else 0.0
    step = _HEAD + _HEIGHT + _RIBBON
    bottom = top + step * len(strips.rows) - _RIBBON + 6
    drawing = Drawing(width, bottom + 44)
    sums = [sum(block.sizes[row] for block in strips.blocks) for row in range(len(strips.rows))]
    scale = Scale(0.0, max(*strips.totals, *sums), 1.0, width - 1.0)  # each block was timed alone: a sum may be more
    spans = [_spans(strips, row, scale) for row in range(len(strips.rows))]
    axis_below(drawing, scale, top + _HEAD, bottom, strips.measure, 8 if width > 600 else 4)
    for upper in range(len(spans) - 1):
        y = top + step * upper + _HEAD + _HEIGHT
        for block, (a, b), (c, d) in zip(strips.blocks, spans[upper], spans[upper + 1], strict=True):
            ribbon = "ribbon-merged" if block.form else "ribbon"
            drawing.polygon(((a, y), (b, y), (d, y + _RIBBON + _HEAD), (c, y + _RIBBON + _HEAD)), ribbon)
    for index, (label, total) in enumerate(zip(strips.rows, strips.totals, strict=True)):
        y = top + step * index
        factor = f" · {times(strips.totals[0] / total)}" if index else ""
        if index:  # the words stand on the ribbons
            drawing.rect(0, y + 2, 7.2 * len(f"{label}  {strips.show(total)}{factor}"), 19, "paper", 3)
        drawing.text(1, y + 16, f"{label} · {strips.show(total)}{factor}", "row")
        for block, span in zip(strips.blocks, spans[index], strict=True):
            _block(drawing, strips, block, index, span, y + _HEAD)
        rest = spans[index][-1][1]
        if scale(total) - rest > 1:
            tip = f"Everything else: {strips.show(total - sum(block.sizes[index] for block in strips.blocks))}, {label}"
            drawing.mark(tip, rect(rest + 0.75, y + _HEAD + 0.75, scale(total) - rest - 1.5, _HEIGHT - 1.5, "rest", 3))
    if len(stages) > 1:
        for stage, first, last in stages:
            left, right = spans[0][first][0], spans[0][last][1]
            drawing.line(left + 2, top - 3, right - 2, top - 3, "bracket")
            if fits(stage, right - left):
                drawing.text((left + right) / 2, top - 8, stage, "label", "middle")
    return drawing


def _block(drawing: Drawing, strips: Strips, block: Block, row: int, span: tuple[float, float], y: float) -> None:
    left, right = span
    css = ("merged" if row else "fated") if block.form else "kept"
    became = f" → merged ({block.form})" if block.form else ", kept"
    sizes = ", ".join(f"{label} {strips.show(size)}" for label, size in zip(strips.rows, block.sizes, strict=True))
    body = rect(left + 0.75, y, right - left - 1.5, _HEIGHT, css, 3)
    drawing.mark(f"{block.name} ({block.kind}){became}: {sizes}", body)
    short = _short(block.name)
    if fits(short, right - left - 2):
        drawing.text((left + right) / 2, y + _HEIGHT / 2 + 4.5, short, f"in-{css}", "middle")


def _spans(strips: Strips, row: int, scale: Scale) -> list[tuple[float, float]]:
    spans, reached = [], 0.0
    for block in strips.blocks:
        spans.append((scale(reached), scale(reached + block.sizes[row])))
        reached += block.sizes[row]
    return spans


def _stages(blocks: list[Block]) -> list[tuple[str, int, int]]:
    """Runs of blocks whose names differ in the last part alone: label, first, last."""
    found: list[tuple[str, int, int]] = []
    for index, block in enumerate(blocks):
        stage = block.name.rpartition(".")[0].replace(".blocks", "")
        if found and found[-1][0] == stage:
            found[-1] = (stage, found[-1][1], index)
        else:
            found.append((stage, index, index))
    return found


def _short(name: str) -> str:
    """What is left of a block's name under its stage's: its number."""
    return re.split(r"[.]", name)[-1]
