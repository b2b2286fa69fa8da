"""The dynamic programs against all there is to enumerate."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest

from updp_rt.pruning.programming import TICKS, Entry, best_cover, fastest_split


@pytest.mark.parametrize("seed", range(8))
def test_the_fastest_split_is_that_of_all_there_are(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 7)
    ms = {(a, b): rng.choice([rng.uniform(0.1, 2.0), math.inf]) for a in range(count) for b in range(a + 1, count)}
    ms |= {(a, a): rng.uniform(0.1, 2.0) for a in range(count)}
    every = []
    for cuts in product([False, True], repeat=count - 1):
        heads = (0, *(i + 1 for i, cut in enumerate(cuts) if cut))
        ends = (*(head - 1 for head in heads[1:]), count - 1)
        every.append((sum(ms[piece] for piece in zip(heads, ends, strict=True)), heads))
    found, heads = fastest_split(count, lambda a, b: ms[a, b])
    assert found == pytest.approx(min(every)[0], rel=1e-12)
    assert (pytest.approx(found), heads) in every


def table(rng: random.Random, count: int) -> list[Entry]:
    """Up to two entries of every segment of up to three layers, of whole milliseconds."""
    return [
        Entry(first, last, float(rng.randint(1, 9)), rng.uniform(-1, 1), f"{first}-{last}-{way}")
        for first in range(count)
        for last in range(first, min(first + 3, count))
        for way in range(rng.randint(1 if first == last else 0, 2))
    ]


def covers(entries: list[Entry], start: int, count: int) -> list[list[Entry]]:
    if start == count:
        return [[]]
    return [
        [entry, *rest] for entry in entries if entry.first == start for rest in covers(entries, entry.last + 1, count)
    ]


def worth(cover: list[Entry]) -> float:
    return sum(entry.value for entry in cover)


def ms(cover: list[Entry]) -> float:
    return sum(entry.ms for entry in cover)


@pytest.mark.parametrize("seed", range(12))
def test_the_best_cover_is_that_of_all_there_are(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(2, 6)
    entries = table(rng, count)
    every = covers(entries, 0, count)
    for allowed in (5.0, 8.0, 10.0, 16.0, 20.0, 25.0, 40.0):  # in these whole milliseconds are whole ticks
        within = [cover for cover in every if ms(cover) <= allowed]
        found = best_cover(count, entries, allowed)
        if not within:
            assert found is None
            continue
        assert found is not None
        assert found in within
        assert worth(found) == pytest.approx(max(map(worth, within)), rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_a_cover_keeps_to_the_latency_and_loses_less_than_a_tick_an_entry(seed: int) -> None:
    rng = random.Random(100 + seed)
    count = rng.randint(2, 6)
    entries = [Entry(e.first, e.last, rng.uniform(0.1, 5.0), e.value, e.key) for e in table(rng, count)]
    every = covers(entries, 0, count)
    allowed = 1.2 * min(map(ms, every))
    found = best_cover(count, entries, allowed)
    assert found is not None
    assert ms(found) <= allowed * (1 + 1e-9)
    sure = [cover for cover in every if ms(cover) <= allowed * (1 - count / TICKS)]
    assert worth(found) >= max(map(worth, sure)) - 1e-12


def test_nothing_is_within_too_little() -> None:
    assert best_cover(1, [Entry(0, 0, 2.0, 1.0)], 1.0) is None
    assert best_cover(1, [Entry(0, 0, 2.0, 1.0)], -1.0) is None
    assert best_cover(2, [Entry(0, 0, 0.1, 1.0)], 1.0) is None


def test_of_equal_values_the_faster_is_taken() -> None:
    entries = [Entry(0, 0, 3.0, 1.0, "slow"), Entry(0, 0, 2.0, 1.0, "fast"), Entry(0, 0, 2.5, 1.0, "middling")]
    assert [entry.key for entry in best_cover(1, entries, 8.0) or []] == ["fast"]
