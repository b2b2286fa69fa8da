"""What is fused in which modules: one file a family, each class saying how one timm module runs on fused operators."""

from __future__ import annotations

from updp_rt.runtime.fused import Fused
from updp_rt.runtime.rules import convnext, generic, merged, mobilenetv2, resnet, vit
from updp_rt.runtime.rules.chains import CHAINS

RULES: dict[type, type[Fused]] = {
    source: rule
    for part in (generic, resnet, mobilenetv2, convnext, vit, merged)
    for rule in part.RULES
    for source in rule.source
}

__all__ = ["CHAINS", "RULES"]
