"""timm's ConvNeXtBlock (V1): dw7x7-LN-MLP + skip, into dw7x7 + one 1x1 + residual and a GELU.

Pruned body: dw7x7-BN-fc1-fc2-gamma-BN, skip, GELU added at the end.
"""

from __future__ import annotations

from typing import Any

from timm.layers.mlp import GlobalResponseNormMlp, Mlp
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.blocks.family import Family, is_identity
from updp_rt.blocks.merged import MergedBlock, convolutions
from updp_rt.blocks.norms import copy_activation, pruned_batchnorm
from updp_rt.blocks.progressive import ProgressiveBlock
from updp_rt.blocks.steps import Fade, Keep, Step
from updp_rt.reparam import AffineConv, add_identity, compose_chain


class ProgressiveConvNeXtBlock(ProgressiveBlock):
    forms = {"full": ("factored", "conv")}

    def __init__(self, block: ConvNeXtBlock, name: str = "block", body: str = "") -> None:
        super().__init__(block, name, body)
        self.added = copy_activation(block.mlp.act, inplace=False)

    @staticmethod
    def skippable(block: Any) -> bool:
        return True

    def new_norms(self) -> dict[str, nn.Module]:
        weight = self.block.conv_dw.weight
        return {
            "norm": pruned_batchnorm(self.block.norm, weight.shape[0], weight),
            "added": pruned_batchnorm(None, weight.shape[0], weight),
        }

    def steps(self) -> list[Step]:
        b, mlp = self.block, self.block.mlp
        gamma: list[Step] = [] if b.gamma is None else [Keep("gamma", b.gamma)]
        return [
            Keep("conv_dw", b.conv_dw),
            Fade("norm", self._norm, self.norms["norm"]),
            Keep("mlp.fc1", mlp.fc1),
            Fade("mlp.act", lambda h: mlp.drop1(mlp.act(h))),
            Keep("mlp.fc2", mlp.fc2),
            *gamma,
            Fade("added", mlp.drop2, self.norms["added"]),
        ]

    def _norm(self, h: Tensor) -> Tensor:
        if self.block.use_conv_mlp:
            return self.block.norm(h)
        return self.block.norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def drop_path(self, y: Tensor) -> Tensor:
        return self.block.drop_path(y)

    def activation(self) -> nn.Module:
        return self.added

    def build_merged(self, chain: list[AffineConv], form: str) -> MergedBlock:
        """``factored``: depthwise, then one 1x1, skip added; ``conv``: one dense convolution, skip folded."""
        depthwise, *rest = chain
        pointwise, act = compose_chain(rest), copy_activation(self.added, inplace=True)
        if form == "factored":
            return MergedBlock(convolutions([depthwise, pointwise], self.dtype), nn.Identity(), act)
        conv = add_identity(compose_chain([depthwise, pointwise]))
        return MergedBlock(conv.to_conv(self.dtype), None, act)


def _why_not(block: Any) -> str | None:
    if isinstance(block.mlp, GlobalResponseNormMlp):
        return "GRN (global response normalisation) inside: it couples all pixels"
    if source_type(block.mlp) is not Mlp or not is_identity(block.mlp.norm):
        return f"{source_type(block.mlp).__name__}: only the plain MLP can be pruned"
    if not is_identity(block.shortcut):
        return "a downsampling shortcut"
    return None


FAMILY = Family(
    name="convnext",
    example="convnext_tiny",
    models=(ConvNeXt,),
    blocks=(ConvNeXtBlock,),
    why_not=_why_not,
    progressive=ProgressiveConvNeXtBlock,
)
