"""timm's InvertedResidual and DepthwiseSeparableConv (MobileNetV2): into one dense convolution and an activation.

Pruned body: pw-BN-dw-BN-pw-BN (or dw-BN-pw-BN), skip, and the block's activation added at the end.
"""

from __future__ import annotations

from typing import Any

from timm.models._efficientnet_blocks import (
    CondConvResidual,
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    UniversalInvertedResidual,
)
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.blocks.family import Family, is_identity
from updp_rt.blocks.merged import MergedBlock, convolutions
from updp_rt.blocks.norms import copy_activation, pruned_batchnorm
from updp_rt.blocks.progressive import ProgressiveBlock
from updp_rt.blocks.steps import Fade, Keep, Step
from updp_rt.reparam import AffineConv, add_identity, compose_chain

_CHAINS = {
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    DepthwiseSeparableConv: (("conv_dw", "bn1"), ("conv_pw", "bn2")),
}


class ProgressiveInvertedResidual(ProgressiveBlock):
    forms = {"full": ("conv", "factored")}

    def __init__(self, block: nn.Module, name: str = "block", body: str = "") -> None:
        super().__init__(block, name, body)
        self.added = copy_activation(self.block.bn1.act, inplace=False)

    @staticmethod
    def skippable(block: Any) -> bool:
        return bool(block.has_skip)

    def new_norms(self) -> dict[str, nn.Module]:
        norms = {}
        for conv, bn in _CHAINS[source_type(self.block)]:
            weight = getattr(self.block, conv).weight
            norms[bn] = pruned_batchnorm(getattr(self.block, bn), weight.shape[0], weight)
        return norms

    def steps(self) -> list[Step]:
        steps: list[Step] = []
        for conv, bn in _CHAINS[source_type(self.block)]:
            steps.append(Keep(conv, getattr(self.block, conv)))
            steps.append(Fade(bn, getattr(self.block, bn), self.norms[bn]))
        return steps

    def drop_path(self, y: Tensor) -> Tensor:
        return self.block.drop_path(y) if self.block.has_skip else y

    def skip(self, x: Tensor) -> Tensor | None:
        return x if self.block.has_skip else None

    def activation(self) -> nn.Module:
        return self.added

    def build_merged(self, chain: list[AffineConv], form: str) -> MergedBlock:
        """``conv``: one dense convolution, skip folded; ``factored``: the chain's convolutions, skip added."""
        act = copy_activation(self.added, inplace=True)
        if form == "factored":
            skip = nn.Identity() if self.block.has_skip else None
            return MergedBlock(convolutions(chain, self.dtype), skip, act)
        conv = compose_chain(chain)
        if self.block.has_skip:
            conv = add_identity(conv)
        return MergedBlock(conv.to_conv(self.dtype), None, act)


def _why_not(block: Any) -> str | None:
    if source_type(block) not in _CHAINS:
        return f"{source_type(block).__name__}: only InvertedResidual and DepthwiseSeparableConv can be pruned"
    if not is_identity(block.se):
        return f"squeeze-excite ({source_type(block.se).__name__}) inside"
    if not is_identity(block.aa):
        return f"anti-aliasing ({source_type(block.aa).__name__}) inside"
    if block.conv_s2d is not None:
        return "space-to-depth convolution inside"
    return None


FAMILY = Family(
    name="mobilenetv2",
    example="mobilenetv2_100",
    models=(EfficientNet,),
    blocks=(
        InvertedResidual,
        DepthwiseSeparableConv,
        EdgeResidual,
        CondConvResidual,
        UniversalInvertedResidual,
        ConvBnAct,
    ),
    why_not=_why_not,
    progressive=ProgressiveInvertedResidual,
)
