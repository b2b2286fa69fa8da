"""The time that a run keeps to."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Minutes to keep to, or none. Parts of a run are told apart: each takes about as long as it did before."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes = math.inf if minutes is None else minutes
        self._begun = time.monotonic()
        self._longest: dict[str, float] = {}
        self._accounted = 0.0

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    def allows(self, part: str, until: float = 1.0) -> bool:
        """Whether another of `part` fits into this share of the time, if it takes as long as the longest so far."""
        return self.used + self._longest.get(part, 0.0) < until * self.minutes * 60

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
