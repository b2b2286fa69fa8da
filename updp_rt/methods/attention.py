"""What rivals that take parts out of transformer blocks share: the parts, gates around them, and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.blocks import NoAttention, UnsupportedModelError, fade, find_family, prunable_blocks
from updp_rt.blocks.steps import Lambda
from updp_rt.reparam import AffineConv, compose_chain


class GatedPart(nn.Module):
    """A module that gives way to its input: attention, which then passes on the normed tokens, or an activation.

    Attributes:
        gate: ``[]``, how much the part asks to be kept.
        cut: ``[]`` bool, whether it has given way for good.
        lam: how far it has now; a gate while blocks are chosen.
    """

    gate: Tensor
    cut: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        like = next(inner.parameters(), None)
        self.gate = nn.Parameter(torch.zeros((), device=None if like is None else like.device))
        self.register_buffer("cut", torch.zeros((), dtype=torch.bool))
        self.lam: Lambda = 0.0

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return fade(self.lam, lambda: self.inner(x, *args, **kwargs), lambda: x)


class FadingAttention(nn.Module):
    """``(1 - λ)·attn(norm(x)) + λ·x``: at λ = 1 the block's skip and this add up to twice the tokens."""

    def __init__(self, norm: nn.Module, attn: nn.Module) -> None:
        super().__init__()
        self.norm, self.attn = norm, attn
        self.lam = 0.0

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return fade(self.lam, lambda: self.attn(self.norm(x), *args, **kwargs), lambda: x)


def transformer_blocks(name: str, model: nn.Module) -> list[str]:
    """Names of a ViT's plain blocks; raises `UnsupportedModelError` for other models."""
    if find_family(model).name != "vit":
        raise UnsupportedModelError(f"the method {name} takes parts out of transformer blocks: give a ViT or DeiT")
    return prunable_blocks(model)


def parts(blocks: Mapping[str, Any] | list[str]) -> list[str]:
    """The parts that can be cut: of each block its attention and its MLP's activation."""
    return [f"{block}.{part}" for block in blocks for part in ("attn", "mlp.act")]


def merge_linear(mlp: Any) -> nn.Linear:
    """An MLP without activation as the one linear layer that it is, in its own dtype."""
    both = compose_chain([AffineConv.from_linear(mlp.fc1, "fc1"), AffineConv.from_linear(mlp.fc2, "fc2")])
    return both.to_linear(mlp.fc1.weight.dtype)


def put_attention(model: nn.Module, block: str) -> None:
    """Take a block's attention out: its normed tokens go on."""
    model.set_submodule(f"{block}.attn", NoAttention())
