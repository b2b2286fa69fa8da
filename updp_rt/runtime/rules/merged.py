"""Merged blocks: one convolution with skip and activation, depthwise with pointwise, or attention into one linear."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from updp_rt.blocks.merged import MergedBlock, MergedTransformerBlock
from updp_rt.runtime.fused import CannotFuseError, Fused, Fusion
from updp_rt.runtime.rules.parts import activation, conv_site, geometry, idle, layer_scale
from updp_rt.runtime.rules.vit import absorb_attention, attend
from updp_rt.runtime.site import Site
from updp_rt.runtime.sources import DepthwisePointwiseSource, DualLinearSource


class FusedMergedBlock(Fused):
    """``act(body(x) + skip(x))``: the last operator of the body takes the skip and the activation."""

    source = (MergedBlock,)

    @classmethod
    def plan(cls, module: Any, fusion: Fusion) -> None:
        body, act = fusion.absorb("body"), fusion.absorb("act")
        convs: list[Any] = list(body) if isinstance(body, nn.Sequential) else [body]
        if isinstance(module.skip, nn.Identity):
            fusion.absorb("skip")
        *before, last = convs
        if before and _is_depthwise_then_pointwise(before[-1], last):
            depthwise: Any = before.pop()
            source = DepthwisePointwiseSource(depthwise, last)
            for i, conv in enumerate(before):
                conv_site(fusion, str(i), conv)
            site = Site("depthwise_pointwise", source, activation(act), geometry(depthwise), fusion.policy)
            fusion.sites["last"] = site
            return
        for i, conv in enumerate(before):
            conv_site(fusion, str(i), conv)
        conv_site(fusion, "last", last, act=act)

    def run(self: Any, x: Tensor) -> Tensor:
        *first, last = self.fusion.sites.values()
        skip = self.skip
        if skip is not None:
            skip = x if isinstance(skip, nn.Identity) else skip(x)
        for site in first:
            x = site(x)
        return last(x, skip)


class FusedMergedTransformerBlock(Fused):
    """Attention's projection and the merged FFN are two linear maps into one sum: ``dual_linear``."""

    source = (MergedTransformerBlock,)

    @classmethod
    def plan(cls, module: Any, fusion: Fusion) -> None:
        attn = absorb_attention(fusion)
        idle(module.drop_path1, "drop_path1")
        fusion.absorb("drop_path1")
        linear, act = fusion.absorb("linear"), fusion.absorb("act")
        for layer in (attn.proj, linear):
            if type(layer) is not nn.Linear:
                raise CannotFuseError(f"{type(layer).__name__} computes more than a plain linear layer")
        source = DualLinearSource(attn.proj, linear, layer_scale(fusion.absorb("ls1")))
        fusion.sites["dual"] = Site("dual_linear", source, activation(act), policy=fusion.policy)

    def run(self: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        sites = self.fusion.sites
        return sites["dual"](x, attend(self.attn, sites, self.norm1(x), attn_mask, is_causal))


def _is_depthwise_then_pointwise(first: nn.Module, second: nn.Module) -> bool:
    a, b = geometry(first), geometry(second)
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    depthwise = a.groups == first.in_channels == first.out_channels
    pointwise = second.kernel_size == (1, 1) and b.groups == 1 and b.stride == (1, 1) and b.padding == (0, 0)
    return depthwise and pointwise


RULES = (FusedMergedBlock, FusedMergedTransformerBlock)
