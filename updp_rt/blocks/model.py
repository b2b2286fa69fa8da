"""Whole models: finding their blocks, making them progressive, setting λ, merging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model, copy_shapes
from updp_rt._marks import source_type, to_source
from updp_rt.blocks import convnext, mobilenetv2, resnet, vit
from updp_rt.blocks.family import Family
from updp_rt.blocks.parts import JOINED, Part
from updp_rt.blocks.progressive import MergeOrigin, ProgressiveBlock
from updp_rt.reparam import MergeError

FAMILIES: list[Family] = [resnet.FAMILY, mobilenetv2.FAMILY, convnext.FAMILY, vit.FAMILY]


class UnsupportedModelError(ValueError):
    """The model belongs to no known family, or none of its blocks can be pruned."""


@dataclass(frozen=True)
class BlockInfo:
    """One block of a model: its name in the model, its module, and why it cannot be pruned (None: it can)."""

    name: str
    module: nn.Module
    reason: str | None

    @property
    def prunable(self) -> bool:
        return self.reason is None


def add_family(family: Family) -> None:
    """Let models of `family` be pruned in this process, from now on.

    Raises:
        ValueError: its name is taken, or models of one of its classes belong to another family.
    """
    for known in FAMILIES:
        shared = [model for model in family.models if issubclass(model, known.models)]
        if known.name == family.name or shared:
            what = f"models of {shared[0].__name__} belong" if shared else f"the name {family.name!r} belongs"
            raise ValueError(f"{what} to the family {known.name} already; choose another")
    FAMILIES.append(family)


def find_family(model: nn.Module) -> Family:
    """The family `model` belongs to; raises `UnsupportedModelError`, which lists them all."""
    for family in FAMILIES:
        if isinstance(model, family.models):
            return family
    known = ", ".join(f"{f.name} ({f.models[0].__name__}, such as {f.example})" for f in FAMILIES)
    raise UnsupportedModelError(
        f"{source_type(model).__name__} belongs to no family that can be pruned. Families: {known}. "
        "Create the model with timm.create_model, or add a family: updp_rt.blocks.add_family."
    )


def find_blocks(model: nn.Module) -> list[BlockInfo]:
    """Every block of `model` in order, prunable or with the reason why not."""
    family = find_family(model)
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, family.blocks)]
    return [BlockInfo(name, module, _reason(family, name, module)) for name, module in found]


def prunable_blocks(model: nn.Module) -> list[str]:
    """Names of the prunable blocks; raises `UnsupportedModelError` if there are none."""
    blocks = find_blocks(model)
    names = [block.name for block in blocks if block.prunable]
    if not names:
        reasons = sorted({block.reason for block in blocks if block.reason})
        raise UnsupportedModelError(
            f"no block of this {source_type(model).__name__} can be pruned: {'; '.join(reasons) or 'it has none'}"
        )
    return names


def skippable_blocks(model: nn.Module) -> list[str]:
    """Names of the prunable blocks that may be left out: whose pruned body may be `SKIP`."""
    progressive = find_family(model).progressive
    return [name for name in prunable_blocks(model) if progressive.skippable(model.get_submodule(name))]


def pruned_bodies(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The pruned bodies its family offers, and the merged forms of each."""
    return find_family(model).progressive.forms


@torch.inference_mode(False)  # whoever calls, the weights are ordinary ones
def make_progressive(model: nn.Module, bodies: Mapping[str, str] | Iterable[str] | None = None) -> nn.Module:
    """A copy of `model` whose blocks can run anywhere between baseline and pruned, all at λ = 0.

    Args:
        model: a timm model of a known family.
        bodies: the blocks to make progressive, with the pruned body of each ("" for the family's first); names
            alone take the first; None takes every prunable block.

    Raises:
        UnsupportedModelError: unknown family, or no prunable block.
        ValueError: a name that is not a prunable block, or an unknown body.
    """
    prunable = prunable_blocks(model)
    chosen = _as_bodies(prunable if bodies is None else bodies)
    for name in chosen:
        if name not in prunable:
            raise ValueError(f"{name!r} is not a prunable block of this model; choose among {', '.join(prunable)}")
    progressive = find_family(model).progressive
    model = to_source(copy_model(model))
    for name, body in chosen.items():
        block = progressive(model.get_submodule(name), name, body)
        block.train(model.training)
        model.set_submodule(name, block)
    return model


def progressive_blocks(model: nn.Module) -> dict[str, ProgressiveBlock]:
    """The progressive blocks of `model` by name, in order."""
    return {module.name: module for module in model.modules() if isinstance(module, ProgressiveBlock)}


def set_lambda(model: nn.Module, lam: float, chosen: Iterable[str] | None = None) -> None:
    """Set λ of the chosen progressive blocks (None: all of them), and 0 for the others."""
    names = None if chosen is None else set(chosen)
    for name, block in progressive_blocks(model).items():
        block.lam = lam if names is None or name in names else 0.0


@torch.inference_mode(False)
def merge_model(model: nn.Module, forms: Mapping[str, str] | None = None) -> nn.Module:
    """A copy of `model` with each progressive block merged (λ = 1) or back as the timm block (λ = 0), in eval mode.

    Args:
        forms: merged form by block name; the block's own ``form`` if a name is missing.

    Raises:
        MergeError: a block's λ is between 0 and 1, or it cannot be merged.
    """
    model = to_source(copy_model(model)).eval()
    for name, block in progressive_blocks(model).items():
        merged = block.block if block.lam == 0.0 else block.merge((forms or {}).get(name))
        model.set_submodule(name, merged.eval())
    return model


def take_bodies(model: nn.Module, bodies: Mapping[str, str]) -> None:
    """Let these progressive blocks lead to these pruned bodies, of those that they were offered.

    One that is ``+`` and a body is joined to the block before it, which it thus opens; the others close it.
    """
    blocks = progressive_blocks(model)
    before = dict(zip([*blocks][1:], blocks.values(), strict=False))
    for name, text in bodies.items():
        part = Part.parse(text)
        blocks[name].take(part.body)
        if name in before:
            before[name].opened = part.link == JOINED


def merge_origins(model: nn.Module) -> dict[str, MergeOrigin]:
    """Name of every merged block of `model`, with the pruned body and the form it was merged from."""
    found = {name: getattr(module, "origin", None) for name, module in model.named_modules()}
    return {name: origin for name, origin in found.items() if isinstance(origin, MergeOrigin)}


def _as_bodies(bodies: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    return dict(bodies) if isinstance(bodies, Mapping) else dict.fromkeys(bodies, "")


def _reason(family: Family, name: str, module: nn.Module) -> str | None:
    reason = family.why_not(module) or _computed_weight(module)
    if reason is not None:
        return reason
    try:
        # The algebra has the last word: a merge of shapes alone (no values) finds what it refuses.
        block = family.progressive(to_source(copy_shapes(module)), name)
        block.lam = 1.0
        block.merge()
    except MergeError as error:
        return str(error)
    return None


def _computed_weight(block: nn.Module) -> str | None:
    """The reason why not, where a hook of a layer makes its weight: it would not run, nor be seen by the algebra."""
    for name, layer in block.named_modules():
        if isinstance(vars(layer).get("weight"), Tensor):
            return f"{name} makes its weight at each call (weight norm or pruning mask): make it permanent first"
    return None
