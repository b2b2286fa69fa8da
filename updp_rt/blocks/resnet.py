"""timm's ResNet BasicBlock: conv3x3-BN-conv3x3-BN + skip, ReLU, into one convolution and a ReLU.

Two pruned bodies. ``full`` keeps both kernels, which merge into a 5x5 (7x7 at stride 2). ``shrunk`` lets the taps
of the second kernel off its centre fade away, so that the two merge into one 3x3.
"""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.blocks.family import Family, is_identity
from updp_rt.blocks.merged import MergedBlock, convolutions
from updp_rt.blocks.norms import copy_activation, pruned_batchnorm
from updp_rt.blocks.progressive import ProgressiveBlock
from updp_rt.blocks.steps import Fade, Keep, Shrink, Step
from updp_rt.reparam import AffineConv, add_identity, add_parallel, compose_chain, merge_chain


class ProgressiveBasicBlock(ProgressiveBlock):
    forms = {"shrunk": ("conv",), "full": ("conv", "factored")}

    @staticmethod
    def skippable(block: Any) -> bool:
        return block.downsample is None

    def new_norms(self) -> dict[str, nn.Module]:
        b = self.block
        return {
            "bn1": pruned_batchnorm(b.bn1, b.conv1.out_channels, b.conv1.weight),
            "bn2": pruned_batchnorm(b.bn2, b.conv2.out_channels, b.conv2.weight),
        }

    def steps(self) -> list[Step]:
        b = self.block
        second = Shrink("conv2", b.conv2) if self.body == "shrunk" else Keep("conv2", b.conv2)
        return [
            Keep("conv1", b.conv1),
            Fade("bn1", lambda h: b.act1(b.bn1(h)), self.norms["bn1"]),
            second,
            Fade("bn2", b.bn2, self.norms["bn2"]),
        ]

    def drop_path(self, y: Tensor) -> Tensor:
        return y if self.block.drop_path is None else self.block.drop_path(y)

    def skip(self, x: Tensor) -> Tensor:
        return x if self.block.downsample is None else self.block.downsample(x)

    def end(self, y: Tensor) -> Tensor:
        return self.block.act2(y)

    def activation(self) -> nn.Module:
        return self.block.act2

    def build_merged(self, chain: list[AffineConv], form: str) -> MergedBlock:
        """``conv``: one convolution, skip folded; ``factored``: both convolutions, skip added."""
        down = self.block.downsample
        skip = None if down is None else merge_chain([(f"{self.name}.downsample", down)])
        act = copy_activation(self.block.act2, inplace=True)
        if form == "factored":
            beside = nn.Identity() if skip is None else skip.to_conv(self.dtype)
            return MergedBlock(convolutions(chain, self.dtype), beside, act)
        conv = compose_chain(chain)
        conv = add_identity(conv) if skip is None else add_parallel(conv, skip)
        return MergedBlock(conv.to_conv(self.dtype), None, act)


def _why_not(block: Any) -> str | None:
    if source_type(block) is not BasicBlock:
        return f"{source_type(block).__name__}: only BasicBlock can be pruned"
    if not is_identity(block.se):
        return f"squeeze-excite or other attention ({source_type(block.se).__name__}) inside"
    if not is_identity(block.aa):
        return f"anti-aliasing ({source_type(block.aa).__name__}) inside"
    if not is_identity(block.drop_block):
        return "DropBlock inside"
    return None


FAMILY = Family(
    name="resnet",
    example="resnet34",
    models=(ResNet,),
    blocks=(BasicBlock, Bottleneck),
    why_not=_why_not,
    progressive=ProgressiveBasicBlock,
)
