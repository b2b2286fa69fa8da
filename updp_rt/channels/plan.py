"""How each consumer gets the channels that it keeps: a view, a gather, a concatenation of fewer channels, or zeros."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from updp_rt.channels.atoms import Bools, Ints
from updp_rt.channels.layout import Layout, Masks
from updp_rt.channels.select import Selection, to_runs
from updp_rt.channels.trace import Consumer, Link, Trace

# What things cost in nanoseconds on one core of an x86 server with AVX-512, measured with torch 2.13 in float32: a
# number copied, a number passed through a norm or an activation, a weight read, a multiply-accumulate, and the calls
# themselves. Only proportions matter: they decide whether a few channels too many are cheaper than a copy. A part of a
# concatenation takes about 3000 ns by itself, but whole DenseNets came out alike for 0 to 2500, so a low figure stands
# here, which leaves fewer copies.
COPY, PASS, WEIGHT, MAC = 0.2, 0.2, 0.2, 1 / 75
GATHER_CALL, VIEW_CALL, PART_CALL = 4000.0, 1500.0, 500.0

STRATEGIES = ("cheapest", "fewest")


@dataclass(frozen=True)
class Choice:
    """How one consumer reads its input.

    Attributes:
        link: where channels are selected; its own input unless something before it serves it alone.
        positions: which channels of the arranged input it reads, ascending: those it keeps, and perhaps zeros between.
        selection: how, and None where it reads all of them.
        gathered: how many channels a gather copies.
    """

    link: Link
    positions: Ints
    selection: Selection | None
    gathered: int
    cost: float


@dataclass(frozen=True)
class Copies:
    """Channels of activations that are written a second time, only to bring them together.

    `gathered`: by gathers, which only unconstrained pruning needs. `concatenated`: by the model's own concatenations.
    `bytes` counts both, for the traced example in float32.
    """

    gathered: int
    concatenated: int
    bytes: int

    @property
    def total(self) -> int:
        return self.gathered + self.concatenated


def choose(trace: Trace, masks: Masks, layout: Layout, strategy: str) -> dict[str, Choice]:
    """For every masked consumer the cheapest way to read what it keeps.

    Args:
        strategy: ``cheapest``: the least time by the costs above. ``fewest``: the fewest gathered channels, then the
            least time; ranges are read whole, with weights of zero for what lies between, however many there are.
    """
    chosen = {}
    for name, mask in masks.items():
        options = _options(trace, trace.consumers[name], mask, layout)
        key = (lambda o: o.cost) if strategy == "cheapest" else (lambda o: (o.gathered, o.cost))
        chosen[name] = min(options, key=key)
    return chosen


def choose_naive(trace: Trace, masks: Masks, layout: Layout) -> dict[str, Choice]:
    """One gather at the input of every consumer that does not keep all that is there: the export to compare with."""
    chosen = {}
    for name, mask in masks.items():
        consumer = trace.consumers[name]
        kept = mask[layout.arrange(consumer.channels)]
        chosen[name] = _gather(consumer, consumer.links[0], np.flatnonzero(kept), len(kept))
    return chosen


def count_copies(trace: Trace, layout: Layout, chosen: dict[str, Choice]) -> Copies:
    """What a plan copies, concatenations included."""
    gathered = sum(choice.gathered for choice in chosen.values())
    size = sum(choice.gathered * choice.link.elements for choice in chosen.values())
    riding = {c.link.concat: len(c.positions) for c in chosen.values() if c.link.concat is not None}
    written = 0
    for index, parts in enumerate(trace.concats):
        count = riding.get(index, sum(int(layout.alive[part].sum()) for part in parts.channels))
        written += count
        size += count * parts.elements
    return Copies(gathered, written, 4 * size)


def _options(trace: Trace, consumer: Consumer, mask: Bools, layout: Layout) -> Iterator[Choice]:
    kept = mask[layout.arrange(consumer.channels)]
    where = np.flatnonzero(kept)
    if kept.all():
        yield _whole(consumer, len(kept))
        return
    first, last = int(where[0]), int(where[-1])
    span = np.arange(first, last + 1)
    for link in consumer.links:
        if link.concat is None:
            yield _gather(consumer, link, where, len(kept))
            yield _view(consumer, link, span, len(kept))
        else:
            sizes = [int(layout.alive[part].sum()) for part in trace.concats[link.concat].channels]
            yield _ride(consumer, link, kept, sizes)
    yield _whole(consumer, len(kept))


def _whole(consumer: Consumer, width: int) -> Choice:
    """Read everything, with weights of zero for what is not kept."""
    link = consumer.links[0]
    return Choice(link, np.arange(width), None, 0, _arithmetic(consumer, link, width, width))


def _view(consumer: Consumer, link: Link, span: Ints, width: int) -> Choice:
    selection = Selection.view(link.axis, int(span[0]), len(span), width)
    return Choice(link, span, selection, 0, VIEW_CALL + _arithmetic(consumer, link, len(span), width))


def _gather(consumer: Consumer, link: Link, where: Ints, width: int) -> Choice:
    if len(where) == width:
        return _whole(consumer, width)
    cost = GATHER_CALL + COPY * link.elements * len(where) + _arithmetic(consumer, link, len(where), width)
    return Choice(link, where, Selection.gather(link.axis, where.tolist(), width), len(where), cost)


def _ride(consumer: Consumer, link: Link, kept: Bools, sizes: list[int]) -> Choice:
    """Concatenate what is kept of each part instead of the parts: nothing is copied twice."""
    parts = np.split(kept, np.cumsum(sizes)[:-1])
    selection = Selection.parts(link.axis, sizes, [to_runs(np.flatnonzero(part).tolist()) for part in parts])
    where = np.flatnonzero(kept)
    # Against the other options it saves what the concatenation no longer writes.
    saved = COPY * link.elements * (len(kept) - len(where))
    cost = PART_CALL * sum(part.any() for part in parts) - saved + _arithmetic(consumer, link, len(where), 0)
    return Choice(link, where, selection, 0, cost)


def _arithmetic(consumer: Consumer, link: Link, read: int, width: int) -> float:
    """Time of what runs on the `read` channels from `link` on, and on all `width` of them before it."""
    top = consumer.links[-1]
    before = width * PASS * top.elements * (top.passes - link.passes)
    return before + read * (_read_cost(consumer) + PASS * link.elements * link.passes)


def _read_cost(consumer: Consumer) -> float:
    return consumer.macs * MAC + consumer.weights * WEIGHT
