"""ViT's block: attention's projection with layer scale and skip, fc1+GELU, fc2 with layer scale and skip."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from updp_rt.backends import Geometry
from updp_rt.ops.reference import split_heads
from updp_rt.runtime.fused import CannotFuseError, Fused, Fusion
from updp_rt.runtime.rules.parts import idle, layer_scale, linear_site
from updp_rt.runtime.site import Site
from updp_rt.runtime.sources import NoSource


def absorb_attention(fusion: Fusion) -> Any:
    """Take over ``attn`` of the owner up to its projection, which the caller fuses; returns it."""
    attn: Any = fusion.owner.attn
    if type(attn) is not Attention:
        raise CannotFuseError(f"{type(attn).__name__} is not timm's plain attention")
    if not attn.fused_attn or getattr(attn, "gate", None) is not None:
        raise CannotFuseError("attention that is gated, or not by scaled_dot_product_attention, stays as it is")
    idle(attn.attn_drop, "attn_drop")
    idle(attn.proj_drop, "proj_drop")
    linear_site(fusion, "qkv", attn.qkv)
    if isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity):
        fusion.sites["attention"] = Site(
            "attention", NoSource(), geometry=Geometry(groups=attn.num_heads), policy=fusion.policy
        )
    return fusion.absorb("attn")


def attend(attn: Any, sites: dict[str, Site], x: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    """timm's attention from normed tokens ``[N, T, C]`` to what its projection takes."""
    qkv = sites["qkv"](x)
    if attn_mask is None and not is_causal and "attention" in sites:
        return attn.norm(sites["attention"](qkv))
    q, k, v = split_heads(qkv, attn.num_heads)
    q, k = attn.q_norm(q), attn.k_norm(k)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
    return attn.norm(y.transpose(1, 2).flatten(2))


class FusedViTBlock(Fused):
    """timm's pre-norm block."""

    source = (Block,)

    @classmethod
    def plan(cls, module: Any, fusion: Fusion) -> None:
        if type(module.mlp) is not Mlp:
            raise CannotFuseError(f"{type(module.mlp).__name__} is no plain MLP")
        attn = absorb_attention(fusion)
        mlp = fusion.absorb("mlp")
        for name in ("drop1", "norm", "drop2"):
            idle(getattr(mlp, name), name)
        for name in ("drop_path1", "drop_path2"):
            idle(getattr(module, name), name)
            fusion.absorb(name)
        linear_site(fusion, "proj", attn.proj, scale=layer_scale(fusion.absorb("ls1")))
        linear_site(fusion, "fc1", mlp.fc1, act=mlp.act)
        linear_site(fusion, "fc2", mlp.fc2, scale=layer_scale(fusion.absorb("ls2")))

    def run(self: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        sites = self.fusion.sites
        x = sites["proj"](attend(self.attn, sites, self.norm1(x), attn_mask, is_causal), x)
        return sites["fc2"](sites["fc1"](self.norm2(x)), x)


RULES = (FusedViTBlock,)
