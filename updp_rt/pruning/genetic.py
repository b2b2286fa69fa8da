"""A genetic search over subsets of blocks that never judges one twice.

A genome is the subset itself, with what becomes of each block that has a choice (`updp_rt.pruning.genes`). Parents
are drawn from the best so far, the better the likelier. A child has what both have, and of what they differ in a random
part, as many as there must be; then, now and then and whenever that is known already, one block is exchanged for
another, or, where no number is given, put in, left out, or given another body.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from updp_rt.pruning.genes import Genes, blocks_of, by_block, draw, fastest_genes, ordered, without_clashes

MUTATED = 0.2  # share of children that are changed though nobody knows them


def next_by_genes(
    names: Sequence[str],
    judged: Mapping[Genes, float | None],
    latency_ms: Callable[[Genes], float],
    *,
    trials: int,
    seed: int,
    num_pruned: int | None = None,
    max_latency_ms: float | None = None,
) -> Genes:
    """The subset to judge next: there must be one that is not judged yet.

    Args:
        names: all genes.
        judged: accuracies so far; None: it is being judged.
        trials: how many are judged in all: generations have a quarter of them, 4 to 20.
        num_pruned: how many blocks are pruned, none of which has a choice of bodies; or `max_latency_ms`, the latency
            allowed: what is slower ranks below all that is not, the slower the lower (Deb, 2000).
    """
    population = max(4, min(20, trials // 4))
    rng = random.Random(f"{seed}/{len(judged)}")

    def rank(genes: Genes) -> tuple[float, float]:
        over = 0.0 if max_latency_ms is None else max(0.0, latency_ms(genes) - max_latency_ms)
        return -over, judged[genes] or 0.0

    known = [genes for genes, accuracy in judged.items() if accuracy is not None]
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
    latency_ms: Callable[[Genes], float],
    index: int,
    population: int,
    num_pruned: int | None,
    rng: random.Random,
) -> Genes:
    """Of the first generation: at random; without a number the fastest subset, and others of all sizes."""
    if num_pruned is None and index == 0:
        return fastest_genes(names, latency_ms)
    return draw(names, num_pruned or size_of(names, index, population), rng)


def size_of(names: Sequence[str], index: int, population: int) -> int:
    """How many blocks the subset `index` of a first generation has where no number is given: from all to one."""
    blocks = len(by_block(names))
    return blocks - round((blocks - 1) * min(1.0, index / (population - 1)))


def _cross(names: Sequence[str], one: Genes, other: Genes, num_pruned: int | None, rng: random.Random) -> Genes:
    child = set(one) & set(other)
    if num_pruned is not None:
        apart = [name for name in names if (name in one) != (name in other)]
        return ordered(names, child | set(rng.sample(apart, num_pruned - len(child))))
    undecided = set(one) ^ set(other)
    for genes in by_block(names).values():
        apart = [gene for gene in genes if gene in undecided and without_clashes(child, gene) == child]
        undecided.difference_update(apart)
        if apart and rng.random() < 0.5:
            child.add(apart[0])
        elif len(apart) == 2:  # each parent has another body
            child.add(apart[1])
    return ordered(names, child)


def _mutate(names: Sequence[str], genes: Genes, num_pruned: int | None, rng: random.Random) -> Genes:
    blocks, pruned = by_block(names), set(blocks_of(*genes))
    if num_pruned is None and (rng.random() < 0.5 or len(pruned) in (0, len(blocks))):
        changed = rng.choice(names)
        others = without_clashes(genes, changed)
        return ordered(names, others if changed in genes else others | {changed})
    if len(pruned) == len(blocks):
        return genes
    kept = [gene for gene in names if pruned.isdisjoint(blocks_of(gene))]
    return ordered(names, set(genes) - {rng.choice(genes)} | {rng.choice(kept)})
