"""What a long run tells: progress bars on a terminal, and a log file that also survives one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Progress bars on stderr and lines in ``log.txt``; silent processes (other ranks) show nothing.

    Args:
        log: the log file, appended to; None writes none.
        show: whether to draw on the terminal.
    """

    def __init__(self, log: Path | None = None, *, show: bool = True) -> None:
        self.path = log
        self.console = Console(stderr=True, quiet=not show)

    def log(self, line: str) -> None:
        """One line in the log, with the time; above the bar on a terminal."""
        self.console.print(line, highlight=False)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

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
        with RichProgress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(name, total=total, completed=done, note="")
            yield lambda note: bar.update(task, advance=1, note=note)
