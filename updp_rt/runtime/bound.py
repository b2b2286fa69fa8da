"""An operator bound to the tensors its weights come from: packed once, and packed again when they change.

Whoever calls an operator with the same tensors, a module or a compiled program, gets the same bound one.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from updp_rt.backends import Prepared
from updp_rt.ops import Operator, Problem
from updp_rt.runtime.dispatch import Choice, Policy, choose
from updp_rt.runtime.tensors import Stamps

_log = logging.getLogger("updp_rt")
# By the id of the first weight: the weight, and the bound operators of the calls that it was given to.
_bound: dict[int, tuple[weakref.ref[Tensor], dict[Any, Bound]]] = {}
_without_weights: dict[Any, Bound] = {}


class Bound:
    """An operator with weights, by the inputs it has met.

    Args:
        operator: what is computed.
        sources: its weights and folds, as the caller holds them.
        attributes: of the operator.
        policy: how implementations are chosen.

    Attributes:
        choices: what was chosen, by problem.
        hold: whether given tensors are those it was packed from, unchanged since.
    """

    def __init__(
        self, operator: Operator, sources: tuple[Any, ...], attributes: tuple[Any, ...], policy: Policy
    ) -> None:
        self.operator, self.attributes, self.policy = operator, attributes, policy
        self.choices: dict[str, Choice] = {}
        self._stamps = Stamps([source for source in sources if not isinstance(source, float)])
        if not self._stamps.trackable:
            _log.warning(
                "weights moved or made under torch.inference_mode() keep no record of updates, so they are packed "
                "again at every call, which is slow: call .to() or load them outside inference_mode"
            )
        self.hold = self._stamps.hold
        count = len(operator.weights)
        self._weights = operator.effective(sources[:count], sources[count:])
        self._calls: dict[Any, Prepared] = {}
        # By whether each input is given, then by candidate: shared by all shapes that choose the same one.
        self._prepared: dict[tuple[bool, ...], dict[str, Prepared]] = {}

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        call = self._calls.get(_signature(inputs))
        return (self._choose(inputs) if call is None else call)(*inputs)

    @contextmanager
    def recorded(self) -> Iterator[dict[str, Choice]]:
        """The choices of the calls made inside, and only those; afterwards all are known again."""
        choices, calls = self.choices, self._calls
        self.choices, self._calls = {}, {}
        try:
            yield self.choices
        finally:
            self.choices, self._calls = choices | self.choices, calls | self._calls

    def _choose(self, inputs: tuple[Any, ...]) -> Prepared:
        operator = self.operator
        try:
            operator.check(*operator.assemble(inputs, self._weights, self.attributes))
        except ValueError:
            # What only torch's own operators take, an image without a batch, or refuse in words of their own.
            return self._plain
        problem = Problem.of(operator, inputs, self._weights, self.attributes)
        prepared = self._prepared.setdefault(tuple(x is not None for x in inputs), {})
        choice, call = choose(problem, self._weights, inputs, self.policy, prepared)
        if not choice.provisional:
            self.choices[problem.key] = choice
            self._calls[_signature(inputs)] = call
        return call

    def _plain(self, *inputs: Tensor | None) -> Tensor:
        operator = self.operator
        return operator.in_layout(operator.plain(*operator.assemble(inputs, self._weights, self.attributes)))


def bind(
    operator: Operator, sources: tuple[Any, ...], attributes: tuple[Any, ...], policy: Policy | None = None
) -> Bound:
    """The bound operator of these tensors as they are now.

    Args:
        sources: its weights and folds.
        policy: how implementations are chosen; None: as whoever bound them before chose.
    """
    known = _calls_of(sources[0]) if sources else _without_weights
    tensors = [source for source in sources if not isinstance(source, float)]
    latest = (operator, attributes, *sources[len(tensors) :])  # numbers come last
    bound = known.get(latest)
    if bound is not None and policy in (None, bound.policy) and bound.hold(tensors):
        return bound
    key = (*latest, *map(id, tensors))
    bound = known.get(key)
    if bound is None or policy not in (None, bound.policy) or not bound.hold(tensors):
        wanted = policy or (Policy() if bound is None else bound.policy)
        bound = known[key] = Bound(operator, sources, attributes, wanted)
    known[latest] = bound
    return bound


def _calls_of(weight: Tensor) -> dict[Any, Bound]:
    """The bound operators of the calls that `weight` was given to."""
    number = id(weight)
    entry = _bound.get(number)
    if entry is None or entry[0]() is not weight:
        entry = _bound[number] = (weakref.ref(weight, lambda gone: _drop(number, gone)), {})
    return entry[1]


def _drop(number: int, gone: weakref.ref[Tensor]) -> None:
    entry = _bound.get(number)
    if entry is not None and entry[0] is gone:
        del _bound[number]


def release(first: Tensor) -> None:
    """Forget what was packed from weights of which `first` is the first."""
    _bound.pop(id(first), None)


def run_operator(operator: Operator, args: tuple[Any, ...]) -> Tensor:
    """``torch.ops.updp_rt.<operator>(*args)`` on the implementation chosen for it."""
    inputs, weights, attributes = operator.separate(args)
    return bind(operator, (*weights, *args[len(operator.arguments) :]), attributes)(*inputs)


def _signature(inputs: tuple[Any, ...]) -> Any:
    """What a choice depends on besides the weights: shapes and dtypes of all inputs."""
    x = inputs[0]
    if len(inputs) == 1:
        return x.shape, x.dtype
    if len(inputs) == 2:  # as nearly all operators have
        other = inputs[1]
        return (x.shape, x.dtype) if other is None else (x.shape, x.dtype, other.shape, other.dtype)
    return tuple([None if x is None else (x.shape, x.dtype) for x in inputs])
