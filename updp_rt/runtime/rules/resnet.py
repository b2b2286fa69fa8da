"""ResNet: in a block conv+BN+act, and the last convolution with the shortcut and the activation; the model's stem."""

from __future__ import annotations

from typing import Any

from timm.models._manipulate import checkpoint_seq
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor

from updp_rt.runtime.fused import Fusion, Rule
from updp_rt.runtime.rules.parts import conv_site, idle


class ResidualBlockRule(Rule):
    """BasicBlock and Bottleneck: two or three convolutions."""

    source = (BasicBlock, Bottleneck)

    def plan(self, module: Any, fusion: Fusion) -> None:
        count = 2 if fusion.source is BasicBlock else 3
        for name in ("drop_block", "aa", "drop_path"):
            idle(getattr(module, name), name)
            if getattr(module, name) is not None:
                fusion.absorb(name)
        for i in range(1, count + 1):
            conv, norm = fusion.absorb(f"conv{i}"), fusion.absorb(f"bn{i}")
            # Squeeze-and-excite stands between the last norm and the shortcut, and keeps the activation after it.
            last_of_se = i == count and module.se is not None
            conv_site(fusion, f"conv{i}", conv, norm, None if last_of_se else fusion.absorb(f"act{i}"))

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        *first, last = fusion.sites.values()
        shortcut = x if module.downsample is None else module.downsample(x)
        for site in first:
            x = site(x)
        if module.se is None:
            return last(x, shortcut)
        x = module.se(last(x))
        x += shortcut
        return module.act2(x) if len(first) == 1 else module.act3(x)


class ResNetRule(Rule):
    """The model's own convolution, before its stages."""

    source = (ResNet,)
    method = "forward_features"

    def plan(self, module: Any, fusion: Fusion) -> None:
        conv_site(fusion, "conv1", fusion.absorb("conv1"), fusion.absorb("bn1"), fusion.absorb("act1"))

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        x = module.maxpool(fusion.sites["conv1"](x))
        stages = (module.layer1, module.layer2, module.layer3, module.layer4)
        if module.grad_checkpointing:
            return checkpoint_seq(stages, x, flatten=True)
        for stage in stages:
            x = stage(x)
        return x


RULES = (ResidualBlockRule(), ResNetRule())
