"""Masked and exported models: the meaning of a set of masks, and the smaller model that computes the same."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from updp_rt.channels.errors import ChannelError
from updp_rt.channels.layout import Layout, Masks
from updp_rt.channels.plan import Choice
from updp_rt.channels.select import select_input
from updp_rt.channels.sizes import get_tensor, replace_tensor
from updp_rt.channels.trace import Trace

# Rounding of float64 through any depth of model stays far below; a wrong channel is far above.
_TOLERANCE = 1e-9


@torch.no_grad()
def mask_model(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy of `model` whose masked layers have weights of zero at the inputs they drop: what pruning means."""
    masked = copy.deepcopy(model)
    for name, mask in masks.items():
        weight = masked.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight[:, ~torch.from_numpy(mask).to(weight.device)] = 0
    return masked


@torch.no_grad()
def export_model(
    model: nn.Module, trace: Trace, masks: Masks, layout: Layout, chosen: Mapping[str, Choice]
) -> nn.Module:
    """A copy of `model` without the removed channels, its channels in their new order: the same modules, smaller."""
    index: dict[str, dict[int, Any]] = {}
    for (name, dim), channels in trace.slots.items():
        index.setdefault(name, {})[dim] = layout.arrange(channels)
    for name, choice in chosen.items():
        arranged = layout.arrange(trace.consumers[name].channels)
        index[f"{name}.weight"][1] = arranged[choice.positions]
        for slot, dim in choice.link.slots:
            index[slot][dim] = layout.arrange(trace.slots[slot, dim])[choice.positions]
    sources = {name: get_tensor(model, name) for name in index}
    pruned = copy.deepcopy(model, {id(tensor): tensor for tensor in sources.values()})
    for name, source in sources.items():
        tensor = _cut(source, index[name])
        mask = masks.get(name.removesuffix(".weight"))
        if mask is not None and not (kept := torch.from_numpy(mask[index[name][1]])).all():
            tensor[:, ~kept.to(tensor.device)] = 0
        replace_tensor(pruned, name, tensor)
    for (module, attribute), channels in trace.numbers.items():
        setattr(pruned.get_submodule(module), attribute, int(layout.alive[channels].sum()))
    for choice in chosen.values():
        if choice.selection is not None:
            select_input(pruned.get_submodule(choice.link.module), choice.selection)
    return pruned


def _cut(source: Tensor, index: Mapping[int, Any]) -> Tensor:
    """A copy of a tensor that holds, along each dimension named, what stands at these positions."""
    cut = source
    for dim, positions in index.items():
        if len(positions) != cut.shape[dim] or (positions[1:] < positions[:-1]).any():
            cut = cut.index_select(dim, torch.from_numpy(positions).to(cut.device))
    return source.clone() if cut is source else cut


def check_equal(masked: nn.Module, pruned: nn.Module, example: Tensor) -> float:
    """Largest relative difference of both models' outputs in float64 on `example`.

    Raises:
        ChannelError: they differ by more than rounding, what they give holds no tensor to compare, or the exported
            model does not run: its code holds numbers of channels that cannot be changed from outside.
    """
    image = example.double()
    try:
        found = _run(_exact(pruned), image)
    except Exception as error:  # whatever the model's own code raises
        raise ChannelError(f"the exported model does not run: {type(error).__name__}: {str(error)[:300]}") from error
    wanted = _run(_exact(masked), image)
    if not wanted:
        raise ChannelError("the model's output holds no tensor, so an exported model could not be checked")
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise ChannelError(f"the exported model's output has shape {shapes[0]}, not {shapes[1]}")
    pairs = zip(found, wanted, strict=True)
    errors = [(got - want).abs().max() / want.abs().max().clamp_min(1e-300) for got, want in pairs]
    worst = float(torch.stack(errors).max())  # NaN if any is
    if not worst <= _TOLERANCE:
        raise ChannelError(f"the exported model differs from the masked one by {worst:.1e}, so it was not made")
    return worst


def output_changes(model: nn.Module, candidates: Sequence[Masks], batches: Iterable[Tensor]) -> list[float]:
    """By how much each of some masks changes a model's outputs on images: ``||masked - model|| / ||model||``."""
    exact = _exact(model)
    masked = [mask_model(exact, masks) for masks in candidates]
    changed, total = [0.0] * len(masked), 0.0
    for batch in batches:
        image = batch.double()
        wanted = _run(exact, image)
        total += sum(float(want.square().sum()) for want in wanted)
        for index, each in enumerate(masked):
            pairs = zip(_run(each, image), wanted, strict=True)
            changed[index] += sum(float((got - want).square().sum()) for got, want in pairs)
    return [math.sqrt(change / max(total, 1e-300)) for change in changed]


def _exact(model: nn.Module) -> nn.Module:
    """A copy in float64, in eval mode."""
    return copy.deepcopy(model).double().eval()


@torch.no_grad()
def _run(model: nn.Module, image: Tensor) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(model(image)) if isinstance(leaf, Tensor)]
