"""A search by tables: each block pruned by itself, and then the subsets that are best by the sum of what that costs.

The latency of a subset is a sum over its blocks by the run's table, and so, here, is its accuracy: a dynamic program
then finds the best subset within a latency. What blocks cost together, a sum does not know: so not the best alone is
judged, but as many of the best as there are trials left. A block with a choice of pruned bodies is judged in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from updp_rt.pruning.genes import Genes, largest_sum, spans
from updp_rt.pruning.programming import Entry, best_cover, best_subsets

TABULATED = ("dp", "guided")  # engines that judge each gene by itself first


def next_by_tables(
    names: Sequence[str],
    judged: Mapping[Genes, float | None],
    latency_ms: Callable[[Genes], float],
    *,
    trials: int,
    num_pruned: int | None = None,
    max_latency_ms: float | None = None,
) -> Genes | None:
    """The subset to judge next.

    Args:
        names: all genes.
        judged: accuracies so far; None: it is being judged.
        trials: how many are judged in all, but at least one beyond the tables.
        num_pruned: how many blocks are pruned, none of which has a choice of bodies; or `max_latency_ms`, the latency
            allowed; or neither: the front.

    Returns:
        None: the tables are being filled, or nothing is left to judge.
    """
    tables = tables_of(names)
    missing = [genes for genes in tables if genes not in judged]
    if missing:
        return missing[0]
    accuracies = [accuracy for genes in tables if (accuracy := judged[genes]) is not None]
    if len(accuracies) < len(tables):
        return None
    values = tuple(accuracy - accuracies[0] for accuracy in accuracies[1:])
    best = best_by_sums(names, values, latency_ms, max(1, trials - len(tables)), num_pruned, max_latency_ms)
    return next((genes for genes in best if genes not in judged), None)


def tables_of(names: Sequence[str]) -> list[Genes]:
    """What the tables are made of: nothing pruned, and each gene by itself."""
    return [(), *((name,) for name in names)]


def best_by_sums(
    names: Sequence[str],
    values: tuple[float, ...],
    latency_ms: Callable[[Genes], float],
    count: int,
    num_pruned: int | None,
    max_latency_ms: float | None,
) -> Iterator[Genes]:
    """At most so many subsets of two blocks or more, the best first by the sum of what genes add to the accuracy."""
    if num_pruned is None:
        model_ms = latency_ms(())
        saved = tuple(model_ms - latency_ms((name,)) for name in names)
        allowed = model_ms if max_latency_ms is None else max_latency_ms
        best: Iterable[tuple[int, ...]] = covers(tuple(names), values, saved, allowed - model_ms, count)
    else:
        best = islice(best_subsets(values, num_pruned), count if num_pruned > 1 else 0)
    return (tuple(names[i] for i in chosen) for chosen in best)


def count_trials(engine: str | None, genes: int, trials: int) -> int:
    """How many subsets of so many genes an engine judges, at most: by tables at least one that they are put into."""
    return max(trials, genes + 2) if engine in TABULATED else trials


@lru_cache(maxsize=2)
def covers(
    names: Genes, values: tuple[float, ...], saved: tuple[float, ...], allowed: float, count: int
) -> tuple[tuple[int, ...], ...]:
    """So many subsets of two genes or more, as indices: the best within a latency, and within less and less of it.

    Args:
        names: all genes.
        values: what each gene adds to the accuracy.
        saved: milliseconds that it saves.
        allowed: milliseconds beyond the model's; below 0 if it must be faster.
    """
    places = spans(names)
    most = [0.0] * (1 + max(last for _, last in places))
    for (first, last), ms in zip(places, saved, strict=True):
        for place in range(first, last + 1):
            most[place] = max(most[place], ms / (last + 1 - first))
    slack = allowed + sum(most)
    # Milliseconds beyond what no subset can save more than: of each block, what another choice would have saved.
    entries = [Entry(place, place, ms, 0.0) for place, ms in enumerate(most)]
    for i, (first, last) in enumerate(places):
        entries.append(Entry(first, last, sum(most[first : last + 1]) - saved[i], values[i], str(i)))
    found: dict[tuple[int, ...], None] = {}
    steps = 2 * count  # some of them give what is known already
    for step in (*range(0, steps, 2), *range(1, steps, 2)):
        cover = best_cover(len(most), entries, slack * (1 - step / steps))
        if cover is not None:
            found[tuple(int(entry.key) for entry in cover if entry.key)] = None
    found[tuple(map(names.index, largest_sum(names, saved)))] = None
    return tuple(chosen for chosen in found if len(chosen) > 1)[:count]
