"""ConvNeXt's block: the depthwise convolution, then fc1+GELU, with the norm before it on a GPU, then fc2+gamma+skip.

The classifier's norm and linear layer are one, too.
"""

from __future__ import annotations

from typing import Any

from timm.layers import Mlp, NormMlpClassifierHead
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import (
    check_linear,
    conv_site,
    idle,
    mlp_sites,
    norm_linear_site,
    on_gpu,
    run_mlp,
    why_no_layer_norm,
)


class ConvNeXtRule(Rule):
    """A block whose MLP is of linear layers, or of 1x1 convolutions (``use_conv_mlp``)."""

    source = (ConvNeXtBlock,)

    def plan(self, module: Any, fusion: Fusion) -> None:
        if type(module.mlp) is not Mlp:
            raise CannotFuseError(f"{type(module.mlp).__name__} is no plain MLP")
        for name in ("drop1", "norm", "drop2"):
            idle(getattr(module.mlp, name), name)
        idle(module.drop_path, "drop_path")
        fusion.absorb("drop_path")
        if type(module.shortcut) is nn.Identity:
            fusion.absorb("shortcut")
        conv_site(fusion, "conv_dw", fusion.absorb("conv_dw"))
        mlp = fusion.absorb("mlp")
        scale = None if module.gamma is None else (module, "gamma")
        if module.use_conv_mlp:
            conv_site(fusion, "mlp.fc1", mlp.fc1, act=mlp.act)
            conv_site(fusion, "mlp.fc2", mlp.fc2, scale=scale)
        else:
            mlp_sites(fusion, "norm", mlp, scale)

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        shortcut = module.shortcut
        shortcut = x if "shortcut" in fusion.children else shortcut(x)
        # Each step drops the tensor before it: memory given back early is used again while it is in the cache.
        if module.use_conv_mlp:
            y = module.norm(fusion.sites["conv_dw"](x))
            return fusion.sites["mlp.fc2"](fusion.sites["mlp.fc1"](y), shortcut)
        shortcut = shortcut.permute(0, 2, 3, 1)
        return run_mlp(fusion, "norm", fusion.sites["conv_dw"](x).permute(0, 2, 3, 1), shortcut).permute(0, 3, 1, 2)


class HeadRule(Rule):
    """Behind the pool of a classifier its norm and its linear layer in one, on a GPU."""

    source = (NormMlpClassifierHead,)
    optional = True

    def plan(self, module: Any, fusion: Fusion) -> None:
        if not on_gpu(module):
            raise CannotFuseError("on a CPU a norm is torch's own")
        if type(module.flatten) is not nn.Flatten:
            raise CannotFuseError("its norm is of images that are not pooled")
        reason = why_no_layer_norm(module.norm)
        if reason is not None:
            raise CannotFuseError(reason)
        check_linear(module.fc)
        for name in ("pre_logits", "drop"):
            idle(getattr(module, name), name)
            fusion.absorb(name)
        fusion.absorb("flatten")
        norm_linear_site(fusion, "fc", fusion.absorb("norm"), fusion.absorb("fc"))

    def run(self, module: Any, fusion: Fusion, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = module.global_pool(x)
        if pre_logits:
            return module.flatten(module.norm(x))
        return fusion.sites["fc"](x.flatten(1))


RULES = (ConvNeXtRule(), HeadRule())
