"""Side-by-side timing: candidates in turn, so that a machine's drift touches them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

NameT = TypeVar("NameT", bound=Hashable)


def time_side_by_side(
    candidates: Mapping[NameT, Callable[[], object]],
    *,
    rounds: int = 15,
    round_seconds: float = 2e-3,
    device: torch.device | None = None,
) -> dict[NameT, float]:
    """Median seconds a call of each candidate, after a warm-up, in `rounds` interleaved rounds.

    In a round each candidate is called again and again for about `round_seconds`, at least once: far above the clock's
    grain, and long enough where a candidate must first fill the caches that the others have emptied.
    """
    repeats = {}
    for name, call in candidates.items():
        for _ in range(2):
            call()
        repeats[name] = max(1, round(round_seconds / max(_seconds(call, 1, device), 1e-9)))
    times: dict[NameT, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            times[name].append(_seconds(call, repeats[name], device) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(call: Callable[[], object], repeats: int, device: torch.device | None) -> float:
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device | None) -> None:
    if device is not None and device.type != "cpu":
        torch.accelerator.synchronize(device)
