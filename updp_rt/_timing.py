"""Side-by-side timing: candidates in turn, so that a machine's drift touches them all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch

from updp_rt._progress import tell

NameT = TypeVar("NameT", bound=Hashable)

FEWEST_ROUNDS = 3  # a median and quartiles need as many
_LEAST = 1e-12  # seconds: what a clock cannot tell from none


def time_side_by_side(
    candidates: Mapping[NameT, Callable[[], object]],
    *,
    rounds: int = 15,
    round_seconds: float = 2e-3,
    alone_seconds: float = 0.0,
    device: torch.device | None = None,
    what: str | None = None,
) -> dict[NameT, float]:
    """Median seconds per call of each candidate, after a warm-up, in `rounds` interleaved rounds, `paced`.

    In a round each candidate is called again and again for about `round_seconds`, at least once: far longer than
    the clock's resolution, and long enough for a candidate to fill the caches that the others have emptied. Before, it
    runs for `alone_seconds` untimed: the threads of other runtimes go on spinning for a moment after their last call.
    Where it takes long, `what` names it to those who are told how far it is.
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
    return {name: statistics.median(values) for name, values in paced(samples).items()}


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


def paced(samples: Mapping[NameT, Sequence[float]]) -> dict[NameT, list[float]]:
    """`samples` without what a round did to all candidates alike: each round brought to the median pace of the rounds.

    The pace of a round is the geometric mean of its samples. Ratios of medians are then about the medians of ratios
    within rounds, which a machine that is slow for some seconds does not move.
    """
    paces = [
        statistics.geometric_mean(max(each, _LEAST) for each in values)
        for values in zip(*samples.values(), strict=True)
    ]
    usual = statistics.median(paces)
    return {
        name: [value * usual / pace for value, pace in zip(values, paces, strict=True)]
        for name, values in samples.items()
    }


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
