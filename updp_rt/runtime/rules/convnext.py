"""ConvNeXt's block: the depthwise convolution, then fc1+GELU, then fc2+gamma+skip."""

from __future__ import annotations

from typing import Any

from timm.layers import Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from updp_rt.runtime.fused import CannotFuseError, Fused, Fusion
from updp_rt.runtime.rules.parts import conv_site, idle, linear_site


class FusedConvNeXtBlock(Fused):
    """A block whose MLP is of linear layers, or of 1x1 convolutions (``use_conv_mlp``)."""

    source = (ConvNeXtBlock,)

    @classmethod
    def plan(cls, module: Any, fusion: Fusion) -> None:
        if type(module.mlp) is not Mlp:
            raise CannotFuseError(f"{type(module.mlp).__name__} is no plain MLP")
        for name in ("drop1", "norm", "drop2"):
            idle(getattr(module.mlp, name), name)
        idle(module.drop_path, "drop_path")
        fusion.absorb("drop_path")
        if isinstance(module.shortcut, nn.Identity):
            fusion.absorb("shortcut")
        conv_site(fusion, "conv_dw", fusion.absorb("conv_dw"))
        mlp = fusion.absorb("mlp")
        make = conv_site if module.use_conv_mlp else linear_site
        make(fusion, "fc1", mlp.fc1, act=mlp.act)
        make(fusion, "fc2", mlp.fc2, scale=None if module.gamma is None else (module, "gamma"))

    def run(self: Any, x: Tensor) -> Tensor:
        sites, shortcut = self.fusion.sites, self.shortcut
        shortcut = x if isinstance(shortcut, nn.Identity) else shortcut(x)
        # Each step drops the tensor before it: memory given back early is used again while it is in the cache.
        y = sites["conv_dw"](x)
        if self.use_conv_mlp:
            y = self.norm(y)
            return sites["fc2"](sites["fc1"](y), shortcut)
        y = self.norm(y.permute(0, 2, 3, 1))
        y = sites["fc1"](y)
        return sites["fc2"](y, shortcut.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


RULES = (FusedConvNeXtBlock,)
