"""One fused operator at its place in a module, whose parameters it follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.ops import Operator
from updp_rt.ops.library import overload, without_gradient
from updp_rt.runtime.bound import Bound, Calls, bind, calls_of, first_weight, release
from updp_rt.runtime.dispatch import Choice, Policy

# A tensor by the module that holds it and its name there, so that one that is replaced is seen.
Slot = tuple[nn.Module, str]


class Site:
    """A fused operator with its weights.

    Its module checks before each call whether the tensors are those packed (`updp_rt.runtime.tensors`), so updates in
    place, ``load_state_dict``, ``.to()`` and replaced parameters are followed. Where a call is traced, compiled,
    counted or wants a gradient, it goes through ``torch.ops`` with the module's own tensors.

    Args:
        operator: what is computed.
        tensors: where its weights and folds are held, by argument; those left out are None.
        policy: how implementations are chosen.
        values: its attributes, and those folds that are no tensors.

    Attributes:
        bound: what was bound to its weights at its last call, packed weights and all.
    """

    def __init__(self, operator: Operator, tensors: Mapping[str, Slot], policy: Policy, **values: Any) -> None:
        self.operator, self.policy = operator, policy
        self.attributes = tuple(values[name] for name in operator.attributes)
        self.slots = [tensors.get(name) for name in (*operator.weights, *operator.folds) if name not in values]
        self._holders = [None if slot is None else (_holder(*slot), slot[1]) for slot in self.slots]
        self.held = [holder for holder in self._holders if holder is not None]
        self._floats = tuple(values[name] for name in operator.folds if name in values)  # the last of the folds
        self._overload, self._inputs = overload(operator), len(operator.inputs)
        self._order = operator.order
        self._calls: Calls | None = None
        self.bound: Bound | None = None
        self.seen: list[tuple[Any, ...]] | None = None

    def __call__(self, *inputs: Any) -> Tensor:
        """Run on the operator's inputs; those left out are None."""
        if len(inputs) < self._inputs:
            inputs = (*inputs, *(None,) * (self._inputs - len(inputs)))
        if torch.compiler.is_compiling() or not _is_ordinary(inputs[0]):
            return self._through_torch(inputs)
        if self.seen is not None:
            self.seen.append(tuple(x if x is None else x.clone() for x in inputs))
        bound = self.bound
        if bound is None:
            sources = (*self._tensors(), *self._floats)
            # Without weights nothing tells one model's operator from another's, and each explains its own shapes.
            first = first_weight(sources)
            self._calls = Calls(self.policy) if first is None else calls_of(first)
            bound = self.bound = bind(self._calls, self.operator, sources, self.attributes, self.policy)
        return bound(*inputs)

    def check(self) -> None:
        """Bind to the weights again at the next call, if they have changed since."""
        if self.bound is not None and not self.bound.hold(self._tensors()):
            self._unbind()

    @property
    def choices(self) -> dict[str, Choice]:
        """What was chosen for the weights as they are, by problem."""
        return {} if self.bound is None else self.bound.choices

    @contextmanager
    def recorded(self) -> Iterator[dict[str, Choice]]:
        """The choices of the calls made inside, complete at the end of it, and until then in `seen` their inputs."""
        self.seen = []
        self.check()
        before = self.bound
        recording: AbstractContextManager[dict[str, Choice]] = nullcontext({}) if before is None else before.recorded()
        try:
            with recording as choices:
                yield choices
        finally:
            self.seen = None  # or inputs of all later calls would be kept
        if self.bound is not before:  # weights that had changed were bound to by the calls
            choices |= self.choices

    def forget(self) -> None:
        """Pack the weights again at the next call, whatever their tensors say."""
        self._unbind()
        first = first_weight(self._tensors())
        if first is not None:
            release(first)

    def _unbind(self) -> None:
        if self._calls is not None and self.bound is not None:
            self._calls.drop(self.bound)
        self._calls = self.bound = None

    def _tensors(self) -> list[Any]:
        return [None if held is None else held[0].get(held[1]) for held in self._holders]

    def _through_torch(self, inputs: tuple[Any, ...]) -> Tensor:
        tensors = [None if slot is None else getattr(slot[0], slot[1]) for slot in self.slots]
        count = len(self.operator.weights)
        parts = (*inputs, *tensors[:count], *self.attributes)
        result: Tensor = self._overload(*[parts[i] for i in self._order], *tensors[count:], *self._floats)
        if torch.is_grad_enabled() and torch.compiler.is_compiling():  # where the operator's own is not traced
            return without_gradient(result, (*inputs, *tensors))
        return result


def _holder(module: nn.Module, name: str) -> dict[str, Any]:
    return module._parameters if name in module._parameters else module._buffers


def _is_ordinary(x: Any) -> bool:
    """Whether a call on `x` may run at once, past torch's dispatcher."""
    return type(x) is Tensor and not torch.is_grad_enabled() and not torch._C._len_torch_dispatch_stack()
