"""Single layers and sequences, of any model: a convolution, a linear layer, conv-norm-act in a Sequential."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from updp_rt._marks import source_type
from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import conv_site, linear_site


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


RULES = (Conv2dRule(), LinearRule(), SequentialRule())
