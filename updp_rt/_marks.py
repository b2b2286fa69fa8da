"""How every part knows an accelerated module without importing the runtime: by a mark on its class."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def source_type(module: nn.Module) -> type[nn.Module]:
    """The class of `module`; of an accelerated one, the class of the module it was made from."""
    kind = type(module)
    while getattr(kind, "_updp_rt_fused", False):
        kind = kind.__bases__[-1]
    return kind


def to_source(model: M) -> M:
    """Let every accelerated module in `model`, a copy that is the caller's own, be its source again."""
    for module in model.modules():
        if type(module) is not source_type(module):
            module.__class__ = source_type(module)
    return model
