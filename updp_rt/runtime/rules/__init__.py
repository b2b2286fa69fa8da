"""What is fused in which modules: one file a family, each class saying how one timm module runs on fused operators.

To add one, derive from `Rule` and put an instance into `RULES` for each type that it serves.
"""

from __future__ import annotations

from torch import nn

from updp_rt.runtime.fused import Rule
from updp_rt.runtime.rules import convnext, generic, merged, mobilenetv2, pools, resnet, tokens, vit

RULES: dict[type[nn.Module], Rule] = {
    source: rule
    for part in (generic, pools, resnet, mobilenetv2, convnext, tokens, vit, merged)
    for rule in part.RULES
    for source in rule.source
}

__all__ = ["RULES"]
