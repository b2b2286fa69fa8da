"""Tables of the suites' results, from the rows as their JSON holds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.samples import geometric_mean

Row = Mapping[str, Any]

BASELINES = ("eager", "compiled")  # in micro; what remains are kernels


def load(path: Path) -> dict[str, Any]:
    """A suite's results.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} holds no JSON") from error
    if not isinstance(found, dict) or "suite" not in found:
        raise ValueError(f"{path} holds no suite's results")
    return found


def median(row: Row, name: str) -> float | None:
    """Milliseconds of a candidate; None where it has no time."""
    value = row["candidates"].get(name)
    return None if value is None else float(value["median_ms"])


def best(row: Row, names: Iterable[str]) -> float | None:
    """The least of some candidates' medians."""
    return min((ms for name in names if (ms := median(row, name)) is not None), default=None)


def operator_times(row: Row) -> dict[str, float | None]:
    """Of a problem: eager's time, the compiled one's, the vendor's best, and the best of our kernels and oneDNN's."""
    kernels = [name for name in row["candidates"] if name not in BASELINES]
    vendor = [name for name in kernels if name.startswith("vendor")]
    fused = [name for name in kernels if name.partition(":")[0] not in ("vendor", "reference")]
    return {
        "eager": median(row, "eager"),
        "compiled": median(row, "compiled"),
        "vendor": best(row, vendor),
        "fused": best(row, fused),
    }


def micro_table(rows: Sequence[Row]) -> Table:
    """By operator, dtype and batch: how much faster the best fused kernel is, in geometric mean and at least."""
    table = _table("operators: the best fused kernel over eager, torch.compile and the vendor, geometric mean (least)")
    for column in ("operator", "dtype", "batch", "problems", "over eager", "over compiled", "over vendor"):
        table.add_column(column, justify="left" if column in ("operator", "dtype") else "right")
    groups: dict[tuple[str, str, int], list[dict[str, float | None]]] = {}
    for row in rows:
        groups.setdefault((row["operator"], row["dtype"], row["batch"]), []).append(operator_times(row))
    for (operator, dtype, batch), times in groups.items():
        cells = [_gain([_ratio(t[key], t["fused"]) for t in times]) for key in ("eager", "compiled", "vendor")]
        table.add_row(operator, dtype, str(batch), str(len(times)), *cells)
    return _with_notes(table, rows)


def blocks_table(rows: Sequence[Row]) -> Table:
    """Each block's time, and how much faster its other forms are."""
    names = ("compiled", "accelerated", "pruned", "merged", "merged accelerated")
    table = _table("blocks: × over the baseline block in eager torch")
    for column in ("model", "block", "form", "dtype", "batch", "baseline", *names):
        table.add_column(column, justify="left" if column in ("model", "block", "form", "dtype") else "right")
    for row in rows:
        base = median(row, "baseline")
        gains = [_times(_ratio(base, median(row, name))) for name in names]
        about = [row["model"], row["block"], row.get("form", "-"), row["dtype"], str(row["batch"])]
        table.add_row(*about, _ms(base), *gains)
    return _with_notes(table, rows)


def models_table(rows: Sequence[Row]) -> Table:
    """Each variant's time in each mode, with its peak memory."""
    modes = ("eager", "compiled", "accelerated")
    table = _table("models: ms a batch; × over the best of the unpruned model in eager and compiled; peak memory, MB")
    for column in ("model", "dtype", "batch", "variant", *modes):
        table.add_column(column, justify="left" if column in ("model", "dtype", "variant") else "right")
    for row in rows:
        base = best(row, ("P0 eager", "P0 compiled"))
        for variant in dict.fromkeys(name.split()[0] for name in row["candidates"]):
            cells = []
            for mode in modes:
                value = row["candidates"].get(f"{variant} {mode}")
                memory = "" if value is None or not value.get("peak_memory_mb") else f", {value['peak_memory_mb']:.0f}"
                ms = median(row, f"{variant} {mode}")
                cells.append("-" if ms is None else f"{_ms(ms)} ms, {_times(_ratio(base, ms))}{memory}")
            table.add_row(row["model"], row["dtype"], str(row["batch"]), variant, *cells)
    gains = [_ratio(median(row, "P0 compiled"), median(row, "P0 accelerated")) for row in rows]
    return _with_notes(table, rows, f"unpruned, accelerated over compiled, mean (least): {_gain(gains)}")


def paper_table(rows: Sequence[Row]) -> Table:
    """Each table's models, slowest first, with their speed over the slowest in eager torch."""
    table = _table("the paper's comparisons: × over the slowest in eager torch")
    for column in ("table", "model", "params, M", "GMACs", "ms", "quartiles", "images/s", "speedup"):
        table.add_column(column, justify="left" if column in ("table", "model") else "right")
    for row in rows:
        for name, value in sorted(row["candidates"].items(), key=lambda item: -item[1]["median_ms"]):
            quartiles = f"{_ms(value['q1_ms'])} to {_ms(value['q3_ms'])}"
            cost = [f"{value['param_count']:.2f}", f"{value['gmacs']:.2f}"]
            speed = [_ms(value["median_ms"]), quartiles, f"{value['samples_per_sec']:.1f}", f"{value['speedup']:.2f}×"]
            table.add_row(row["case"], name, *cost, *speed)
        table.add_section()
    return _with_notes(table, rows)


TABLES: dict[str, Callable[[Sequence[Row]], Table]] = {
    "micro": micro_table,
    "blocks": blocks_table,
    "models": models_table,
    "paper": paper_table,
}


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", caption_justify="left")


def _with_notes(table: Table, rows: Sequence[Row], *notes: str) -> Table:
    """`table` with what has no time, and why: all that is wrong, and by reason how much else was left out."""
    lines = [*notes]
    lines += [f"withheld: {name} for {row['case']}: {reason}" for row in rows for name, reason in row["red"].items()]
    reasons = [reason for row in rows for reason in row["left_out"].values()]
    lines += [f"left out: {reasons.count(reason)} candidates: {reason}" for reason in dict.fromkeys(reasons)]
    table.caption = Text("\n".join(lines))  # an error's brackets are no markup
    return table


def _ratio(slow: float | None, fast: float | None) -> float | None:
    return None if slow is None or fast is None else slow / fast


def _gain(ratios: Sequence[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{geometric_mean(known):.2f}× ({min(known):.2f}×)" if known else "-"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}×"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
