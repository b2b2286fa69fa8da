"""What a long run shows: bars on a terminal, a line now and then without one, and a log file that survives both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

QUIET_SECONDS = 30.0  # without a terminal, no longer silence than this while work is done


@dataclass
class _Task:
    """What is being done: units of it at its start, by now, and in all."""

    name: str
    total: int
    begun: int
    done: int
    started: float
    note: str = ""


class Progress:
    """Progress bars on stderr and lines in ``log.txt``; silent processes (other ranks) show nothing.

    Args:
        log: the log file, appended to; None writes none.
        show: whether to say anything on stderr.
    """

    def __init__(self, log: Path | None = None, *, show: bool = True) -> None:
        self.path = log
        self.console = Console(stderr=True, quiet=not show)
        self._work: dict[str, float] = {}  # what is still to do, by task
        self._worked, self._seconds = 0.0, 0.0  # what was done here of that, and how long it took
        self._task: _Task | None = None
        self._spoken = time.monotonic()

    def expect(self, work: Mapping[str, float]) -> None:
        """Say how much work each of the coming tasks is, in one common unit; the time left follows from it."""
        self._work, self._worked, self._seconds = dict(work), 0.0, 0.0

    def log(self, line: str) -> None:
        """One line in the log, with the time; above the bar on a terminal, and without one with the time left."""
        self.console.print(line if self.console.is_terminal else line + self._left(), highlight=False, soft_wrap=True)
        self._spoken = time.monotonic()
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
            except OSError as error:  # work that can still be stored does not end for a line
                self.console.print(f"{self.path} cannot be written: {error.strerror}; going on without", soft_wrap=True)
                self.path = None

    def still_here(self) -> None:
        """Break a long silence: what is being done, how far it is, and what is left."""
        task = self._task
        if task is None or self.console.is_terminal or time.monotonic() - self._spoken < QUIET_SECONDS:
            return
        note = f", {task.note}" if task.note else ""
        self.log(f"{task.name}: {task.done} of {task.total}{note}")

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
        """A bar of `total` units, of which `done` are; yields what advances it by one, with a note."""
        columns = (
            TextColumn("{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._task = current = _Task(name, total, done, done, time.monotonic())
        with RichProgress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            shown = bar.add_task(name, total=total, completed=done, note="")

            def advance(note: str) -> None:
                current.done, current.note = current.done + 1, note
                bar.update(shown, advance=1, note=note + self._left())
                self.still_here()

            try:
                yield advance
            finally:
                self._task = None
                here = current.done - current.begun
                if name in self._work:
                    self._worked += self._work.pop(name) * here / max(1, total)
                    self._seconds += time.monotonic() - current.started

    def _left(self) -> str:
        """How long the current task and the whole run will still take; nothing while that is not known."""
        task = self._task
        if task is None or task.done == task.begun:
            return ""
        seconds = time.monotonic() - task.started
        stage = seconds * (task.total - task.done) / (task.done - task.begun)
        share = self._work.get(task.name, 0.0) / max(1, task.total)
        worked = self._worked + share * (task.done - task.begun)
        to_do = sum(self._work.values()) - share * task.done
        whole = (self._seconds + seconds) / worked * to_do if share and worked > 0 else 0.0
        shown = [
            *([duration(stage)] if stage else []),
            *([f"of the run {duration(max(stage, whole))}"] if whole else []),
        ]
        return f"; left: {', '.join(shown)}" if shown else ""


def duration(seconds: float) -> str:
    """``about 40 s``, ``about 12 min``, ``about 3.5 h``."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
