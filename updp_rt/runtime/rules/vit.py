"""ViT's block: attention's projection with layer scale and skip, fc1+GELU, fc2 with layer scale and skip.

On a GPU the norms before qkv and fc1 are theirs.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from updp_rt.ops import ATTENTION
from updp_rt.ops.attention import join_heads, split_heads
from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import idle, layer_scale, linear_after_norm, linear_site, mlp_sites, run_mlp


def absorb_attention(module: Any, fusion: Fusion) -> Any:
    """Take over ``attn`` of `module` up to its projection, which the caller fuses, maybe with ``norm1``; returns it."""
    attn: Any = module.attn
    if type(attn) is not Attention:
        raise CannotFuseError(f"{type(attn).__name__} is not timm's plain attention")
    if not attn.fused_attn or getattr(attn, "gate", None) is not None:
        raise CannotFuseError("attention that is gated, or not by scaled_dot_product_attention, stays as it is")
    idle(attn.attn_drop, "attn_drop")
    idle(attn.proj_drop, "proj_drop")
    linear_after_norm(fusion, "attn.qkv", "norm1", attn.qkv)
    fusion.site("attn", ATTENTION, {}, heads=attn.num_heads)
    return fusion.absorb("attn")


def attend(module: Any, fusion: Fusion, x: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    """``norm1`` and timm's attention, from tokens ``[N, T, C]`` to what its projection takes."""
    attn, sites = module.attn, fusion.sites
    qkv = sites["attn.qkv"](x if "norm1" in fusion.children else module.norm1(x))
    alone = attn_mask is None and not is_causal
    if alone and type(attn.q_norm) is nn.Identity and type(attn.k_norm) is nn.Identity:
        return attn.norm(sites["attn"](qkv))
    q, k, v = split_heads(qkv, attn.num_heads)
    q, k = attn.q_norm(q), attn.k_norm(k)
    if alone and _is_on_gpu(qkv):
        # Putting them together again costs less than torch's own attention does where it keeps scores in memory, as on
        # gfx908. A CPU has one that does not.
        return attn.norm(sites["attn"](join_heads(q, k, v)))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
    return attn.norm(y.transpose(1, 2).flatten(2))


def _is_on_gpu(x: Tensor) -> bool:
    return x.is_cuda


class ViTBlockRule(Rule):
    """timm's pre-norm block."""

    source = (Block,)

    def plan(self, module: Any, fusion: Fusion) -> None:
        if type(module.mlp) is not Mlp:
            raise CannotFuseError(f"{type(module.mlp).__name__} is no plain MLP")
        attn = absorb_attention(module, fusion)
        mlp = fusion.absorb("mlp")
        for name in ("drop1", "norm", "drop2"):
            idle(getattr(mlp, name), name)
        for name in ("drop_path1", "drop_path2"):
            idle(getattr(module, name), name)
            fusion.absorb(name)
        linear_site(fusion, "attn.proj", attn.proj, scale=layer_scale(fusion.absorb("ls1")))
        mlp_sites(fusion, "norm2", mlp, layer_scale(fusion.absorb("ls2")))

    def run(
        self, module: Any, fusion: Fusion, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        x = fusion.sites["attn.proj"](attend(module, fusion, x, attn_mask, is_causal), x)
        return run_mlp(fusion, "norm2", x, x)


RULES = (ViTBlockRule(),)
