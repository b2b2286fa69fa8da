"""A suite's or a study's results: one CSV on each device, a row a case and candidate.

Lines ``# name: value`` (the value as JSON) stand before the columns: the suite, the command that makes the file, where
and with which versions and commit it was measured. pandas reads one by ``read_csv(path, comment="#")``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from benchmarks.power import power
from updp_rt.artifacts import versions
from updp_rt.artifacts.atomic import write_text
from updp_rt.runtime.device import device_name, environment

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"

Row = Mapping[str, Any]

_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


@dataclass(frozen=True)
class Result:
    """What `about` says of where and how, and the rows."""

    about: Mapping[str, Any]
    rows: Sequence[Row]

    def cases(self) -> dict[str, list[Row]]:
        """Rows by their case."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["case"], []).append(row)
        return found


def write(path: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write a result; whole or not at all. Numbers keep 6 digits; one that is not finite is left out."""
    header = "".join(f"# {name}: {json.dumps(value)}\n" for name, value in about.items())
    write_text(path, header + to_csv(rows))


def to_csv(rows: Sequence[Row]) -> str:
    """Rows under the union of their columns."""
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _shown(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def read(path: Path) -> Result:
    """A result as it was written, without the cells that are empty.

    Raises:
        ValueError: the file cannot be read or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    header = list(takewhile(lambda line: line.startswith("# "), text.split("\n")))
    try:
        pairs = (line[2:].split(": ", 1) for line in header)
        about = {name: json.loads(value) for name, value in pairs}
    except ValueError as error:
        raise ValueError(f"{path}: a line of its header is not '# name: JSON'") from error
    if "suite" not in about:
        raise ValueError(f"{path} holds no results of a suite: its header names none")
    rows = csv.DictReader(io.StringIO(text[sum(len(line) + 1 for line in header) :], newline=""))
    return Result(about, [{key: _parsed(value) for key, value in row.items() if value} for row in rows])


def join(into: Path, others: Iterable[Path]) -> int:
    """Add to one result the cases that others hold; how many were added. Rows of another device name theirs.

    Raises:
        ValueError: one is of another suite or of other versions, or holds a case with other rows.
    """
    whole = read(into)
    about, cases = dict(whole.about), whole.cases()
    known = len(cases)
    for path in others:
        other = read(path)
        for key in ("suite", "versions"):
            if other.about.get(key) != about.get(key):
                raise ValueError(f"{path}: its {key} is {other.about.get(key)}, that of {into} {about.get(key)}")
        for key, found in other.cases().items():
            rows = [_named(row, other.about.get("device"), about.get("device")) for row in found]
            if cases.setdefault(key, rows) != rows:
                raise ValueError(f"{path}: its rows of {key!r} are not those of {into}: leave one of them out")
        for key, separator in (("command", " && "), ("commit", ", ")):
            parts = [part for result in (about, other.about) for part in str(result.get(key)).split(separator)]
            about[key] = separator.join(dict.fromkeys(parts))
    write(into, about, [row for rows in cases.values() for row in rows])
    return len(cases) - known


def _named(row: Row, measured_on: Any, usual: Any) -> Row:
    """A row with the device that it was measured on, where that is not the usual one of its file."""
    device = row.get("device", measured_on)
    rest = {key: value for key, value in row.items() if key != "device"}
    return rest if device == usual else {**rest, "device": device}


def by_case(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Each case's candidates that were measured."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if "wrong" not in row and "left_out" not in row:
            found.setdefault(row["case"], {})[row["candidate"]] = row
    return found


def stored(folder: Path = RESULTS) -> dict[str, dict[str, Result]]:
    """All results kept in the repository: by suite, and by device."""
    found: dict[str, dict[str, Result]] = {}
    for path in sorted(folder.glob("*/*.csv")):
        found.setdefault(path.stem, {})[path.parent.name] = read(path)
    return found


def provenance(device: torch.device) -> dict[str, Any]:
    """Where something is measured: the device, threads, versions, commit, and what power a GPU is allowed."""
    return {
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
        "environment": environment(device),
        **({"power": told} if (told := power(device)) else {}),
    }


def commit() -> str:
    """The checkout's commit, with "+changes" where files differ from it; "unknown" outside git."""
    try:
        head, changes = (
            subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for args in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changes else "")


def _shown(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return f"{value:.6g}" if math.isfinite(value) else None


def _parsed(cell: str) -> Any:
    if not _NUMBER.fullmatch(cell):
        return cell
    return float(cell) if re.search(r"[.e]", cell) else int(cell)
