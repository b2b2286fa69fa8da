"""How everything here is measured: case by case, right before fast, in turn, and kept as it comes.

A suite or a study is a list of cases: a problem, a block, a model, a training. Each has candidates. `race` times those
whose numerics hold, in turn in one run; `Record` measures each case once, keeps to the minutes given, writes the CSV
after each, and resumes one. So the CSV is the journal of a study that takes hours: whatever stops it costs no more than
the epoch that was being trained, and several processes, each with its part of the cases, add to one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any

from filelock import FileLock
from rich.console import Console

from benchmarks import results
from benchmarks.budget import Budget
from benchmarks.grid import Grid
from benchmarks.results import Row
from benchmarks.samples import Summary
from benchmarks.settings import Settings

NOTHING = "there is nothing to measure: this suite has none of the models named"

_COMPARABLE = ("compiler", "compile_mode", "channels_last")
_SURROUNDINGS = ("environment", "versions", "rounds", *_COMPARABLE)


class Wrong(Exception):  # noqa: N818
    """Why a candidate gets no time: its numerics do not hold, or it failed."""


class LeftOut(Exception):  # noqa: N818
    """Why a candidate is not tried."""


@dataclass
class Measured:
    """What one case gave.

    Attributes:
        samples: seconds of each candidate, by round.
        wrong: why a candidate got no time or value: its numerics are wrong, or it failed.
        left_out: why a candidate was not tried.
        about: what else is known of the case.
        values: what else is known of each candidate.
    """

    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows(self, about: Row) -> Iterator[dict[str, Any]]:
        """One row a candidate, each with what is known of the case."""
        about = {**about, **self.about}
        for name in dict.fromkeys((*self.samples, *self.values)):
            if name not in self.wrong:
                times = Summary.of(self.samples[name]).to_dict() if name in self.samples else {}
                yield {**about, "candidate": name, **times, **self.values.get(name, {})}
        for kind, reasons in (("wrong", self.wrong), ("left_out", self.left_out)):
            for name, reason in reasons.items():
                yield {**about, "candidate": name, kind: reason}


@dataclass(frozen=True)
class Case:
    """One comparison: its name, what describes it, its candidates, and how it is measured.

    Attributes:
        candidates: their names; none where only measuring finds them.
        group: cases of one group share what takes long to make, such as a baseline: one process measures them all.
        part: cases of one part take about as long as each other; they are begun `until` this share of the time.
    """

    key: str
    about: dict[str, Any]
    candidates: tuple[str, ...]
    measure: Callable[[Record], Measured]
    group: str = ""
    part: str = "cases"
    until: float = 1.0

    def __str__(self) -> str:
        return self.key.replace(" ", "-")


@dataclass(frozen=True)
class Suite:
    """What is measured: a suite, or a study.

    Attributes:
        cases: all there are under some settings. One may depend on what those before it found, unless `timed`.
        tables: of its rows, for the terminal and for docs/measured.md.
        options: names of the settings that it reads, besides those that all do.
        defaults: settings of which it has others.
        timed: every candidate has a time, and all cases are known before: pytest-benchmark shows and keeps them too.
        place: folder of its results, if it does not depend on the device.
    """

    name: str
    help: str
    cases: Callable[[Settings], Iterator[Case]]
    tables: Callable[[Sequence[Row]], list[Grid]]
    options: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    timed: bool = False
    place: str | None = None

    @property
    def all_options(self) -> tuple[str, ...]:
        """All settings that it reads."""
        return (*self.options, *(("warm_calls", "rounds", "seconds") if self.timed else ()), "minutes", "resume", "out")


class Record:
    """One run of a suite: measures each case once, and keeps the rows on disk after each.

    Args:
        tell: shows a line of progress.
        total: how many cases there are, if known.

    Raises:
        ValueError: it is to resume a run whose surroundings were others.
    """

    def __init__(self, suite: Suite, settings: Settings, tell: Callable[[str], None], total: int | None = None) -> None:
        self.settings, self._tell, self._total = settings, tell, total
        self.about: dict[str, Any] = {
            "suite": suite.name,
            "command": settings.command or f"python -m benchmarks {suite.name}",
            **results.provenance(settings.place),
            **({"device": suite.place} if suite.place else {}),
            **{name: getattr(settings, name) for name in ("rounds", *_COMPARABLE) if name in suite.all_options},
        }
        self.path = (settings.out or results.RESULTS / self.about["device"]) / f"{suite.name}.csv"
        self.budget = Budget(settings.minutes)
        self.scratch = self._scratch = settings.work / suite.name  # of the case at hand, where it can be taken up again
        self.samples: dict[str, Mapping[str, Sequence[float]]] = {}  # of the cases measured in this run
        self._cases: dict[str, list[Row]] = {}
        self._unfinished: set[str] = set()
        self._measured: set[str] = set()  # or tried, by this process
        if (settings.resume or settings.shard) and self.path.exists():
            self._take_up()
            self._tell(f"{len(self._cases) - len(self._unfinished)} cases are taken from {self.path.name}")

    @property
    def rows(self) -> list[Row]:
        """All rows so far."""
        return [row for rows in self._cases.values() for row in rows]

    def rows_of(self, case: Case) -> Sequence[Row]:
        """The case's rows; measured now if it is new."""
        known = {row["candidate"] for row in self._cases.get(case.key, ())}
        new = case.key not in self._cases or (case.key not in self.samples and not set(case.candidates) <= known)
        if new or case.key in self._unfinished:
            self._unfinished.discard(case.key)
            self._measured.add(case.key)
            self.scratch = self._scratch / re.sub(r"[^\w.-]+", "_", case.key)
            self._cases[case.key] = self._measure(case)
            self.write()
            if not any("wrong" in row or "left_out" in row for row in self._cases[case.key]):
                shutil.rmtree(self.scratch, ignore_errors=True)
        return self._cases[case.key]

    def tell(self, line: str) -> None:
        """Show a line of progress within a case."""
        self._tell(f"{self.budget.used:5.0f} s    {line}")

    def write(self) -> None:
        """Write all that is known so far; what other processes have added meanwhile stays."""
        if self.settings.shard is None:
            results.write(self.path, self.about, self.rows)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            if self.path.exists():
                self._take_up()
            results.write(self.path, self.about, self.rows)

    def _measure(self, case: Case) -> list[Row]:
        if not self.budget.allows(case.part, case.until):
            reason = f"the {self.budget.minutes:g} minutes are up"
            if not any(reason == row.get("left_out") for row in self.rows):
                self._tell(f"{self.budget.used:5.0f} s  {reason}")
            if case.key in self._cases:
                return self._cases[case.key]  # what an earlier run found is more than that
            found = Measured(left_out=dict.fromkeys(case.candidates or ("all",), reason))
        else:
            with self.budget.spending(case.part):
                try:
                    found = case.measure(self)
                except Exception as error:  # the other cases are still worth having
                    names = case.candidates or ("all",)
                    found = Measured(wrong=dict.fromkeys(names, f"it failed: {first_line(error)}"))
            self.samples[case.key] = found.samples
        rows: list[Row] = list(found.rows({"case": case.key, **case.about}))
        if case.key in self.samples:
            count = f"{len(self.samples)} of {self._total}" if self._total else f"{len(self.samples)}"
            self._tell(f"{self.budget.used:5.0f} s  {count}  {case.key}: {_told(rows)}")
        return rows

    def _take_up(self) -> None:
        earlier = results.read(self.path)
        for key in _SURROUNDINGS:
            was, now = earlier.about.get(key), self.about.get(key)
            if was != now:
                raise ValueError(f"{self.path.name} cannot be resumed: its {key} was {was}, not {now}")
        commits, commands = (str(earlier.about.get(key, "unknown")) for key in ("commit", "command"))
        self.about["commit"] = ", ".join(dict.fromkeys([*commits.split(", "), self.about["commit"]]))
        given = {command.removesuffix(" --resume") for command in commands.split(" && ")}
        new = self.about["command"] not in given
        self.about["command"] = f"{commands} && {self.about['command']} --resume" if new else commands
        for key, rows in earlier.cases().items():
            if key not in self._measured:
                self._cases[key] = rows
                # Kept as they are, unless this run asks for them: then they are measured again. A candidate that could
                # not be tried costs no other its times: a run that is not resumed tries it again.
                if any("wrong" in row for row in rows) or all("left_out" in row for row in rows):
                    self._unfinished.add(key)


def run(suite: Suite, settings: Settings, console: Console) -> Record:
    """Measure all cases of a suite one after the other.

    Raises:
        ValueError: the settings are wrong, there is nothing to measure, or another run cannot be resumed.
    """
    record = Record(suite, settings, lambda line: console.print(line, markup=False, highlight=False))
    groups: dict[str, int] = {}
    part, parts = settings.shard or (1, 1)
    for case in suite.cases(settings):
        if groups.setdefault(case.group or case.key, len(groups)) % parts == part - 1:
            record.rows_of(case)
    if not record.rows:
        raise ValueError(NOTHING)
    return record


def known(kind: str, given: Sequence[str] | None, there_are: Iterable[str]) -> tuple[str, ...]:
    """What is given, or all there are.

    Raises:
        ValueError: one is not among these.
    """
    names = tuple(there_are)
    for name in given or ():
        if name not in names:
            raise ValueError(f"unknown {kind} {name!r}: choose among {', '.join(names)}")
    return tuple(given or names)


def race(
    settings: Settings,
    entries: Mapping[str, Callable[[], Callable[[], object]]],
    round_seconds: float,
    each_round: Callable[[int], None] | None = None,
    alone_seconds: float = 0.0,
) -> Measured:
    """Prepare and judge every candidate, and time those that are right in turn.

    Args:
        entries: each gives a candidate's call once it is judged, or raises `Wrong` or `LeftOut`. Whatever else it
            raises is a finding too; but that a compiler is missing is none about the candidates of this project.
    """
    found, calls = Measured(), {}
    for name, prepare in entries.items():
        try:
            calls[name] = prepare()
        except LeftOut as reason:
            found.left_out[name] = str(reason)
        except Wrong as reason:
            found.wrong[name] = str(reason)
        except Exception as error:
            reasons = found.left_out if "compiled" in name.split() else found.wrong
            reasons[name] = f"it failed: {first_line(error)}"
    found.samples = settings.sample(calls, round_seconds, each_round, alone_seconds)
    return found


def turning(call: Callable[..., object], inputs: Sequence[Any]) -> Callable[[], object]:
    """A call of `call` on the next of `inputs`, each time it is called."""
    return partial(_call_next, call, cycle(inputs))


def _call_next(call: Callable[..., object], inputs: Iterator[Any]) -> object:
    return call(next(inputs))


def first_line(error: BaseException) -> str:
    """Type and first line of an error's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _told(rows: Sequence[Row]) -> str:
    """What was found, in one line."""

    def tell(row: Row) -> str:
        for kind in ("wrong", "left_out"):
            if kind in row:
                return str(row[kind])
        if "median_ms" in row:
            return f"{row['median_ms']:.4g} ms"
        return next((f"{key} {row[key]:.4g}" for key in ("accuracy", "projected_ms") if key in row), "done")

    return ", ".join(f"{row['candidate']}: {tell(row)}" for row in rows) if len(rows) <= 16 else f"{len(rows)} rows"
