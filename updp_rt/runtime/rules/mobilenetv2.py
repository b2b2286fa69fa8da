"""MobileNetV2 and EfficientNet: conv+BN+act each, in a block the last with the skip; the model's stem and head.

On a GPU an inverted residual is one operator, among whose candidates its convolutions one by one are.
"""

from __future__ import annotations

from typing import Any

from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from timm.models._manipulate import checkpoint_seq
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from updp_rt.ops import INVERTED_RESIDUAL
from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import conv_site, idle, on_gpu, read_conv
from updp_rt.runtime.site import Slot

_CHAINS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ConvBnAct: (("conv", "bn1"),),
    DepthwiseSeparableConv: (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}

_WHOLE = "block"  # the site of one
_NAMES = {"weight": "w", "bias": "b"}  # as the operator calls them


class MobileBlockRule(Rule):
    """One to three convolutions, squeeze-and-excite before the last, a skip added without an activation after it."""

    source = tuple(_CHAINS)

    def plan(self, module: Any, fusion: Fusion) -> None:
        if getattr(module, "conv_s2d", None) is not None:
            raise CannotFuseError("space-to-depth stands before the operators")
        for name in ("aa", "drop_path"):
            idle(getattr(module, name), name)
            fusion.absorb(name)
        act = "none"
        chain = [(conv, fusion.absorb(conv), fusion.absorb(norm)) for conv, norm in _CHAINS[fusion.source]]
        if fusion.source is InvertedResidual and _whole_site(module, fusion, *chain):
            return
        for name, conv, norm in chain:
            act = conv_site(fusion, name, conv, norm)
        if module.has_skip and act != "none":
            raise CannotFuseError("the skip is added after the last activation")

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        if _WHOLE in fusion.sites:
            return fusion.sites[_WHOLE](x, x if module.has_skip else None)
        *first, last = fusion.sites.values()
        y = x
        for site in first:
            y = site(y)
        if first:
            y = module.se(y)
        return last(y, x if module.has_skip else None)


def _whole_site(module: Any, fusion: Fusion, *chain: tuple[str, Any, Any]) -> bool:
    """On a GPU, add a site of the whole block: 1x1, depthwise, 1x1; whether it is one."""
    if not on_gpu(module) or type(module.se) is not nn.Identity:
        return False
    first, depthwise, last = (read_conv(conv, norm) for _, conv, norm in chain)
    plain = ((1, 1), (0, 0), 1)
    stride, padding, groups = depthwise.geometry
    fits = (
        [conv.kernel_size for _, conv, _ in (chain[0], chain[2])] == [(1, 1), (1, 1)]
        and first.geometry == last.geometry == plain
        and groups == chain[1][1].in_channels == chain[1][1].out_channels
        and (first.act, last.act) == (depthwise.act, "none")
    )
    if not fits:
        return False
    fusion.absorb("se")
    tensors: dict[str, Slot] = {}
    values: dict[str, Any] = {"act": first.act, "stride": stride, "padding": padding}
    for kind, read in (("pw", first), ("dw", depthwise), ("pwl", last)):
        tensors |= {f"{_NAMES.get(name, name)}_{kind}": slot for name, slot in read.tensors.items()}
        values[f"eps_{kind}"] = read.eps
    fusion.site(_WHOLE, INVERTED_RESIDUAL, tensors, **values)
    return True


class EfficientNetRule(Rule):
    """The model's own convolutions, before and after its blocks."""

    source = (EfficientNet,)
    method = "forward_features"

    def plan(self, module: Any, fusion: Fusion) -> None:
        conv_site(fusion, "conv_stem", fusion.absorb("conv_stem"), fusion.absorb("bn1"))
        conv_site(fusion, "conv_head", fusion.absorb("conv_head"), fusion.absorb("bn2"))

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        x = fusion.sites["conv_stem"](x)
        x = checkpoint_seq(module.blocks, x, flatten=True) if module.grad_checkpointing else module.blocks(x)
        return fusion.sites["conv_head"](x)


RULES = (MobileBlockRule(), EfficientNetRule())
