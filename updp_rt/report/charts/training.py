"""Training: the supernet's loss, and the subnet's accuracy and loss while λ takes it to the pruned form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from updp_rt.report.charts.scale import Scale, axis_below, axis_left, padded, percent, significant
from updp_rt.report.charts.svg import Cell, Chart, Drawing, Legend, Table, drawings, shape
from updp_rt.report.schema import Epoch

Lambdas = Sequence[tuple[float, float]]

_LEFT = 50.0


def draw_supernet(epochs: list[Epoch]) -> Chart:
    """Loss by epoch of stage 1."""
    return Chart(
        name="supernet",
        title="Supernet",
        description=f"Loss over {len(epochs)} epochs, averaged over the largest, the smallest and random subnets: "
        f"{significant(epochs[0].loss)} in the first, {significant(epochs[-1].loss)} in the last.",
        drawings=drawings(lambda width: _draw_supernet(epochs, width), 330.0),
        table=Table(
            "Supernet by epoch",
            ["epoch", "loss"],
            [[Cell(str(e.epoch), e.epoch), Cell(significant(e.loss), e.loss)] for e in epochs],
            frozenset({1}),
        ),
    )


def draw_subnet(epochs: list[Epoch], baseline: float | None, lambdas: Lambdas = ()) -> Chart:
    """Accuracy, loss and λ of stage 3; `baseline` is its accuracy on the same images, where known.

    `lambdas` are λ by step, as ``(epochs done, λ)``; without them none is drawn.
    """
    last = epochs[-1].val_accuracy
    return Chart(
        name="subnet",
        title="Progressive training",
        description=f"{len(epochs)} epochs; λ {_rise(lambdas, epochs[-1].epoch)}. "
        + (f"Validation accuracy ends at {percent(last)}" if last is not None else "Validation accuracy is not known")
        + (f"; the baseline's is {percent(baseline)}." if baseline is not None else "."),
        drawings=drawings(lambda width: _draw_subnet(epochs, baseline, lambdas, width), 610.0),
        table=Table(
            "Subnet by epoch",
            ["epoch", "λ at its end", "loss", "validation accuracy"],
            [
                [
                    Cell(str(e.epoch), e.epoch),
                    Cell("" if e.lam is None else f"{e.lam:.2f}", e.lam),
                    Cell(significant(e.loss), e.loss),
                    Cell("" if e.val_accuracy is None else percent(e.val_accuracy), e.val_accuracy),
                ]
                for e in epochs
            ],
            frozenset({1, 2, 3}),
        ),
        legend=[
            Legend("curve", "line", "subnet at its λ"),
            *([Legend("dashed", "dash", "baseline")] if baseline is not None else []),
            *([Legend("lambda", "box", "λ")] if lambdas else []),
        ],
    )


def _rise(lambdas: Lambdas, epochs: int) -> str:
    """When λ reaches 1, in words."""
    if not lambdas:
        return "was not recorded by step"
    if lambdas[0][1] == 1:
        return "is 1 from the start"
    reached = next((at for at, lam in lambdas if lam == 1), None)
    if reached is None:
        return f"rises to {lambdas[-1][1]:.2f}"
    return f"rises from {lambdas[0][1]:.2f} to 1 in the first {significant(reached)} of {epochs} epochs"


def _draw_supernet(epochs: list[Epoch], width: float) -> Drawing:
    drawing = Drawing(width, 330)
    across = _epochs(epochs, width)
    _panel(drawing, across, epochs, "loss", 0, 292, lambda e: e.loss, significant)
    axis_below(drawing, across, 24, 286, "epoch", 5)
    return drawing


def _draw_subnet(epochs: list[Epoch], baseline: float | None, lambdas: Lambdas, width: float) -> Drawing:
    drawing = Drawing(width, 330)
    across = _epochs(epochs, width)
    low = 136.0
    shaded = Scale(0.0, 1.0, 286, 248)
    axis_below(drawing, across, 24, 286, "epoch", 10 if width > 500 else 5)
    accuracies = [e for e in epochs if e.val_accuracy is not None]
    _panel(
        drawing,
        across,
        accuracies,
        "validation accuracy, %",
        0,
        low,
        lambda e: 100 * (e.val_accuracy or 0.0),
        lambda value: f"{value:.2f}%",
        None if baseline is None else 100 * baseline,
    )
    _panel(drawing, across, epochs, "loss", low, 232, lambda e: e.loss, significant)
    if lambdas:
        outline = [(across(at), shaded(lam)) for at, lam in [*lambdas, (epochs[-1].epoch, lambdas[-1][1])]]
        drawing.polygon([(outline[0][0], 286), *outline, (outline[-1][0], 286)], "lambda")
        drawing.text(_LEFT - 8, shaded(1.0) + 8, "λ = 1", "label", "end")
        drawing.text(_LEFT - 8, shaded(0.0), "0", "label", "end")
    return drawing


def _epochs(epochs: list[Epoch], width: float) -> Scale:
    return Scale(epochs[0].epoch - 1, epochs[-1].epoch, _LEFT, width - 10)


def _panel(
    drawing: Drawing,
    across: Scale,
    epochs: list[Epoch],
    title: str,
    top: float,
    bottom: float,
    value: Callable[[Epoch], float],
    show: Callable[[float], str],
    dashed: float | None = None,
) -> None:
    """One curve under its title, on an axis of its own; where training diverged, it has gaps."""
    epochs = [e for e in epochs if math.isfinite(value(e))]
    drawing.text(_LEFT, top + 13, title, "axis")
    if not epochs:
        drawing.text(_LEFT + 8, (top + bottom) / 2, "not recorded", "label")
        return
    up = Scale(*padded([value(e) for e in epochs] + ([] if dashed is None else [dashed])), bottom - 8, top + 24)
    axis_left(drawing, up, _LEFT, across.end, 4 if bottom - top < 200 else 6)
    if dashed is not None:
        drawing.line(_LEFT, up(dashed), across.end, up(dashed), "dashed")
    drawing.polyline([(across(e.epoch), up(value(e))) for e in epochs], "curve")
    for e in epochs:
        at = "" if e.lam is None else f", λ {e.lam:.2f}"
        dot = shape("circle", across(e.epoch), up(value(e)), 3, "dot")
        drawing.mark(f"epoch {e.epoch}: {title.removesuffix(', %')} {show(value(e))}{at}", dot)
