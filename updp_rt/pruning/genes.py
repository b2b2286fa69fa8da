"""Genes: what a search puts together. A gene is a block to prune, and, of one with a choice, the pruned body it takes.

It is written as the block's name, or as ``BLOCK as BODY``. Two neighbours that are pruned into one convolution are one
gene, too: ``BLOCK+BLOCK``. Genes that have a block in common exclude each other. What a search judges is a tuple of
genes, in the order of the blocks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

Genes = tuple[str, ...]

Segments = Mapping[str, Mapping[str, str]]  # what becomes of the blocks of each gene of several

_AS, _AND = " as ", "+"


def genes_of(offered: Mapping[str, Sequence[str]], segments: Segments = MappingProxyType({})) -> Genes:
    """Every gene of blocks that may take these pruned bodies, and of those that may be joined."""
    found = []
    for name, bodies in offered.items():
        found += [name if len(bodies) == 1 else f"{name}{_AS}{body}" for body in bodies]
        found += [gene for gene in segments if blocks_of(gene)[0] == name]
    return tuple(found)


def segment_of(blocks: Iterable[str]) -> str:
    """The gene of blocks that are joined."""
    return _AND.join(blocks)


def blocks_of(*genes: str) -> tuple[str, ...]:
    """The blocks that these genes prune."""
    return tuple(block for gene in genes for block in gene.partition(_AS)[0].split(_AND))


def bodies_of(
    genes: Genes, offered: Mapping[str, Sequence[str]], segments: Segments = MappingProxyType({})
) -> dict[str, str]:
    """The pruned blocks, and the body that each takes, of those that it may; a joined one with its link."""
    found: dict[str, str] = {}
    for gene in genes:
        name, _, body = gene.partition(_AS)
        found |= segments[gene] if gene in segments else {name: body or offered[name][0]}
    return found


def by_block(names: Sequence[str]) -> dict[str, list[str]]:
    """The genes that prune each block."""
    found: dict[str, list[str]] = {}
    for gene in names:
        for block in blocks_of(gene):
            found.setdefault(block, []).append(gene)
    return found


def without_clashes(genes: Iterable[str], gene: str) -> set[str]:
    """Those of `genes` that may stand beside another."""
    blocks = set(blocks_of(gene))
    return {each for each in genes if blocks.isdisjoint(blocks_of(each))}


def ordered(names: Sequence[str], chosen: Collection[str]) -> Genes:
    return tuple(gene for gene in names if gene in chosen)


def draw(names: Sequence[str], size: int, rng: random.Random) -> Genes:
    """Genes of so many blocks, at random."""
    blocks = by_block(names)
    free = dict.fromkeys(rng.sample(list(blocks), size))
    chosen = set()
    while free:
        fitting = [gene for gene in blocks[next(iter(free))] if free.keys() >= set(blocks_of(gene))]
        gene = fitting[0] if len(fitting) == 1 else rng.choice(fitting)
        chosen.add(gene)
        for block in blocks_of(gene):
            del free[block]
    return ordered(names, chosen)


def spans(names: Sequence[str]) -> list[tuple[int, int]]:
    """The first and the last block of each gene, counted from 0."""
    index = {block: place for place, block in enumerate(by_block(names))}
    return [(index[blocks[0]], index[blocks[-1]]) for blocks in map(blocks_of, names)]


def count_subnets(names: Sequence[str], num_pruned: int | None = None) -> int:
    """How many there are: of so many blocks, or of any number."""
    blocks = len(by_block(names))
    if num_pruned is not None:
        return math.comb(blocks, num_pruned)
    ways = [1]  # of the first blocks
    for block in range(blocks):
        ways.append(ways[block] + sum(ways[first] for first, last in spans(names) if last == block))
    return ways[-1]


def largest_sum(names: Sequence[str], values: Sequence[float]) -> Genes:
    """The genes whose values have the largest sum, none of them without a value above 0."""
    best: list[tuple[float, Genes]] = [(0.0, ())]  # of the first blocks
    for block in range(len(by_block(names))):
        found = best[block]
        for gene, value, (first, last) in zip(names, values, spans(names), strict=True):
            if last == block and value > 0 and best[first][0] + value > found[0]:
                found = best[first][0] + value, (*best[first][1], gene)
        best.append(found)
    return best[-1][1]


def fastest_genes(names: Sequence[str], latency_ms: Callable[[Genes], float]) -> Genes:
    """The genes of the fastest subnet: those that save the most together."""
    return largest_sum(names, [latency_ms(()) - latency_ms((gene,)) for gene in names])
