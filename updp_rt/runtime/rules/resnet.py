"""ResNet: in a block conv+BN+act, and the last convolution with the shortcut and the activation; the model's stem.

On a GPU the stem is one operator with the pool behind it, among whose candidates the two one by one are.
"""

from __future__ import annotations

from typing import Any

from timm.models._manipulate import checkpoint_seq
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor

from updp_rt.ops import CONV2D_MAX_POOL
from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import conv_site, idle, on_gpu, pool_sizes, read_conv


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
        parts = fusion.absorb("conv1"), fusion.absorb("bn1"), fusion.absorb("act1")
        if not _stem_site(module, fusion, *parts):
            conv_site(fusion, "conv1", *parts)

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        x = fusion.sites["conv1"](x)
        if "maxpool" not in fusion.children:
            x = module.maxpool(x)
        stages = (module.layer1, module.layer2, module.layer3, module.layer4)
        if module.grad_checkpointing:
            return checkpoint_seq(stages, x, flatten=True)
        for stage in stages:
            x = stage(x)
        return x


def _stem_site(module: Any, fusion: Fusion, *parts: Any) -> bool:
    """On a GPU, add a site of a convolution, norm and activation, `parts`, with the pool behind; whether it is one."""
    if not on_gpu(module):
        return False
    read = read_conv(*parts)
    stride, padding, groups = read.geometry
    try:
        window, pool_stride, pool_padding = pool_sizes(module.maxpool)
    except CannotFuseError:
        return False
    if groups != 1:
        return False
    fusion.absorb("maxpool")
    values: dict[str, Any] = {"act": read.act, "stride": stride, "padding": padding, "eps": read.eps}
    pool = {"window": window, "pool_stride": pool_stride, "pool_padding": pool_padding}
    fusion.site("conv1", CONV2D_MAX_POOL, read.tensors, **values, **pool)
    return True


RULES = (ResidualBlockRule(), ResNetRule())
