"""Single layers and sequences, of any model: a convolution, a linear layer or norm, conv-norm-act in a Sequential."""

from __future__ import annotations

from typing import Any

from timm import layers
from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.ops import LAYER_NORM
from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import conv_site, held, linear_site, on_gpu, why_no_layer_norm


class Conv2dRule(Rule):
    """A convolution with bias."""

    source = (nn.Conv2d,)
    optional = True

    def plan(self, module: Any, fusion: Fusion) -> None:
        conv_site(fusion, "", module)

    def run(self, module: Any, fusion: Fusion, input: Tensor) -> Tensor:
        return fusion.sites[""](input)


class LinearRule(Rule):
    """A linear layer with bias."""

    source = (nn.Linear,)
    optional = True

    def plan(self, module: Any, fusion: Fusion) -> None:
        linear_site(fusion, "", module)

    def run(self, module: Any, fusion: Fusion, input: Tensor) -> Tensor:
        return fusion.sites[""](input)


class LayerNormRule(Rule):
    """A layer norm over the last dimension, or over the channels of images; on a GPU."""

    source = (nn.LayerNorm, layers.LayerNorm, layers.LayerNorm2d)
    optional = True

    def plan(self, module: Any, fusion: Fusion) -> None:
        reason = why_no_layer_norm(module)
        if reason is not None:
            raise CannotFuseError(reason)
        if not on_gpu(module):
            raise CannotFuseError("on a CPU a norm alone is torch's own")
        fusion.site("", LAYER_NORM, held(module, weight="weight", bias="bias"), eps=module.eps)

    def run(self, module: Any, fusion: Fusion, *args: Tensor, **named: Tensor) -> Tensor:
        (x,) = (*args, *named.values())  # torch and timm call it by different names
        if fusion.source is not layers.LayerNorm2d:
            return fusion.sites[""](x)
        return fusion.sites[""](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SequentialRule(Rule):
    """A Sequential with convolutions in it, each one site with the BatchNorm and activation that follow it."""

    source = (nn.Sequential,)
    optional = True

    def plan(self, module: Any, fusion: Fusion) -> None:
        names = list(module._modules)
        while names:
            name = names.pop(0)
            if source_type(module._modules[name]) is not nn.Conv2d:
                continue
            run = [name]
            # Take the norm, then the activation, as long as the site can be made with them.
            while names and _site(module, [*run, names[0]], fusion):
                run.append(names.pop(0))
            if len(run) > 1:
                for member in run:
                    fusion.absorb(member)
        if not fusion.sites:
            raise CannotFuseError("nothing follows a convolution in it")

    def run(self, module: Any, fusion: Fusion, input: Any) -> Any:
        x, absorbed = input, fusion.children
        for name, child in module._modules.items():
            if name in fusion.sites:
                x = fusion.sites[name](x)
            elif name not in absorbed:
                x = child(x)
        return x


def _site(module: nn.Sequential, names: list[str], fusion: Fusion) -> bool:
    """Try to make one site of a convolution and what follows it."""
    modules: dict[str, Any] = module._modules
    conv, *rest = (modules[name] for name in names)
    norm = rest.pop(0) if rest and isinstance(rest[0], nn.BatchNorm2d) else None
    if len(rest) > 1:
        return False
    try:
        conv_site(fusion, names[0], conv, norm, rest[0] if rest else None)
    except CannotFuseError:
        return False
    return True


RULES = (Conv2dRule(), LinearRule(), LayerNormRule(), SequentialRule())
