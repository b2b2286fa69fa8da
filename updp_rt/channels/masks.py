"""Which inputs each layer keeps: by score and budget, every layer for itself or in coupled groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import numpy as np

from updp_rt.channels.atoms import Bools, Ints
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.importance import Scores
from updp_rt.channels.layout import channel_groups
from updp_rt.channels.trace import Trace

SCOPES = ("local", "global")


def choose_masks(
    trace: Trace,
    scores: Scores,
    amount: float,
    *,
    scope: str = "global",
    constrained: bool = False,
    limits: Mapping[str, float] | None = None,
) -> dict[str, Bools]:
    """Which inputs every prunable consumer keeps: ``[in_channels]`` bool, by name.

    Args:
        scores: of every consumer's inputs, as `score_inputs` gives them; the lowest are dropped.
        amount: share of the inputs to drop, 0 up to (not including) 1.
        scope: ``local``: that share of every layer (or coupled group); ``global``: of all together, whichever score
            lowest.
        constrained: all layers that read a channel keep or drop it together, so that no channel is left which one of
            them does not read. Its score is the mean of theirs.
        limits: largest share that may be dropped, by pattern of layer names (``{"layer4.*": 0.2}``); the first that
            matches counts. Under `constrained` a group obeys the strictest of its layers.

    Raises:
        ChannelError: an amount or limit that is no share, or an unknown scope.
    """
    if not 0 <= amount < 1:
        raise ChannelError(f"amount is the share of channels to drop, from 0 to below 1, not {amount}")
    if scope not in SCOPES:
        raise ChannelError(f"unknown scope {scope!r}: choose among {', '.join(SCOPES)}")
    for pattern, limit in (limits or {}).items():
        if not 0 <= limit < 1:
            raise ChannelError(f"the limit of {pattern!r} is a share from 0 to below 1, not {limit}")
        if not any(fnmatch.fnmatchcase(name, pattern) for name in trace.prunable):
            raise ChannelError(
                f"the limit {pattern!r} matches no layer; layers are {', '.join(list(trace.prunable)[:5])}, ..."
            )
    if constrained:
        return _constrained(trace, scores, amount, scope, limits or {})
    pools = {}
    for name, consumer in trace.prunable.items():
        channels, first = np.unique(consumer.channels, return_index=True)
        pools[name] = (channels, scores[name][first], _limit(limits or {}, name))
    kept = _fill(pools, amount, scope)
    return {name: np.isin(consumer.channels, kept[name]) for name, consumer in trace.prunable.items()}


def _constrained(
    trace: Trace, scores: Scores, amount: float, scope: str, limits: Mapping[str, float]
) -> dict[str, Bools]:
    total, readers, limit = np.zeros(trace.size), np.zeros(trace.size), np.ones(trace.size)
    for name, consumer in trace.prunable.items():
        np.add.at(total, consumer.channels, scores[name])
        np.add.at(readers, consumer.channels, 1)
        limit[consumer.channels] = np.minimum(limit[consumer.channels], _limit(limits, name))
    pools = {}
    for group in channel_groups(trace):
        free = np.array([c for c in group.tolist() if readers[c] and c not in trace.closed], dtype=np.int64)
        if len(free):
            pools[str(free[0])] = (free, total[free] / readers[free], float(limit[free].min()))
    kept = np.ones(trace.size, dtype=np.bool_)
    chosen = _fill(pools, amount, scope)
    for name, (channels, _, _) in pools.items():
        kept[channels] = np.isin(channels, chosen[name])
    return {name: kept[consumer.channels] for name, consumer in trace.prunable.items()}


def _fill(
    pools: Mapping[str, tuple[Ints, np.ndarray[tuple[int], np.dtype[np.float64]], float]], amount: float, scope: str
) -> dict[str, Ints]:
    """What every pool of (channels, scores, limit) keeps."""
    ranked = {name: np.argsort(scores, kind="stable") for name, (_, scores, _) in pools.items()}
    most = {name: min(int(limit * len(channels)), len(channels) - 1) for name, (channels, _, limit) in pools.items()}
    if scope == "local":
        dropped = {name: min(int(amount * len(pools[name][0])), most[name]) for name in pools}
    else:
        offers = sorted(
            (float(pools[name][1][index]), name) for name in pools for index in ranked[name][: most[name]].tolist()
        )
        budget = int(amount * sum(len(channels) for channels, _, _ in pools.values()))
        dropped = dict.fromkeys(pools, 0)
        for _, name in offers[:budget]:
            dropped[name] += 1
    return {name: channels[ranked[name][dropped[name] :]] for name, (channels, _, _) in pools.items()}


def _limit(limits: Mapping[str, float], name: str) -> float:
    return next((limit for pattern, limit in limits.items() if fnmatch.fnmatchcase(name, pattern)), 1.0)
