"""Pools, of any model: torch's max pooling, timm's mean over the whole image before a classifier."""

from __future__ import annotations

from typing import Any

from timm.layers import SelectAdaptivePool2d
from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool
from torch import Tensor, nn

from updp_rt.ops import AVERAGE_POOL, MAX_POOL
from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import pool_sizes


class MaxPoolRule(Rule):
    """Max pooling without dilation, its windows within the padded image."""

    source = (nn.MaxPool2d,)
    optional = True

    def plan(self, module: Any, fusion: Fusion) -> None:
        _check_backends(fusion)
        kernel, stride, padding = pool_sizes(module)
        fusion.site("pool", MAX_POOL, {}, kernel=kernel, stride=stride, padding=padding)

    def run(self, module: Any, fusion: Fusion, input: Tensor) -> Tensor:
        return fusion.sites["pool"](input) if input.dim() == 4 else nn.MaxPool2d.forward(module, input)


class GlobalPoolRule(Rule):
    """timm's pool by the mean, whose result is flat or of images of one pixel."""

    source = (SelectAdaptivePool2d,)
    optional = True

    def plan(self, module: Any, fusion: Fusion) -> None:
        _check_backends(fusion)
        pool = fusion.absorb("pool")
        whole = type(pool) is nn.AdaptiveAvgPool2d and pool.output_size in (1, (1, 1))
        if not whole and (type(pool) is not FastAdaptiveAvgPool or pool.dim != (2, 3)):
            raise CannotFuseError(f"{pool} is not the mean over an image")
        flatten = fusion.absorb("flatten")
        if type(flatten) not in (nn.Identity, nn.Flatten):
            raise CannotFuseError(f"{flatten} is no flattening")
        fusion.site("pool", AVERAGE_POOL, {})

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        if x.dim() != 4:
            return SelectAdaptivePool2d.forward(module, x)
        y = fusion.sites["pool"](x)
        flat = type(module.flatten) is nn.Flatten or getattr(module.pool, "flatten", False)
        return y if flat else y[:, :, None, None]


def _check_backends(fusion: Fusion) -> None:
    if fusion.policy.backends == ("onednn",):
        raise CannotFuseError("oneDNN runs no pools of their own")


RULES = (MaxPoolRule(), GlobalPoolRule())
