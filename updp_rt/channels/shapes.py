"""What operators that move, join and take apart dimensions do to channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx

from updp_rt.channels.atoms import Channels, Ints
from updp_rt.channels.graph import Graph, Parameter, Value, argument, read_axis, shape, short_name


class Shapes(Graph):
    """Concatenations, splits, reshapes, permutations, ranges."""

    def do_cat(self, node: fx.Node) -> Value:
        sources: Any = node.args[0]
        values = [self.values.get(source) for source in sources]
        axis = read_axis(node)
        known = [v for v in values if isinstance(v, Channels)]
        if not known:
            return None
        lead = known[0]
        if axis == lead.axis:
            if len(known) != len(values) or any(v.axis != axis for v in known):
                return self.end(node, "joins known with unknown channels")
            self.concats[node] = tuple(v.atoms for v in known)
            return Channels(axis, np.concatenate([v.atoms for v in known]))
        for source, value in zip(sources, values, strict=True):
            if isinstance(value, Channels) and value.axis == lead.axis and len(value.atoms) == len(lead.atoms):
                self.atoms.union(value.atoms, lead.atoms)
            elif not self.slot(node, value, lead.axis, lead.atoms):
                return self.end(node, f"joins {source} with other channels")
        return lead

    def do_flatten(self, node: fx.Node) -> Value:
        return self._refold(node)

    def do_reshape(self, node: fx.Node) -> Value:
        return self._refold(node, written=True)

    do_view = do_reshape
    do_unflatten = do_reshape

    def do_squeeze(self, node: fx.Node) -> Value:
        return self._refold(node)

    do_unsqueeze = do_squeeze

    def _refold(self, node: fx.Node, *, written: bool = False) -> Value:
        value = self.values.get(node.args[0])
        before, after = shape(node.args[0]), shape(node)
        if isinstance(value, Parameter):
            return _refold_parameter(value, before, after)
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
                    self.written["reshaped"].append(value.atoms)
                return Channels(axis, np.repeat(value.atoms, repeats))
        return self._take_apart(node, value)

    def _take_apart(self, node: fx.Node, value: Channels) -> Value:
        return self.end(node, "takes channels apart")

    def do_permute(self, node: fx.Node) -> Value:
        rank = len(shape(node))
        order: Any = node.args[1]
        return self._move(node, [int(d) % rank for d in order])

    def do_transpose(self, node: fx.Node) -> Value:
        rank = len(shape(node))
        order = list(range(rank))
        swapped: Any = node.args[1:3]
        one, other = (int(d) % rank for d in swapped)
        order[one], order[other] = order[other], order[one]
        return self._move(node, order)

    def _move(self, node: fx.Node, order: list[int]) -> Value:
        value = self.values.get(node.args[0])
        if isinstance(value, Parameter):
            return Parameter(value.name, tuple(value.dims[d] for d in order))
        return Channels(order.index(value.axis), value.atoms) if isinstance(value, Channels) else None

    def do_expand(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        before, after = shape(node.args[0]), shape(node)
        added = len(after) - len(before)
        if isinstance(value, Parameter):
            own = (None,) * added + value.dims
            sizes = (1,) * added + before
            dims = zip(own, sizes, after, strict=True)
            return Parameter(value.name, tuple(dim if size == now else None for dim, size, now in dims))
        if isinstance(value, Channels) and before[value.axis] != after[value.axis + added]:
            return self.end(node)
        return Channels(value.axis + added, value.atoms) if isinstance(value, Channels) else None

    def do_slice(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        if not isinstance(value, Channels):
            return None
        dim, start, end, step = (argument(node, i, n) for i, n in enumerate(("dim", "start", "end", "step"), 1))
        if (dim or 0) % len(shape(node.args[0])) != value.axis:
            return value
        self.keep(node, "takes a range of channels by number")
        return Channels(value.axis, self._part(value.atoms[slice(start, end, step)]))

    def do_split(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        if not isinstance(value, Channels):
            return None
        outputs = node.meta["val"]
        dim = int(argument(node, 2, "dim") or 0) % len(shape(node.args[0]))
        if dim != value.axis:
            return [value for _ in outputs]
        sizes = [part.shape[dim] for part in outputs]
        parts = np.split(value.atoms, np.cumsum(sizes)[:-1])
        if len(set(sizes)) == 1 and (short_name(node) == "chunk" or self.count(node, parts[0])):
            # A number of parts, whatever their size, or parts of a size that can be changed: they shrink together.
            self.atoms.coupled += map(np.array, zip(*parts, strict=True))
            self.written["counted"].append(value.atoms)
        else:
            self.keep(node, "takes ranges of channels by number")
        return [Channels(dim, self._part(part)) for part in parts]

    def _part(self, atoms: Ints) -> Ints:
        """Some channels of a tensor: no longer to trade places with its others, which go other ways."""
        self.atoms.sources.append(atoms)
        return atoms

    do_chunk = do_split
    do_split_with_sizes = do_split

    def do_pad(self, node: fx.Node) -> Value:
        value = self.values.get(node.args[0])
        pads: Any = node.args[1]
        if isinstance(value, Channels) and len(shape(node)) - value.axis <= len(pads) // 2:
            return self.end(node, "pads channels")
        return value

    do_constant_pad_nd = do_pad


def _refold_parameter(value: Parameter, before: tuple[int, ...], after: tuple[int, ...]) -> Value:
    """A reshape of a parameter that only adds or drops dimensions of size 1."""
    long = [(size, dim) for size, dim in zip(before, value.dims, strict=True) if size != 1]
    if [size for size, _ in long] != [size for size in after if size != 1]:
        return None
    dims = iter(dim for _, dim in long)
    return Parameter(value.name, tuple(next(dims) if size != 1 else None for size in after))


def _cuts(sizes: tuple[int, ...], product: int) -> bool:
    """Whether the first few of `sizes` multiply to `product`."""
    return any(math.prod(sizes[:count]) == product for count in range(len(sizes) + 1))
