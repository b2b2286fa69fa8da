"""Dynamic programming over tables of latency and importance: where to split a segment, and which blocks to prune.

Both programs are those of Kim et al. (ICML 2023, arXiv 2301.12187): the first gives the least latency of a run of
layers that no activation divides, by where it is split into merged layers; the second takes segments that cover all
layers, the most important in a latency. LayerMerge (Oh et al., ICML 2024) has several entries a segment in the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

TICKS = 4000  # of the latency allowed: an entry's is rounded up to whole ones, so that the sum stays within it


@dataclass(frozen=True)
class Entry:
    """One way to treat the layers from `first` to `last`, that one included: its latency, and what it is worth."""

    first: int
    last: int
    ms: float
    value: float
    key: str = ""


def fastest_split(count: int, piece_ms: Callable[[int, int], float]) -> tuple[float, tuple[int, ...]]:
    """The least latency of `count` layers, and the first layer of each piece it is reached with.

    Args:
        piece_ms: of the layers from one to another, that one included, as one; infinite where they cannot be one.
    """
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for end in range(count):
        ways = ((best[first][0] + piece_ms(first, end), (*best[first][1], first)) for first in range(end + 1))
        best.append(min(ways, key=lambda way: way[0]))
    return best[count]


def best_cover(count: int, entries: Sequence[Entry], allowed_ms: float) -> list[Entry] | None:
    """The entries of the largest sum of values that cover the layers 0 to `count` - 1 within a latency; None: none do.

    Of equal sums the one whose latency, in ticks, is less.
    """
    tick = allowed_ms / TICKS
    if tick <= 0:
        return None
    ending: list[list[tuple[int, Entry]]] = [[] for _ in range(count)]
    for entry in entries:
        ticks = math.ceil(entry.ms / tick - 1e-9)
        if entry.ms <= allowed_ms and ticks <= TICKS:
            ending[entry.last].append((max(0, ticks), entry))
    # By number of layers covered, and ticks used: the value reached, and what led there.
    reached: list[dict[int, tuple[float, Entry | None, int]]] = [{0: (0.0, None, 0)}]
    for end in range(count):
        here: dict[int, tuple[float, Entry | None, int]] = {}
        for ticks, entry in ending[end]:
            for before, (value, _, _) in reached[entry.first].items():
                used, total = before + ticks, value + entry.value
                if used <= TICKS and (used not in here or total > here[used][0]):
                    here[used] = total, entry, before
        reached.append(_undominated(here))
    if not reached[count]:
        return None
    used = max(reached[count], key=lambda ticks: (reached[count][ticks][0], -ticks))
    cover: list[Entry] = []
    end = count
    while end > 0:
        _, last, before = reached[end][used]
        assert last is not None
        cover.append(last)
        end, used = last.first, before
    return cover[::-1]


def _undominated(states: dict[int, tuple[float, Entry | None, int]]) -> dict[int, tuple[float, Entry | None, int]]:
    """The states that no faster one equals in value."""
    kept, best = {}, -math.inf
    for ticks in sorted(states):
        if states[ticks][0] > best:
            kept[ticks] = states[ticks]
            best = states[ticks][0]
    return kept


def best_subsets(values: Sequence[float], size: int) -> Iterator[tuple[int, ...]]:
    """The subsets of so many of these, as indices in order, by falling sums of their values."""
    order = sorted(range(len(values)), key=lambda index: -values[index])
    # A subset is the ranks of its members. Each other one is reached from the best by moving members down the ranks one
    # at a time, and no move raises the sum.
    first = tuple(range(size))
    waiting, known = [(-sum(values[order[rank]] for rank in first), first)], {first}
    while waiting:
        total, ranks = heappop(waiting)
        yield tuple(sorted(order[rank] for rank in ranks))
        for place, rank in enumerate(ranks):
            after = ranks[place + 1] if place + 1 < size else len(values)
            if rank + 1 < after:
                moved = (*ranks[:place], rank + 1, *ranks[place + 1 :])
                if moved not in known:
                    known.add(moved)
                    heappush(waiting, (total + values[order[rank]] - values[order[rank + 1]], moved))
