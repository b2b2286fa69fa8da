"""The roofline: each kernel's speed against its arithmetic intensity, under what the device could do at most."""

from __future__ import annotations

from updp_rt.report.charts.scale import Scale, axis_below, axis_left, log_range, milliseconds, percent, significant
from updp_rt.report.charts.svg import Cell, Chart, Drawing, Legend, Table, drawings, shape, text_width
from updp_rt.report.schema import KernelTime, Roof

_SHAPES = {
    "linear": "circle",
    "dual_linear": "diamond",
    "conv2d": "square",
    "depthwise_conv2d": "triangle",
    "depthwise_pointwise": "triangle",
    "attention": "cross",
    "average_pool": "circle",
    "norm_linear": "circle",
    "layer_norm": "square",
}


def draw_roofline(kernels: list[KernelTime], roof: Roof, dtype: str) -> Chart:
    timed = [k for k in kernels if k.ms is not None and k.flops > 0 and k.bytes > 0]
    measured = roof.source == "measured"
    shares = sorted(k.roofline for k in timed if k.roofline is not None)
    middle = f"Half of them reach at least {percent(shares[len(shares) // 2], 0)} of it. " if shares else ""
    operators = [operator for operator in _SHAPES if any(k.operator == operator for k in timed)]
    return Chart(
        name="roofline",
        title="Roofline",
        description=f"{len(timed)} of {len(kernels)} kernels were timed, in {dtype}. The roof is "
        f"{_giga(roof.flops)}FLOP/s and {_giga(roof.bandwidth)}B/s ({roof.source}). {middle}"
        + ("Above it, data came from caches" + (", or it was measured at a busier moment." if measured else ".")),
        drawings=drawings(lambda width: _draw(timed, roof, width)),
        table=kernel_table(kernels, dtype),
        legend=[Legend(f"op-{operator}", _SHAPES[operator], operator) for operator in operators],
    )


def kernel_table(kernels: list[KernelTime], dtype: str) -> Table:
    """What runs where: every operator of every fused module. A reason that all share goes into the caption."""
    reasons = {k.why for k in kernels}
    shared = len(reasons) == 1
    rows = []
    for index, k in enumerate(kernels):
        other = min(k.others.items(), key=lambda item: item[1], default=None)
        rows.append(
            [
                Cell(k.module, index),
                Cell(k.problem.partition(f" {dtype}")[0]),
                Cell(k.kernel),
                *([] if shared else [Cell(k.why)]),
                Cell("not timed" if k.ms is None else milliseconds(k.ms), -1 if k.ms is None else k.ms),
                Cell("" if k.roofline is None else percent(k.roofline, 0), k.roofline or -1),
                Cell("" if other is None else f"{other[0]} {milliseconds(other[1])}", other[1] if other else -1),
            ]
        )
    caption = "Kernels of the merged model" + (f": each {reasons.pop()}" if shared else "")
    columns = ["module", "operator and shapes", "kernel", *([] if shared else ["why"]), "time", "of the roofline"]
    return Table(caption, [*columns, "next best"], rows, frozenset(range(len(columns) - 2, len(columns) + 1)))


def _draw(timed: list[KernelTime], roof: Roof, width: float) -> Drawing:
    left, bottom = (60.0, 284.0) if width > 600 else (52.0, 254.0)
    drawing = Drawing(width, bottom + 44)
    ridge = roof.flops / roof.bandwidth
    intensity = [k.flops / k.bytes for k in timed]
    speed = [k.flops / (k.ms or 1.0) / 1e6 for k in timed]  # GFLOP/s
    across = Scale(*log_range([*intensity, ridge]), left, width - 12, log=True)
    up = Scale(*log_range([*speed, roof.flops / 1e9]), bottom, 14, log=True)
    axis_below(drawing, across, 8, bottom, "arithmetic intensity, FLOP per byte", 9)
    axis_left(drawing, up, left, width - 4, 9)
    drawing.text(left + 6, 12, "GFLOP/s", "axis")
    least = max(across.low, up.low * 1e9 / roof.bandwidth)  # where the slope enters from below
    slope = [(across(least), up(least * roof.bandwidth / 1e9)), (across(ridge), up(roof.flops / 1e9))]
    drawing.polyline([*slope, (across.end, slope[1][1])], "roof")
    drawing.text(across.end, slope[1][1] - 7, f"{_giga(roof.flops)}FLOP/s", "strong halo", "end")
    x, y = ((slope[0][0] + slope[1][0]) / 2, (slope[0][1] + slope[1][1]) / 2)
    bandwidth = f"{_giga(roof.bandwidth)}B/s"
    if x - 10 - text_width(bandwidth) > left:
        drawing.text(x - 10, y - 4, bandwidth, "strong halo", "end")
    else:
        drawing.text(x + 10, y + 14, bandwidth, "strong halo")
    for k, fx, fy in sorted(zip(timed, intensity, speed, strict=True), key=lambda t: t[1]):
        share = "" if k.roofline is None else f", {percent(k.roofline, 0)} of the roofline"
        tip = f"{k.module} · {k.problem} · {k.kernel}: {milliseconds(k.ms or 0.0)}, {significant(fy)} GFLOP/s{share}"
        drawing.mark(tip, shape(_SHAPES.get(k.operator, "circle"), across(fx), up(fy), 4.5, f"op-{k.operator}"))
    return drawing


def _giga(value: float) -> str:
    unit, size = ("T", 1e12) if value >= 1e12 else ("G", 1e9)
    return f"{significant(value / size)} {unit}"
