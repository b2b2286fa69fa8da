"""What layers with weights do to channels: read them, make them, scale them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import fx, nn

from updp_rt.channels.atoms import Channels, Ints
from updp_rt.channels.graph import Graph, Parameter, Value, argument, operator_name, shape, where
from updp_rt.channels.select import can_select


def convolve(graph: Graph, node: fx.Node) -> Value:
    axis = len(shape(node)) - len(shape(node.args[1])) + 1  # before the pixels, behind the batch if there is one
    return _layer(graph, node, axis, int(argument(node, 6, "groups") or 1))


def linear(graph: Graph, node: fx.Node) -> Value:
    return _layer(graph, node, len(shape(node)) - 1)


def _layer(graph: Graph, node: fx.Node, axis: int, groups: int = 1) -> Value:
    """A convolution or linear layer: reads channels along `axis`, and makes channels there."""
    x, weight = graph.values.get(node.args[0]), graph.values.get(node.args[1])
    bias = graph.values.get(argument(node, 2, "bias"))
    owner = graph.own(node, weight)
    outputs = shape(node.args[1])[0]
    made = graph.atoms.make(outputs)
    if owner is None or not isinstance(weight, Parameter) or not _is_layer(graph, owner, weight):
        graph.end(node, "computes its weight")
        graph.atoms.close(made, f"{operator_name(node)} computes its weight ({where(node)})")
        return Channels(axis, made)
    if not isinstance(x, Channels) or x.axis != axis:
        graph.close(node.args[0], f"read along another dimension ({where(node)})")
        inputs = graph.atoms.make(shape(node.args[0])[axis])
        graph.atoms.close(inputs, "of unknown origin")
    else:
        inputs = x.atoms
        if groups == 1:
            graph.reads[node] = owner
    if groups == 1:
        if not graph.slot(node, weight, 1, inputs):
            graph.atoms.close(inputs, f"the weights of {owner} are used elsewhere too")
            graph.reads.pop(node, None)
    elif groups == len(inputs):
        made = np.repeat(inputs, outputs // groups)
    else:
        _group(graph, groups, inputs, made)
    slots = [graph.slot(node, parameter, 0, made) for parameter in (weight, bias) if parameter is not None]
    if not all(slots):
        graph.atoms.close(made, f"the weights of {owner} are used elsewhere too")
    return Channels(axis, made)


def _group(graph: Graph, groups: int, inputs: Ints, made: Ints) -> None:
    """What one group of a convolution reads and makes stays or goes together, and in this order."""
    graph.atoms.coupled += map(np.concatenate, zip(np.split(inputs, groups), np.split(made, groups), strict=True))
    for atoms in (inputs, made):
        graph.atoms.pin(atoms)


def _is_layer(graph: Graph, owner: str, weight: Parameter) -> bool:
    """Whether a weight is that of a module which does nothing but this operator, perhaps after padding."""
    if weight.name in graph.shared or weight.dims != tuple(range(len(weight.dims))):
        return False
    module = graph.model.get_submodule(owner)
    known = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and can_select(module)
    return known and weight.name == f"{owner}.weight"


def batch_norm(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    if not isinstance(value, Channels) or value.axis != 1:
        return graph.end(node, "normalises another dimension")
    return _with_slots(graph, node, value, node.args[1:5])


def layer_norm(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    if not isinstance(value, Channels):
        return None
    dimensions: Any = node.args[1]
    if value.axis != len(shape(node)) - 1 or len(dimensions) != 1:
        return graph.end(node, "normalises over channels and pixels")
    graph.keep(node, "normalises over channels")
    return _with_slots(graph, node, value, node.args[2:4])


def _with_slots(graph: Graph, node: fx.Node, value: Channels, arguments: Iterable[Any]) -> Value:
    for given in arguments:
        if given is None:
            continue
        parameter = graph.values.get(given)
        if not graph.slot(node, parameter, 0, value.atoms):
            return graph.end(node, "has parameters that are used elsewhere too")
        graph.own(node, parameter)
    return value


def prelu(graph: Graph, node: fx.Node) -> Value:
    value, weight = graph.values.get(node.args[0]), graph.values.get(node.args[1])
    if not isinstance(value, Channels) or value.axis != 1:
        return graph.end(node)
    if shape(node.args[1])[0] > 1 and not graph.slot(node, weight, 0, value.atoms):
        return graph.end(node)
    return value


def embedding(graph: Graph, node: fx.Node) -> Value:
    """A table ``[rows, channels]``, some rows of which it gives."""
    made = graph.atoms.make(shape(node.args[0])[1])
    if not graph.slot(node, graph.values.get(node.args[0]), 1, made):
        return graph.end(node)
    return Channels(len(shape(node)) - 1, made)
