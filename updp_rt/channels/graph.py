"""One pass over an exported graph: what every tensor in it knows of its channels."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from updp_rt.channels.atoms import Atoms, Channels, Ints, Parts


@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer as it comes to an operator: which of its own dimensions each dimension is."""

    name: str
    dims: tuple[int | None, ...]


# Channels whose sizes a model's code may have written out, which shows only when it runs.
WRITTEN = {"counted": "heads of attention and parts of splits", "reshaped": "channels that pass a reshape"}

Value = Channels | Parts | Parameter | list[Any] | None
# Operators that know of channels which were taken apart; others end the segment.
_OF_PARTS = frozenset({"permute", "transpose", "reshape", "view", "unbind", "select", "scaled_dot_product_attention"})
Handler = Callable[[fx.Node], Value]


def short_name(node: fx.Node) -> str:
    """``aten.relu_.default`` as ``relu``: with or without working in place."""
    return str(getattr(node.target, "_opname", "") or getattr(node.target, "__name__", node.target)).strip("_")


def read_axis(node: fx.Node) -> int:
    """The dimension along which a concatenation's inputs lie."""
    return int(argument(node, 1, "dim") or 0) % len(shape(node))


class Graph:
    """One pass over an exported graph, in the order in which it runs."""

    def __init__(self, model: nn.Module, program: ExportedProgram) -> None:
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
        # A tensor held under two names is edited under neither.
        self.shared = {name for names in _tied(model) for name in names}
        self._whole: set[str] = set()
        self._inputs = {str(name) for name in signature.user_inputs}

    def run(self) -> None:
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "output":
                for source in node.all_input_nodes:
                    self.close(source, "the model's output")
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            else:
                self.end(node)
        for (name, _), atoms in self.slots.items():
            if name in self._whole:
                self.atoms.close(atoms, f"{name} is used elsewhere too")

    def _placeholder(self, node: fx.Node) -> Value:
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            return None
        if node.name in self._names:
            return Parameter(self._names[node.name], tuple(range(value.dim())))
        if value.dim() < 2 or node.name not in self._inputs:
            return None
        channels = Channels(1, self.atoms.make(value.shape[1]))
        self.atoms.close(channels.atoms, "the model's input")
        return channels

    def _call(self, node: fx.Node) -> Value:
        name = short_name(node)
        if node.target is operator.getitem:
            held, index = self.values.get(node.args[0]), node.args[1]
            return held[index] if isinstance(held, list) and isinstance(index, int) else None
        handler = self.handler(name)
        if name not in _OF_PARTS and any(isinstance(self.values.get(s), Parts) for s in node.all_input_nodes):
            handler = None
        value = handler(node) if handler is not None else self.end(node)
        if value is None:  # a parameter that goes where it is not followed must stay whole
            sources = (self.values.get(source) for source in node.all_input_nodes)
            self._whole |= {source.name for source in sources if isinstance(source, Parameter)}
        return value

    def handler(self, name: str) -> Handler | None:
        """What follows an operator of this name; None for an unknown one."""
        found: Handler | None = getattr(self, f"do_{name}", None)
        return found

    # Ending a segment.

    def end(self, node: fx.Node, why: str = "is not followed") -> Value:
        """Keep everything that `node` reads, in its order; its output is unknown."""
        reason = f"{short_name(node)} {why}"
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
        self.notes.append(f"{where(node)}: {short_name(node)} {why}; the channels that it reads all stay")
        self.close(node.args[0], f"{short_name(node)} {why} ({where(node)})", pin=False)

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
    """Names of parameters that several modules share."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [found for found in names.values() if len(found) > 1]
