"""Follow every channel of a model from the layers that make it to the layers that read it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from updp_rt._copies import share_tensors
from updp_rt.channels.atoms import Channels, Ints
from updp_rt.channels.errors import ChannelError, one_line
from updp_rt.channels.graph import Graph, modules_of, operator_name
from updp_rt.channels.inputs import Inputs, arguments
from updp_rt.channels.operators import RULES
from updp_rt.channels.select import can_select


@dataclass(frozen=True)
class Link:
    """A place before a consumer at which channels may be selected for it alone.

    Attributes:
        module: the module whose input that is.
        axis: dimension of that input along which channels lie.
        elements: numbers that a channel holds there, over batch and pixels.
        slots: parameters (name, dimension) from there to the consumer with a value a channel; they shrink too.
        passes: how many operators between there and the consumer run on each of those numbers.
        concat: where the input is a list that `module` concatenates: the number of that concatenation in `Trace`.
    """

    module: str
    axis: int
    elements: int
    slots: tuple[tuple[str, int], ...] = ()
    passes: int = 0
    concat: int | None = None


@dataclass(frozen=True)
class Consumer:
    """A convolution or linear layer, as a reader of channels.

    Attributes:
        name: its module's name in the model.
        channels: the channel that each of its inputs is, ``[in_channels]``; numbers are those of `Trace`.
        macs: multiply-accumulates that one input channel costs there.
        weights: weights that one input channel has.
        links: places at which its channels can be selected: its own input first, then farther up.
    """

    name: str
    channels: Ints
    macs: int
    weights: int
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Concat:
    """A concatenation: the channels of each input, and how many numbers each channel holds."""

    channels: tuple[Ints, ...]
    elements: int


@dataclass(frozen=True)
class Trace:
    """What is known of a model's channels. A channel is a number, the same wherever the channel appears.

    Attributes:
        consumers: the layers that read channels, by module name, in the order in which they run.
        parameters: the shape of every parameter, by name.
        slots: channels of every parameter or buffer that has a value, or a slice, for each: by name and dimension.
        sources: channels made by one operator, one array for each.
        units: for every channel the first of those that stay or go with it, such as a convolution's group.
        heads: those units that are heads of attention.
        closed: channels that must stay, and why.
        pinned: channels that must stay in their order.
        concats: the concatenations along channels.
        written: channels whose sizes may be written in the model's code, for each kind of `WRITTEN`.
        numbers: channels whose number a module holds, such as one of each head: by module and attribute.
        notes: a line for each operator that ends a segment.
    """

    consumers: dict[str, Consumer]
    parameters: dict[str, tuple[int, ...]]
    slots: dict[tuple[str, int], Ints]
    sources: list[Ints]
    units: Ints
    heads: frozenset[int]
    closed: dict[int, str]
    pinned: frozenset[int]
    concats: list[Concat]
    written: dict[str, frozenset[int]]
    numbers: dict[tuple[str, str], Ints]
    notes: tuple[str, ...]

    @cached_property
    def size(self) -> int:
        """One more than the largest number of a channel."""
        return len(self.units)

    @cached_property
    def batched(self) -> bool:
        """Whether the first dimension is that of a batch, not of channels."""
        return all(consumer.links[0].axis for consumer in self.consumers.values())

    @cached_property
    def prunable(self) -> dict[str, Consumer]:
        """The consumers that read at least one channel which can be removed."""
        return {n: c for n, c in self.consumers.items() if any(a not in self.closed for a in c.channels.tolist())}


@torch.no_grad()
def trace(model: nn.Module, example: Inputs, *, close: Collection[str] = ()) -> Trace:
    """Follow the channels of `model` through its graph for `example` (a tensor, or a tuple of all arguments).

    No module is known by name: layers are found by the parameters that operators read. An operator whose effect on
    channels is unknown ends the segment: the channels that it reads all stay, in their order, and a note says so.

    Args:
        close: kinds of `WRITTEN` whose channels are all to stay.

    Raises:
        ChannelError: torch.export cannot follow the model.
    """
    model = share_tensors(model).eval()
    try:
        program = torch.export.export(model, arguments(example))
    except Exception as error:  # whatever in the model's code cannot be exported
        raise ChannelError(
            f"torch.export cannot follow {type(model).__name__}, so its channels cannot be traced: {one_line(error)}"
        ) from error
    walk = Graph(model, program, RULES)
    walk.run()
    for kind in close:
        for atoms in walk.written[kind]:
            walk.atoms.close(atoms, "the model's code may have its size written out")
    roots = walk.atoms.roots
    calls: dict[str, list[fx.Node]] = {}
    for node, module in walk.reads.items():
        calls.setdefault(module, []).append(node)
    consumers = {name: _consumer(walk, name, nodes) for name, nodes in calls.items()}
    concats = [_concat(walk, node, parts) for node, parts in walk.concats.items()]
    consumers = _check_lists(model, example, consumers, concats)
    sources = [roots(atoms) for atoms in walk.atoms.sources]
    units = _units(map(roots, walk.atoms.coupled), 1 + max((int(s.max()) for s in sources if len(s)), default=0))
    closed = {int(units[channel]): why for channel, why in walk.atoms.closed().items()}
    return Trace(
        consumers,
        {name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        {slot: roots(atoms) for slot, atoms in walk.slots.items()},
        sources,
        units,
        frozenset(int(units[channel]) for atoms in walk.heads for channel in roots(atoms)),
        {channel: closed[unit] for channel, unit in enumerate(units.tolist()) if unit in closed},
        frozenset(walk.atoms.pinned()),
        concats,
        {kind: frozenset(c for atoms in lists for c in roots(atoms).tolist()) for kind, lists in walk.written.items()},
        {place: roots(atoms) for place, atoms in walk.numbers.items()},
        tuple(walk.notes),
    )


def _units(coupled: Iterable[Ints], size: int) -> Ints:
    units = np.arange(size, dtype=np.int64)
    for channels in coupled:
        found = units[channels]
        units[np.isin(units, found)] = found.min()
    return units


def _concat(walk: Graph, node: fx.Node, parts: tuple[Ints, ...]) -> Concat:
    return Concat(tuple(map(walk.atoms.roots, parts)), node.meta["val"].numel() // sum(map(len, parts)))


def _check_lists(
    copied: nn.Module, example: Inputs, consumers: dict[str, Consumer], concats: list[Concat]
) -> dict[str, Consumer]:
    """The consumers without those places at which a module is not called with the list that it concatenates.

    Leaves hooks in `copied`.
    """
    places = {link.module: link for c in consumers.values() for link in c.links if link.concat is not None}
    right: set[str] = set()

    def check(name: str, link: Link, given: tuple[Any, ...]) -> None:
        tensors = given[0] if given and isinstance(given[0], list | tuple) else ()
        sizes = [t.shape[link.axis] for t in tensors if isinstance(t, Tensor) and t.dim() > link.axis]
        if sizes == [len(part) for part in concats[link.concat or 0].channels]:
            right.add(name)

    for name, link in places.items():

        def hook(_: nn.Module, given: tuple[Any, ...], *, name: str = name, link: Link = link) -> None:
            check(name, link, given)

        copied.get_submodule(name).register_forward_pre_hook(hook)
    if places:
        copied(*arguments(example))
    return {
        name: replace(c, links=tuple(link for link in c.links if link.concat is None or link.module in right))
        for name, c in consumers.items()
    }


def _consumer(walk: Graph, name: str, nodes: list[fx.Node]) -> Consumer:
    source: Any = nodes[0].args[0]
    read: Any = nodes[0].args[1]
    value = walk.values[source]
    assert isinstance(value, Channels)
    weight, out = read.meta["val"], nodes[0].meta["val"]
    width = len(value.atoms)
    macs = len(nodes) * (out.numel() // weight.shape[0]) * weight.numel() // width
    links = [Link(name, value.axis, source.meta["val"].numel() // width)]
    if len(nodes) == 1:  # one selection serves one input
        links += _links_above(walk, source)
    return Consumer(name, walk.atoms.roots(value.atoms), int(macs), weight.numel() // width, tuple(links))


def _links_above(walk: Graph, node: Any) -> list[Link]:
    """Where channels can be selected for one consumer alone, from its input `node` upwards."""
    links: list[Link] = []
    slots: list[tuple[str, int]] = []
    passes = 0
    while node.op == "call_function" and len(node.users) == 1:
        found = walk.values[node]
        assert isinstance(found, Channels)
        if node in walk.concats:
            parts: Any = node.args[0]
            module = (modules_of(node) or [""])[-1]
            if module and all(_enters(part, module) for part in parts) and can_select(walk.model.get_submodule(module)):
                elements = node.meta["val"].numel() // len(found.atoms)
                concat = list(walk.concats).index(node)
                links.append(Link(module, found.axis, elements, tuple(slots), passes, concat))
            break
        rule = RULES.get(operator_name(node))
        inputs = [(n, v) for n in node.all_input_nodes if isinstance(v := walk.values.get(n), Channels)]
        if rule is None or not rule.passes or len(inputs) != 1:
            break
        ((before, above),) = inputs
        if not np.array_equal(above.atoms, found.atoms):
            break
        passes += 1
        slots += walk.slots_of.get(node, [])
        owner = walk.owner_of.get(node)
        selectable = owner is not None and can_select(walk.model.get_submodule(owner))
        if owner is not None and selectable and _enters(before, owner) and walk.calls_of[owner] == 1:
            elements = before.meta["val"].numel() // len(found.atoms)
            links.append(Link(owner, above.axis, elements, tuple(slots), passes))
        node = before
    return links


def _enters(node: Any, module: str) -> bool:
    """Whether a node's value is made outside of `module`."""
    return isinstance(node, fx.Node) and module not in modules_of(node)
