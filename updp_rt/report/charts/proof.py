"""The certificate's charts: every module's error against its bound, and how far results are off in ULPs."""

from __future__ import annotations

import math

from updp_rt.report.charts.scale import Scale, axis_below, axis_left, error, log_range, percent, quantity, yes
from updp_rt.report.charts.svg import Cell, Chart, Drawing, Legend, Table, drawings, rect, shape, text_width
from updp_rt.verification import BINS, Case, Certificate, ModuleRecord


def draw_errors(certificate: Certificate) -> Chart:
    """The worst case of every module, as a share of its bound, torch's own error beside it."""
    modules = [module for module in certificate.modules if module.cases]
    rows = [(module, _worst(module)) for module in modules]
    worst, case = max(rows, key=lambda row: _share(row[1].error, row[1].bound))
    return Chart(
        name="errors",
        title="Error of each module, as a share of its bound",
        description=f"The largest error over all kinds of inputs, against float64, of {len(rows)} modules. The worst "
        f"is {worst.name} with {percent(_share(case.error, case.bound), 1)} of its bound, on {case.inputs} inputs. "
        "Torch's own unfused operators are shown beside it.",
        drawings=drawings(lambda width: _draw_errors(rows, width)),
        table=Table(
            "Every module and kind of inputs",
            ["module", "inputs", "error", "torch's error", "bound", "share of the bound", "at the border", "passed"],
            [
                [
                    Cell(module.name, index),
                    Cell(case.inputs),
                    *(Cell(error(value), value) for value in (case.error, case.torch_error, case.bound)),
                    Cell(percent(_share(case.error, case.bound), 1), _share(case.error, case.bound)),
                    Cell("" if case.border_error is None else error(case.border_error), case.border_error),
                    Cell(yes(case.passed)),
                ]
                for index, module in enumerate(modules)
                for case in module.cases
            ],
            frozenset({2, 3, 4, 5, 6}),
        ),
        legend=[
            Legend("ours", "circle", "fused kernels"),
            Legend("torch", "diamond", "torch's own operators"),
            Legend("bound", "line", "bound"),
        ],
    )


def draw_ulps(certificate: Certificate) -> Chart:
    """How many results are off by how many ULPs, over all modules and inputs."""
    counts = {
        bucket: sum(case.ulps.get(bucket, 0) for module in certificate.modules for case in module.cases)
        for bucket in BINS
    }
    total = sum(counts.values())
    exact = counts["0"] / total if total else 0.0
    near = (counts["0"] + counts["1"]) / total if total else 0.0
    return Chart(
        name="ulps",
        title="Distance to float64's result",
        description=f"Of {quantity(total)} results, {percent(exact, 1)} are the correctly rounded ones and "
        f"{percent(near, 1)} are within one unit in the last place (ULP).",
        drawings=drawings(lambda width: _draw_ulps(counts, width)),
        table=Table(
            "Results by distance",
            ["ULPs", "results", "share"],
            [
                [Cell(bucket, i), Cell(f"{count:,}", count), Cell(percent(count / total if total else 0.0), count)]
                for i, (bucket, count) in enumerate(counts.items())
            ],
            frozenset({1, 2}),
        ),
    )


def _share(value: float, bound: float) -> float:
    """`value` over `bound`; an error that is NaN is beyond any bound."""
    if not math.isfinite(value) or not math.isfinite(bound):
        return math.inf
    return value / bound if bound > 0 else (0.0 if value == 0 else math.inf)


def _worst(module: ModuleRecord) -> Case:
    return max(module.cases, key=lambda case: _share(case.error, case.bound))


def _draw_errors(rows: list[tuple[ModuleRecord, Case]], width: float) -> Drawing:
    step, top = 20.0, 22.0
    names = [_shortened(module.name, 24 if width > 600 else 14) for module, _ in rows]
    left = max(text_width(name) for name in names) + 12
    bottom = top + step * len(rows) + 2
    drawing = Drawing(width, bottom + 44)
    shares = [(_share(case.error, case.bound), _share(case.torch_error, case.bound)) for _, case in rows]
    scale = Scale(*log_range([*(value for pair in shares for value in pair), 1.5]), left, width - 14, log=True)
    axis_below(drawing, scale, top - 6, bottom, "error over bound", 9)
    drawing.line(scale(1.0), top - 6, scale(1.0), bottom, "bound")
    drawing.text(scale(1.0), top - 9, "bound", "strong", "middle")
    for index, ((module, case), name, (ours, torchs)) in enumerate(zip(rows, names, shares, strict=True)):
        y = top + step * index + step / 2
        drawing.text(left - 8, y + 4, name, "row-label", "end")
        drawing.line(scale(ours), y, scale(torchs), y, "span")
        said = f"{module.name} on {case.inputs} inputs: error {error(case.error)}, torch's {error(case.torch_error)}, "
        passed = "passed" if module.passed else "FAILED"
        drawing.mark(
            f"{said}bound {error(case.bound)}, {passed}",
            shape("diamond", scale(torchs), y, 3.5, "torch"),
            shape("circle", scale(ours), y, 5, "ours" if module.passed else "failed"),
        )
    return drawing


def _draw_ulps(counts: dict[str, int], width: float) -> Drawing:
    left, bottom = 50.0, 200.0
    drawing = Drawing(width, bottom + 44)
    total = sum(counts.values()) or 1
    highest = max(100 * count / total for count in counts.values()) or 1.0
    up = Scale(0.0, highest, bottom, 22)
    axis_left(drawing, up, left, width - 4, 4, "%")
    step = (width - left - 8) / len(counts)
    for index, (bucket, count) in enumerate(counts.items()):
        x, share = left + 4 + step * index, count / total
        y = up(100 * share)
        tip = f"{bucket} ULPs: {count:,} results, {percent(share)}"
        drawing.mark(tip, rect(x + step * 0.12, min(y, bottom - 1), step * 0.76, max(1.0, bottom - y), "ours-bar", 2))
        if count:
            words = percent(share, 1) if share >= 0.001 else "<0.1%"
            drawing.text(x + step / 2, y - 6, words, "note", "middle")
        drawing.text(x + step / 2, bottom + 17, bucket, "label", "middle")
    drawing.text((left + width) / 2, bottom + 37, "units in the last place (ULP)", "axis", "middle")
    return drawing


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else "…" + name[-length + 1 :]
