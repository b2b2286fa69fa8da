"""Masked and exported models: the meaning of a set of masks, and the smaller model that computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt.channels.layout import Layout, Masks
from updp_rt.channels.plan import Choice
from updp_rt.channels.select import select_input
from updp_rt.channels.sizes import get_tensor, replace_tensor
from updp_rt.channels.trace import Trace


@torch.no_grad()
def mask_model(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy of `model` whose masked layers have weights of zero at the inputs they drop: what pruning means."""
    masked = copy_model(model)
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
    pruned = copy_model(model, sources.values())
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
