"""Merged blocks: one convolution with skip and activation, depthwise with pointwise, or attention into one linear."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.blocks.merged import MergedBlock, MergedTransformerBlock
from updp_rt.ops import DEPTHWISE_POINTWISE, DUAL_LINEAR
from updp_rt.runtime.fused import Fusion, Rule
from updp_rt.runtime.rules.parts import activation, check_linear, conv_site, geometry, held, idle, layer_scale
from updp_rt.runtime.rules.vit import absorb_attention, attend


class MergedBlockRule(Rule):
    """``act(body(x) + skip(x))``: the last operator of the body takes the skip and the activation."""

    source = (MergedBlock,)

    def plan(self, module: Any, fusion: Fusion) -> None:
        body, act = fusion.absorb("body"), fusion.absorb("act")
        convs: list[Any] = list(body) if source_type(body) is nn.Sequential else [body]
        if type(module.skip) is nn.Identity:
            fusion.absorb("skip")
        *before, last = convs
        if before and _is_depthwise_then_pointwise(before[-1], last):
            depthwise: Any = before.pop()
            stride, padding, _ = geometry(depthwise)
            for i, conv in enumerate(before):
                conv_site(fusion, str(i), conv)
            tensors = held(depthwise, w_dw="weight", b_dw="bias") | held(last, w_pw="weight", b_pw="bias")
            fusion.site("last", DEPTHWISE_POINTWISE, tensors, act=activation(act), stride=stride, padding=padding)
            return
        for i, conv in enumerate(before):
            conv_site(fusion, str(i), conv)
        conv_site(fusion, "last", last, act=act)

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        *first, last = fusion.sites.values()
        skip = module.skip
        if skip is not None:
            skip = x if "skip" in fusion.children else skip(x)
        for site in first:
            x = site(x)
        return last(x, skip)


class MergedTransformerRule(Rule):
    """Attention's projection and the merged FFN are two linear maps into one sum: ``dual_linear``."""

    source = (MergedTransformerBlock,)

    def plan(self, module: Any, fusion: Fusion) -> None:
        attn = absorb_attention(module, fusion)
        idle(module.drop_path1, "drop_path1")
        fusion.absorb("drop_path1")
        linear, act = fusion.absorb("linear"), fusion.absorb("act")
        scale = layer_scale(fusion.absorb("ls1"))
        for layer in (attn.proj, linear):
            check_linear(layer)
        tensors = {"w_x": (linear, "weight"), "w_a": (linear, "weight"), **held(linear, bias="bias")}
        tensors |= held(attn.proj, proj="weight", proj_bias="bias") | ({} if scale is None else {"scale": scale})
        fusion.site("linear", DUAL_LINEAR, tensors, act=activation(act))

    def run(
        self, module: Any, fusion: Fusion, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        return fusion.sites["linear"](x, attend(module, fusion, x, attn_mask, is_causal))


def _is_depthwise_then_pointwise(first: nn.Module, second: nn.Module) -> bool:
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    depthwise = geometry(first)[2] == first.in_channels == first.out_channels
    return depthwise and second.kernel_size == (1, 1) and geometry(second) == ((1, 1), (0, 0), 1)


RULES = (MergedBlockRule(), MergedTransformerRule())
