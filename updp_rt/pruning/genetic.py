"""A genetic search over subsets of blocks that never judges one twice.

A genome is the subset itself. Parents are drawn from the best so far, the better the likelier. A child has what both
have, and of what they differ in a random part, as many as there must be; then, now and then and whenever that is known
already, one block is exchanged for another, or, where no number is given, put in or left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence

Blocks = tuple[str, ...]

MUTATED = 0.2  # share of children that are changed though nobody knows them


def next_by_genes(
    names: Sequence[str],
    judged: Mapping[Blocks, float | None],
    latency_ms: Callable[[Blocks], float],
    *,
    trials: int,
    seed: int,
    num_pruned: int | None = None,
    max_latency_ms: float | None = None,
) -> Blocks:
    """The subset to judge next: there must be one that is not judged yet.

    Args:
        judged: accuracies so far; None: it is being judged.
        trials: how many are judged in all: generations have a quarter of them, 4 to 20.
        num_pruned: how many blocks are pruned; or `max_latency_ms`, the latency allowed: what is slower ranks below all
            that is not, the slower the lower (Deb, 2000).
    """
    population = max(4, min(20, trials // 4))
    rng = random.Random(f"{seed}/{len(judged)}")

    def rank(blocks: Blocks) -> tuple[float, float]:
        over = 0.0 if max_latency_ms is None else max(0.0, latency_ms(blocks) - max_latency_ms)
        return -over, judged[blocks] or 0.0

    known = [blocks for blocks, accuracy in judged.items() if accuracy is not None]
    parents = sorted(known, key=rank, reverse=True)[:population]
    if len(judged) < population or len(parents) < 2:
        child = _first(names, latency_ms, len(judged), population, num_pruned, rng)
    else:
        mother, father = (parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))] for _ in range(2))
        child = _cross(names, mother, father, num_pruned, rng)
        if rng.random() < MUTATED:
            child = _mutate(names, child, num_pruned, rng)
    while child in judged:
        child = _mutate(names, child, num_pruned, rng)
    return child


def _first(
    names: Sequence[str],
    latency_ms: Callable[[Blocks], float],
    index: int,
    population: int,
    num_pruned: int | None,
    rng: random.Random,
) -> Blocks:
    """Of the first generation: at random; without a number the fastest subset, and others of all sizes."""
    if num_pruned is None and index == 0:
        model_ms = latency_ms(())
        return tuple(name for name in names if latency_ms((name,)) < model_ms)
    size = num_pruned or len(names) - round((len(names) - 1) * min(1.0, index / (population - 1)))
    return _ordered(names, rng.sample(list(names), size))


def _cross(names: Sequence[str], one: Blocks, other: Blocks, num_pruned: int | None, rng: random.Random) -> Blocks:
    shared = set(one) & set(other)
    apart = [name for name in names if (name in one) != (name in other)]
    if num_pruned is None:
        return _ordered(names, shared | {name for name in apart if rng.random() < 0.5})
    return _ordered(names, shared | set(rng.sample(apart, num_pruned - len(shared))))


def _mutate(names: Sequence[str], blocks: Blocks, num_pruned: int | None, rng: random.Random) -> Blocks:
    if num_pruned is None and (rng.random() < 0.5 or len(blocks) in (0, len(names))):
        return _ordered(names, set(blocks) ^ {rng.choice(names)})
    if len(blocks) == len(names):
        return blocks
    kept = [name for name in names if name not in blocks]
    return _ordered(names, set(blocks) - {rng.choice(blocks)} | {rng.choice(kept)})


def _ordered(names: Sequence[str], chosen: Collection[str]) -> Blocks:
    return tuple(name for name in names if name in chosen)
