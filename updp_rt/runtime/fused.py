"""Drop-in modules: the source module itself, under a class that adds a faster `forward`.

A fused module is its source module with another class: parameters, buffers, names, hooks, ``state_dict`` and
``isinstance`` stay as they were, deep copies and pickles too, and giving the class back restores it exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from timm.layers import DropBlock2d, DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from updp_rt.runtime.dispatch import Policy
from updp_rt.runtime.site import Site

_classes: dict[tuple[type[Fused], type[nn.Module]], type[nn.Module]] = {}


class CannotFuseError(Exception):
    """A module stays as it is; the message says why."""


class Fusion:
    """What a fused module runs: its sites by name, and the modules inside it that they replace."""

    def __init__(self, owner: nn.Module, policy: Policy) -> None:
        self.owner = owner
        self.policy = policy
        self.sites: dict[str, Site] = {}
        # Modules that the sites stand for, with the dictionary that holds them: a module put in their place is seen.
        self.members: list[tuple[dict[str, Any], str, nn.Module]] = []
        self._moody: list[nn.Module] = []  # those of them that do something else in training
        self._handles_seen = -1

    def active(self) -> bool:
        """Whether the fused forward may run now; else the source's own does.

        It does not in training, be it of one norm alone, under autocast (which would choose other dtypes), or when a
        module it stands for has got a hook, which must see its values, or was itself replaced.
        """
        if self.owner.training or torch._C._is_any_autocast_enabled():
            return False
        for module in self._moody:
            if module.training:
                return False
        if torch.compiler.is_compiling():
            return not torch.compiler.is_exporting()  # an exported program is made of standard operators
        # torch counts the hooks ever registered; while the count stands, there is no need to look at every module.
        if self._handles_seen != RemovableHandle.next_id:
            handles = RemovableHandle.next_id
            if any(module._forward_hooks or module._forward_pre_hooks for _, _, module in self.members):
                return False
            self._handles_seen = handles
        return all([modules.get(name) is module for modules, name, module in self.members])  # noqa: C419 - quicker

    def absorb(self, path: str, parent: nn.Module | None = None) -> Any:
        """Take over the module at `path` below `parent` (the owner by default), with all it holds; returns it."""
        *above, name = path.split(".")
        holder = (parent or self.owner).get_submodule(".".join(above))
        module = holder.get_submodule(name)
        self.members.append((holder._modules, name, module))
        if isinstance(module, _BatchNorm | _DropoutNd | DropPath | DropBlock2d):
            self._moody.append(module)
        for child, _ in module.named_children():
            self.absorb(child, module)
        return module


class Fused(nn.Module):
    """Base of the fused modules: `run` while the fusion is active, else the source's forward."""

    source: ClassVar[tuple[type[nn.Module], ...]] = ()
    fusion: Fusion

    @classmethod
    def plan(cls, module: nn.Module, fusion: Fusion) -> None:
        """Fill `fusion` with sites for `module`; raises `CannotFuseError`, which names the reason."""
        raise NotImplementedError

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The source's forward, on fused kernels."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.fusion.active():
            return self.run(*args, **kwargs)
        return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made on the fly, so copies and pickles name the two it is made of.
        return _empty, type(self).__bases__, self.__getstate__()


class Absorbed(Fused):
    """A module whose work the module before it in a fused chain has done."""

    def run(self, x: Any) -> Any:
        return x


def fused_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every fused module that runs operators of its own."""
    for name, module in model.named_modules():
        if isinstance(module, Fused) and not isinstance(module, Absorbed):
            yield name, module


def fuse(module: nn.Module, kind: type[Fused], fusion: Fusion) -> None:
    """Turn `module` into a fused module of `kind`, in place."""
    module.fusion = fusion  # type: ignore[assignment]
    module.__class__ = _fused_class(kind, type(module))


def unfuse(module: Fused) -> None:
    """Give `module` its own class back."""
    del module.fusion
    module.__class__ = type(module).__bases__[1]


def _fused_class(kind: type[Fused], source: type[nn.Module]) -> type[nn.Module]:
    if (kind, source) not in _classes:
        names = {"__module__": __name__, "__doc__": source.__doc__}
        _classes[kind, source] = type(f"Fused{source.__name__}", (kind, source), names)
    return _classes[kind, source]


def _empty(kind: type[Fused], source: type[nn.Module]) -> nn.Module:
    made = _fused_class(kind, source)
    empty: nn.Module = made.__new__(made)
    return empty
