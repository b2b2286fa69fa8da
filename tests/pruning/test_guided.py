"""The guided search: what it asks for and in which order, and that it finds no less than tables and genes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.marks import slow
from tests.pruning.test_genes import EVERY, OFFERED
from tests.pruning.test_search import NAMES, accuracy, dying, latency, search
from updp_rt.pruning import PruneConfig
from updp_rt.pruning.genes import Genes, genes_of
from updp_rt.pruning.genetic import next_by_genes
from updp_rt.pruning.guided import next_guided
from updp_rt.pruning.search import search_blocks
from updp_rt.pruning.tabulated import next_by_tables


def test_single_blocks_come_first_then_the_best_sum_then_exchanges() -> None:
    """Harmless alone are blocks 1, 3 and 5; together 1 and 3 hurt."""
    judged: dict[Genes, float | None] = {}
    asked: list[Genes] = []
    for _ in range(14):
        asked.append(next_guided(NAMES, judged, latency, trials=14, seed=0, num_pruned=3))
        together = 0.3 * ({"block.1", "block.3"} <= {*asked[-1]})
        judged[asked[-1]] = accuracy(asked[-1]) - together
    assert asked[:9] == [(), *((name,) for name in NAMES)]
    assert asked[9] == ("block.1", "block.3", "block.5")
    assert asked[10] == ("block.1", "block.3", "block.6"), "nothing tells yet which two of them it was"
    assert all(len(genes) == 3 for genes in asked[9:])
    assert ("block.1", "block.5", "block.6") in asked[11:13], "the best there is"


def test_it_waits_for_nobody() -> None:
    """Blocks, the model itself and whole subsets may be at other workers: something else is asked for."""
    judged: dict[Genes, float | None] = {}
    for index in range(40):
        child = next_guided(NAMES, judged, latency, trials=40, seed=0, num_pruned=3)
        assert child not in judged
        judged[child] = None if index % 3 == 0 or index < 12 else accuracy(child)
    late: dict[Genes, float | None] = {}
    for index in range(26):
        child = next_guided(NAMES, late, latency, trials=40, seed=0, max_latency_ms=6.0)
        assert child not in late
        late[child] = None
        if index >= 16:  # all come back, and from then on it knows what to ask for
            assert index == 16 or latency(child) <= 6.0
            late |= {genes: accuracy(genes) for genes in late}


def test_with_bodies_all_that_is_fast_enough_comes_before_what_is_not() -> None:
    names, judged = genes_of(OFFERED), dict[Genes, float | None]()
    saved = dict(zip(names, (2.0, 1.0, 1.5, 2.0, 0.5, -0.5), strict=True))

    def ms(genes: Genes) -> float:
        return 10.0 - sum(saved[gene] for gene in genes)

    for index in range(len(EVERY)):
        child = next_guided(names, judged, ms, trials=99, seed=0, max_latency_ms=7.5)
        assert child in EVERY
        judged[child] = 0.9 - 0.01 * index
    rest = [ms(genes) <= 7.5 for genes in list(judged)[len(names) + 1 :]]
    assert sorted(rest, reverse=True) == rest
    assert sum(rest) == sum(ms(genes) <= 7.5 for genes in EVERY)


def test_few_trials_are_made_enough_and_it_ends_where_all_of_a_number_are_judged(tmp_path: Path) -> None:
    few, chosen, _ = search(tmp_path / "few", trials=4, engine="guided")
    assert [c.blocks for c in few[:9]] == [(), *((name,) for name in NAMES)]
    assert len(few) == 10
    assert chosen == few[-1]
    every, best, _ = search(tmp_path / "all", trials=200, engine="guided")
    assert len(every) == 9 + math.comb(8, 3)
    assert best.accuracy == max(c.accuracy for c in every if len(c.blocks) == 3)
    alone, _, _ = search(tmp_path / "alone", trials=20, engine="guided", num_pruned=1)
    assert [c.blocks for c in alone] == [(), *((name,) for name in NAMES)]
    with pytest.raises(ValidationError, match="search=guided needs a number of blocks or a latency"):
        PruneConfig(front=True, search="guided")


Next = Callable[..., Genes | None]


def drawn(blocks: int, seed: int, noise: float) -> Callable[[Genes], float]:
    """Accuracies: what blocks cost alone, what some pairs cost or gain beside that, and noise."""
    draw = np.random.default_rng(seed)
    harm, sign = draw.exponential(0.03, blocks), 1 if seed % 2 else draw.choice([-1, 1], (blocks, blocks))
    pair = np.triu(sign * draw.exponential(0.03, (blocks, blocks)) * (draw.random((blocks, blocks)) < 0.3), 1)

    def worth(genes: Genes) -> float:
        index = [int(gene) for gene in genes]
        own = np.random.default_rng([seed, *index]).normal() if noise else 0.0
        return float(0.9 - harm[index].sum() - pair[np.ix_(index, index)].sum() + noise * own)

    return worth


@pytest.mark.parametrize(
    ("blocks", "trials", "noise", "goal"),
    [
        (7, 18, 0.0, "number"),
        (7, 18, 0.005, "latency"),
        slow(8, 24, 0.0, "number"),
        slow(8, 24, 0.005, "number"),
        slow(8, 48, 0.005, "number"),
        slow(12, 24, 0.0, "number"),
        slow(12, 48, 0.005, "number"),
        slow(8, 24, 0.0, "latency"),
        slow(8, 48, 0.005, "latency"),
        slow(10, 32, 0.0, "latency"),
    ],
)
def test_the_optimum_is_found_at_least_as_often_as_by_tables_or_genes(
    blocks: int, trials: int, noise: float, goal: str
) -> None:
    names, draws = [str(i) for i in range(blocks)], 24
    found = dict.fromkeys(("guided", "dp", "genetic"), 0)
    for seed in range(draws):
        worth = drawn(blocks, seed, noise)
        saved = np.random.default_rng(seed + 1000).uniform(0.1, 1.0, blocks)
        wanted: dict[str, Any] = {"num_pruned": blocks // 2}
        if goal == "latency":
            wanted = {"max_latency_ms": 10.0 - 0.4 * saved.sum()}

        def ms(genes: Genes, saved: Any = saved) -> float:
            return 10.0 - float(sum(saved[int(gene)] for gene in genes))

        def meets(genes: Genes, ms: Any = ms, wanted: Any = wanted) -> bool:
            return len(genes) == wanted["num_pruned"] if goal == "number" else ms(genes) <= wanted["max_latency_ms"]

        every = (genes for size in range(blocks + 1) for genes in combinations(names, size))
        best = max(worth(genes) for genes in every if meets(genes))
        engines: dict[str, tuple[Next, dict[str, Any]]] = {
            "guided": (next_guided, {"seed": seed}),
            "dp": (next_by_tables, {}),
            "genetic": (next_by_genes, {"seed": seed}),
        }
        for name, (propose, own) in engines.items():
            judged: dict[Genes, float | None] = {}
            for _ in range(trials):
                genes = propose(names, judged, ms, trials=trials, **own, **wanted)
                if genes is None:
                    break
                judged[genes] = worth(genes)
            found[name] += best in [value for genes, value in judged.items() if meets(genes)]
    assert found["guided"] >= max(found["dp"], found["genetic"]), found
    assert found["guided"] > draws // 4, found


def test_a_search_by_it_is_resumed_and_every_goal_met(tmp_path: Path) -> None:
    for goal in ({"num_pruned": 3}, {"max_latency_ms": 6.0}):
        path = tmp_path / f"{goal}.journal"
        first = search_blocks(NAMES, accuracy, latency, storage=path, trials=20, engine="guided", **goal)
        assert search_blocks(NAMES, accuracy, latency, storage=path, trials=20, engine="guided", **goal) == first
        assert len({c.blocks for c in first[0]}) == len(first[0]) == 20
        best = max(c.accuracy for c in first[0] if len(c.blocks) == goal.get("num_pruned") or c.latency_ms <= 6.0)
        assert first[1].accuracy == best


@pytest.mark.parametrize(("engine", "goal"), [("genetic", {"num_pruned": 3}), ("front", {"max_latency_ms": 6.0})])
def test_a_search_that_was_begun_in_another_way_goes_on(tmp_path: Path, engine: Any, goal: dict[str, Any]) -> None:
    """What that judged counts."""
    path = tmp_path / "study.journal"
    with pytest.raises(KeyboardInterrupt):
        search_blocks(NAMES, dying(accuracy, 9), latency, storage=path, trials=20, engine=engine, **goal)
    candidates, chosen, _ = search_blocks(NAMES, accuracy, latency, storage=path, trials=20, engine="guided", **goal)
    assert len({c.blocks for c in candidates}) == len(candidates) == 20
    assert len([c for c in candidates[:8] if len(c.blocks) > 1]) >= 7
    meeting = [
        c
        for c in candidates
        if len(c.blocks) == goal.get("num_pruned") or c.latency_ms <= goal.get("max_latency_ms", 0)
    ]
    assert chosen == max(meeting, key=lambda c: (c.accuracy, -c.latency_ms))
