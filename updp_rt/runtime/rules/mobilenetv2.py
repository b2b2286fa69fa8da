"""MobileNetV2 and EfficientNet: conv+BN+act each, in a block the last with the skip; the model's stem and head."""

from __future__ import annotations

from typing import Any

from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from timm.models._manipulate import checkpoint_seq
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import conv_site, idle

_CHAINS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ConvBnAct: (("conv", "bn1"),),
    DepthwiseSeparableConv: (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}


class MobileBlockRule(Rule):
    """One to three convolutions, squeeze-and-excite before the last, a skip added without an activation after it."""

    source = tuple(_CHAINS)

    def plan(self, module: Any, fusion: Fusion) -> None:
        if getattr(module, "conv_s2d", None) is not None:
            raise CannotFuseError("space-to-depth stands before the operators")
        for name in ("aa", "drop_path"):
            idle(getattr(module, name), name)
            fusion.absorb(name)
        act = "none"
        for conv, norm in _CHAINS[fusion.source]:
            act = conv_site(fusion, conv, fusion.absorb(conv), fusion.absorb(norm))
        if module.has_skip and act != "none":
            raise CannotFuseError("the skip is added after the last activation")

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        *first, last = fusion.sites.values()
        y = x
        for site in first:
            y = site(y)
        if first:
            y = module.se(y)
        return last(y, x if module.has_skip else None)


class EfficientNetRule(Rule):
    """The model's own convolutions, before and after its blocks."""

    source = (EfficientNet,)
    method = "forward_features"

    def plan(self, module: Any, fusion: Fusion) -> None:
        conv_site(fusion, "conv_stem", fusion.absorb("conv_stem"), fusion.absorb("bn1"))
        conv_site(fusion, "conv_head", fusion.absorb("conv_head"), fusion.absorb("bn2"))

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        x = fusion.sites["conv_stem"](x)
        x = checkpoint_seq(module.blocks, x, flatten=True) if module.grad_checkpointing else module.blocks(x)
        return fusion.sites["conv_head"](x)


RULES = (MobileBlockRule(), EfficientNetRule())
