"""Channels that attention takes apart: a head stays or goes as a whole, its query, key and value together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx

from updp_rt.channels.atoms import Channels, Ints, Parts
from updp_rt.channels.graph import Graph, Value, argument, shape


def take_apart(graph: Graph, node: fx.Node, value: Channels) -> Value:
    """A reshape that splits the dimension of channels in several."""
    before, after = shape(node.args[0]), shape(node)
    ahead, count = math.prod(before[: value.axis]), before[value.axis]
    for first in range(len(after)):
        for last in range(first + 1, len(after) + 1):
            if math.prod(after[:first]) == ahead and math.prod(after[first:last]) == count:
                graph.written["counted"].append(value.atoms)
                return Parts(tuple(range(first, last)), value.atoms.reshape(after[first:last]))
    return graph.end(node, "takes channels apart")


def join_parts(graph: Graph, node: fx.Node, value: Parts) -> Value:
    """A reshape that makes one dimension of heads and their channels again."""
    before, after = shape(node.args[0]), shape(node)
    first, last = value.axes[0], value.axes[-1]
    if value.attended and after == (*before[:first], value.atoms.size, *before[last + 1 :]):
        return Channels(first, value.atoms.reshape(-1))
    return graph.end(node, "takes channels apart")


def move_parts(value: Parts, order: list[int]) -> Parts:
    return _sorted([order.index(axis) for axis in value.axes], value.atoms, value.attended)


def unbind(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    if not isinstance(value, Channels | Parts):
        return None
    dim = int(argument(node, 1, "dim") or 0) % len(shape(node.args[0]))
    return [_pick(graph, node, value, dim, index) for index in range(shape(node.args[0])[dim])]


def select(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    if not isinstance(value, Channels | Parts):
        return None
    dim, index = int(argument(node, 1, "dim")), int(argument(node, 2, "index"))
    return _pick(graph, node, value, dim % len(shape(node.args[0])), index)


def _pick(graph: Graph, node: fx.Node, value: Channels | Parts, dim: int, index: int) -> Value:
    """What stands at `index` of dimension `dim`, which goes."""
    if isinstance(value, Channels):
        if dim == value.axis:
            return graph.end(node, "takes a channel out")
        return Channels(value.axis - (dim < value.axis), value.atoms)
    axes = [axis - (dim < axis) for axis in value.axes if axis != dim]
    if len(axes) < 2:
        return graph.end(node, "takes channels apart")
    atoms = np.moveaxis(value.atoms, value.axes.index(dim), 0)[index] if dim in value.axes else value.atoms
    return _sorted(axes, atoms, value.attended)


def attention(graph: Graph, node: fx.Node) -> Value:
    """``softmax(q k^T) v``, of tensors ``[N, heads, T, channels]``: every head by itself."""
    values = [graph.values.get(source) for source in node.args[:3]]
    found = [v for v in values if isinstance(v, Parts) and v.axes == (1, 3) and not v.attended]
    masking: Any = argument(node, 3, "attn_mask")
    if len(found) < 3 or len(shape(node)) != 4 or len({len(v.atoms) for v in found}) > 1:
        return graph.end(node, "reads heads that are not followed")
    if masking is not None and len(shape(masking)) > 2 and shape(masking)[-3] != 1:
        return graph.end(node, "masks every head otherwise")
    heads = found[2].atoms
    if len(heads) == heads.shape[1]:
        return graph.end(node, "has as many heads as channels in each: numbers in its code may mean either")
    graph.atoms.coupled += map(np.concatenate, zip(*(v.atoms for v in found), strict=True))
    for each in found:
        graph.atoms.pin(each.atoms.reshape(-1))
    graph.heads.append(heads[:, 0])
    graph.count(node, heads[:, 0])
    graph.count(node, heads.reshape(-1))
    return Parts((1, 3), heads, attended=True)


def _sorted(axes: list[int], atoms: Ints, attended: bool) -> Parts:
    order = sorted(range(len(axes)), key=axes.__getitem__)
    return Parts(tuple(axes[i] for i in order), atoms.transpose(order), attended)
