"""Which operators a model runs, in order: the fused ones, and torch's own that are left between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from updp_rt._marks import source_type
from updp_rt.ops import OPERATORS, Operator, Problem, RowOperator
from updp_rt.runtime.dispatch import Policy
from updp_rt.runtime.fused import CannotFuseError, Fused, Fusion, fused_modules
from updp_rt.runtime.rules import RULES

# They make a tensor or ask one something: no kernel runs. Views are told by their schemas.
_NO_KERNEL = frozenset(
    ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "as_strided_", "device")
)


@dataclass(frozen=True)
class Step:
    """One operator that ran: torch's with a kernel, or a fused one.

    Attributes:
        name: of torch's operator, without its namespace; or of the fused one.
        operator: the fused one; None: it is torch's own.
        place: path of the innermost module in which it ran.
        arguments: as it was called with, those named last.
        result: what it gave.
        function: what ran, as torch knows it.
    """

    name: str
    operator: Operator | None
    place: str
    arguments: tuple[Any, ...] = field(repr=False)
    result: Any = field(repr=False)
    function: Any = field(repr=False)

    def tensors(self) -> list[Tensor]:
        """The tensors it was called with."""
        return [leaf for leaf in tree_leaves(self.arguments) if isinstance(leaf, Tensor)]

    def copied(self) -> list[Tensor]:
        """The inputs of a fused operator that do not lie as kernels take them, so that torch copies them first."""
        operator = self.operator
        assert operator is not None
        inputs = [tensor for tensor in operator.take_inputs(self.arguments) if tensor is not None]
        if isinstance(operator, RowOperator):
            return [x for x in inputs if not _is_rows(x)]
        taken = {4: torch.channels_last}  # images; what is no image is contiguous
        return [x for x in inputs if not x.is_contiguous(memory_format=taken.get(x.dim(), torch.contiguous_format))]

    def problem(self) -> Problem:
        """The problem of dispatch that a fused operator is here; folds are worked into the weights."""
        operator = self.operator
        assert operator is not None
        given = (*self.arguments, *operator.defaults[len(self.arguments) :])
        count = len(operator.arguments)
        inputs, weights, attributes = operator.separate(given[:count])
        return Problem.of(operator, inputs, operator.effective(weights, given[count:]), attributes)


@contextmanager
def recorded(model: nn.Module | None = None) -> Iterator[list[Step]]:
    """Within it, all that runs is listed, and where in `model`. Nothing may be captured or compiled meanwhile.

    What a fused module runs stands at its own place, whichever of its parts that is for.
    """
    places: list[str] = [""]
    recorder = _Recorder(places)
    modules = [] if model is None else list(model.named_modules())
    fusions = [] if model is None else [fusion for _, _, fusion in fused_modules(model)]
    absorbed = {id(member) for fusion in fusions for _, _, member, _ in fusion.members}
    hooks: list[Any] = []
    for name, module in modules:
        if id(module) not in absorbed:
            hooks.append(module.register_forward_pre_hook(partial(_enter, places, name)))
            hooks.append(module.register_forward_hook(partial(_leave, places), always_call=True))
    try:
        with recorder:
            yield recorder.steps
    finally:
        for hook in hooks:
            hook.remove()


def why_left(model: nn.Module, place: str) -> str:
    """Why torch's own operators run in the module at `place` of an accelerated model."""
    module = model.get_submodule(place)
    kind = source_type(module).__name__
    if isinstance(module, Fused):
        return f"{kind} runs it between its fused operators"
    rule = RULES.get(type(module))
    if rule is None:
        return f"no rule fuses {kind}"
    try:
        Fusion.planned(rule, module, Policy())
    except CannotFuseError as error:
        return str(error)
    return f"{kind} is not fused as it is"


def why_copied(operator: Operator) -> str:
    """Why torch copies an input of a fused operator first."""
    return f"an input of {operator.name} lies otherwise than its kernels take it"


class _Recorder(TorchDispatchMode):
    def __init__(self, places: list[str]) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._places = places

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = function(*args, **given)
        namespace, _, name = function.name().partition("::")
        name = name.partition(".")[0]
        if namespace != "prim" and not function.is_view and name not in _NO_KERNEL:
            operator = OPERATORS.get(name) if namespace == "updp_rt" else None
            arguments = (*args, *given.values())
            self.steps.append(Step(name, operator, self._places[-1], arguments, result, function))
        return result


def _is_rows(x: Tensor) -> bool:
    """Whether all but the last dimension of `x` count as one, without a copy."""
    above = [(size, stride) for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size != 1]
    dense = all(stride == size * inner for (_, stride), (size, inner) in pairwise(above))
    return dense and (x.stride(-1) == 1 or x.shape[-1] == 1)


def _enter(places: list[str], name: str, *_: object) -> None:
    places.append(name)


def _leave(places: list[str], *_: object) -> None:
    places.pop()
