"""What operators that move, join and take apart dimensions do to channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx

from updp_rt.channels.atoms import Channels, Ints, Parts
from updp_rt.channels.graph import Graph, Parameter, Value, argument, operator_name, read_axis, shape
from updp_rt.channels.heads import join_parts, move_parts, take_apart


def concatenate(graph: Graph, node: fx.Node) -> Value:
    sources: Any = node.args[0]
    values = [graph.values.get(source) for source in sources]
    axis = read_axis(node)
    known = [v for v in values if isinstance(v, Channels)]
    if not known:
        return None
    lead = known[0]
    if axis == lead.axis:
        if len(known) != len(values) or any(v.axis != axis for v in known):
            return graph.end(node, "joins known with unknown channels")
        graph.concats[node] = tuple(v.atoms for v in known)
        return Channels(axis, np.concatenate([v.atoms for v in known]))
    for source, value in zip(sources, values, strict=True):
        if isinstance(value, Channels) and value.axis == lead.axis and len(value.atoms) == len(lead.atoms):
            graph.atoms.union(value.atoms, lead.atoms)
        elif not graph.slot(node, value, lead.axis, lead.atoms):
            return graph.end(node, f"joins {source} with other channels")
    return lead


def refold(graph: Graph, node: fx.Node) -> Value:
    """A reshape to sizes that follow from the input's: flatten, squeeze."""
    return _refold(graph, node, written=False)


def reshape(graph: Graph, node: fx.Node) -> Value:
    """A reshape to sizes that the model's code may have written out."""
    return _refold(graph, node, written=True)


def _refold(graph: Graph, node: fx.Node, written: bool) -> Value:
    value = graph.values.get(node.args[0])
    before, after = shape(node.args[0]), shape(node)
    if isinstance(value, Parameter):
        return _refold_parameter(value, before, after, written)
    if isinstance(value, Parts):
        return join_parts(graph, node, value)
    if not isinstance(value, Channels):
        return None
    ahead, count = math.prod(before[: value.axis]), before[value.axis]
    for axis in range(len(after)):
        if math.prod(after[:axis]) != ahead or after[axis] % count or after[axis] == 0:
            continue
        repeats = after[axis] // count
        if repeats * math.prod(after[axis + 1 :]) == math.prod(before[value.axis + 1 :]) and _cuts(
            before[value.axis + 1 :], repeats
        ):
            if written:
                graph.written["reshaped"].append(value.atoms)
            return Channels(axis, np.repeat(value.atoms, repeats))
    return take_apart(graph, node, value)


def permute(graph: Graph, node: fx.Node) -> Value:
    rank = len(shape(node))
    order: Any = node.args[1]
    return _move(graph, node, [int(d) % rank for d in order])


def transpose(graph: Graph, node: fx.Node) -> Value:
    rank = len(shape(node))
    order = list(range(rank))
    swapped: Any = node.args[1:3]
    one, other = (int(d) % rank for d in swapped)
    order[one], order[other] = order[other], order[one]
    return _move(graph, node, order)


def _move(graph: Graph, node: fx.Node, order: list[int]) -> Value:
    value = graph.values.get(node.args[0])
    if isinstance(value, Parameter):
        return Parameter(value.name, tuple(value.dims[d] for d in order), value.fixed)
    if isinstance(value, Parts):
        return move_parts(value, order)
    return Channels(order.index(value.axis), value.atoms) if isinstance(value, Channels) else None


def expand(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    before, after = shape(node.args[0]), shape(node)
    added = len(after) - len(before)
    if isinstance(value, Parameter):
        own = (None,) * added + value.dims
        sizes = (1,) * added + before
        dims = zip(own, sizes, after, strict=True)
        return Parameter(value.name, tuple(dim if size == now else None for dim, size, now in dims), fixed=True)
    if not isinstance(value, Channels) or before[value.axis] != after[value.axis + added]:
        return None
    graph.written["reshaped"].append(value.atoms)
    return Channels(value.axis + added, value.atoms)


def take_range(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    if not isinstance(value, Channels):
        return None
    dim, start, end, step = (argument(node, i, n) for i, n in enumerate(("dim", "start", "end", "step"), 1))
    if (dim or 0) % len(shape(node.args[0])) != value.axis:
        return value
    graph.keep(node, "takes a range of channels by number")
    return Channels(value.axis, _part(graph, value.atoms[slice(start, end, step)]))


def split(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    if not isinstance(value, Channels):
        return None
    outputs = node.meta["val"]
    dim = int(argument(node, 2, "dim") or 0) % len(shape(node.args[0]))
    if dim != value.axis:
        return [value for _ in outputs]
    sizes = [part.shape[dim] for part in outputs]
    parts = np.split(value.atoms, np.cumsum(sizes)[:-1])
    if len(set(sizes)) == 1 and (operator_name(node) == "chunk" or graph.count(node, parts[0])):
        # A number of parts, whatever their size, or parts of a size that can be changed: they shrink together.
        graph.atoms.coupled += map(np.array, zip(*parts, strict=True))
        graph.written["counted"].append(value.atoms)
    else:
        graph.keep(node, "takes ranges of channels by number")
    return [Channels(dim, _part(graph, part)) for part in parts]


def _part(graph: Graph, atoms: Ints) -> Ints:
    """Some channels of a tensor: no longer to trade places with its others, which go other ways."""
    graph.atoms.sources.append(atoms)
    return atoms


def pad(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    pads: Any = node.args[1]
    if isinstance(value, Channels) and len(shape(node)) - value.axis <= len(pads) // 2:
        return graph.end(node, "pads channels")
    return value


def _refold_parameter(value: Parameter, before: tuple[int, ...], after: tuple[int, ...], written: bool) -> Value:
    """A reshape of a parameter that only adds or drops dimensions of size 1."""
    long = [(size, dim) for size, dim in zip(before, value.dims, strict=True) if size != 1]
    if [size for size, _ in long] != [size for size in after if size != 1]:
        return None
    dims = iter(dim for _, dim in long)
    moved = tuple(next(dims) if size != 1 else None for size in after)
    return Parameter(value.name, moved, value.fixed or written)


def _cuts(sizes: tuple[int, ...], product: int) -> bool:
    """Whether the first few of `sizes` multiply to `product`."""
    return any(math.prod(sizes[:count]) == product for count in range(len(sizes) + 1))
