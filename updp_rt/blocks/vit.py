"""timm's ViT and DeiT Block: attention kept, the FFN into one linear layer, skip folded as I + W, and a GELU.

Pruned body of the FFN: BN-fc1-fc2-(LayerScale)-BN, skip, GELU added at the end.
"""

from __future__ import annotations

from typing import Any

from timm.layers.mlp import Mlp
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from timm.models.vision_transformer import (
    Block,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from timm.models.vision_transformer_sam import Block as SamBlock
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.blocks.family import Family, is_identity
from updp_rt.blocks.merged import MergedTransformerBlock
from updp_rt.blocks.norms import copy_activation, pruned_batchnorm
from updp_rt.blocks.progressive import ProgressiveBlock
from updp_rt.blocks.steps import Fade, Keep, Step
from updp_rt.reparam import AffineConv, add_identity, compose_chain

_WINDOWED = (SwinTransformerBlock, SwinTransformerV2Block, SamBlock)


class ProgressiveTransformerBlock(ProgressiveBlock):
    forms = {"full": ("linear",)}

    def __init__(self, block: Block, name: str = "block", body: str = "") -> None:
        super().__init__(block, name, body)
        self.added = copy_activation(block.mlp.act, inplace=False)

    @staticmethod
    def skippable(block: Any) -> bool:
        return True

    def new_norms(self) -> dict[str, nn.Module]:
        weight = self.block.mlp.fc1.weight
        return {
            "norm2": pruned_batchnorm(self.block.norm2, weight.shape[1], weight, tokens=True),
            "added": pruned_batchnorm(None, weight.shape[1], weight, tokens=True),
        }

    def head(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        b = self.block
        return x + b.drop_path1(b.ls1(b.attn(b.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))

    def steps(self) -> list[Step]:
        b, mlp = self.block, self.block.mlp
        layer_scale: list[Step] = [] if is_identity(b.ls2) else [Keep("ls2", b.ls2.gamma)]
        return [
            Fade("norm2", b.norm2, self.norms["norm2"]),
            Keep("mlp.fc1", mlp.fc1),
            Fade("mlp.act", lambda h: mlp.drop1(mlp.act(h))),
            Keep("mlp.fc2", mlp.fc2),
            *layer_scale,
            Fade("added", mlp.drop2, self.norms["added"]),
        ]

    def drop_path(self, y: Tensor) -> Tensor:
        return self.block.drop_path2(y)

    def activation(self) -> nn.Module:
        return self.added

    def build_merged(self, chain: list[AffineConv], form: str) -> MergedTransformerBlock:
        """``linear``: attention, then one linear layer with the skip folded."""
        b = self.block
        linear = add_identity(compose_chain(chain)).to_linear(self.dtype)
        return MergedTransformerBlock(
            b.norm1, b.attn, b.ls1, b.drop_path1, linear, copy_activation(self.added, inplace=True)
        )


def _why_not(block: Any) -> str | None:
    if isinstance(block, _WINDOWED):
        return f"windowed attention ({source_type(block).__name__})"
    if source_type(block) is not Block:
        return f"{source_type(block).__name__}: only the pre-norm attention + MLP Block can be pruned"
    if source_type(block.mlp) is not Mlp or not is_identity(block.mlp.norm):
        return f"{source_type(block.mlp).__name__}: only the plain MLP can be pruned"
    return None


FAMILY = Family(
    name="vit",
    example="deit_tiny_patch16_224",
    models=(VisionTransformer, VisionTransformerSAM, SwinTransformer, SwinTransformerV2),
    blocks=(Block, ResPostBlock, ParallelScalingBlock, ParallelThingsBlock, *_WINDOWED),
    why_not=_why_not,
    progressive=ProgressiveTransformerBlock,
)
