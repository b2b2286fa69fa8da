"""Which channels stay, and which stands where: from this follows the shape of every parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from updp_rt.channels.atoms import Bools, Ints
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.trace import Trace

Masks = Mapping[str, Bools]


class Layout:
    """The channels that stay, each in its place.

    `occupant[c]` is the channel that stands wherever channel ``c`` stood in the source model. Channels may only trade
    places with those that the same operators make and read, so every tensor can be arranged so, at no cost.
    """

    def __init__(self, alive: Bools, occupant: Ints | None = None) -> None:
        self.alive = alive
        self.occupant = np.arange(len(alive), dtype=np.int64) if occupant is None else occupant

    def arrange(self, channels: Ints) -> Ints:
        """Indices into a tensor's dimension of `channels`, by which it is cut down and reordered: ``[kept]``."""
        wanted = self.occupant[channels]
        place = np.full(len(self.alive), -1, dtype=np.int64)
        place[channels[::-1]] = np.arange(len(channels))[::-1]
        if len(np.unique(channels)) == len(channels):
            return place[wanted][self.alive[wanted]]
        # A channel that stands here several times (flattened pixels, a tensor beside itself): n-th for n-th.
        copies: dict[int, list[int]] = {}
        for position, channel in enumerate(channels.tolist()):
            copies.setdefault(channel, []).append(position)
        taken: dict[int, int] = {}
        found = []
        for channel in wanted.tolist():
            nth = taken[channel] = taken.get(channel, -1) + 1
            if self.alive[channel]:
                found.append(copies[channel][nth])
        return np.array(found, dtype=np.int64)


def find_alive(trace: Trace, masks: Masks) -> Bools:
    """Which channels stay, by number: those that a consumer keeps, and those that nothing may remove.

    A channel added to one that some consumer keeps is the same channel, so it stays as well, and so do those coupled
    with it. Every layer keeps at least one output.
    """
    alive = np.zeros(trace.size, dtype=np.bool_)
    alive[list(trace.closed)] = True
    for name, consumer in trace.consumers.items():
        alive[consumer.channels[masks[name]] if name in masks else consumer.channels] = True
    units = np.zeros(trace.size, dtype=np.bool_)
    units[trace.units[alive]] = True
    for source in trace.sources:
        if len(source) and not units[trace.units[source]].any():
            units[trace.units[source[0]]] = True
    return np.asarray(units[trace.units])


def count_params(trace: Trace, masks: Masks) -> int:
    """Parameters of the exported model, where every layer reads exactly what it keeps."""
    alive = find_alive(trace, masks)
    sizes = {name: list(shape) for name, shape in trace.parameters.items()}
    for (name, dim), channels in trace.slots.items():
        if name not in sizes:  # a buffer
            continue
        owner, _, attribute = name.rpartition(".")
        kept = masks.get(owner) if dim == 1 and attribute == "weight" else None
        sizes[name][dim] = int((alive[channels] if kept is None else kept & alive[channels]).sum())
    return sum(math.prod(shape) for shape in sizes.values())


def check_masks(trace: Trace, masks: Masks) -> None:
    """Raise `ChannelError` unless every mask is that of a consumer, of its length, and keeps an input."""
    for name, mask in masks.items():
        if name not in trace.consumers:
            known = ", ".join(list(trace.prunable)[:5]) or "none"
            raise ChannelError(f"{name!r} is not a layer whose inputs can be chosen; choose among {known}, ...")
        width = len(trace.consumers[name].channels)
        if mask.shape != (width,) or mask.dtype != np.bool_:
            raise ChannelError(
                f"the mask of {name} is {mask.dtype} of shape {mask.shape}; bool of ({width},) is expected"
            )
        if not mask.any():
            raise ChannelError(f"the mask of {name} drops every input; keep at least one")


def movable_groups(trace: Trace) -> list[Ints]:
    """Channels that may trade places: those of one group, unless they are pinned."""
    free = [np.array([c for c in g.tolist() if c not in trace.pinned], dtype=np.int64) for g in channel_groups(trace)]
    return [group for group in free if len(group) > 1]


def channel_groups(trace: Trace) -> list[Ints]:
    """All channels, in groups that the same operators make, read and scale."""
    lists = [*trace.sources, *trace.slots.values(), *(c.channels for c in trace.consumers.values())]
    # A channel's lists, as a sum of one random number each: equal sums are equal lists (but for a chance of 2^-64).
    draw = np.random.default_rng(0)
    signature = np.zeros(trace.size, dtype=np.uint64)
    for channels in lists:
        np.add.at(signature, channels, draw.integers(1, 2**63, dtype=np.uint64))
    groups: dict[int, list[int]] = {}
    for channel in np.unique(np.concatenate(lists)).tolist():
        groups.setdefault(int(signature[channel]), []).append(channel)
    return [np.array(group, dtype=np.int64) for group in groups.values()]
