"""The table of operators: what each of them does to channels. Others are added by `add_operator`.

An operator that stands nowhere here ends the segment: what it reads stays whole and in order.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from updp_rt.channels import heads, layers, shapes
from updp_rt.channels.atoms import Channels
from updp_rt.channels.graph import Graph, Rule, Value, operator_name, shape, where


def follow_elementwise(graph: Graph, node: fx.Node) -> Value:
    """Each number of the output comes from those at the same place, as broadcasting aligns them; joins channels."""
    operands = node.all_input_nodes
    values = [graph.values.get(a) for a in operands]
    rank = len(shape(node))
    found = [(a, v) for a, v in zip(operands, values, strict=True) if isinstance(v, Channels)]
    if not found:
        return values[0] if len(operands) == 1 and shape(operands[0]) == shape(node) else None
    # The channel axis counted from the right, where broadcasting aligns; and the widest operand rules.
    lead = max((v for _, v in found), key=lambda v: len(v.atoms))
    place = rank - len(shape(next(a for a, v in found if v is lead))) + lead.axis
    for operand, value in zip(operands, values, strict=True):
        own = place - rank + len(shape(operand))
        size = shape(operand)[own] if own >= 0 else 1
        if isinstance(value, Channels):
            if own != value.axis:
                return graph.end(node, "joins channels of different dimensions")
            if size == len(lead.atoms):
                graph.atoms.union(value.atoms, lead.atoms)
            else:
                graph.atoms.close(value.atoms, f"one channel for all at {where(node)}")
        elif size != 1 and not graph.slot(node, value, own, lead.atoms):
            return graph.end(node, "joins channels with a tensor whose channels are unknown")
    return Channels(place, lead.atoms)


def follow_first(graph: Graph, node: fx.Node) -> Value:
    """What the first input says, whatever else the operator is told: of casts, and of checks that return nothing."""
    return graph.values.get(node.args[0])


def follow_pooling(graph: Graph, node: fx.Node) -> Value:
    """Pixels of each channel by themselves; how many dimensions they have, the operator's name says."""
    value = graph.values.get(node.args[0])
    if isinstance(value, Channels) and value.axis != len(shape(node.args[0])) - int(operator_name(node)[-2]) - 1:
        return graph.end(node, "pools over channels")
    outputs = node.meta["val"]  # with the places of the largest, where it gives them
    return [value for _ in outputs] if isinstance(outputs, tuple | list) else value


def follow_reduction(graph: Graph, node: fx.Node) -> Value:
    value = graph.values.get(node.args[0])
    if not isinstance(value, Channels):
        return None
    rank = len(shape(node.args[0]))
    given: Any = node.args[1] if len(node.args) > 1 else None
    if not isinstance(given, list | tuple | int) or given == []:
        return graph.end(node, "reduces over channels")
    dims = {d % rank for d in ([given] if isinstance(given, int) else given)}
    if value.axis in dims:
        return graph.end(node, "reduces over channels")
    kept = len(shape(node)) == rank
    return Channels(value.axis if kept else value.axis - sum(d < value.axis for d in dims), value.atoms)


def inline(graph: Graph, node: fx.Node) -> Value:
    """A part of the model that runs under autocast, or with gradients on or off: a graph of its own."""
    (body,) = (given for given in node.all_input_nodes if given.op == "get_attr")
    inner: fx.Graph = getattr(body.graph.owning_module, str(body.target)).graph
    given = node.args[node.args.index(body) + 1 :]
    places = (place for place in inner.nodes if place.op == "placeholder")
    graph.values.update((place, graph.values.get(value)) for place, value in zip(places, given, strict=True))
    graph.walk(inner)
    outputs: Any = inner.output_node().args[0]
    return [graph.values.get(output) for output in outputs]


pointwise = Rule(follow_elementwise, passes=True)
elementwise = Rule(follow_elementwise)

_POINTWISE = """
relu relu6 gelu silu hardtanh sigmoid hardswish hardsigmoid tanh elu leaky_relu mish softplus celu selu threshold
log_sigmoid softsign hardshrink softshrink dropout alpha_dropout feature_dropout clone contiguous alias detach
lift_fresh_copy neg abs sign sqrt rsqrt square pow reciprocal exp exp2 expm1 log log2 log1p erf sin cos clamp clamp_min
clamp_max floor ceil round trunc frac nan_to_num
"""
_ELEMENTWISE = """
add sub rsub mul div maximum minimum remainder fmod atan2 lerp addcmul addcdiv where masked_fill expand_as eq ne lt le
gt ge logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not zeros_like ones_like full_like
"""

# Names are aten's, without the underscore of those that work in place.
RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE.split(), pointwise),
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    **dict.fromkeys(("to", "to_copy", "type_as"), Rule(follow_first, passes=True)),
    "assert_tensor_metadata": Rule(follow_first, parts=True),
    **dict.fromkeys(
        [
            *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
            *(f"upsample_{kind}" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
            *(f"upsample_{kind}{n}d" for kind in ("nearest", "nearest_exact") for n in (1, 2, 3)),
        ],
        Rule(follow_pooling, passes=True),
    ),
    "mean": Rule(follow_reduction, passes=True),
    **dict.fromkeys(("sum", "amax", "amin"), Rule(follow_reduction)),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), Rule(layers.convolve, passes=True)),  # passes where depthwise
    "linear": Rule(layers.linear),
    "batch_norm": Rule(layers.batch_norm, passes=True),
    "layer_norm": Rule(layers.layer_norm),
    "prelu": Rule(layers.prelu),
    "embedding": Rule(layers.embedding),
    "cat": Rule(shapes.concatenate),
    **dict.fromkeys(("split", "chunk", "split_with_sizes"), Rule(shapes.split)),
    "slice": Rule(shapes.take_range),
    **dict.fromkeys(("pad", "constant_pad_nd"), Rule(shapes.pad)),
    "expand": Rule(shapes.expand),
    "flatten": Rule(shapes.refold, passes=True),
    **dict.fromkeys(("squeeze", "unsqueeze"), Rule(shapes.refold)),
    "unflatten": Rule(shapes.reshape),
    **dict.fromkeys(("reshape", "view"), Rule(shapes.reshape, parts=True)),
    "permute": Rule(shapes.permute, parts=True),
    "transpose": Rule(shapes.transpose, parts=True),
    "unbind": Rule(heads.unbind, parts=True),
    "select": Rule(heads.select, parts=True),
    "scaled_dot_product_attention": Rule(heads.attention, parts=True),
    **dict.fromkeys(("wrap_with_autocast", "wrap_with_set_grad_enabled"), Rule(inline, parts=True)),
}


def add_operator(name: str, rule: Rule) -> None:
    """Have channels followed through an operator that the table lacks, in this process, from now on.

    Args:
        name: as torch.export names it, without its overload: ``library::name``, or ``name`` alone for torch's own.
        rule: `pointwise`, `elementwise`, or a `Rule` with a function of your own.

    Raises:
        ValueError: the operator has a rule already.
    """
    name = name if "::" in name and not name.startswith("aten::") else name.removeprefix("aten::").strip("_")
    if name in RULES:
        raise ValueError(f"the operator {name!r} has a rule already; rules are only added for operators without one")
    RULES[name] = rule
