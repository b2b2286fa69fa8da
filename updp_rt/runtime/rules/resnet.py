"""ResNet's blocks: conv+BN+act, and the last convolution with the shortcut and the activation after it."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor

from updp_rt.runtime.fused import Fused, Fusion
from updp_rt.runtime.rules.parts import conv_site, idle


class FusedResidualBlock(Fused):
    """BasicBlock and Bottleneck: two or three convolutions."""

    source = (BasicBlock, Bottleneck)

    @classmethod
    def plan(cls, module: Any, fusion: Fusion) -> None:
        count = 2 if type(module) is BasicBlock else 3
        for name in ("drop_block", "aa", "drop_path"):
            idle(getattr(module, name), name)
            if getattr(module, name) is not None:
                fusion.absorb(name)
        for i in range(1, count + 1):
            conv, norm = fusion.absorb(f"conv{i}"), fusion.absorb(f"bn{i}")
            # Squeeze-and-excite stands between the last norm and the shortcut, and keeps the activation after it.
            last_of_se = i == count and module.se is not None
            conv_site(fusion, f"conv{i}", conv, norm, None if last_of_se else fusion.absorb(f"act{i}"))

    def run(self: Any, x: Tensor) -> Tensor:
        *first, last = self.fusion.sites.values()
        shortcut = x if self.downsample is None else self.downsample(x)
        for site in first:
            x = site(x)
        if self.se is None:
            return last(x, shortcut)
        x = self.se(last(x))
        x += shortcut
        return self.act2(x) if len(first) == 1 else self.act3(x)


RULES = (FusedResidualBlock,)
