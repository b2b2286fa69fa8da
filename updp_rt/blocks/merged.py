"""Merged blocks: plain torch modules, ready for export and for lowering to fused kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from updp_rt.reparam import AffineConv


class MergedBlock(nn.Module):
    """``act(body(x) + skip(x))``, ``[N, C, H, W]``; without a skip (folded or never there) ``act(body(x))``.

    Attributes:
        body: one Conv2d, or a Sequential of them if the factored form is faster.
        skip: None, an Identity, or the downsample convolution.
    """

    def __init__(self, body: nn.Module, skip: nn.Module | None, act: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.skip = skip
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.skip is not None:
            y = y + self.skip(x)
        return self.act(y)


class MergedTransformerBlock(nn.Module):
    """Attention as in the baseline, then ``act(linear(x))``, the skip folded into the linear layer; ``[N, T, C]``."""

    def __init__(
        self,
        norm1: nn.Module,
        attn: nn.Module,
        ls1: nn.Module,
        drop_path1: nn.Module,
        linear: nn.Linear,
        act: nn.Module,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attn = attn
        self.ls1 = ls1
        self.drop_path1 = drop_path1
        self.linear = linear
        self.act = act

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        attended = self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        x = x + self.drop_path1(self.ls1(attended))
        return self.act(self.linear(x))


class NoAttention(nn.Module):
    """In the place of a transformer block's attention: its normed tokens ``[N, T, C]`` go on as they are."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return x


class TokenPool(nn.Module):
    """Between transformer blocks: max pooling along tokens ``[N, T, C]``, 3 at a stride of 2, and positions added."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))

    @staticmethod
    def count(tokens: int) -> int:
        """How many are left of so many tokens: less than one where there are too few to pool."""
        return (tokens - 3) // 2 + 1

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return F.max_pool1d(x.transpose(1, 2), 3, 2).transpose(1, 2) + self.pos_embed


def convolutions(chain: list[AffineConv], dtype: torch.dtype) -> nn.Module:
    """A chain as plain convolutions: one Conv2d, or a Sequential of several."""
    convs = [conv.to_conv(dtype) for conv in chain]
    return convs[0] if len(convs) == 1 else nn.Sequential(*convs)
