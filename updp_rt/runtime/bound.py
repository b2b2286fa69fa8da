"""An operator bound to the tensors its weights come from: packed once, and packed again when they change.

Whoever calls an operator with the same tensors, a module or a compiled program, gets the same bound one.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from updp_rt.backends import Prepared
from updp_rt.ops import Operator, Problem, Weights
from updp_rt.runtime.dispatch import Choice, Policy, choose
from updp_rt.runtime.tensors import Stamps

_log = logging.getLogger("updp_rt")


class Calls:
    """The calls that one first weight was given to, or those of one caller without weights.

    Args:
        policy: how implementations are chosen where nobody says.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.bound: dict[Any, Bound] = {}
        # By the inputs met: what was bound, its attributes and numbers, and the call prepared.
        self.quick: dict[Any, tuple[Bound, tuple[Any, ...], Prepared]] = {}

    def drop(self, bound: Bound) -> None:
        """Let go of what was packed from tensors that are no longer as they were."""
        self.bound = {key: other for key, other in self.bound.items() if other is not bound}
        self.quick = {key: found for key, found in self.quick.items() if found[0] is not bound}


class _Caller(threading.local):
    """Who calls operators without weights, which nothing else tells one model's from another's."""

    calls = Calls()


# By the id of the first weight. A site keeps its calls; those of others are kept for as long as that weight lives.
# Sites point to no tensor, since torch swaps none that is pointed to.
_calls: dict[int, weakref.ref[Calls]] = {}
_kept: dict[int, tuple[weakref.ref[Tensor], Calls]] = {}
_caller = _Caller()
_MOST_BOUND = 8  # to one first weight: layers that share it


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
        tensors = [source for source in sources if not isinstance(source, float)]
        self._stamps, self._numbers = Stamps(tensors), sources[len(tensors) :]
        if not self._stamps.trackable:
            _log.warning(
                "weights moved or made under torch.inference_mode() keep no record of updates, so they are packed "
                "again at every call, which is slow: call .to() or load them outside inference_mode"
            )
        self.hold = self._stamps.hold
        self._calls: dict[Any, Prepared] = {}
        # By whether each input is given, then by candidate: shared by all shapes that choose the same one.
        self._prepared: dict[tuple[bool, ...], dict[str, Prepared]] = {}

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        call = self._calls.get(_signature(inputs))
        return (self._choose(inputs) if call is None else call)(*inputs)

    def prepared(self, inputs: tuple[Any, ...]) -> Prepared | None:
        """The call chosen for inputs like these; None where there is none yet."""
        return self._calls.get(_signature(inputs))

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
        operator, weights = self.operator, self._weights()
        try:
            operator.check(*operator.assemble(inputs, weights, self.attributes))
        except ValueError:
            # What only torch's own operators take, an image without a batch, or refuse in words of their own.
            return self._plain
        problem = Problem.of(operator, inputs, weights, self.attributes)
        prepared = self._prepared.setdefault(tuple(x is not None for x in inputs), {})
        choice, call = choose(problem, weights, inputs, self.policy, prepared)
        if not choice.provisional:
            self.choices[problem.key] = choice
            self._calls[_signature(inputs)] = call
        return call

    def _plain(self, *inputs: Tensor | None) -> Tensor:
        operator = self.operator
        return operator.in_layout(operator.plain(*operator.assemble(inputs, self._weights(), self.attributes)))

    def _weights(self) -> Weights:
        """The weights that are multiplied with; not kept, since whoever is chosen packs them."""
        count, tensors = len(self.operator.weights), self._stamps.aliases
        return self.operator.effective(tuple(tensors[:count]), (*tensors[count:], *self._numbers))


def bind(
    known: Calls,
    operator: Operator,
    sources: tuple[Any, ...],
    attributes: tuple[Any, ...],
    policy: Policy | None = None,
) -> Bound:
    """The bound operator of these tensors as they are now.

    Args:
        known: the `calls_of` these tensors.
        sources: its weights and folds.
        policy: how implementations are chosen; None: as whoever bound them before chose.
    """
    tensors = [source for source in sources if not isinstance(source, float)]
    key = (operator, attributes, *sources[len(tensors) :], *map(id, tensors))  # numbers come last
    bound = known.bound.get(key)
    if bound is None or policy not in (None, bound.policy) or not bound.hold(tensors):
        wanted = policy or (known.policy if bound is None else bound.policy)
        bound = known.bound[key] = Bound(operator, sources, attributes, wanted)
        if len(known.bound) > _MOST_BOUND:
            del known.bound[next(iter(known.bound))]
        known.quick.clear()
    return bound


def calls_of(first: Tensor) -> Calls:
    """The calls of weights of which `first` is the first, for as long as somebody keeps them."""
    number = id(first)
    known = _calls.get(number)
    calls = None if known is None else known()
    if calls is None:
        calls = Calls()
        _calls[number] = weakref.ref(calls, lambda _: _calls.pop(number, None))
    return calls


def first_weight(sources: Iterable[Any]) -> Tensor | None:
    """The first of `sources` that is there, by which calls are known; None for an operator without weights."""
    return next((source for source in sources if isinstance(source, Tensor)), None)


def release(first: Tensor) -> None:
    """Forget what was packed from weights of which `first` is the first."""
    _calls.pop(id(first), None)
    _kept.pop(id(first), None)


@contextmanager
def calling(calls: Calls) -> Iterator[None]:
    """Within it, operators without weights are called in `calls`, in this thread."""
    before, _caller.calls = _caller.calls, calls
    try:
        yield
    finally:
        _caller.calls = before


def run_operator(operator: Operator, args: tuple[Any, ...]) -> Tensor:
    """``torch.ops.updp_rt.<operator>(*args)`` on the implementation chosen for it."""
    inputs, sources, values = operator.take_inputs(args), operator.take_sources(args), operator.take_values(args)
    known, key = _known(sources), (operator, _signature(inputs))
    found = known.quick.get(key)
    if found is not None:
        bound, given, call = found
        if given == values and bound.hold(sources):
            return call(*inputs)
    _, _, attributes = operator.separate(args)
    bound = bind(known, operator, sources, attributes)
    y = bound(*inputs)
    prepared = bound.prepared(inputs)
    if prepared is not None:
        known.quick[key] = (bound, values, prepared)
    return y


def _known(sources: tuple[Any, ...]) -> Calls:
    """The calls that these sources were given to, kept with the first weight where no site does."""
    weight = first_weight(sources)
    if weight is None:
        return _caller.calls
    number = id(weight)
    found = _calls.get(number)
    calls = None if found is None else found()
    if calls is None:
        calls = calls_of(weight)
        _kept[number] = (weakref.ref(weight, lambda _: _kept.pop(number, None)), calls)
    return calls


def _signature(inputs: tuple[Any, ...]) -> Any:
    """What a choice depends on besides the weights: shapes and dtypes of all inputs, and where the first is."""
    x = inputs[0]
    if len(inputs) == 1:
        return x.shape, x.dtype, x.device
    if len(inputs) == 2:  # as nearly all operators have
        other = inputs[1]
        return (x.shape, x.dtype, x.device) if other is None else (x.shape, x.dtype, x.device, other.shape, other.dtype)
    return x.device, *[None if given is None else (given.shape, given.dtype) for given in inputs]
