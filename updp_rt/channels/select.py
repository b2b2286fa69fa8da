"""Modules that first take some of their input's channels, then do what they always did.

Such a module is the source module itself under a class that selects first: parameters, names, hooks, ``state_dict`` and
``isinstance`` stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt.channels.sizes import replace_tensor

Run = tuple[int, int]

_BUFFER = "selected_channels"
_classes: dict[type[nn.Module], type[nn.Module]] = {}


@dataclass(frozen=True)
class Selection:
    """Channels to take along dimension `axis` of an input; one of three kinds.

    ``view``: a range, as a view. ``gather``: any, copied by one ``index_select``. ``parts``: of a list of tensors that
    the module concatenates, any of each; copied in the place of that concatenation, which would write them anyway.

    Attributes:
        kind: one of these.
        axis: dimension of the channels.
        width: channels of the input, or of each tensor of the list.
        runs: ranges as ``(first, length)``; for ``parts`` one list for each tensor.
    """

    kind: Literal["view", "gather", "parts"]
    axis: int
    width: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]

    @staticmethod
    def view(axis: int, start: int, length: int, width: int) -> Selection:
        return Selection("view", axis, (width,), (((start, length),),))

    @staticmethod
    def gather(axis: int, positions: Sequence[int], width: int) -> Selection:
        return Selection("gather", axis, (width,), (to_runs(positions),))

    @staticmethod
    def parts(axis: int, width: Sequence[int], runs: Sequence[Sequence[Run]]) -> Selection:
        return Selection("parts", axis, tuple(width), tuple(tuple(run) for run in runs))

    @cached_property
    def counts(self) -> list[int]:
        """How many channels are taken of each tensor."""
        return [sum(length for _, length in runs) for runs in self.runs]

    def positions(self) -> list[int]:
        """Channels that are taken, of each tensor in turn, counted in that tensor."""
        return [i for runs in self.runs for first, length in runs for i in range(first, first + length)]


class _Joining:
    """Channels of several tensors, in the place of the list that a module concatenates: copied once, when it does."""

    def __init__(self, taken: Sequence[tuple[Tensor, Tensor]], axis: int) -> None:
        self.taken, self.axis = taken, axis

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Tensor:
        """torch asks an object in the place of a tensor what an operator does: here a concatenation, and only that."""
        if func not in (torch.cat, torch.concat, torch.concatenate):
            raise TypeError(f"channels were selected for a concatenation, not for {func}")
        ((joining,), *_) = args
        joined: Tensor = joining.join()
        return joined

    def join(self) -> Tensor:
        first, axis = self.taken[0][0], self.axis
        shape = list(first.shape)
        shape[axis] = sum(len(index) for _, index in self.taken)
        joined, start = first.new_empty(shape), 0
        for tensor, index in self.taken:
            torch.index_select(tensor, axis, index, out=joined.narrow(axis, start, len(index)))
            start += len(index)
        return joined


def _take_parts(tensors: Sequence[Tensor], indices: Sequence[Tensor], axis: int) -> list[Any]:
    """What a module is given to concatenate instead of `tensors`."""
    taken = [(tensor, index) for tensor, index in zip(tensors, indices, strict=True) if index.shape != (0,)]
    followed = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if followed or not all(tensor.is_contiguous() and tensor.dtype == tensors[0].dtype for tensor, _ in taken):
        return [tensor.index_select(axis, index) for tensor, index in taken]
    return [_Joining(taken, axis)]


def to_runs(positions: Sequence[int]) -> tuple[Run, ...]:
    """Ascending numbers as ranges ``(first, length)``."""
    runs: list[Run] = []
    for position in positions:
        if runs and sum(runs[-1]) == position:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((position, 1))
    return tuple(runs)


class Selecting(nn.Module):
    """Base of the modules that select channels of their first argument."""

    selection: Selection

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        selection = self.selection
        if selection.kind == "parts":
            x = _take_parts(x, getattr(self, _BUFFER).split(selection.counts), selection.axis)
        elif selection.kind == "view":
            first, length = selection.runs[0][0]
            x = x.narrow(selection.axis, first, length)
        else:
            x = x.index_select(selection.axis, getattr(self, _BUFFER))
        return super().forward(x, *args, **kwargs)

    def extra_repr(self) -> str:
        taken = f"{self.selection.kind} of {sum(self.selection.counts)} of {sum(self.selection.width)} channels"
        return ", ".join(filter(None, (super().extra_repr(), taken)))

    @torch.inference_mode(False)
    def without_selection(self) -> nn.Module:
        """A copy of a convolution or linear layer that reads its whole input, with weights of zero for what it dropped.

        Computes the same. Raises `ValueError` for other modules: their parameters do not say what zero would be.
        """
        if not isinstance(self, nn.Conv2d | nn.Linear) or self.selection.kind == "parts":
            raise ValueError(f"{type(self).__bases__[1].__name__} cannot read what it does not select")
        plain: Any = copy_model(self)
        del plain.selection
        plain._buffers.pop(_BUFFER, None)
        plain._non_persistent_buffers_set.discard(_BUFFER)
        plain.__class__ = type(self).__bases__[1]
        (width,), weight = self.selection.width, self.weight.detach()
        whole = weight.new_zeros(weight.shape[0], width, *weight.shape[2:])
        whole[:, self.selection.positions()] = weight
        replace_tensor(plain, "weight", whole)
        return plain

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made on the fly, so copies and pickles name the one it is made of.
        return _empty, (type(self).__bases__[1],), self.__getstate__()


def can_select(module: nn.Module) -> bool:
    """Whether `select_input` leaves whatever `module` calls its own as it is."""
    names = ("selection", "without_selection", _BUFFER)
    return isinstance(module, Selecting) or not any(hasattr(module, name) for name in names)


@torch.inference_mode(False)  # else the positions could not be used in training
def select_input(module: nn.Module, selection: Selection) -> None:
    """Have `module` select channels of its input first, in place."""
    selecting: Any = module
    selecting.__class__ = _selecting_class(type(module))
    selecting.selection = selection
    if selection.kind != "view":
        device = next((t.device for t in module.parameters()), None)
        positions = torch.tensor(selection.positions(), device=device)
        # Not in the state_dict, whose names stay those of the source; it moves with the module all the same.
        module.register_buffer(_BUFFER, positions, persistent=False)


def _selecting_class(source: type[nn.Module]) -> type[nn.Module]:
    if source not in _classes:
        names = {"__module__": __name__, "__doc__": source.__doc__}
        _classes[source] = type(f"Selecting{source.__name__}", (Selecting, source), names)
    return _classes[source]


def _empty(source: type[nn.Module]) -> nn.Module:
    made = _selecting_class(source)
    empty: nn.Module = made.__new__(made)
    return empty
