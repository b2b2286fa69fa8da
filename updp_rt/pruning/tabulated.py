"""A search by tables: each block pruned by itself, and then the subsets that are best by the sum of what that costs.

The latency of a subset is a sum over its blocks by the run's table, and so, here, is its accuracy: a dynamic program
then finds the best subset within a latency. What blocks cost together, a sum does not know: so not the best alone is
judged, but as many of the best as there are trials left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from updp_rt.pruning.programming import Entry, best_cover, best_subsets

Blocks = tuple[str, ...]


def next_by_tables(
    names: Sequence[str],
    judged: Mapping[Blocks, float | None],
    latency_ms: Callable[[Blocks], float],
    *,
    trials: int,
    num_pruned: int | None = None,
    max_latency_ms: float | None = None,
) -> Blocks | None:
    """The subset to judge next.

    Args:
        judged: accuracies so far; None: it is being judged.
        trials: how many are judged in all, but at least one beyond the tables.
        num_pruned: how many blocks are pruned; or `max_latency_ms`, the latency allowed; or neither: the front.

    Returns:
        None: the tables are being filled, or nothing is left to judge.
    """
    tables: list[Blocks] = [(), *((name,) for name in names)]
    missing = [blocks for blocks in tables if blocks not in judged]
    if missing:
        return missing[0]
    accuracies = [accuracy for blocks in tables if (accuracy := judged[blocks]) is not None]
    if len(accuracies) < len(tables):
        return None
    values = tuple(accuracy - accuracies[0] for accuracy in accuracies[1:])
    left = max(1, trials - len(tables))
    if num_pruned is None:
        model_ms = latency_ms(())
        saved = tuple(model_ms - latency_ms((name,)) for name in names)
        allowed = model_ms if max_latency_ms is None else max_latency_ms
        best = covers(values, saved, allowed - model_ms, left)
    else:
        best = tuple(islice(best_subsets(values, num_pruned), left if num_pruned > 1 else 0))
    return next((b for chosen in best if (b := tuple(names[i] for i in chosen)) not in judged), None)


def count_by_tables(names: Sequence[str], trials: int) -> int:
    """The most subsets that `next_by_tables` gives."""
    return max(trials, len(names) + 2)


@lru_cache(maxsize=2)
def covers(
    values: tuple[float, ...], saved: tuple[float, ...], allowed: float, count: int
) -> tuple[tuple[int, ...], ...]:
    """So many subsets of two blocks or more, as indices: the best within a latency, and within less and less of it.

    Args:
        values: what pruning each block adds to the accuracy.
        saved: milliseconds that it saves.
        allowed: milliseconds beyond the model's; below 0 if it must be faster.
    """
    slack = allowed + sum(ms for ms in saved if ms > 0)
    # Milliseconds beyond the fastest subset's: of a block that is kept, what pruning it would have saved.
    entries = [
        entry
        for i, (ms, value) in enumerate(zip(saved, values, strict=True))
        for entry in (Entry(i, i, max(0.0, ms), 0.0), Entry(i, i, max(0.0, -ms), value, "pruned"))
    ]
    found: dict[tuple[int, ...], None] = {}
    steps = 2 * count  # some of them give what is known already
    for step in (*range(0, steps, 2), *range(1, steps, 2)):
        cover = best_cover(len(values), entries, slack * (1 - step / steps))
        if cover is not None:
            found[tuple(entry.first for entry in cover if entry.key)] = None
    found[tuple(i for i, ms in enumerate(saved) if ms > 0)] = None
    return tuple(chosen for chosen in found if len(chosen) > 1)[:count]
