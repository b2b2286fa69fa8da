"""One problem of dispatch: an operator, the shapes it meets, its dtype and its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from updp_rt.ops.checks import Shape
from updp_rt.ops.operator import Operator, Weights


@dataclass(frozen=True)
class Problem:
    """Everything a choice of implementation may depend on.

    Attributes:
        inputs: shapes of the operator's inputs, in its order, None for one that is not given; those of row operators
            with all leading dimensions as one.
        weights: shapes of its weights, likewise.
        attributes: values of its attributes.
        dtype: of all tensors.
        device: its type.
    """

    operator: Operator
    inputs: tuple[Shape | None, ...]
    weights: tuple[Shape | None, ...]
    attributes: tuple[Any, ...]
    dtype: torch.dtype
    device: str

    @classmethod
    def of(cls, operator: Operator, inputs: tuple[Any, ...], weights: Weights, attributes: tuple[Any, ...]) -> Problem:
        """The problem of calling `operator` on these tensors."""
        x: Tensor = inputs[0]
        return cls(
            operator,
            tuple(None if t is None else operator.input_shape(t.shape) for t in inputs),
            tuple(None if w is None else tuple(w.shape) for w in weights),
            attributes,
            x.dtype,
            x.device.type,
        )

    @classmethod
    def make(cls, operator: Operator, dtype: torch.dtype, device: str = "cpu", **values: Any) -> Problem:
        """A problem by shapes of tensors and values of attributes, named; optional tensors may be left out.

        A ``residual=True`` has the shape of the result.
        """
        if values.get("residual") is True:
            values["residual"] = operator.output_shape(values, values)
        given = (values.get(name) for name in operator.inputs)
        return cls(
            operator,
            tuple(None if shape is None else operator.input_shape(shape) for shape in given),
            tuple(values.get(name) for name in operator.weights),
            tuple(values[name] for name in operator.attributes),
            dtype,
            device,
        )

    def shape(self, name: str) -> Shape:
        """Shape of the tensor of this name; KeyError where it is not given."""
        found = self._shapes().get(name)
        if found is None:
            raise KeyError(f"{self.operator.name} is given no {name} here")
        return found

    def has(self, name: str) -> bool:
        """Whether the tensor of this name is given."""
        return self._shapes().get(name) is not None

    def __getitem__(self, name: str) -> Any:
        """The attribute of this name."""
        return self.attributes[self.operator.attributes.index(name)]

    @property
    def x(self) -> Shape:
        """Shape of the first input."""
        assert self.inputs[0] is not None
        return self.inputs[0]

    @property
    def act(self) -> str:
        """The activation at the end."""
        return self["act"] if "act" in self.operator.attributes else "none"

    @property
    def residual(self) -> bool:
        """Whether a residual is added."""
        return self.has("residual")

    @property
    def output(self) -> Shape:
        """Shape of the result, of row operators with leading dimensions as one."""
        named = dict(zip(self.operator.attributes, self.attributes, strict=True))
        return self.operator.output_shape(self._shapes(), named)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the contractions."""
        return self.operator.flops(self)

    @property
    def exponentials(self) -> int:
        """How many exponentials any implementation must take."""
        return self.operator.exponentials(self)

    @property
    def sum_length(self) -> int:
        """How many products one element of the result sums."""
        return self.operator.sum_length(self)

    @property
    def bytes_moved(self) -> int:
        """Bytes that any implementation must move."""
        return self.operator.bytes_moved(self)

    @property
    def key(self) -> str:
        """A line that names the problem in tables and reports."""
        first, *others = zip(self.operator.inputs, self.inputs, strict=True)
        kernels = [w for name, w in zip(self.operator.weights, self.weights, strict=True) if w and len(w) > 1]
        parts = [self.operator.name, _times(first[1]), *map(_times, kernels)]
        missing = [name for name in self.operator.biases if not self.has(name)]
        if missing:
            parts += ["nobias"] if missing == list(self.operator.biases) else [f"no{name}" for name in missing]
        parts += [name if shape == self.output else name + _times(shape) for name, shape in others if shape is not None]
        for name, value in zip(self.operator.attributes, self.attributes, strict=True):
            if name != "act":
                parts.append(name[0] + (_times(value) if isinstance(value, tuple) else str(value)))
            elif value != "none":
                parts.append(value)
        return " ".join([*parts, str(self.dtype).removeprefix("torch."), self.device])

    def _shapes(self) -> dict[str, Shape | None]:
        names = (*self.operator.inputs, *self.operator.weights)
        return dict(zip(names, (*self.inputs, *self.weights), strict=True))


def contiguous_biases(weights: Weights) -> Weights:
    """`weights` with every bias contiguous, as kernels that read it by address need it."""
    return tuple(w if w is None or w.dim() != 1 else w.contiguous() for w in weights)


def _times(shape: Any) -> str:
    return "x".join(map(str, shape))
