"""Models whose channels were pruned: what a manifest says about them, and how they are built again from it."""

from __future__ import annotations

import torch
from torch import nn

from updp_rt.artifacts.errors import ArtifactError
from updp_rt.artifacts.manifest import PrunedChannels, SelectedChannels
from updp_rt.channels import Selecting, Selection, replace_tensor, select_input

Shapes = dict[str, tuple[int, ...]]


def describe_channels(model: nn.Module, whole: nn.Module) -> PrunedChannels | None:
    """How `model` differs in shape from the same model before its channels were pruned; None if it does not differ.

    Prunes `whole` in place.
    """
    before = _shapes(whole)
    shapes = {name: shape for name, shape in _shapes(model).items() if name in before and before[name] != shape}
    selections = {n: _describe(m.selection) for n, m in model.named_modules() if isinstance(m, Selecting)}
    if not (shapes or selections):
        return None
    pruned = PrunedChannels(shapes=shapes, selections=selections)
    # What the shapes do not show.
    said, numbers = _numbers(prune_again(whole, pruned)), _numbers(model)
    pruned.numbers = {name: number for name, number in numbers.items() if 0 < number < said.get(name, 0)} or None
    return pruned


def prune_again(model: nn.Module, pruned: PrunedChannels | None) -> nn.Module:
    """Give `model`, in place, the shapes and selections that a manifest names; its weights do not matter.

    Raises:
        ArtifactError: a tensor, module or number that the model does not have, a shape or number larger than its own,
            or channels that are not there.
    """
    if pruned is None:
        return model
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, shape in pruned.shapes.items():
        old = tensors.get(name)
        if old is None or old.dim() != len(shape) or any(not 0 < n <= o for n, o in zip(shape, old.shape, strict=True)):
            found = "which it has not" if old is None else f"which is {tuple(old.shape)}"
            raise ArtifactError(f"channels.shapes: this architecture has no {shape} for {name[:80]!r}, {found}")
        replace_tensor(model, name, old.detach()[tuple(slice(size) for size in shape)].clone())
    numbers, modules = _numbers(model), dict(model.named_modules())
    for name, selected in pruned.selections.items():
        if not name or name not in modules:
            raise ArtifactError(f"channels.selections: this architecture has no module {name[:80]!r}")
        select_input(modules[name], _selection(name, selected))
    for name, number in (pruned.numbers or {}).items():
        held = numbers.get(name, 0)
        if number > held:
            found = f"which is {held}" if name in numbers else "which it has not"
            raise ArtifactError(f"channels.numbers: this architecture has no {number} for {name[:80]!r}, {found}")
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, number)
    return model


@torch.no_grad()
def check_fits(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Raise `ArtifactError` unless the layers of `model`, on the meta device, fit one another."""
    try:
        model(torch.empty(1, *input_size, device="meta"))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"channels: its layers do not fit one another ({str(error)[:200]})") from error


def _describe(selection: Selection) -> SelectedChannels:
    take = tuple(" ".join(f"{first}:{first + length}" for first, length in runs) for runs in selection.runs)
    return SelectedChannels(kind=selection.kind, axis=selection.axis, width=selection.width, take=take)


def _selection(name: str, selected: SelectedChannels) -> Selection:
    runs = []
    for width, text in zip(selected.width, selected.take, strict=False):
        bounds = [(int(start), int(stop)) for start, stop in (piece.split(":") for piece in text.split())]
        flat = [bound for pair in bounds for bound in pair]
        if any(start >= stop for start, stop in bounds) or flat != sorted(flat) or (flat and flat[-1] > width):
            raise ArtifactError(f"channels.selections.{name}: {text[:40]!r} are not ranges of {width} channels")
        runs.append(tuple((start, stop - start) for start, stop in bounds))
    one_run = selected.kind != "view" or [len(run) for run in runs] == [1]
    if len(selected.take) != len(selected.width) or not any(runs) or not one_run:
        raise ArtifactError(f"channels.selections.{name}: {selected.kind} does not go with these ranges")
    if selected.kind != "parts" and len(runs) != 1:
        raise ArtifactError(f"channels.selections.{name}: {selected.kind} takes channels of one tensor")
    return Selection(selected.kind, selected.axis, selected.width, tuple(runs))


def _numbers(model: nn.Module) -> dict[str, int]:
    """Whole numbers that modules hold as attributes, by name."""
    held = {f"{name}.{key}": value for name, module in model.named_modules() for key, value in vars(module).items()}
    return {name: value for name, value in held.items() if type(value) is int}


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
