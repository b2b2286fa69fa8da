"""Genes: what a search puts together. A gene is a block to prune, and, of one with a choice, the pruned body it takes.

It is written as the block's name, or as ``BLOCK as BODY``. Genes of one block exclude each other. What a search judges
is a tuple of genes, in the order of the blocks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence

Genes = tuple[str, ...]

_AS = " as "


def genes_of(offered: Mapping[str, Sequence[str]]) -> Genes:
    """Every gene of blocks that may take these pruned bodies."""
    return tuple(
        name if len(bodies) == 1 else f"{name}{_AS}{body}" for name, bodies in offered.items() for body in bodies
    )


def block_of(gene: str) -> str:
    return gene.partition(_AS)[0]


def bodies_of(genes: Genes, offered: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The pruned blocks, and the body that each takes, of those that it may."""
    split = (gene.partition(_AS) for gene in genes)
    return {name: body or offered[name][0] for name, _, body in split}


def by_block(names: Sequence[str]) -> dict[str, list[str]]:
    """The genes of each block."""
    found: dict[str, list[str]] = {}
    for gene in names:
        found.setdefault(block_of(gene), []).append(gene)
    return found


def ordered(names: Sequence[str], chosen: Collection[str]) -> Genes:
    return tuple(gene for gene in names if gene in chosen)


def draw(names: Sequence[str], size: int, rng: random.Random) -> Genes:
    """Genes of so many blocks, at random."""
    chosen = rng.sample(list(by_block(names).values()), size)
    return ordered(names, {genes[0] if len(genes) == 1 else rng.choice(genes) for genes in chosen})


def count_subnets(names: Sequence[str], num_pruned: int | None = None) -> int:
    """How many there are: of so many blocks, or of any number."""
    blocks = by_block(names).values()
    return math.prod(1 + len(genes) for genes in blocks) if num_pruned is None else math.comb(len(blocks), num_pruned)


def fastest_genes(names: Sequence[str], latency_ms: Callable[[Genes], float]) -> Genes:
    """The genes that make the model faster, of each block the fastest: all of them together are the fastest subnet."""
    best = (min(genes, key=lambda gene: latency_ms((gene,))) for genes in by_block(names).values())
    return tuple(gene for gene in best if latency_ms((gene,)) < latency_ms(()))
