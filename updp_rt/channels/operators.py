"""What each operator of an exported graph does to channels: makes them, reads them, passes them on, joins them.

An operator that stands nowhere here ends the segment: what it reads stays whole and in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import fx, nn

from updp_rt.channels.atoms import Channels, Ints
from updp_rt.channels.graph import Handler, Parameter, Value, argument, shape, short_name, where
from updp_rt.channels.heads import Heads

# Each number of the output comes from the number at the same place (or, for pooling, of the same channel) alone.
# Names are without the underscore of those that work in place.
_POINTWISE = frozenset(
    {
        "relu",
        "relu6",
        "gelu",
        "silu",
        "hardtanh",
        "sigmoid",
        "hardswish",
        "hardsigmoid",
        "tanh",
        "elu",
        "leaky_relu",
        "mish",
        "softplus",
        "dropout",
        "clone",
        "contiguous",
        "neg",
        "abs",
        "sqrt",
        "rsqrt",
        "pow",
        "to",
        "to_copy",
        "alias",
        "detach",
        "clamp",
        "clamp_min",
        "clamp_max",
        "square",
        "erf",
        "threshold",
        "celu",
        "selu",
        "exp",
        "log_sigmoid",
    }
)
_POOLING = frozenset(
    {
        "max_pool2d",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "adaptive_max_pool2d",
        "max_pool1d",
        "avg_pool1d",
        "adaptive_avg_pool1d",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "upsample_bicubic2d",
    }
)
# Operators between a selection and its consumer: one activation in, the same channels out.
PASSING = _POINTWISE | _POOLING | {"batch_norm", "conv2d", "conv1d", "mean", "flatten"}
_ELEMENTWISE = frozenset({"add", "sub", "mul", "div", "maximum", "minimum"})
_REDUCTIONS = frozenset({"mean", "sum", "amax", "amin"})
_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})


class Walk(Heads):
    """Layers, norms, activations, pooling and arithmetic, beside what `Heads` knows."""

    def handler(self, name: str) -> Handler | None:
        for names, found in (
            (_POINTWISE, self._pass),
            (_POOLING, self._pool),
            (_ELEMENTWISE, self._elementwise),
            (_REDUCTIONS, self._reduce),
            (_CONVOLUTIONS, self._convolve),
        ):
            if name in names:
                return found
        return super().handler(name)

    def _pass(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        if len(node.all_input_nodes) > 1 or (value is not None and shape(node) != shape(node.args[0])):
            return self.end(node)
        return value

    def _pool(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        if isinstance(value, Channels) and value.axis != 1:
            return self.end(node, "pools over channels")
        return value

    def _elementwise(self, node: fx.Node) -> Value:
        operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
        values = [self.values.get(a) for a in operands]
        rank = len(shape(node))
        found = [(a, v) for a, v in zip(operands, values, strict=True) if isinstance(v, Channels)]
        if not found:
            return values[0] if len(operands) == 1 else None
        # The channel axis counted from the right, where broadcasting aligns; and the widest operand rules.
        lead = max((v for _, v in found), key=lambda v: len(v.atoms))
        place = rank - len(shape(next(a for a, v in found if v is lead))) + lead.axis
        for operand, value in zip(operands, values, strict=True):
            own = place - rank + len(shape(operand))
            size = shape(operand)[own] if own >= 0 else 1
            if isinstance(value, Channels):
                if own != value.axis:
                    return self.end(node, "joins channels of different dimensions")
                if size == len(lead.atoms):
                    self.atoms.union(value.atoms, lead.atoms)
                else:
                    self.atoms.close(value.atoms, f"one channel for all at {where(node)}")
            elif size != 1 and not self.slot(node, value, own, lead.atoms):
                return self.end(node, "joins channels with a tensor whose channels are unknown")
        return Channels(place, lead.atoms)

    def _reduce(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        if not isinstance(value, Channels):
            return None
        rank = len(shape(node.args[0]))
        given: Any = node.args[1] if len(node.args) > 1 else None
        if not isinstance(given, list | tuple | int) or given == []:
            return self.end(node, "reduces over channels")
        dims = {d % rank for d in ([given] if isinstance(given, int) else given)}
        if value.axis in dims:
            return self.end(node, "reduces over channels")
        kept = len(shape(node)) == rank
        return Channels(value.axis if kept else value.axis - sum(d < value.axis for d in dims), value.atoms)

    def _convolve(self, node: fx.Node) -> Value:
        return self._layer(node, 1, int(argument(node, 6, "groups") or 1))

    def do_linear(self, node: fx.Node) -> Value:
        return self._layer(node, len(shape(node)) - 1)

    def _layer(self, node: fx.Node, axis: int, groups: int = 1) -> Value:
        """A convolution or linear layer: reads channels along `axis`, and makes channels there."""
        x, weight = self.values.get(node.args[0]), self.values.get(node.args[1])
        bias = self.values.get(argument(node, 2, "bias"))
        owner = self.own(node, weight)
        outputs = shape(node.args[1])[0]
        made = self.atoms.make(outputs)
        if owner is None or not isinstance(weight, Parameter) or not self._is_layer(owner, weight):
            self.end(node, "computes its weight")
            self.atoms.close(made, f"{short_name(node)} computes its weight ({where(node)})")
            return Channels(axis, made)
        if not isinstance(x, Channels) or x.axis != axis:
            self.close(node.args[0], f"read along another dimension ({where(node)})")
            inputs = self.atoms.make(shape(node.args[0])[axis])
            self.atoms.close(inputs, "of unknown origin")
        else:
            inputs = x.atoms
            if groups == 1:
                self.reads[node] = owner
        if groups == 1:
            if not self.slot(node, weight, 1, inputs):
                self.atoms.close(inputs, f"the weights of {owner} are used elsewhere too")
                self.reads.pop(node, None)
        elif groups == len(inputs):
            made = np.repeat(inputs, outputs // groups)
        else:
            self._group(groups, inputs, made)
        slots = [self.slot(node, parameter, 0, made) for parameter in (weight, bias) if parameter is not None]
        if not all(slots):
            self.atoms.close(made, f"the weights of {owner} are used elsewhere too")
        return Channels(axis, made)

    def _group(self, groups: int, inputs: Ints, made: Ints) -> None:
        """What one group of a convolution reads and makes stays or goes together, and in this order."""
        self.atoms.coupled += map(np.concatenate, zip(np.split(inputs, groups), np.split(made, groups), strict=True))
        for atoms in (inputs, made):
            self.atoms.pin(atoms)

    def _is_layer(self, owner: str, weight: Parameter) -> bool:
        """Whether a weight is that of a module which does nothing but this operator, perhaps after padding."""
        if weight.name in self.shared or weight.dims != tuple(range(len(weight.dims))):
            return False
        module = self.model.get_submodule(owner)
        return isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and weight.name == f"{owner}.weight"

    def do_batch_norm(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        if not isinstance(value, Channels) or value.axis != 1:
            return self.end(node, "normalises another dimension")
        return self._with_slots(node, value, node.args[1:5])

    def do_layer_norm(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        if not isinstance(value, Channels):
            return None
        dimensions: Any = node.args[1]
        if value.axis != len(shape(node)) - 1 or len(dimensions) != 1:
            return self.end(node, "normalises over channels and pixels")
        self.keep(node, "normalises over channels")
        return self._with_slots(node, value, node.args[2:4])

    def _with_slots(self, node: fx.Node, value: Channels, arguments: Iterable[Any]) -> Value:
        for given in arguments:
            if given is None:
                continue
            parameter = self.values.get(given)
            if not self.slot(node, parameter, 0, value.atoms):
                return self.end(node, "has parameters that are used elsewhere too")
            self.own(node, parameter)
        return value

    def do_prelu(self, node: fx.Node) -> Value:
        value, weight = self.values.get(node.args[0]), self.values.get(node.args[1])
        if not isinstance(value, Channels) or value.axis != 1:
            return self.end(node)
        if shape(node.args[1])[0] > 1 and not self.slot(node, weight, 0, value.atoms):
            return self.end(node)
        return value
