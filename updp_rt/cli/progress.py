"""How far a command has got: a bar on a terminal, and without one a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from updp_rt.pruning import progress


@contextmanager
def counted(what: str, *, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr; yields what takes the numbers of things done and of all."""
    console = Console(stderr=True, quiet=not show)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    started = spoken = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            nonlocal spoken
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if not console.is_terminal and now - spoken >= progress.QUIET_SECONDS:
                left = f"; {progress.duration((now - started) / done * (total - done))} left" if done else ""
                console.print(f"{what}: {done} of {total}{left}", highlight=False, soft_wrap=True)
                spoken = now

        yield advance
