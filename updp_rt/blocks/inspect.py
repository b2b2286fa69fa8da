"""What a model's blocks are, whether they can be pruned, and what they merge into, by shapes alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from updp_rt._copies import copy_shapes
from updp_rt._marks import source_type, to_source
from updp_rt.blocks.model import (
    find_blocks,
    find_family,
    make_progressive,
    merge_model,
    pruned_bodies,
    set_lambda,
    skippable_blocks,
)
from updp_rt.blocks.parts import SKIP, WHOLE


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-accumulates for one image."""

    params: int
    macs: int


@dataclass(frozen=True)
class BlockReport:
    """One block: what it is, the reason why it cannot be pruned (None: it can), its cost and its merged forms'.

    Forms have `form_label`'s names; ``skip`` is there where the block may be left out.
    """

    name: str
    kind: str
    reason: str | None
    cost: Cost
    merged: dict[str, Cost] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelReport:
    """A model's blocks and totals; `input_size` is ``(channels, height, width)``."""

    model: str
    family: str
    input_size: tuple[int, int, int]
    cost: Cost
    blocks: list[BlockReport]

    @property
    def prunable(self) -> int:
        return sum(block.reason is None for block in self.blocks)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "prunable": self.prunable}


def inspect(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> ModelReport:
    """List every block of `model`: prunable or why not, its cost, and what each of its merged forms would cost.

    Args:
        model: a timm model of a known family. It is not run: shapes alone are followed.
        input_size: ``(channels, height, width)``; the model's own by default.

    Raises:
        UnsupportedModelError: the model belongs to no known family; the message lists the families.
    """
    family = find_family(model)
    size = input_size or model_input_size(model)
    model = to_source(copy_shapes(model)).eval()
    total, costs = count_costs(model, size)
    merged: dict[str, dict[str, Cost]] = {}
    names = [block.name for block in find_blocks(model) if block.prunable]
    if names:
        bodies = pruned_bodies(model)
        skippable = skippable_blocks(model)
        for body, forms in (bodies | {body: (form,) for body, form in WHOLE.items()}).items():
            chosen = skippable if body == SKIP else names
            for form in forms:
                subnet = make_progressive(model, dict.fromkeys(chosen, body))
                set_lambda(subnet, 1.0)
                _, pruned = count_costs(merge_model(subnet, dict.fromkeys(chosen, form)), size)
                for name in chosen:
                    merged.setdefault(name, {})[form_label(body, form, len(bodies))] = pruned[name]
    reports = [
        BlockReport(b.name, source_type(b.module).__name__, b.reason, costs[b.name], merged.get(b.name, {}))
        for b in find_blocks(model)
    ]
    return ModelReport(architecture(model), family.name, size, total, reports)


def form_label(body: str, form: str, bodies: int) -> str:
    """The name of a merged form: with its pruned body if the family offers several; of a body with one form, `body`."""
    if body in WHOLE:
        return body
    return f"{body}/{form}" if bodies > 1 else form


def count_costs(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[Cost, dict[str, Cost]]:
    """Cost of `model` for one image, and of each of its submodules by name; shapes alone are followed."""
    model = to_source(copy_shapes(model)).requires_grad_(False).eval()
    example = torch.zeros(1, *input_size, device="meta", dtype=next(model.parameters()).dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    root = type(model).__name__
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    costs = {
        name: Cost(_params(module), flops.get(f"{root}.{name}" if name else root, 0) // 2)
        for name, module in model.named_modules()
    }
    return Cost(_params(model), counter.get_total_flops() // 2), costs


def count_depth(model: nn.Module) -> int:
    """Number of layers with a weight matrix: convolutions and linear layers."""
    return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())


def model_input_size(model: nn.Module) -> tuple[int, int, int]:
    """``(channels, height, width)`` the model was made for: its patch grid's, or its timm configuration's."""
    patch_embed = getattr(model, "patch_embed", None)
    size = getattr(patch_embed, "img_size", None)
    config = getattr(model, "pretrained_cfg", {})
    if size is None:
        size = tuple(config.get("input_size", (3, 224, 224)))[1:]
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return first.in_channels, int(size[0]), int(size[1])


def architecture(model: nn.Module) -> str:
    """timm's name of the model's architecture, or its class name."""
    return str(getattr(model, "pretrained_cfg", {}).get("architecture") or source_type(model).__name__)


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
