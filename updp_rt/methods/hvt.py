"""`hvt`: tokens are pooled between transformer blocks (Pan et al., "Scalable Vision Transformers", ICCV 2021).

From the paper: a hierarchy of ever fewer tokens by max pooling; no class token, but the mean of the tokens.

From the published code (zip-group/HVT): after some blocks, evenly spaced from the first on, max pooling along the
sequence of tokens, 3 at a stride of 2 without padding, then a position embedding of its own; the mean of the tokens,
then the LayerNorm, then the classifier.

Ours: the published networks are trained from scratch; here the given weights are kept, the class token and its
position are left out, and the new positions start at 0. ``num_pruned`` counts blocks, as for `updp_rt.methods.units`:
where a pool after the first block saves more than so many blocks merged do, one pool stands further on; where it saves
less, there are several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from updp_rt._copies import copy_model, copy_shapes
from updp_rt._marks import to_source
from updp_rt.blocks import MergeOrigin, TokenPool, UnsupportedModelError, count_costs
from updp_rt.methods.attention import transformer_blocks
from updp_rt.methods.drop import judge_one
from updp_rt.methods.units import Size, merged_macs
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.method import Replacing
from updp_rt.pruning.run import Run
from updp_rt.pruning.search import SearchResult

BODY = "pooled"


class HVT(Replacing):
    """Token pooling; ``pruned`` names the blocks after which tokens are pooled."""

    name = "hvt"

    def names(self, model: nn.Module) -> list[str]:
        names = transformer_blocks(self.name, model)
        odd = next((part for part in ("reg_token", "dist_token") if getattr(model, part, None) is not None), None)
        if odd is not None or getattr(model, "global_pool", None) not in ("token", "avg"):
            what = f"a {odd}" if odd else f"{getattr(model, 'global_pool', 'no')} pooling"
            raise UnsupportedModelError(f"the method hvt takes the mean of all tokens, and this model has {what}")
        return names

    def choose(self, run: Run, table: LatencyTable, chooser: nn.Module | None) -> SearchResult:
        assert run.config.num_pruned is not None
        bodies = dict.fromkeys(find_pools(run.model, run.config.num_pruned, run.input_size), BODY)
        return judge_one(run, self.subnet(run.model, bodies), bodies)

    def subnet(self, model: nn.Module, bodies: Mapping[str, str]) -> nn.Module:
        return pooled(model, list(bodies))

    def origins(self, merged: nn.Module, bodies: Mapping[str, str]) -> dict[str, MergeOrigin]:
        return {name: MergeOrigin(body, "TokenPool") for name, body in bodies.items()}


@torch.no_grad()
def pooled(model: nn.Module, after: list[str]) -> nn.Module:
    """A copy of `model` with pools after these blocks, and the mean of the tokens instead of a class token."""
    made = mean_of_tokens(to_source(copy_model(model)))
    tokens, blocks = made.patch_embed.num_patches, []
    like = next(made.parameters())
    for index, block in enumerate(made.blocks):
        blocks.append(block)
        if f"blocks.{index}" in after:
            tokens = TokenPool.count(tokens)
            blocks.append(TokenPool(tokens, made.embed_dim).to(like.device, like.dtype).train(model.training))
    made.blocks = nn.Sequential(*blocks)
    return made


def mean_of_tokens(model: Any) -> Any:
    """Have a ViT classify the norm of its tokens' mean, in place."""
    if model.cls_token is not None:
        if model.pos_embed is not None and not model.no_embed_class:
            model.pos_embed = nn.Parameter(model.pos_embed[:, 1:].clone())
        model.cls_token, model.has_class_token, model.num_prefix_tokens = None, False, 0
    model.global_pool = "avg"
    if isinstance(model.fc_norm, nn.Identity):
        model.norm, model.fc_norm = model.fc_norm, model.norm
    return model


def schedules(names: list[str]) -> Iterator[list[str]]:
    """The blocks to pool after, those first that save least: one alone, the later the earlier; then ever more."""
    for name in reversed(names[:-1]):
        yield [name]
    for width in range(len(names) // 2, 0, -1):
        yield names[:-1][::width]


def find_pools(model: nn.Module, count: int, size: Size) -> list[str]:
    """The blocks to pool after so as to save at least what `count` blocks merged save; raises `ValueError`."""
    shapes: Any = copy_shapes(model)
    allowed = merged_macs(model, count, size)
    for after in schedules([f"blocks.{index}" for index in range(len(shapes.blocks))]):
        tokens = shapes.patch_embed.num_patches
        for _ in after:
            tokens = TokenPool.count(tokens)
        if tokens < 1:
            break
        if count_costs(pooled(shapes, after), size)[0].macs <= allowed:
            return after
    raise ValueError(f"pools do not save what {count} blocks merged do: give a smaller num_pruned")
