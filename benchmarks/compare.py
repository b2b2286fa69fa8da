"""Two results of one suite side by side: what became faster, what slower, what is within the noise.

The noise is that of the rounds within each run; what differs between two runs as wholes, such as a clock that was lower
throughout, shows as a speedup of everything.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from benchmarks.results import Result, Row
from benchmarks.samples import Summary, geometric_mean, ratio_interval


def compare(old: Result, new: Result, only_changed: bool = False) -> Table:
    """A table of the candidates that both results have times of.

    Raises:
        ValueError: they are of different suites, or have nothing in common.
    """
    suites = [result.about["suite"] for result in (old, new)]
    if suites[0] != suites[1]:
        raise ValueError(f"one is of the suite {suites[0]}, the other of {suites[1]}: nothing to compare")
    before, after = summaries(old.rows), summaries(new.rows)
    common = [key for key in before if key in after]
    if not common:
        raise ValueError("the two results have no time of the same case in common")
    table = Table(title=f"{suites[0]}: before and after", title_justify="left", caption_justify="left")
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
        f"{what} differ: {old.about.get(what)}, then {new.about.get(what)}"
        for what in ("device", "threads", "versions", "commit")
        if old.about.get(what) != new.about.get(what)
    ]
    missing = len(before) + len(after) - 2 * len(common)
    notes += [f"{missing} candidates are in one of the two alone"] if missing else []
    table.caption = "\n".join(notes)
    return table


def summaries(rows: Iterable[Row]) -> dict[tuple[str, str], Summary]:
    """The time of each case's candidates; one whose quartiles are not known has the noise of a single round."""
    found = {}
    for row in rows:
        if "median_ms" in row:
            median, rounds = row["median_ms"], row["rounds"] if "q1_ms" in row else 1
            found[row["case"], row["candidate"]] = Summary(
                median, row.get("q1_ms", median), row.get("q3_ms", median), rounds
            )
    return found
