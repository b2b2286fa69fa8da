"""A search that knows what each block costs by itself before it puts blocks together.

The first trials prune one block each, as the search by tables does, and the next one is the subset that is best by the
sum. From there on it is the most promising exchange: a subset that was judged, but with one block put in, left out,
exchanged for another or given another body. What was judged holds what its blocks cost together, which a sum does not
know; and what the exchange changes, the tables say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from updp_rt.pruning.genes import Genes, blocks_of, ordered, without_clashes
from updp_rt.pruning.genetic import next_by_genes
from updp_rt.pruning.tabulated import best_by_sums, tables_of

PARENTS = 20  # that exchanges are made in: the best so far
_COVERS = 4  # where a latency is given: each takes a dynamic program


def next_guided(
    names: Sequence[str],
    judged: Mapping[Genes, float | None],
    latency_ms: Callable[[Genes], float],
    *,
    trials: int,
    seed: int,
    num_pruned: int | None = None,
    max_latency_ms: float | None = None,
) -> Genes | None:
    """The subset to judge next.

    It waits for nobody: a block that others are still judging counts as the mean of those that were.

    Args:
        names: all genes.
        judged: accuracies so far; None: it is being judged.
        trials: how many are judged in all.
        num_pruned: how many blocks are pruned, none of which has a choice of bodies; or `max_latency_ms`, the latency
            allowed: there must be a subset that is not judged yet. One of them is given.

    Returns:
        None: all subsets of so many blocks are judged.
    """
    tables = tables_of(names)
    for genes in tables:
        if genes not in judged:
            return genes
    values = _values(judged, names)
    if len(judged) > len(tables):

        def meets(genes: Genes) -> bool:
            return len(genes) == num_pruned if max_latency_ms is None else latency_ms(genes) <= max_latency_ms

        known = {genes: accuracy for genes, accuracy in judged.items() if accuracy is not None and meets(genes)}
        promised: dict[Genes, float] = {}
        for parent in sorted(known, key=lambda genes: -known[genes])[:PARENTS]:
            for child, change in _exchanges(names, parent, values):
                promised[child] = max(promised.get(child, change), known[parent] + change)
        for child in sorted(promised, key=lambda genes: -promised[genes]):
            if child not in judged and meets(child):
                return child
    count = _COVERS if num_pruned is None else len(judged) + 1
    for genes in best_by_sums(names, tuple(values.values()), latency_ms, count, num_pruned, max_latency_ms):
        if genes not in judged:
            return genes
    if num_pruned is not None:
        return None
    return next_by_genes(names, judged, latency_ms, trials=trials, seed=seed, max_latency_ms=max_latency_ms)


def _values(judged: Mapping[Genes, float | None], names: Sequence[str]) -> dict[str, float]:
    """What each gene adds to the accuracy by itself."""
    known = {name: accuracy for name in names if (accuracy := judged[(name,)]) is not None}
    if not known:
        return dict.fromkeys(names, 0.0)
    mean, model = sum(known.values()) / len(known), judged[()]
    return {name: known.get(name, mean) - (max(known.values()) if model is None else model) for name in names}


def _exchanges(names: Sequence[str], parent: Genes, values: Mapping[str, float]) -> Iterator[tuple[Genes, float]]:
    """What differs from `parent` in one gene, or in two, one pruned in each; and what that adds by itself.

    A gene of several blocks takes the place of all that prune them.
    """
    for out in (None, *parent):
        kept = {gene for gene in parent if gene != out}
        if out is not None:
            yield ordered(names, kept), -values[out]
        for gene in names:
            beside = without_clashes(kept, gene)
            if gene != out and (beside == kept or len(blocks_of(gene)) > 1):
                lost = sum(values[each] for each in parent if each not in beside)
                yield ordered(names, {*beside, gene}), values[gene] - lost
