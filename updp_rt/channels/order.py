"""The order of channels: as many consumers as possible read one run of their input, and need no copy.

The copies that remain are those of the other consumers. Which consumers can be served at once is a consecutive-ones
problem for every group of channels that may trade places. It is solved exactly where few consumers meet, and greedily,
with exchanges, where many do; either takes polynomial time in the number of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from updp_rt.channels.atoms import Bools, Ints
from updp_rt.channels.consecutive import Set, consecutive_blocks
from updp_rt.channels.layout import Masks, movable_groups
from updp_rt.channels.trace import Consumer, Trace

# Consumers that compete for one order, up to which every choice of them is looked at.
EXACT_UP_TO = 12

_LEFT, _RIGHT = -1, -2  # stand for the ends of a group


@dataclass(frozen=True)
class Demand:
    """What a consumer asks: in each group that it reads, which channels form a run, perhaps at an end of the group."""

    name: str
    sets: dict[int, Set]
    copies: int
    weight: float


@dataclass(frozen=True)
class Order:
    """An order of all channels, and how good it is.

    Attributes:
        occupant: as `Layout` takes it.
        served: consumers that read a run.
        left: channels that the other consumers gather, where reordering is all that is done.
        exact: whether no order leaves fewer.
    """

    occupant: Ints
    served: frozenset[str]
    left: int
    exact: bool


def find_order(trace: Trace, masks: Masks, alive: Bools) -> Order:
    """The order in which consumers that would copy the most channels read a run instead.

    Among equals those whose channels hold more pixels come first.
    """
    groups = movable_groups(trace)
    members = [frozenset(g[alive[g]].tolist()) for g in groups]
    group_of = np.full(len(alive), -1, dtype=np.int64)
    for index, group in enumerate(groups):
        group_of[group] = index
    demands, loose = _demands(trace, masks, alive, group_of, members)
    served: list[Demand] = []
    exact = True
    for component in _components(demands):
        chosen, sure = _choose(component, members)
        served += chosen
        exact &= sure
    names = frozenset(demand.name for demand in served)
    occupant = np.arange(len(alive), dtype=np.int64)
    wishes = [d for d in sorted(demands, key=lambda d: -d.weight) if d.name not in names] + loose
    for index, group in enumerate(groups):
        blocks = _blocks(members[index], [d.sets[index] for d in served if index in d.sets])
        assert blocks is not None
        for wish in wishes:
            if index in wish.sets:
                blocks = _refine(blocks, wish.sets[index])
        order = [channel for block in blocks for channel in sorted(block)]
        occupant[group] = order + [c for c in group.tolist() if not alive[c]]
    return Order(occupant, names, sum(wish.copies for wish in wishes), exact)


def _demands(
    trace: Trace, masks: Masks, alive: Bools, group_of: Ints, members: Sequence[Set]
) -> tuple[list[Demand], list[Demand]]:
    """Demands that some order meets, taken alone; and those of other consumers, as mere wishes, group by group."""
    demands, loose = [], []
    largest = max((c.links[0].elements for c in trace.consumers.values()), default=1)
    for name, mask in masks.items():
        consumer = trace.consumers[name]
        there = alive[consumer.channels]
        if mask[there].all():
            continue
        copies = int(mask[there].sum())
        # The second term is less than one channel over all consumers: it decides between equals alone.
        weight = copies * (1 + consumer.links[0].elements / (largest * len(trace.consumers) * 1e5))
        sets = _demand_sets(consumer, mask, there, group_of, members)
        if sets is not None:
            demands.append(Demand(name, sets, copies, weight))
            continue
        kept = consumer.channels[mask & there]
        wished = {int(g): frozenset(kept[group_of[kept] == g].tolist()) for g in np.unique(group_of[kept]) if g >= 0}
        loose.append(Demand(name, wished, copies, weight))
    # Wishes of those that read the fewest channels first: an order can still do something for them.
    return demands, sorted(loose, key=lambda d: d.copies)


def _demand_sets(
    consumer: Consumer, mask: Bools, there: Bools, group_of: Ints, members: Sequence[Set]
) -> dict[int, Set] | None:
    """For every group which of its channels must form a run; None where no order would make the input one run."""
    channels, kept = consumer.channels[there], mask[there]
    groups = group_of[channels]
    cuts = np.flatnonzero(np.diff(groups) != 0) + 1
    stretches = list(zip(np.split(channels, cuts), np.split(kept, cuts), strict=True))
    touched = [i for i, (_, k) in enumerate(stretches) if k.any()]
    first, last = touched[0], touched[-1]
    if any(not k.all() for _, k in stretches[first + 1 : last]):
        return None
    sets: dict[int, Set] = {}
    for i in range(first, last + 1):
        found, k = stretches[i]
        group = int(group_of[found[0]])
        inside = frozenset(found[k].tolist())
        ends = {end for end, beyond in ((_LEFT, i > first), (_RIGHT, i < last)) if beyond}
        if group < 0:
            if not _is_run(k, left=i > first, right=i < last):
                return None
            continue
        if group in sets or len(found) != len(members[group]) or len(set(found.tolist())) != len(found):
            return None  # the group stands there twice, or in pieces
        if len(inside) < len(members[group]):
            if len(ends) == 2:
                return None
            sets[group] = inside | ends
    return sets


def _is_run(kept: Bools, *, left: bool, right: bool) -> bool:
    """Whether kept channels of a fixed order form one run, which reaches the ends it must."""
    where = np.flatnonzero(kept)
    run = where[-1] - where[0] + 1 == len(where)
    return bool(run and (not left or where[0] == 0) and (not right or where[-1] == len(kept) - 1))


def _components(demands: Sequence[Demand]) -> list[list[Demand]]:
    """Demands that share groups, directly or through others."""
    components: list[list[Demand]] = []
    for demand in demands:
        near = [c for c in components if any(d.sets.keys() & demand.sets.keys() for d in c)]
        components = [c for c in components if c not in near]
        components.append([demand, *(d for c in near for d in c)])
    return components


def _choose(demands: Sequence[Demand], members: Sequence[Set]) -> tuple[list[Demand], bool]:
    """Demands that can be met together, of the greatest weight; and whether that is certain."""
    ranked = sorted(demands, key=lambda d: -d.weight)
    if len(ranked) <= EXACT_UP_TO:
        return _best(ranked, [], members), True
    chosen = _extend(ranked, [], members)
    improved = True
    while improved:
        improved = False
        for wanted in ranked:
            if wanted in chosen:
                continue
            for given_up in sorted(chosen, key=lambda d: d.weight):
                start = [d for d in chosen if d is not given_up] + [wanted]
                if not _fits(start, members):
                    continue
                other = _extend([d for d in ranked if d not in start], start, members)
                if sum(d.weight for d in other) > sum(d.weight for d in chosen) * (1 + 1e-12):
                    chosen, improved = other, True
                break
    return chosen, len(chosen) == len(ranked)


def _best(left: Sequence[Demand], taken: list[Demand], members: Sequence[Set]) -> list[Demand]:
    """The heaviest set of demands that holds `taken`: branch and bound, since a subset of one that fits fits too."""
    best = taken

    def weight(some: Sequence[Demand]) -> float:
        return sum(d.weight for d in some)

    def search(index: int, taken: list[Demand], bound: float) -> None:
        nonlocal best
        if weight(taken) > weight(best):
            best = taken
        if index == len(left) or weight(taken) + bound <= weight(best):
            return
        head = left[index]
        if _fits([*taken, head], members, head):
            search(index + 1, [*taken, head], bound - head.weight)
        search(index + 1, taken, bound - head.weight)

    search(0, taken, weight(left))
    return best


def _extend(candidates: Sequence[Demand], chosen: Sequence[Demand], members: Sequence[Set]) -> list[Demand]:
    """`chosen` with every candidate that still fits, in turn."""
    result = list(chosen)
    for demand in candidates:
        if _fits([*result, demand], members, demand):
            result.append(demand)
    return result


def _fits(demands: Sequence[Demand], members: Sequence[Set], added: Demand | None = None) -> bool:
    """Whether one order meets all the demands; with `added`, where they did fit without it."""
    groups = added.sets if added is not None else {g for d in demands for g in d.sets}
    return all(_blocks(members[g], [d.sets[g] for d in demands if g in d.sets]) is not None for g in groups)


def _blocks(members: Set, sets: Sequence[Set]) -> list[Set] | None:
    """Blocks of a group's channels, from its left end to its right one."""
    if not sets:
        return [members]
    # Channels that the same sets hold stand together, so one stands for all of them.
    kinds: dict[tuple[int, ...], list[int]] = {}
    for channel in sorted(members):
        kinds.setdefault(tuple(i for i, s in enumerate(sets) if channel in s), []).append(channel)
    heads = {kind[0]: frozenset(kind) for kind in kinds.values()}
    reduced = [frozenset(e for e in s if e < 0 or e in heads) for s in sets]
    elements = list(heads)
    ends = {_LEFT, _RIGHT} if any(min(s, default=0) < 0 for s in reduced) else set()
    if ends:
        reduced += [frozenset({*elements, end}) for end in ends]
    blocks = consecutive_blocks([*elements, *ends], reduced)
    if blocks is None:
        return None
    if ends and _RIGHT in blocks[0]:
        blocks.reverse()
    return [heads[element] for block in blocks for element in sorted(block) if element >= 0]


def _refine(blocks: Sequence[Set], wish: Set) -> list[Set]:
    """Split every block in two, what a consumer reads beside what it reads of the next block: few runs in all."""
    refined: list[Set] = []
    inside = False
    for block in blocks:
        held, rest = block & wish, block - wish
        pair = [held, rest] if inside else [rest, held]
        refined += [part for part in pair if part]
        inside = bool(held) and (not rest or not inside)
    return refined
