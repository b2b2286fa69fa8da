"""The search by tables: what it asks for, in which order, and that its program finds what there is."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from updp_rt.pruning.programming import best_subsets
from updp_rt.pruning.search import search_blocks
from updp_rt.pruning.tabulated import covers, next_by_tables


@pytest.mark.parametrize(("count", "size", "seed"), [(7, 3, 0), (6, 6, 1), (8, 1, 2), (6, 2, 3)])
def test_subsets_come_by_falling_sums_and_every_one_once(count: int, size: int, seed: int) -> None:
    rng = random.Random(seed)
    values = [rng.choice([-0.1, -0.3, rng.uniform(-1, 0.2)]) for _ in range(count)]
    found = list(best_subsets(values, size))
    assert sorted(found) == sorted(combinations(range(count), size))
    sums = [sum(values[i] for i in chosen) for chosen in found]
    assert sums == pytest.approx(sorted(sums, reverse=True))


@pytest.mark.parametrize("seed", range(4))
def test_the_first_cover_is_the_best_of_all_within_the_latency(seed: int) -> None:
    rng = random.Random(seed)
    values = tuple(rng.uniform(-0.3, 0.02) for _ in range(7))
    saved = tuple(rng.uniform(-0.2, 1.0) for _ in range(7))
    every = [chosen for size in range(8) for chosen in combinations(range(7), size)]
    allowed = -0.5 * sum(ms for ms in saved if ms > 0)

    def worth(chosen: tuple[int, ...]) -> float:
        return sum(values[i] for i in chosen)

    fitting = [chosen for chosen in every if -sum(saved[i] for i in chosen) <= allowed]
    found = covers(tuple("abcdefg"), values, saved, allowed, 5)
    assert found[0] == max(fitting, key=worth)
    assert set(found) <= set(fitting)
    assert len(found) == len(set(found)) <= 5


NAMES = [f"block.{i}" for i in range(6)]
HARM = dict(zip(NAMES, (0.20, 0.01, 0.02, 0.10, 0.15, 0.05), strict=True))


def accuracy(blocks: tuple[str, ...]) -> float:
    """Blocks that stand side by side hurt more together: what a sum does not know."""
    together = sum(0.10 for a, b in pairwise(NAMES) if a in blocks and b in blocks)
    return 0.9 - sum(HARM[name] for name in blocks) - together


def latency(blocks: tuple[str, ...]) -> float:
    return 10.0 - len(blocks)


def test_tables_first_then_covers_that_beat_the_sum_s_own_choice(tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []

    def judged(blocks: tuple[str, ...]) -> float:
        seen.append(blocks)
        return accuracy(blocks)

    candidates, chosen, _ = search_blocks(
        NAMES, judged, latency, storage=tmp_path / "s.journal", trials=17, engine="dp", num_pruned=3
    )
    assert seen[:7] == [(), *((name,) for name in NAMES)]
    assert seen[7] == ("block.1", "block.2", "block.5")
    assert len(seen) == len(set(seen)) == len(candidates) == 17
    assert all(len(blocks) == 3 for blocks in seen[7:])
    assert chosen.blocks == max(combinations(NAMES, 3), key=accuracy) == ("block.1", "block.3", "block.5")


@pytest.mark.parametrize("goal", [{"num_pruned": 2}, {"max_latency_ms": 6.5}, {}])
def test_every_goal_is_met_and_a_stopped_search_ends_the_same(tmp_path: Path, goal: dict[str, float]) -> None:
    def search(name: str, evaluate: Callable[[tuple[str, ...]], float] = accuracy) -> Any:
        path = tmp_path / f"{name}.journal"
        return search_blocks(NAMES, evaluate, latency, storage=path, trials=2, engine="dp", **goal)

    candidates, chosen, _ = search("whole")
    assert len(candidates) == 8, "one more than the tables, however few trials"
    if "num_pruned" in goal:
        assert len(chosen.blocks) == 2
    assert chosen.latency_ms <= goal.get("max_latency_ms", 9.0)
    calls = 0

    def dying(blocks: tuple[str, ...]) -> float:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return accuracy(blocks)

    with pytest.raises(KeyboardInterrupt):
        search("stopped", dying)
    assert search("stopped") == (candidates, chosen, None)


def test_others_are_waited_for_until_the_table_is_whole() -> None:
    judged: dict[tuple[str, ...], float | None] = {(): 0.9} | {(name,): accuracy((name,)) for name in NAMES}
    judged[(NAMES[2],)] = None
    assert next_by_tables(NAMES, judged, latency, trials=20, num_pruned=2) is None
    judged[(NAMES[2],)] = 0.88
    first = next_by_tables(NAMES, judged, latency, trials=20, num_pruned=2)
    assert first == ("block.1", "block.2")
    judged[first] = None  # at another process
    assert next_by_tables(NAMES, judged, latency, trials=20, num_pruned=2) == ("block.1", "block.5")
