"""What an operator is. One is written in one file, as a class of this; everything else asks it, and never its name.

To add one: derive from `Operator` (`RowOperator`, `ImageOperator`), write its plain meaning, shapes and costs, and
`updp_rt.ops.register` an instance. Backends then say which of its problems they run, and a rule says where it is used.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from updp_rt.ops.checks import Shape, check_alike

if TYPE_CHECKING:
    from updp_rt.ops.parts import Part
    from updp_rt.ops.problem import Problem

Weights = tuple[Any, ...]  # each a Tensor, or None for a bias that is not there
Shapes = Mapping[str, Any]  # of tensors by argument; None where one is not given

_CHECKED_ROWS = 256


class Operator(ABC):
    """A fused operator.

    Attributes:
        name: of ``torch.ops.updp_rt.<name>``.
        schema: torch's, without the name: first the arguments of `plain`, then those of `folds`.
        inputs: arguments that come with every call, the first of which is never None.
        weights: arguments that stay from call to call. Optional ones are biases.
        folds: arguments, optional all, that `fold` works into the weights: norms, scales and the like. Weights are
            thus given as the model holds them, and followed when they change.
        examples: shapes by tensor, and attributes, of calls that meet odd sizes; for tests. An optional tensor that is
            left out is None.
    """

    name: ClassVar[str]
    schema: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[tuple[str, ...]] = ()
    folds: ClassVar[tuple[str, ...]] = ()
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """There is one of each name: copies and pickles name it."""
        from updp_rt.ops.library import registered

        return registered, (self.name,)

    # What each one says of itself

    @abstractmethod
    def plain(self, *args: Any) -> Tensor:
        """Its meaning, in plain torch; arguments as in the schema, without those of `folds`."""

    @abstractmethod
    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        """Raise ValueError unless tensors of these shapes and these attributes fit together."""

    @abstractmethod
    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> Shape:
        """Shape of the result, by those of the tensors; sizes may be symbolic."""

    @abstractmethod
    def flops(self, problem: Problem) -> int:
        """Multiplications and additions of the contractions."""

    @abstractmethod
    def sum_length(self, problem: Problem) -> int:
        """How many products one element of the result sums."""

    def exponentials(self, problem: Problem) -> int:
        """How many exponentials any implementation must take, of which hardware takes fewer at once than products."""
        return 0

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        """Weights with `folds` worked in, in float64 and back; called where one of them is given."""
        raise NotImplementedError(f"{self.name} has nothing to fold")

    def parts(self, problem: Problem) -> tuple[Part, ...]:
        """Separate operators in a row that compute the same, if there are such: a candidate of their own."""
        return ()

    def magnitude(self, *args: Any) -> Tensor:
        """For each element of the result the sum of its terms' magnitudes: rounding acts on it (Higham 2002, 3.1)."""
        return self.plain(*(self._without_signs(name, arg) for name, arg in zip(self.arguments, args, strict=True)))

    def bytes_moved(self, problem: Problem) -> int:
        """Bytes that any implementation must move: each input, weight and result once."""
        given = [shape for shape in (*problem.inputs, *problem.weights, problem.output) if shape is not None]
        return sum(math.prod(shape) for shape in given) * problem.dtype.itemsize

    def input_shape(self, shape: Sequence[int]) -> Shape:
        """What an input of `shape` is known by in a problem."""
        return tuple(shape)

    def tail(self, tensor: Tensor) -> Tensor:
        """The end of an input or result, where incomplete tiles lie: what a check in float64 can afford to look at."""
        return tensor[-1:]

    # What follows from it

    def derive(self) -> None:
        """Work out what calls ask for: tracing cannot enter the lock in which Python 3.11 caches a property."""
        for kind in type(self).__mro__:
            for name, member in vars(kind).items():
                if isinstance(member, cached_property):
                    getattr(self, name)

    def check(self, *args: Any) -> None:
        """Raise ValueError unless these are arguments of `plain`."""
        named = dict(zip(self.arguments, args, strict=True))
        attributes = {name: named.pop(name) for name in self.attributes}
        check_alike(attributes.get("act", "none"), **named)
        self.check_shapes({n: None if tensor is None else tensor.shape for n, tensor in named.items()}, attributes)

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments of `plain`, in order."""
        return tuple(name for name in self._optional if name not in self.folds)

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """Those of them that are no tensors."""
        return tuple(name for name in self.arguments if name not in (*self.inputs, *self.weights))

    @cached_property
    def biases(self) -> tuple[str, ...]:
        """The weights that may be left out."""
        return tuple(name for name in self.weights if self._optional[name])

    @cached_property
    def _optional(self) -> dict[str, bool]:
        return {arg.name: str(arg.type).startswith("Optional") for arg in self._parsed.arguments}

    @cached_property
    def _numbers(self) -> frozenset[str]:
        """Folds that are no tensors; they come last."""
        return frozenset(arg.name for arg in self._parsed.arguments if "Tensor" not in str(arg.type)) & set(self.folds)

    @cached_property
    def defaults(self) -> tuple[Any, ...]:
        """Of all arguments of the schema, None for those without one."""
        return tuple(arg.default_value for arg in self._parsed.arguments)

    @cached_property
    def _parsed(self) -> Any:
        return torch._C.parse_schema(f"updp_rt::{self.name}{self.schema}")

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Places of `arguments` among inputs, weights and attributes."""
        parts = (*self.inputs, *self.weights, *self.attributes)
        return tuple(parts.index(name) for name in self.arguments)

    def assemble(self, inputs: tuple[Any, ...], weights: Weights, attributes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments in the order of the schema."""
        parts = (*inputs, *weights, *attributes)
        return tuple([parts[place] for place in self.order])

    @cached_property
    def _places(self) -> tuple[tuple[int, ...], ...]:
        kinds = (self.inputs, self.weights, self.attributes)
        return tuple(tuple(self.arguments.index(name) for name in names) for names in kinds)

    def separate(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Weights, tuple[Any, ...]]:
        """Inputs, weights and attributes out of arguments in the order of the schema; lists become tuples."""
        inputs, weights, attributes = self._places
        return (
            tuple([args[i] for i in inputs]),
            tuple([args[i] for i in weights]),
            tuple([tuple(args[i]) if isinstance(args[i], list) else args[i] for i in attributes]),
        )

    @cached_property
    def take_inputs(self) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        """The inputs out of all arguments of the schema."""
        return _taker([self.arguments.index(name) for name in self.inputs])

    @cached_property
    def take_sources(self) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        """The weights and folds out of all arguments of the schema."""
        folds = range(len(self.arguments), len(self.arguments) + len(self.folds))
        return _taker([*(self.arguments.index(name) for name in self.weights), *folds])

    @cached_property
    def take_values(self) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        """All arguments of the schema that are no tensors."""
        numbers = [len(self.arguments) + i for i, name in enumerate(self.folds) if name in self._numbers]
        return _taker([*(self.arguments.index(name) for name in self.attributes), *numbers])

    def effective(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        """The weights that the operator multiplies with, detached: those given, with `folds` worked in."""
        weights = tuple(None if w is None else w.detach() for w in weights)
        if all(fold is None for fold in folds if not isinstance(fold, float)):
            return weights
        return self.fold(weights, tuple(f.detach() if isinstance(f, Tensor) else f for f in folds))

    def run_plain(self, *args: Any) -> Tensor:
        """The plain operator on all arguments of the schema, its result in the operator's layout."""
        count = len(self.arguments)
        inputs, weights, attributes = self.separate(args[:count])
        if args[count:]:
            weights = self.effective(weights, args[count:])
        return self.in_layout(self.plain(*self.assemble(inputs, weights, attributes)))

    def in_layout(self, y: Tensor) -> Tensor:
        """`y` in the operator's memory format; what is no batch of images is contiguous."""
        images = y.dim() == 4
        return y.contiguous(memory_format=self.memory_format if images else torch.contiguous_format)

    def fake(self, *args: Any) -> Tensor:
        """An empty result, for tracing."""
        named = dict(zip(self.arguments, args, strict=False))
        shapes = {n: v.shape for n, v in named.items() if n not in self.attributes and v is not None}
        shape = self.output_shape(shapes, {name: named[name] for name in self.attributes})
        x = named[self.inputs[0]]
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=self.memory_format)

    def _without_signs(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.abs()
        return "none" if name == "act" else value

    def __repr__(self) -> str:
        return f"<operator {self.name}>"


def _taker(places: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Takes what stands at these places."""
    if len(places) > 1:
        return itemgetter(*places)
    return (lambda args: (args[places[0]],)) if places else (lambda args: ())


class RowOperator(Operator):
    """Of rows ``[..., features]``: leading dimensions count as one."""

    def input_shape(self, shape: Sequence[int]) -> Shape:
        return math.prod(shape[:-1]), shape[-1]

    def tail(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, tensor.shape[-1])[-_CHECKED_ROWS:]


class ImageOperator(Operator):
    """Of images ``[N, C, H, W]``, its result in channels_last."""

    memory_format = torch.channels_last
