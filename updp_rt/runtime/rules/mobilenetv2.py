"""Blocks of MobileNetV2 and EfficientNet: conv+BN+act each, the last with the skip."""

from __future__ import annotations

from typing import Any

from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from torch import Tensor, nn

from updp_rt.runtime.fused import CannotFuseError, Fused, Fusion
from updp_rt.runtime.rules.parts import conv_site, idle

_CHAINS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ConvBnAct: (("conv", "bn1"),),
    DepthwiseSeparableConv: (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}


class FusedMobileBlock(Fused):
    """One to three convolutions, squeeze-and-excite before the last, a skip added without an activation after it."""

    source = tuple(_CHAINS)

    @classmethod
    def plan(cls, module: Any, fusion: Fusion) -> None:
        if getattr(module, "conv_s2d", None) is not None:
            raise CannotFuseError("space-to-depth stands before the operators")
        for name in ("aa", "drop_path"):
            idle(getattr(module, name), name)
            fusion.absorb(name)
        for conv, norm in _CHAINS[type(module)]:
            site = conv_site(fusion, conv, fusion.absorb(conv), fusion.absorb(norm))
        if module.has_skip and site.act != "none":
            raise CannotFuseError("the skip is added after the last activation")

    def run(self: Any, x: Tensor) -> Tensor:
        *first, last = self.fusion.sites.values()
        y = x
        for site in first:
            y = site(y)
        if first:
            y = self.se(y)
        return last(y, x if self.has_skip else None)


RULES = (FusedMobileBlock,)
