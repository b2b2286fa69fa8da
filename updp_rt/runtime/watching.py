"""What of modules decides what they compute, besides tensors: watched, since anybody may change it at any time."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import torch
from timm.layers import DropBlock2d, DropPath
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

# Modules that do something else in training.
MOODY = (_BatchNorm, _DropoutNd, DropPath, DropBlock2d)

# Attributes of modules that change nothing of what they compute in eval mode.
_IDLE_ATTRIBUTES = frozenset(
    (
        "training",
        "inplace",
        "momentum",
        "p",
        "drop_prob",
        "scale_by_keep",
        "kernel_size",
        "transposed",
        "output_padding",
        "in_channels",
        "out_channels",
        "in_features",
        "out_features",
        "num_features",
        "affine",
        "grad_checkpointing",
    )
)

_autocast, _tracing = torch._C._is_any_autocast_enabled, torch._C._get_tracing_state
_transforms = torch._C._functorch.peek_interpreter_stack


def is_transformed() -> bool:
    """Whether calls are under autocast, recorded or transformed by torch, or seen by hooks of every module."""
    return bool(
        _autocast()
        or _tracing() is not None
        or _transforms() is not None
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
    )


class Watched:
    """Plain attributes and children of some modules, as they are now."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self.attributes = [(module, *_attributes(module)) for module in modules]
        self._getters = [(itemgetter(*names), module.__dict__) for module, names, _ in self.attributes if names]
        self._values = [get(held) for get, held in self._getters]
        self._holders = [module._modules for module in modules if module._modules]
        self._then = [dict(held) for held in self._holders]
        self._own = [module.__dict__ for module in modules]
        self._sizes = list(map(len, self._own))

    def changed(self) -> bool:
        """Whether one of them is no longer what it was."""
        try:
            return (
                [get(held) for get, held in self._getters] != self._values
                or self._holders != self._then
                or list(map(len, self._own)) != self._sizes  # a forward of an instance's own, say
            )
        except (KeyError, RuntimeError, ValueError):  # gone, or tensors and arrays, which do not compare
            return True


def _attributes(module: nn.Module) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Names and values of what may decide what `module` computes besides its tensors and children."""
    names = [
        name
        for name, value in module.__dict__.items()
        if not name.startswith("_") and name not in _IDLE_ATTRIBUTES and not isinstance(value, Tensor | nn.Module)
    ]
    if isinstance(module, MOODY):
        names.append("training")
    return tuple(names), tuple(module.__dict__[name] for name in names)
