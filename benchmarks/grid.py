"""A table of results: shown in the terminal, or in a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from benchmarks.results import Row
from benchmarks.samples import geometric_mean


@dataclass
class Grid:
    """Cells under columns, with a title and notes."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append([str(cell) for cell in cells])

    def to_rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left", caption_justify="left")
        for column in self.columns:
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))  # brackets are no markup
        table.caption = Text("\n".join(self.notes))
        return table

    def to_markdown(self) -> str:
        """For a page."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n\n".join([f"**{self.title}**", table, *notes])


def what_is_missing(rows: Iterable[Row]) -> list[str]:
    """What has no time, and why: all that is wrong, and by reason what else was left out."""
    rows = list(rows)
    notes = [f"withheld: {row['candidate']} for {row['case']}: {row['wrong']}" for row in rows if "wrong" in row]
    for (reason,), these in grouped((row for row in rows if "left_out" in row), "left_out").items():
        what = f"{these[0]['candidate']} for {these[0]['case']}" if len(these) == 1 else f"{len(these)} candidates"
        notes.append(f"left out: {what}: {reason}")
    return notes


def median(case: Mapping[str, Row], name: str) -> float | None:
    """Milliseconds of a case's candidate; None where it has no time."""
    value = case.get(name, {}).get("median_ms")
    return None if value is None else float(value)


def best(case: Mapping[str, Row], names: Iterable[str]) -> float | None:
    """The least of some candidates' medians."""
    return min((ms for name in names if (ms := median(case, name)) is not None), default=None)


def ratio(slow: float | None, fast: float | None) -> float | None:
    return None if slow is None or fast is None else slow / fast


def gain(ratios: Iterable[float | None]) -> str:
    """Geometric mean and least."""
    known = [value for value in ratios if value is not None]
    return f"{geometric_mean(known):.2f} ({min(known):.2f})" if known else "-"


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}×"


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 1e3 else f"{value:.0f}"


def slashed(values: Iterable[float | None], digits: int = 2) -> str:
    """Numbers side by side, as ``1.20 / 1.31``."""
    return " / ".join("-" if value is None else f"{value:.{digits}f}" for value in values)


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[object, ...], list[Row]]:
    """Rows that agree in some columns together."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return found
