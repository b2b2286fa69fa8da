"""The four stages: supernet training, subnet search, progressive subnet training, merging.

Names load on first use, so that settings are read and refused before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from updp_rt.pruning.baseline import train_baseline
    from updp_rt.pruning.claim import RunError
    from updp_rt.pruning.config import PruneConfig, TrainConfig
    from updp_rt.pruning.latency import LatencyTable, measure_latency
    from updp_rt.pruning.pipeline import PruneResult, prune
    from updp_rt.pruning.run import Run
    from updp_rt.pruning.search import Candidate, SearchResult, search_blocks
    from updp_rt.pruning.trainer import DivergedError

_HOMES = {
    "Candidate": "search",
    "DivergedError": "trainer",
    "LatencyTable": "latency",
    "PruneConfig": "config",
    "PruneResult": "pipeline",
    "Run": "run",
    "RunError": "claim",
    "SearchResult": "search",
    "TrainConfig": "config",
    "measure_latency": "latency",
    "prune": "pipeline",
    "search_blocks": "search",
    "train_baseline": "baseline",
}

__all__ = [
    "Candidate",
    "DivergedError",
    "LatencyTable",
    "PruneConfig",
    "PruneResult",
    "Run",
    "RunError",
    "SearchResult",
    "TrainConfig",
    "measure_latency",
    "prune",
    "search_blocks",
    "train_baseline",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'updp_rt.pruning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"updp_rt.pruning.{_HOMES[name]}"), name)
