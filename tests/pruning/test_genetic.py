"""The genetic search's own mechanics: what a child is made of, that none is judged twice, and that it beats chance."""

from __future__ import annotations

import math
import random
from itertools import combinations

import numpy as np
import pytest

from updp_rt.pruning import genetic
from updp_rt.pruning.genetic import next_by_genes

NAMES = [f"block.{i}" for i in range(8)]


def latency(blocks: tuple[str, ...]) -> float:
    return 10.0 - len(blocks)


@pytest.mark.parametrize("num_pruned", [None, 1, 3, 8])
def test_all_there_are_come_once_each(num_pruned: int | None) -> None:
    names = NAMES[:5] if num_pruned is None else NAMES
    there_are = 2 ** len(names) if num_pruned is None else math.comb(len(names), num_pruned)
    judged: dict[tuple[str, ...], float | None] = {}
    rng = random.Random(0)
    for index in range(there_are):
        blocks = next_by_genes(names, judged, latency, trials=there_are, seed=1, num_pruned=num_pruned)
        assert blocks not in judged
        assert list(blocks) == [name for name in names if name in blocks]
        judged[blocks] = None if index % 5 == 4 else rng.random()  # some are at other processes
    assert num_pruned is None or all(len(blocks) == num_pruned for blocks in judged)


def test_a_child_has_what_both_parents_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genetic, "MUTATED", 0.0)
    good: list[tuple[str, ...]] = [
        ("block.0", "block.1", "block.2", "block.3"),
        ("block.0", "block.1", "block.4", "block.5"),
    ]
    judged: dict[tuple[str, ...], float | None] = dict.fromkeys(good, 0.9)
    judged |= dict.fromkeys(combinations(NAMES[3:], 4), 0.1)
    children = {next_by_genes(NAMES, judged, latency, trials=8, seed=seed, num_pruned=4) for seed in range(200)}
    bred = {blocks for blocks in children if {"block.0", "block.1"} <= set(blocks) <= set(NAMES[:6])}
    assert len(bred) >= 4, "the two best have four children besides themselves"
    assert not children & judged.keys()


def test_what_is_too_slow_ranks_below_all_that_is_not() -> None:
    """The more accurate ones are too slow: parents are those within the limit, and the fastest of the others."""
    judged: dict[tuple[str, ...], float | None] = dict.fromkeys(combinations(NAMES, 1), 0.9)
    fast = tuple(NAMES[:5])
    judged |= {fast: 0.2, tuple(NAMES[1:6]): 0.3, tuple(NAMES[:6]): 0.1, tuple(NAMES[2:7]): 0.25}
    sizes = []
    for seed in range(60):
        child = next_by_genes(NAMES, judged, latency, trials=16, seed=seed, max_latency_ms=5.0)
        sizes.append(len(child))
    assert np.mean(sizes) > 4.5


def test_it_finds_more_than_chance_does() -> None:
    """Of 70 subsets 24 are judged: chance finds the best of 34%. Blocks hurt each other in some pairs."""
    found = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        harm, pair = draw.exponential(0.03, 8), draw.exponential(0.03, (8, 8)) * (draw.random((8, 8)) < 0.3)
        worth = {
            chosen: 0.9 - harm[list(index)].sum() - pair[np.ix_(index, index)].sum()
            for index in combinations(range(8), 4)
            for chosen in [tuple(NAMES[i] for i in index)]
        }
        judged: dict[tuple[str, ...], float | None] = {}
        for _ in range(24):
            blocks = next_by_genes(NAMES, judged, latency, trials=24, seed=seed, num_pruned=4)
            judged[blocks] = worth[blocks]
        found += max(worth.values()) in judged.values()
    assert found >= 18
