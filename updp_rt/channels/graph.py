"""One pass over an exported graph: what every tensor in it knows of its channels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

from updp_rt.channels.atoms import Atoms, Channels, Ints, Parts
from updp_rt.channels.sizes import find_tensor


@dataclass(frozen=True)
class Parameter:
    """A parameter, buffer or plain tensor of a module as it comes to an operator: which of its own dimensions each is.

    `fixed` says that its size may be written out in the model's code, or be held by more than its module.
    """

    name: str
    dims: tuple[int | None, ...]
    fixed: bool = False


# Channels whose sizes a model's code may have written out, which shows only when it runs.
WRITTEN = {
    "counted": "heads of attention and parts of splits",
    "viewed": "channels of parameters that are viewed, and of plain tensors,",
    "reshaped": "channels that pass a reshape",
}

Value = Channels | Parts | Parameter | list[Any] | None


@dataclass(frozen=True)
class Rule:
    """What an operator does to channels.

    Attributes:
        follow: given the graph and a node that calls the operator, what its output knows of its channels; None where
            nothing is known, whereupon all that the node reads stays.
        passes: the output has the channels of the one input that has any, and a channel's values come from that channel
            alone: a layer behind it that wants fewer channels may select them before it.
        parts: it knows of channels that a reshape took apart, such as heads of attention; others end the segment there.
    """

    follow: Callable[[Graph, fx.Node], Value]
    passes: bool = False
    parts: bool = False


def operator_name(node: fx.Node) -> str:
    """``aten.relu_.default`` as ``relu``, with or without working in place; of another library as ``library::name``."""
    target = node.target
    if isinstance(target, OpOverload) and target.namespace != "aten":
        return f"{target.namespace}::{target._opname}"
    return str(getattr(target, "_opname", "") or getattr(target, "__name__", target)).strip("_")


def read_axis(node: fx.Node) -> int:
    """The dimension along which a concatenation's inputs lie."""
    return int(argument(node, 1, "dim") or 0) % len(shape(node))


class Graph:
    """One pass over an exported graph, in the order in which it runs.

    Rules read in `values` what each node's output knows of its channels, and call `end`, `keep` and `slot`.
    """

    def __init__(self, model: nn.Module, program: ExportedProgram, rules: Mapping[str, Rule]) -> None:
        self.rules = rules
        self.atoms = Atoms()
        self.values: dict[Any, Value] = {}
        self.slots: dict[tuple[str, int], Ints] = {}
        self.slots_of: dict[fx.Node, list[tuple[str, int]]] = {}
        self.owner_of: dict[fx.Node, str] = {}
        self.calls_of: dict[str, int] = {}
        self.reads: dict[fx.Node, str] = {}
        self.concats: dict[fx.Node, tuple[Ints, ...]] = {}
        self.written: dict[str, list[Ints]] = {kind: [] for kind in WRITTEN}
        self.numbers: dict[tuple[str, str], Ints] = {}
        self.heads: list[Ints] = []
        self.notes: list[str] = []
        self.model = model
        self._graph = program.graph
        signature = program.graph_signature
        self._names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._constants = dict(signature.inputs_to_lifted_tensor_constants)
        # A tensor held under two names is edited under neither.
        self.shared = {name for names in _tied(model) for name in names}
        self._whole: set[str] = set()
        self._ended: set[fx.Node] = set()
        self._inputs = {str(name) for name in signature.user_inputs}

    def run(self) -> None:
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
        for source in self.walk(self._graph):
            self.close(source, "the model's output")
        for (name, _), atoms in self.slots.items():
            if name in self._whole:
                self.atoms.close(atoms, f"{name} is used elsewhere too")

    def walk(self, graph: fx.Graph) -> list[fx.Node]:
        """Follow a graph, the values of whose placeholders are known; the nodes that it gives."""
        for node in graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._call(node)
        return graph.output_node().all_input_nodes

    def _placeholder(self, node: fx.Node) -> Value:
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            return None
        dims = tuple(range(value.dim()))
        if node.name in self._names:
            return Parameter(self._names[node.name], dims)
        if node.name in self._constants:
            held = find_tensor(self.model, self._constants[node.name])
            known = held is not None and held.shape == value.shape
            return Parameter(self._constants[node.name], dims, fixed=True) if known else None
        if value.dim() < 2 or node.name not in self._inputs:
            return None
        channels = Channels(1, self.atoms.make(value.shape[1]))
        self.atoms.close(channels.atoms, "the model's input")
        return channels

    def _call(self, node: fx.Node) -> Value:
        if node.target is operator.getitem:
            held, index = self.values.get(node.args[0]), node.args[1]
            return held[index] if isinstance(held, list) and isinstance(index, int) else self.end(node)
        rule = self.rules.get(operator_name(node))
        values = [self.values.get(source) for source in node.all_input_nodes]
        if rule is not None and not rule.parts and any(isinstance(value, Parts) for value in values):
            rule = None
        value = None if rule is None else rule.follow(self, node)
        if value is None:
            if node not in self._ended:
                self.end(node)
            # A parameter that goes where it is not followed must stay whole.
            self._whole |= {source.name for source in values if isinstance(source, Parameter)}
        return value

    # Ending a segment.

    def end(self, node: fx.Node, why: str = "is not followed") -> Value:
        """Keep everything that `node` reads, in its order; its output is unknown."""
        self._ended.add(node)
        reason = f"{operator_name(node)} {why}"
        if any(isinstance(self.values.get(source), Channels | Parts | list) for source in node.all_input_nodes):
            self.notes.append(f"{where(node)}: {reason}; the channels that it reads all stay")
        for source in node.all_input_nodes:
            self.close(source, f"{reason} ({where(node)})")
        return None

    def close(self, node: Any, reason: str, *, pin: bool = True) -> None:
        value = self.values.get(node)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Channels | Parts):
                self.atoms.close(item.atoms.reshape(-1), reason, pin=pin)

    def keep(self, node: fx.Node, why: str) -> None:
        """Keep what `node` reads, in whatever order."""
        self.notes.append(f"{where(node)}: {operator_name(node)} {why}; the channels that it reads all stay")
        self.close(node.args[0], f"{operator_name(node)} {why} ({where(node)})", pin=False)

    # Numbers of channels that modules hold.

    def count(self, node: fx.Node, channels: Ints) -> bool:
        """Take what numbers of `channels` the module of `node` holds for those of these channels; False if none."""
        module = (modules_of(node) or [""])[-1]
        held = vars(self.model.get_submodule(module)).items()
        found = [name for name, number in held if type(number) is int and number == len(channels) > 1]
        self.numbers.update({(module, name): channels for name in found})
        return bool(found)

    # Parameters with a value a channel.

    def slot(self, node: fx.Node, parameter: Any, dim: int, atoms: Ints) -> bool:
        """Record that dimension `dim` of a parameter lies along `atoms`; False where it cannot be edited."""
        if not isinstance(parameter, Parameter) or parameter.name in self.shared:
            return False
        own = parameter.dims[dim]
        if own is None:
            return False
        slot = (parameter.name, own)
        if slot in self.slots:
            if len(self.slots[slot]) != len(atoms):
                return False
            self.atoms.union(self.slots[slot], atoms)
        self.slots.setdefault(slot, atoms)
        if parameter.fixed:
            self.written["viewed"].append(atoms)
        self.slots_of.setdefault(node, []).append(slot)
        return True

    def own(self, node: fx.Node, parameter: Any) -> str | None:
        """The module that holds a parameter and runs `node`; None where another one borrows it."""
        owner = parameter.name.rpartition(".")[0] if isinstance(parameter, Parameter) else ""
        if not owner or owner not in modules_of(node):
            return None
        if node not in self.owner_of:
            self.owner_of[node] = owner
            self.calls_of[owner] = self.calls_of.get(owner, 0) + 1
        return owner


def argument(node: fx.Node, index: int, name: str) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name)


def shape(node: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


def modules_of(node: fx.Node) -> list[str]:
    """Names of the modules that a node runs in, outermost first."""
    return [str(entry[0]) for entry in node.meta.get("nn_module_stack", {}).values()]


def where(node: fx.Node) -> str:
    """The innermost module a node runs in, for messages."""
    return (modules_of(node) or [""])[-1] or "the model"


def _tied(model: nn.Module) -> list[list[str]]:
    """Names of tensors that several modules share."""
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, value in {**vars(module), **module._parameters, **module._buffers}.items():
            if isinstance(value, Tensor):
                names.setdefault(id(value), []).append(f"{path}.{attribute}" if path else attribute)
    return [found for found in names.values() if len(found) > 1]
