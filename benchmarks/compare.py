"""Two results of one suite side by side: what became faster, what slower, what is within the noise.

Run ``python -m benchmarks.compare BEFORE.json AFTER.json``. The noise is that of the rounds within each run; what
differs between two runs as wholes, such as a clock that was lower throughout, shows as a speedup of everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.samples import Summary, geometric_mean, ratio_interval
from benchmarks.suite_tables import load


def main(
    before: Path,
    after: Path,
    only_changed: Annotated[bool, typer.Option(help="Leave out what is within noise.")] = False,
) -> None:
    """Compare the candidates that both files have."""
    try:
        old, new = load(before), load(after)
        table = compare(old, new, only_changed)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    Console(width=160).print(table)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], only_changed: bool = False) -> Table:
    """A table of what both results have.

    Raises:
        ValueError: they are of different suites, or have nothing in common.
    """
    if old["suite"] != new["suite"]:
        raise ValueError(f"one is of the suite {old['suite']}, the other of {new['suite']}: nothing to compare")
    before, after = summaries(old), summaries(new)
    common = [key for key in before if key in after]
    if not common:
        raise ValueError("the two results have no case in common")
    table = Table(title=f"{old['suite']}: before and after", title_justify="left", caption_justify="left")
    for column in ("case", "candidate", "before, ms", "after, ms", "before / after", "95% interval", ""):
        table.add_column(column, justify="left" if column in ("case", "candidate", "") else "right", overflow="fold")
    verdicts = []
    for key in common:
        ratio, low, high = ratio_interval(before[key], after[key])
        verdicts.append("faster" if low > 1 else "slower" if high < 1 else "within noise")
        if only_changed and verdicts[-1] == "within noise":
            continue
        times = [f"{summary.median_ms:.4g}" for summary in (before[key], after[key])]
        style = {"faster": "green", "slower": "red"}.get(verdicts[-1])
        table.add_row(*key, *times, f"{ratio:.3f}×", f"{low:.3f} to {high:.3f}", verdicts[-1], style=style)
    mean = geometric_mean(before[key].median_ms / after[key].median_ms for key in common)
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in ("faster", "slower", "within noise"))
    notes = [f"{len(common)} in common: {counts}; geometric mean {mean:.3f}×"]
    notes += [
        f"{what} differ: {old.get(what)}, then {new.get(what)}"
        for what in ("device", "threads", "versions", "commit")
        if old.get(what) != new.get(what)
    ]
    missing = len(before) + len(after) - 2 * len(common)
    notes += [f"{missing} candidates are in one of the two alone"] if missing else []
    table.caption = "\n".join(notes)
    return table


def summaries(result: Mapping[str, Any]) -> dict[tuple[str, str], Summary]:
    """The time of each case's candidates."""
    fields = Summary.__dataclass_fields__
    return {
        (row["case"], name): Summary(**{key: value[key] for key in fields})
        for row in result["rows"]
        for name, value in row["candidates"].items()
    }


if __name__ == "__main__":
    typer.run(main)
