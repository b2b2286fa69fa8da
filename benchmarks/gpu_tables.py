"""Tables of what `benchmarks.gpu` found, from the rows as its JSON holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.samples import geometric_mean

BASELINES = ("eager", "eager_graph", "compiled")
VARIANTS = ("accelerated", "accelerated_graph", "merged_accelerated", "merged_accelerated_graph")

Row = dict[str, Any]


def models_table(rows: list[Row]) -> Table:
    """Times of the baselines, and each variant's speed over the best of them."""
    table = Table(title="models: × over the best baseline", title_justify="left", caption_justify="left")
    for column in ("model", "batch", *BASELINES, *VARIANTS):
        table.add_column(column.replace("_", " "), justify="left" if column == "model" else "right")
    sound = [row for row in rows if "withheld" not in row]
    for row in sound:
        times = [f"{row['times_ms'][key]:.3f} ms" if key in row["times_ms"] else "-" for key in BASELINES]
        table.add_row(
            row["model"], str(row["batch"]), *times, *(_times(row["over_best_baseline"], k) for k in VARIANTS)
        )
    notes = []
    for kind in ("accelerated", "merged_accelerated"):
        best = (max(v for key, v in row["over_best_baseline"].items() if key.startswith(kind)) for row in sound)
        notes.append(f"{kind.replace('_', ' ')}, geometric mean: {geometric_mean(best):.2f}×")
    notes += [
        f"withheld: {row['model']} at batch {row['batch']}: {row['withheld']}" for row in rows if row not in sound
    ]
    table.caption = Text("\n".join(notes))  # an error's brackets are no markup
    return table


def operators_table(rows: list[Row]) -> Table:
    """The problems timed on the device alone, and what holds over all that dispatch measured."""
    table = Table(title="operators on the device, ms", title_justify="left", caption_justify="left")
    for column in ("problem", "unfused", "compiled", "vendor", "best Triton", "over unfused", "memory roofline"):
        table.add_column(column, justify="left" if column == "problem" else "right", overflow="fold")
    for row in rows:
        times = row.get("device_ms")
        if times is None:
            continue
        cells = [times.get("reference"), times.get("compiled"), least(times, "vendor"), least(times, "triton")]
        share = f"{row['memory_roofline']:.0%}" if "memory_roofline" in row else ""
        shown = ("-" if ms is None else f"{ms:.4f}" for ms in cells)
        table.add_row(row["problem"], *shown, _times(row, "device_over_unfused"), share)
    notes = [f"all {len(rows)} problems, as dispatch measured them, launches included:"]
    for key in (
        "chosen_over_unfused",
        "fused_over_unfused",
        "fused_over_vendor",
        "triton_over_vendor",
        "hip_over_vendor",
        "hip_over_triton",
    ):
        ratios = [row[key] for row in rows if key in row]
        if ratios:
            name = key.replace("_", " ")
            notes.append(f"{name}: {geometric_mean(ratios):.2f}× in geometric mean, {min(ratios):.2f}× at least")
    blocks = [row for row in rows if "meets_bound" in row]
    if blocks:
        met = sum(row["meets_bound"] for row in blocks)
        notes.append(f"depthwise-pointwise: {met} of {len(blocks)} reach their bound of the memory roofline")
    table.caption = Text("\n".join(notes))  # an error's brackets are no markup
    return table


def least(times: Mapping[str, float], backend: str) -> float | None:
    """The best time of a backend's candidates."""
    return min((ms for name, ms in times.items() if name.split(":")[0] == backend), default=None)


def _times(ratios: Mapping[str, float], key: str) -> str:
    return f"{ratios[key]:.2f}×" if key in ratios else "-"
