"""Which inputs each layer keeps: by score and budget, every layer for itself or in coupled groups."""

from __future__ import annotations

import fnmatch
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from updp_rt.channels.atoms import Bools, Ints
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.importance import Scores
from updp_rt.channels.layout import channel_groups, count_params
from updp_rt.channels.trace import Trace

SCOPES = ("local", "global")
# Most that a layer loses of its inputs under a global budget, unless its limit says otherwise.
MOST = 0.9


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
            not one by one.
        constrained: all layers that read a channel keep or drop it together, so that no channel is left which one of
            them does not read.
        limits: largest share of its inputs that a layer may lose, by pattern of layer names (``{"layer4.*": 0.2}``);
            the first that matches counts. Of others: all but one, and under ``global`` 0.9. Under `constrained` a
            group obeys the strictest of its layers.

    Raises:
        ChannelError: an amount or limit that is no share, an amount that the limits do not let go, or an unknown scope.
    """
    limits = limits or {}
    if not 0 <= amount < 1:
        raise ChannelError(f"amount is the share to drop, from 0 to below 1, not {amount}")
    if scope not in SCOPES:
        raise ChannelError(f"unknown scope {scope!r}: choose among {', '.join(SCOPES)}")
    for pattern, limit in limits.items():
        if not 0 <= limit < 1:
            raise ChannelError(f"the limit of {pattern!r} is a share from 0 to below 1, not {limit}")
        if not any(fnmatch.fnmatchcase(name, pattern) for name in trace.prunable):
            raise ChannelError(
                f"the limit {pattern!r} matches no layer; layers are {', '.join(list(trace.prunable)[:5])}, ..."
            )
    if scope == "global":
        return _choose_globally(trace, scores, amount, constrained, limits)
    if constrained:
        return _choose_in_groups(trace, scores, amount, limits)
    masks = {}
    for name, consumer in trace.prunable.items():
        channels, first = np.unique(consumer.channels, return_index=True)
        kept = channels[_keep(scores[name][first], amount, _limit(limits, name, 1.0))]
        masks[name] = np.isin(consumer.channels, kept)
    return masks


def _choose_in_groups(trace: Trace, scores: Scores, amount: float, limits: Mapping[str, float]) -> dict[str, Bools]:
    """A share of every group, whose channels score as the mean of those that read them."""
    total, readers, limit = np.zeros(trace.size), np.zeros(trace.size), np.ones(trace.size)
    for name, consumer in trace.prunable.items():
        np.add.at(total, consumer.channels, scores[name])
        np.add.at(readers, consumer.channels, 1)
        limit[consumer.channels] = np.minimum(limit[consumer.channels], _limit(limits, name, 1.0))
    kept = np.ones(trace.size, dtype=np.bool_)
    for group in channel_groups(trace):
        free = np.array([c for c in group.tolist() if readers[c] and c not in trace.closed], dtype=np.int64)
        if len(free):
            kept[free] = _keep(total[free] / readers[free], amount, float(limit[free].min()))
    return {name: kept[consumer.channels] for name, consumer in trace.prunable.items()}


def _keep(scores: NDArray[np.float64], amount: float, limit: float) -> Bools:
    """All but the lowest share of some scores."""
    count = len(scores)
    kept = np.ones(count, dtype=np.bool_)
    kept[np.argsort(scores, kind="stable")[: min(int(amount * count), int(limit * count), count - 1)]] = False
    return kept


@dataclass(frozen=True)
class _Step:
    """A channel that some of its readers drop together: the score they lose, and the parameters that go."""

    channel: int
    readers: tuple[str, ...]
    lost: float
    saved: float

    @property
    def rate(self) -> float:
        return self.lost / self.saved


def _choose_globally(
    trace: Trace, scores: Scores, amount: float, constrained: bool, limits: Mapping[str, float]
) -> dict[str, Bools]:
    steps = sorted(_steps(trace, scores, constrained), key=lambda step: step.rate)
    goes = _take(trace, steps, constrained, limits)

    def masks(count: int) -> dict[str, Bools]:
        return {name: when >= count for name, when in goes.items()}

    total = count_params(trace, {})
    largest = 1 - count_params(trace, masks(len(steps))) / total
    if amount > largest:
        raise ChannelError(
            f"{amount:.0%} of the parameters cannot be removed, {int(100 * largest)}% can: layers may lose of their "
            f"inputs what `limits` say, and {MOST:.0%} where they say nothing"
        )
    count = bisect_left(range(len(steps)), True, key=lambda n: count_params(trace, masks(n)) <= (1 - amount) * total)
    return masks(count)


def _steps(trace: Trace, scores: Scores, constrained: bool) -> Iterator[_Step]:
    """For every channel the steps by which its readers drop it, each dearer than the one before."""
    readers: dict[int, list[_Step]] = {}
    for name, consumer in trace.prunable.items():
        channels, first, counts = np.unique(consumer.channels, return_index=True, return_counts=True)
        saved = consumer.weights * counts
        for channel, lost, weights in zip(channels.tolist(), scores[name][first].tolist(), saved.tolist(), strict=True):
            readers.setdefault(channel, []).append(_Step(channel, (name,), lost, weights))
    makers = _maker_weights(trace)
    for channel, steps in readers.items():
        steps.sort(key=lambda step: step.rate)
        last = steps.pop()
        if channel not in trace.closed:
            last = _Step(channel, last.readers, last.lost, last.saved + makers[channel])
            # The last reader takes the makers' weights along: others join it where that is cheaper than to go alone.
            while steps and (constrained or steps[-1].rate >= last.rate):
                other = steps.pop()
                last = _Step(channel, last.readers + other.readers, last.lost + other.lost, last.saved + other.saved)
        elif constrained:
            continue
        yield from (*steps, last)


def _maker_weights(trace: Trace) -> NDArray[np.float64]:
    """Parameters that go with each channel when nothing reads it: the filters that make it, what scales it."""
    weights = np.zeros(trace.size)
    for (name, dim), channels in trace.slots.items():
        owner, _, attribute = name.rpartition(".")
        if name in trace.parameters and not (owner in trace.consumers and attribute == "weight" and dim == 1):
            np.add.at(weights, channels, np.prod(trace.parameters[name]) / len(channels))
    return weights


def _take(trace: Trace, steps: list[_Step], constrained: bool, limits: Mapping[str, float]) -> dict[str, Ints]:
    """The number of the step at which each input goes, ``[in_channels]`` by name; beyond all where a limit keeps it."""
    goes, places, left = {}, {}, {}
    for name, consumer in trace.prunable.items():
        channels, places[name] = np.unique(consumer.channels, return_inverse=True)
        goes[name] = dict.fromkeys(channels.tolist(), len(steps))
        left[name] = min(int(_limit(limits, name, MOST) * len(channels)), len(channels) - 1)
    for number, step in enumerate(steps):
        if constrained and not all(left[name] for name in step.readers):
            continue
        for name in step.readers:
            if left[name]:
                goes[name][step.channel] = number
                left[name] -= 1
    return {name: np.array(list(found.values()), dtype=np.int64)[places[name]] for name, found in goes.items()}


def _limit(limits: Mapping[str, float], name: str, default: float) -> float:
    return next((limit for pattern, limit in limits.items() if fnmatch.fnmatchcase(name, pattern)), default)
