"""Goals of a search that cannot be reached are refused before anything is trained, and told what can be."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_num_pruned(names: Sequence[str], num_pruned: int | None) -> None:
    """Raise `ValueError` where there are not so many blocks to prune."""
    if num_pruned is not None and not 1 <= num_pruned <= len(names):
        raise ValueError(f"num_pruned is {num_pruned}, but this model has {len(names)} prunable blocks")


def check_latency(model_ms: float, fastest_ms: float, max_latency_ms: float | None, *, speedup: bool = False) -> None:
    """Raise `ValueError` where no subnet is within `max_latency_ms`, or, where that is None, faster than the model.

    Args:
        speedup: whether the user gave a speed-up, and is told of those that can be reached.
    """
    if fastest_ms < model_ms and (max_latency_ms is None or fastest_ms <= max_latency_ms):
        return
    if fastest_ms >= model_ms:
        raise ValueError(
            f"no subnet is faster than the model ({model_ms:.3g} ms): by the latency table no block is faster pruned; "
            "give a number of blocks (--num-pruned) to prune all the same"
        )
    assert max_latency_ms is not None
    reached = f"with every block pruned that helps it takes {fastest_ms:.3g} ms by the latency table"
    if speedup:
        most = math.floor(100 * model_ms / fastest_ms) / 100
        raise ValueError(
            f"no subnet is {model_ms / max_latency_ms:.3g} times as fast as the model ({model_ms:.3g} ms): {reached}, "
            + (f"{most:g} times as fast; ask for {most:g} or less" if most > 1 else "hardly any faster")
        )
    least = math.ceil(100 * fastest_ms / model_ms) / 100
    raise ValueError(
        f"no subnet is within {max_latency_ms:.3g} ms ({max_latency_ms / model_ms:.3g} of the model's "
        f"{model_ms:.3g} ms): {reached}; " + (f"allow {least:g} or more" if least < 1 else "hardly any faster")
    )
