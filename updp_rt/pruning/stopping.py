"""SIGTERM, which schedulers send before they kill: what is done is kept, and the process ends with status 143."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Stopped(SystemExit):
    """Raised where SIGTERM arrives; it ends the process with the status of one that the signal killed."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class _State:
    asked = False
    deferred = False


@contextmanager
def stoppable(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Within, SIGTERM raises `Stopped` in the main thread; `say` is told that `folder` can be gone on with.

    A program that handles the signal itself is left to do so.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _receive)
    try:
        yield
    except Stopped:
        say(f"stopped by SIGTERM; what is done is kept in {folder}: the same command goes on")
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _State.asked = False


@contextmanager
def deferred(active: bool = True) -> Iterator[Callable[[], bool]]:
    """Within, if `active`, SIGTERM is only noted, and `Stopped` raised at the end; yields whether it was noted."""
    _State.deferred = active
    try:
        yield lambda: _State.asked
    finally:
        _State.deferred = False
    if _State.asked:
        raise Stopped


def _receive(*_: object) -> None:
    if not _State.deferred:
        raise Stopped
    _State.asked = True
