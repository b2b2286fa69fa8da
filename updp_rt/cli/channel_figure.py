"""Picture of a channel pruning: what layers keep, what is copied, how long it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updp_rt.artifacts.atomic import atomic_path

# As in the report's style sheet, on paper.
GREY, BLUE, ORANGE, GREEN = "#a3abb5", "#1769aa", "#b34700", "#0d7a5f"
_HOW = {"all": BLUE, "view": GREEN, "concatenation": "#7a3f9d", "gather": ORANGE}


def draw_channels(summary: dict[str, Any], path: Path) -> None:
    """Kept channels a layer, copied channels and latencies before and after reordering, of a `channels` summary."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2))
    _draw_layers(figure.add_subplot(grid[0, :]), summary)
    _draw_copies(figure.add_subplot(grid[1, 0]), summary)
    _draw_latencies(figure.add_subplot(grid[1, 1]), summary)
    for axes in figure.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _draw_layers(axes: Axes, summary: dict[str, Any]) -> None:
    layers = summary["layers"]
    places = range(len(layers))
    axes.bar(places, [layer["inputs"] for layer in layers], color=GREY, alpha=0.35, width=0.9, label="inputs before")
    for how, color in _HOW.items():
        chosen = [(place, layer) for place, layer in zip(places, layers, strict=True) if layer["how"] == how]
        if chosen:
            bars = [place for place, _ in chosen]
            axes.bar(bars, [layer["read"] for _, layer in chosen], color=color, width=0.9, label=f"read now: {how}")
    # A tick where more is read than is kept shows the zeros.
    kept = [layer["kept"] for layer in layers]
    axes.scatter(places, kept, marker="_", color="black", s=max(4, 900 / max(1, len(layers))), label="kept")
    step = max(1, len(layers) // 24)
    names = [".".join(layer["name"].split(".")[-3:]) for layer in layers][::step]
    axes.set_xticks(list(places)[::step], names, rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("channels")
    axes.set_title(f"{summary['architecture']}: inputs that each layer keeps", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8)


def _draw_copies(axes: Axes, summary: dict[str, Any]) -> None:
    rows = [("naive", summary["naive"]), ("reordered", summary["copies"])]
    for row, (_, copies) in enumerate(rows):
        axes.barh(row, copies["gathered"], color=ORANGE, label="gathered" if row == 0 else None)
        axes.barh(
            row,
            copies["concatenated"],
            left=copies["gathered"],
            color=GREY,
            label="by the model's concatenations" if row == 0 and copies["concatenated"] else None,
        )
        end = copies["gathered"] + copies["concatenated"]
        axes.text(end, row, f" {copies['gathered']} gathered", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(1, *(copies["gathered"] + copies["concatenated"] for _, copies in rows)))
    axes.set_title("channels copied", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def _draw_latencies(axes: Axes, summary: dict[str, Any]) -> None:
    latency = summary["latency_ms"]
    colors = dict(zip(latency, (GREY, GREEN, ORANGE, BLUE), strict=True))
    for row, (name, value) in enumerate(latency.items()):
        axes.barh(row, value, color=colors[name])
        axes.text(value, row, f" {value:.3g} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(latency)), list(latency))
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_title(f"latency, batch {summary['batch']}", loc="left", fontsize=11)
