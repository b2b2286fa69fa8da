"""Work in a process of its own, so that one that dies without an exception takes nothing else along."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from benchmarks.footprint import new_process
from benchmarks.protocol import first_line
from benchmarks.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class DiedError(Exception):
    """A process ended before its work did."""


class Worker:
    """Runs work of one group in one process, and of the next in a new one.

    Args:
        apart: in processes of its own; else all of it runs here.
        begin: what is to be done first in each process.
    """

    def __init__(self, settings: Settings, apart: bool, begin: Callable[[], None]) -> None:
        self._settings, self._apart, self._begin = settings, apart, begin
        self._pool: ProcessPoolExecutor | None = None
        self._group = ""
        if not apart:
            begin()

    def run(self, group: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(*args, **kwargs)``, all of which can be pickled.

        Raises:
            DiedError: its process did, of an abort, say; later work gets a new one.
        """
        if not self._apart:
            return work(*args, **kwargs)
        try:
            return self._process_for(group).submit(_run, work, args, kwargs).result()
        except BrokenProcessPool as error:
            self.close()
            raise DiedError("its process ended without an exception, as by an abort of the driver") from error

    def close(self) -> None:
        """End the process, if there is one."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def _process_for(self, group: str) -> ProcessPoolExecutor:
        if group != self._group:
            self.close()
        if self._pool is None:
            self._pool, self._group = new_process(self._settings), group
            self._pool.submit(self._begin).result()
        return self._pool

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _run(work: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    try:
        return work(*args, **kwargs)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # one that cannot be sent would pass for the process's end
            raise RuntimeError(first_line(error)) from None
        raise
