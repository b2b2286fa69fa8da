"""The time that a run of `benchmarks.gpu` keeps to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Up to which share of the time something may still be started: each part leaves room for those after it.
_UNTIL = {"numerics": 0.2, "models": 0.8, "compile": 0.6, "operators": 0.97, "compiled operators": 0.92}


class Budget:
    """A time to keep to. What is not started in time is listed in `left_out`."""

    def __init__(self, minutes: float) -> None:
        self.seconds = minutes * 60
        self.left_out: list[str] = []
        self._begun = time.monotonic()
        self._longest: dict[str, float] = {}
        self._accounted = 0.0

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    def allows(self, part: str, what: str) -> bool:
        """Whether another of `part` fits, if it takes as long as the longest so far."""
        if self.used + self._longest.get(part, 0.0) < _UNTIL[part] * self.seconds:
            return True
        self.left_out.append(f"{part}: {what}")
        return False

    @contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Take the time of one of `part`, less that of other parts inside."""
        start = self.used - self._accounted
        try:
            yield
        finally:
            took = self.used - self._accounted - start
            self._accounted += took
            self._longest[part] = max(self._longest.get(part, 0.0), took)
