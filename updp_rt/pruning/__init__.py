"""The four stages: supernet training, subnet search, progressive subnet training, merging."""

from updp_rt.pruning.claim import RunError
from updp_rt.pruning.config import PruneConfig
from updp_rt.pruning.latency import LatencyTable, measure_latency
from updp_rt.pruning.pipeline import PruneResult, prune
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import Candidate, SearchResult, search_blocks
from updp_rt.pruning.trainer import DivergedError

__all__ = [
    "Candidate",
    "DivergedError",
    "LatencyTable",
    "PruneConfig",
    "PruneResult",
    "Run",
    "RunError",
    "SearchResult",
    "measure_latency",
    "prune",
    "search_blocks",
]
