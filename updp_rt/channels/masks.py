"""Which inputs each layer keeps: by score and budget, every layer for itself or in coupled groups."""

from __future__ import annotations

import fnmatch
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

import numpy as np
from numpy.typing import NDArray

from updp_rt.channels.atoms import Bools, Ints
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.importance import Scores
from updp_rt.channels.layout import channel_groups, count_params
from updp_rt.channels.trace import Consumer, Trace

SCOPES = ("local", "global")
# Most that a layer loses of its inputs under a global budget, unless its limit says otherwise.
MOST = 0.9
_NEVER = np.iinfo(np.int64).max


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
        amount: share to drop, 0 up to (not including) 1.
        scope: ``local``: that share of every layer's inputs (or of every coupled group). ``global``: that share of the
            model's parameters, dropping first whatever loses least score per parameter that goes with it. A channel
            that no layer reads any more takes the weights along that make it, so inputs may pay together which would
            not one by one. A head of attention loses what its values' readers do, and as much again for its keys.
        constrained: all layers that read a channel keep or drop it together, so that no channel is left which one of
            them does not read.
        limits: largest share of its inputs that a layer may lose, by pattern of layer names (``{"layer4.*": 0.2}``);
            the first that matches counts. Of others: all but one, and under ``global`` 0.9. Under `constrained` a
            group obeys the strictest of its layers.

    Raises:
        ChannelError: an amount or limit that is not a share, an amount beyond the limits, or an unknown scope.
    """
    limits = limits or {}
    check_budget(amount, scope, limits)
    for pattern in limits:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in trace.prunable):
            raise ChannelError(
                f"the limit {pattern!r} matches no layer; layers are {', '.join(list(trace.prunable)[:5])}, ..."
            )
    pools = {name: _pool(trace, consumer, scores[name]) for name, consumer in trace.prunable.items()}
    if scope == "global":
        return _choose_globally(trace, pools, amount, constrained, limits)
    if constrained:
        return _choose_in_groups(trace, pools, amount, limits)
    return {
        name: _keep(pool.totals / pool.counts, amount, _limit(limits, name, 1.0))[pool.index]
        for name, pool in pools.items()
    }


def check_budget(amount: float, scope: str, limits: Mapping[str, float]) -> None:
    """Raise `ChannelError` for an amount or limit that is not a share, or an unknown scope."""
    if not 0 <= amount < 1:
        raise ChannelError(f"amount is the share to drop, from 0 to below 1, not {amount}")
    if scope not in SCOPES:
        raise ChannelError(f"unknown scope {scope!r}: choose among {', '.join(SCOPES)}")
    for pattern, limit in limits.items():
        if not 0 <= limit < 1:
            raise ChannelError(f"the limit of {pattern!r} is a share from 0 to below 1, not {limit}")


@dataclass(frozen=True)
class _Pool:
    """The units that a consumer reads: which of them each input is of, their scores in all, their numbers of inputs."""

    units: Ints
    index: Ints
    totals: NDArray[np.float64]
    counts: Ints


def _pool(trace: Trace, consumer: Consumer, scores: NDArray[np.float64]) -> _Pool:
    units, index, counts = np.unique(trace.units[consumer.channels], return_inverse=True, return_counts=True)
    totals = np.bincount(index, scores).astype(np.float64)
    # Queries read keys as the layer behind attention reads values. Keys have no scores, so those of values count twice.
    totals[np.isin(units, list(trace.heads))] *= 2
    return _Pool(units, index.astype(np.int64), totals, counts.astype(np.int64))


def _choose_in_groups(
    trace: Trace, pools: Mapping[str, _Pool], amount: float, limits: Mapping[str, float]
) -> dict[str, Bools]:
    """A share of every group, whose channels score as the mean of those that read them."""
    total, readers, limit = np.zeros(trace.size), np.zeros(trace.size), np.ones(trace.size)
    for name, pool in pools.items():
        total[pool.units] += pool.totals
        readers[pool.units] += pool.counts
        limit[pool.units] = np.minimum(limit[pool.units], _limit(limits, name, 1.0))
    kept = np.ones(trace.size, dtype=np.bool_)
    left = (readers > 0) & ~np.isin(np.arange(trace.size), list(trace.closed))
    for group in channel_groups(trace):
        units = np.unique(trace.units[group])
        free = units[left[units]]
        left[free] = False
        if len(free):
            kept[free] = _keep(total[free] / readers[free], amount, float(limit[free].min()))
    return {name: kept[pool.units][pool.index] for name, pool in pools.items()}


def _keep(scores: NDArray[np.float64], amount: float, limit: float) -> Bools:
    """All but the lowest share of some scores."""
    width = len(scores)
    kept = np.ones(width, dtype=np.bool_)
    kept[np.argsort(scores, kind="stable")[: min(int(amount * width), int(limit * width), width - 1)]] = False
    return kept


@dataclass(frozen=True)
class _Reader:
    """A consumer that may drop a unit: the score that it loses, and the weights that it saves."""

    name: str
    lost: float
    saved: float

    @property
    def rate(self) -> float:
        return self.lost / self.saved


@dataclass(frozen=True)
class _Step:
    """A unit that some of its readers drop together, and the weights of its makers that go with it."""

    unit: int
    readers: tuple[_Reader, ...]
    makers: float = 0.0

    @property
    def rate(self) -> float:
        return sum(reader.lost for reader in self.readers) / (
            sum(reader.saved for reader in self.readers) + self.makers
        )


def _choose_globally(
    trace: Trace, pools: Mapping[str, _Pool], amount: float, constrained: bool, limits: Mapping[str, float]
) -> dict[str, Bools]:
    goes = _take(pools, _steps(trace, pools, constrained), constrained, limits)

    def masks(steps: int) -> dict[str, Bools]:
        return {name: when >= steps for name, when in goes.items()}

    def share(steps: int) -> float:
        return 1 - count_params(trace, masks(steps)) / total

    total = count_params(trace, {})
    last = max((int(when[when < _NEVER].max(initial=-1)) + 1 for when in goes.values()), default=0)
    if amount > share(last):
        raise ChannelError(
            f"{amount:.0%} of the parameters cannot be removed, {int(100 * share(last))}% can: layers may lose of "
            f"their inputs what `limits` say, and {MOST:.0%} where they say nothing"
        )
    return masks(bisect_left(range(last), amount, key=share))


def _steps(trace: Trace, pools: Mapping[str, _Pool], constrained: bool) -> Iterator[_Step]:
    """For every unit the steps by which its readers drop it, each dearer than the one before."""
    found: dict[int, list[_Reader]] = {}
    for name, pool in pools.items():
        columns = (pool.units, pool.totals, trace.consumers[name].weights * pool.counts)
        for unit, lost, saved in zip(*(column.tolist() for column in columns), strict=True):
            found.setdefault(unit, []).append(_Reader(name, lost, saved))
    makers = _maker_weights(trace)
    for unit, readers in found.items():
        if unit not in trace.closed:
            readers.sort(key=lambda reader: reader.rate)
            last = _Step(unit, (readers.pop(),), makers[unit])
            # The last reader takes the makers' weights along: others join it where that is cheaper than to go alone.
            while readers and (constrained or readers[-1].rate >= last.rate):
                last = _Step(unit, (readers.pop(), *last.readers), last.makers)
            yield last
        elif constrained:
            continue
        yield from (_Step(unit, (reader,)) for reader in readers)


def _maker_weights(trace: Trace) -> NDArray[np.float64]:
    """Parameters that go with each unit when nothing reads it: the filters that make it, what scales it."""
    weights = np.zeros(trace.size)
    for (name, dim), channels in trace.slots.items():
        owner, _, attribute = name.rpartition(".")
        if name in trace.parameters and not (owner in trace.consumers and attribute == "weight" and dim == 1):
            np.add.at(weights, trace.units[channels], np.prod(trace.parameters[name]) / len(channels))
    return weights


def _take(
    pools: Mapping[str, _Pool], steps: Iterable[_Step], constrained: bool, limits: Mapping[str, float]
) -> dict[str, Ints]:
    """When each input goes, the cheapest step first: ``[in_channels]`` by name, `_NEVER` where a limit keeps it."""
    goes, left = {}, {}
    for name, pool in pools.items():
        goes[name] = dict.fromkeys(pool.units.tolist(), _NEVER)
        left[name] = min(int(_limit(limits, name, MOST) * len(pool.units)), len(pool.units) - 1)
    ties = count()
    waiting = [(step.rate, next(ties), step) for step in steps]
    heapify(waiting)
    taken = count()
    while waiting:
        _, _, step = heappop(waiting)
        free = [reader for reader in step.readers if left[reader.name]]
        if len(free) == len(step.readers):
            number = next(taken)
            for reader in free:
                goes[reader.name][step.unit] = number
                left[reader.name] -= 1
        elif not constrained:  # the unit stays, so whoever may still drop it saves no more than its own weights
            for reader in free:
                heappush(waiting, (reader.rate, next(ties), _Step(step.unit, (reader,))))
    return {name: np.array(list(goes[name].values()), dtype=np.int64)[pool.index] for name, pool in pools.items()}


def _limit(limits: Mapping[str, float], name: str, default: float) -> float:
    return next((limit for pattern, limit in limits.items() if fnmatch.fnmatchcase(name, pattern)), default)
