"""How every part knows an accelerated module without importing the runtime: by a mark on its class."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)

_MARK = "_updp_rt_fused"  # an attribute of the bases of our classes
_OURS = "_updp_rt_"  # what we keep in a module's dictionary begins so


def source_type(module: nn.Module) -> type[nn.Module]:
    """The class of `module`; of an accelerated one, the class of the module it was made from."""
    return _source(type(module))


def _source(kind: type[nn.Module]) -> type[nn.Module]:
    if not getattr(kind, _MARK, False):
        return kind
    *_, last = kind.__bases__
    if any(_MARK in vars(base) for base in kind.__bases__):
        return _source(last)
    # A class that others derived from an accelerated one, as torch's parametrizations do for each module.
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(kind.__name__.replace(last.__name__, _source(last).__name__), tuple(map(_source, kind.__bases__)), own)


def to_source(model: M) -> M:
    """Let every accelerated module in `model`, a copy that is the caller's own, be its source again."""
    for module in model.modules():
        if type(module) is not source_type(module):
            module.__class__ = source_type(module)
            for name in [name for name in vars(module) if name.startswith(_OURS)]:
                del module.__dict__[name]
    return model
