"""Side-by-side timing: candidates in turn, so that a machine's drift touches them all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TypeVar

import torch

from updp_rt._progress import tell

NameT = TypeVar("NameT", bound=Hashable)

FEWEST_ROUNDS = 3  # a median and quartiles need as many


def time_side_by_side(
    candidates: Mapping[NameT, Callable[[], object]],
    *,
    rounds: int = 15,
    round_seconds: float = 2e-3,
    alone_seconds: float = 0.0,
    device: torch.device | None = None,
    what: str | None = None,
    quartile: int = 2,
) -> dict[NameT, float]:
    """Median seconds per call of each candidate, after a warm-up, in `rounds` interleaved rounds; or another quartile.

    In a round each candidate is called again and again for about `round_seconds`, at least once: far longer than
    the clock's resolution, and long enough for a candidate to fill the caches that the others have emptied. Before, it
    runs for `alone_seconds` untimed: the threads of other runtimes go on spinning for a moment after their last call.
    Where it takes long, `what` names it to those who are told how far it is. The first quartile has less of the
    noise than the median, since what else a machine does only ever adds time; the median is what a service sees.
    """
    each_round = None
    if what is not None:
        tell(what, 0, rounds)
        each_round = partial(tell, what, total=rounds)
    samples = sample_side_by_side(
        candidates,
        rounds=rounds,
        round_seconds=round_seconds,
        alone_seconds=alone_seconds,
        device=device,
        each_round=each_round,
    )
    return {name: _quartile(values, quartile) for name, values in samples.items()}


def sample_side_by_side(
    candidates: Mapping[NameT, Callable[[], object]],
    *,
    rounds: int,
    round_seconds: float,
    alone_seconds: float = 0.0,
    device: torch.device | None = None,
    warm_calls: int = 2,
    limit_seconds: float = math.inf,
    each_round: Callable[[int], None] | None = None,
) -> dict[NameT, list[float]]:
    """Seconds per call of each candidate in every round, as `time_side_by_side` takes them.

    After `limit_seconds` no further round begins, except for the first three. `each_round` is told after each round
    how many are done.
    """
    repeats = {}
    for name, call in candidates.items():
        for _ in range(warm_calls):
            call()
        repeats[name] = max(1, round(round_seconds / max(_seconds(call, 1, device), 1e-9)))
    samples: dict[NameT, list[float]] = {name: [] for name in candidates}
    begun = time.perf_counter()
    for done in range(rounds):
        if done >= FEWEST_ROUNDS and time.perf_counter() - begun > limit_seconds:
            break
        for name in _turns(list(candidates), done):
            alone = time.perf_counter() + alone_seconds
            while time.perf_counter() < alone:
                candidates[name]()
            samples[name].append(_seconds(candidates[name], repeats[name], device) / repeats[name])
        if each_round is not None:
            each_round(done + 1)
    return samples


def _quartile(values: list[float], which: int) -> float:
    return statistics.quantiles(values, n=4, method="inclusive")[which - 1] if len(values) > 1 else values[0]


def _turns(names: list[NameT], done: int) -> list[NameT]:
    """The order of a round: over the rounds each candidate runs after every other one, whose data it finds in the
    caches, equally often (Williams 1949, "Experimental designs balanced for the estimation of residual effects").
    """
    steps = ((index + 1) // 2 * (1 if index % 2 else -1) for index in range(len(names)))  # 0, 1, -1, 2, -2, ...
    zigzag = [names[(done + step) % len(names)] for step in steps]
    return zigzag if done // len(names) % 2 == 0 else zigzag[::-1]


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
