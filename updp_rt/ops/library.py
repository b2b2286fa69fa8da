"""The operators as torch operators ``updp_rt::...``: schemas, shapes for tracing, FLOPs, and no gradient.

Where the runtime is loaded, their implementation is its dispatch (`dispatch_with`); else their plain meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from updp_rt.ops.operator import Operator
from updp_rt.ops.problem import Problem

_LIBRARY = torch.library.Library("updp_rt", "FRAGMENT")
OPERATORS: dict[str, Operator] = {}
OperatorT = TypeVar("OperatorT", bound=Operator)

NO_GRADIENT = (
    "fused operators are for inference and have no gradient. Run the model under torch.inference_mode(); to train or "
    "fine-tune, use the source model (updp_rt.restore gives it back)"
)

_dispatch: Callable[[Operator, tuple[Any, ...]], Tensor] | None = None
_tracing: Callable[[], None] | None = None
_kept = False


class InferenceOnlyError(RuntimeError):
    """A gradient was asked of a fused operator."""

    def __init__(self) -> None:
        super().__init__(NO_GRADIENT)


def registered(name: str) -> Operator:
    """The operator of this name."""
    return OPERATORS[name]


def register(operator: OperatorT) -> OperatorT:
    """Make `operator` known, as ``torch.ops.updp_rt.<name>`` on every device; returns it.

    Raises:
        ValueError: an operator of that name is there already.
    """
    if operator.name in OPERATORS:
        raise ValueError(f"there is an operator {operator.name!r} already: give yours another name")

    operator.derive()
    qualified, defaults = f"updp_rt::{operator.name}", operator.defaults
    count = len(defaults)

    def run(*args: Any) -> Tensor:
        if len(args) < count:  # torch leaves out trailing arguments that have their defaults
            args = (*args, *defaults[len(args) :])
        return operator.run_plain(*args) if _dispatch is None else _dispatch(operator, args)

    def run_with_autograd(keys: Any, *args: Any) -> Tensor:
        wants = torch.is_grad_enabled()
        if not wants and type(args[0]) is Tensor and not torch._C._len_torch_dispatch_stack():
            return run(*args)  # past the dispatcher, which would double what a call costs
        with torch._C._AutoDispatchBelowAutograd():
            y = overload(operator).redispatch(keys & torch._C._after_autograd_keyset, *args)
        return without_gradient(y, args) if wants else y

    def fake(*args: Any) -> Tensor:
        if _tracing is not None:
            _tracing()
        return operator.fake(*args)

    def count_flops(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        return operator.flops(_problem(operator, shapes))

    torch.library.define(qualified, operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd", run)
    torch.library.register_fake(qualified, fake)
    _LIBRARY.impl(operator.name, run_with_autograd, "Autograd", with_keyset=True)
    register_flop_formula(overload(operator).overloadpacket)(count_flops)
    OPERATORS[operator.name] = operator
    return operator


def overload(operator: Operator) -> Any:
    """``torch.ops.updp_rt.<name>.default``."""
    return getattr(torch.ops.updp_rt, operator.name).default


def call(operator: Operator, *args: Any) -> Tensor:
    """``torch.ops.updp_rt.<name>(*args)``, its arguments checked; plain torch in a program exported so."""
    operator.check(*args)
    return operator.run_plain(*args) if exports_plain() else overload(operator)(*args)


def exports_plain() -> bool:
    """Whether a program is being exported that is to be made of torch's own operators."""
    # Read as a value: older torch folds torch.compiler.is_exporting() to True under torch.compile (pytorch#176347).
    return torch.compiler._is_exporting_flag and not _kept


@contextmanager
def kept_operators() -> Iterator[None]:
    """Within it, ``torch.export`` keeps ``updp_rt::...`` operators; a program then needs updp_rt where it runs."""
    global _kept  # noqa: PLW0603 - as torch's own flag of exporting
    before, _kept = _kept, True
    try:
        yield
    finally:
        _kept = before


def dispatch_with(run: Callable[[Operator, tuple[Any, ...]], Tensor], tracing: Callable[[], None]) -> None:
    """Have every operator, also those to come, run ``run(operator, args)`` with all arguments of its schema.

    `tracing` is called whenever one is traced.
    """
    global _dispatch, _tracing
    _dispatch, _tracing = run, tracing


def without_gradient(y: Tensor, args: Iterable[Any]) -> Tensor:
    """`y`, of which a gradient for those of `args` that want one is an `InferenceOnlyError`."""
    wanting = [arg for arg in args if isinstance(arg, Tensor) and arg.requires_grad]
    return _NoGradient.apply(y, *wanting) if wanting else y


class _NoGradient(torch.autograd.Function):
    """The identity, with an error for a gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *wanting: Tensor) -> Tensor:
        ctx.count = len(wanting)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return torch.ops.updp_rt.refuse_gradient(grads[0]), *(None,) * ctx.count


def _refuse_gradient(grad: Tensor) -> Tensor:
    raise InferenceOnlyError


# An operator, so that a compiled model says so when it is asked for a gradient, and not when it is compiled.
torch.library.define("updp_rt::refuse_gradient", "(Tensor grad) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
torch.library.impl("updp_rt::refuse_gradient", "CompositeExplicitAutograd", _refuse_gradient)
torch.library.register_fake("updp_rt::refuse_gradient", torch.empty_like)


def _problem(operator: Operator, args: tuple[Any, ...]) -> Problem:
    """The problem of arguments in which shapes stand for tensors, as a counter of FLOPs is given them."""
    inputs, weights, attributes = operator.separate(tuple(args[: len(operator.arguments)]))
    shapes = tuple(None if shape is None else operator.input_shape(shape) for shape in inputs)
    return Problem(operator, shapes, weights, attributes, torch.float32, "meta")
