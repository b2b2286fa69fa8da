"""Pictures of a run: the search, the training, and the blocks before and after."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from updp_rt.artifacts.atomic import atomic_path
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.search import SearchResult

# Okabe & Ito's colours, which most colour-blind readers tell apart; shapes and labels say the same again.
BASELINE, MERGED, CHOSEN = "#999999", "#0072B2", "#D55E00"


def draw_search(search: SearchResult, table: LatencyTable, path: Path) -> None:
    """Every candidate, accuracy against latency, the front no other beats, and the chosen one."""
    figure, axes = _figure("Search: accuracy in the supernet against latency")
    candidates, front = search.candidates, search.front()
    axes.scatter(
        [c.latency_ms for c in candidates],
        [100 * c.accuracy for c in candidates],
        color=MERGED,
        alpha=0.5,
        label=f"{len(candidates)} candidates",
    )
    axes.step(
        [c.latency_ms for c in front],
        [100 * c.accuracy for c in front],
        where="post",
        color=MERGED,
        linewidth=1,
        label="front",
    )
    chosen = search.chosen
    axes.scatter(
        [chosen.latency_ms],
        [100 * chosen.accuracy],
        color=CHOSEN,
        marker="*",
        s=220,
        zorder=3,
        label=f"chosen: {len(chosen.blocks)} blocks, {100 * chosen.accuracy:.1f}%, {chosen.latency_ms:.3g} ms",
    )
    axes.axvline(table.model_ms, color=BASELINE, linestyle="--", label=f"baseline's latency, {table.model_ms:.3g} ms")
    axes.set_xlabel(f"latency by the per-block table, ms (batch {table.batch_size}, {table.device})")
    axes.set_ylabel("validation accuracy, %")
    _legend(figure, axes)
    _save(figure, path)


def draw_training(history: Path, path: Path, baseline_accuracy: float | None = None) -> None:
    """λ and the accuracy at that λ over the epochs, from ``history.csv``."""
    with history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    figure, axes = _figure("Progressive training: from the baseline (λ = 0) to the pruned form (λ = 1)")
    accuracy = [100 * float(row["val_accuracy"]) for row in rows]
    axes.plot(epochs, accuracy, color=MERGED, marker="o", markersize=4, label="subnet at its λ")
    if baseline_accuracy is not None:
        axes.axhline(100 * baseline_accuracy, color=BASELINE, linestyle="--", label="baseline")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("validation accuracy, %")
    right = axes.twinx()
    lambdas = [float(row["lambda"]) for row in rows]
    right.plot([0, *epochs], [0.0 if lambdas[0] < 1 else 1.0, *lambdas], color=CHOSEN, linestyle=":", label="λ (right)")
    right.set_ylim(-0.02, 1.05)
    right.set_ylabel("λ")
    right.spines["top"].set_visible(False)
    _legend(figure, axes, right)
    _save(figure, path)


def draw_blocks(table: LatencyTable, summary: dict[str, Any], path: Path) -> None:
    """Latency of every prunable block as it is, and of the merged form it became where it was pruned."""
    names = list(table.blocks)
    figure, axes = _figure("Blocks before and after merging", height=1.6 + 0.32 * len(names))
    for row, name in enumerate(names):
        block, merged = table.blocks[name], summary["blocks"].get(name)
        axes.barh(row - 0.2, block.baseline_ms, height=0.36, color=BASELINE, label="baseline block")
        if merged is None:
            axes.text(block.baseline_ms, row - 0.2, " kept", va="center", fontsize=8, color="#555555")
            continue
        after = block.merged_ms[merged["body"]][merged["form"]]
        axes.barh(row + 0.2, after, height=0.36, color=MERGED, label="merged block")
        note = f" {merged['form']}, {block.baseline_ms / after:.1f}×"
        axes.text(after, row + 0.2, note, va="center", fontsize=8, color=MERGED)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(f"latency, ms (batch {table.batch_size}, {table.device})")
    _legend(figure, axes)
    _save(figure, path)


def _figure(title: str, height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _legend(figure: Figure, *axes: Axes) -> None:
    """One legend below the axes, where it covers nothing; equal entries once."""
    entries = [entry for each in axes for entry in zip(*each.get_legend_handles_labels(), strict=True)]
    unique = {label: handle for handle, label in entries}
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
