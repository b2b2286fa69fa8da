"""The operators as torch operators ``updp_rt::...``: schemas, shapes for tracing, FLOPs, and no gradient.

Where the runtime is loaded, their implementation is its dispatch (`dispatch_with`); else their plain meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from updp_rt.ops.operator import Operator
from updp_rt.ops.problem import Problem

OPERATORS: dict[str, Operator] = {}
OperatorT = TypeVar("OperatorT", bound=Operator)

NO_GRADIENT = (
    "fused operators are for inference and have no gradient. Run the model under torch.inference_mode(); to train or "
    "fine-tune, use the source model (updp_rt.restore gives it back)"
)

_dispatch: Callable[[Operator, tuple[Any, ...]], Tensor] | None = None
_kept = False


class InferenceOnlyError(RuntimeError):
    """A gradient was asked of a fused operator."""

    def __init__(self) -> None:
        super().__init__(NO_GRADIENT)


def register(operator: OperatorT) -> OperatorT:
    """Make `operator` known, as ``torch.ops.updp_rt.<name>`` on every device; returns it.

    Raises:
        ValueError: an operator of that name is there already.
    """
    if operator.name in OPERATORS:
        raise ValueError(f"there is an operator {operator.name!r} already: give yours another name")

    def run(*args: Any) -> Tensor:
        return operator.run_plain(*args) if _dispatch is None else _dispatch(operator, args)

    def count(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        return operator.flops(_problem(operator, shapes))

    qualified = f"updp_rt::{operator.name}"
    torch.library.define(qualified, operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd", _with_defaults(operator, run))
    torch.library.register_fake(qualified, operator.fake)
    torch.library.register_autograd(qualified, _no_backward)
    register_flop_formula(overload(operator).overloadpacket)(count)
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


def dispatch_with(run: Callable[[Operator, tuple[Any, ...]], Tensor]) -> None:
    """Have every operator, also those to come, run ``run(operator, args)`` with all arguments of its schema."""
    global _dispatch  # noqa: PLW0603 - one runtime a process
    _dispatch = run


def _with_defaults(operator: Operator, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch leaves out trailing arguments that have their defaults."""
    schema = torch._C.parse_schema(f"updp_rt::{operator.name}{operator.schema}")
    defaults = tuple(argument.default_value for argument in schema.arguments)
    count = len(defaults)

    def complete(*args: Any) -> Tensor:
        return run(*args) if len(args) == count else run(*args, *defaults[len(args) :])

    return complete


def _problem(operator: Operator, args: tuple[Any, ...]) -> Problem:
    """The problem of arguments in which shapes stand for tensors, as a counter of FLOPs is given them."""
    inputs, weights, attributes = operator.separate(tuple(args[: len(operator.arguments)]))
    shapes = tuple(None if shape is None else operator.input_shape(shape) for shape in inputs)
    return Problem(operator, shapes, weights, attributes, torch.float32, "meta")


def _no_backward(ctx: Any, *grads: Tensor) -> None:
    raise InferenceOnlyError
