"""How far a command has got: a bar on a terminal, and without one a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from updp_rt._progress import Listener, heard_by
from updp_rt.pruning import progress


@contextmanager
def followed(*, show: bool = True) -> Iterator[None]:
    """Show on stderr how far the work inside says that it is."""
    with _shown("", show) as advance, heard_by(advance):
        yield


@contextmanager
def counted(what: str, *, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr; yields what takes the numbers of things done and of all."""
    with _shown(what, show) as advance:
        yield partial(advance, what)


@contextmanager
def _shown(first: str, show: bool) -> Iterator[Listener]:
    console = Console(stderr=True, quiet=not show)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    spoken = time.monotonic()
    started = {first: spoken}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(first, total=None)

        def advance(what: str, done: int, total: int) -> None:
            nonlocal spoken
            now = time.monotonic()
            if not done and what != first:
                started[what] = now
                bar.reset(task)
            bar.update(task, description=what, completed=done, total=total)
            if not console.is_terminal and now - spoken >= progress.QUIET_SECONDS:
                seconds = now - started[what]
                left = f"; {progress.duration(seconds / done * (total - done))} left" if 0 < done < total else ""
                console.print(f"{what}: {done} of {total}{left}", highlight=False, soft_wrap=True)
                spoken = now

        yield advance
