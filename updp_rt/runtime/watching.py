"""What of modules decides what they compute, besides tensors: watched, since anybody may change it at any time."""

from __future__ import annotations

from collections.abc import Iterable
from operator import call, itemgetter

import torch
from timm.layers import BatchNormAct2d, DropBlock2d, DropPath
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from updp_rt._marks import source_type
from updp_rt.runtime.seeing import look

# Modules that do something else in training.
MOODY = (_BatchNorm, _DropoutNd, DropPath, DropBlock2d)

# Attributes that change nothing of what any module computes in eval mode, and those of torch's own bookkeeping.
_IDLE = frozenset((*nn.Module().__dict__, "inplace", "grad_checkpointing"))
# And those that change nothing in layers of these types, of which most models are made.
_PLAIN = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, BatchNormAct2d, nn.Dropout, nn.Dropout2d, DropPath, DropBlock2d)
_IDLE_IN_PLAIN = frozenset(
    (
        "_reversed_padding_repeated_twice",
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
    )
)

_autocast, _tracing = torch._C._is_any_autocast_enabled, torch._C._get_tracing_state
_transforms, _modes = torch._C._functorch.peek_interpreter_stack, torch._C._len_torch_function_stack


def is_transformed() -> bool:
    """Whether calls are under autocast, recorded or transformed by torch, or seen by hooks or modes of every call."""
    return bool(
        _autocast()
        or _tracing() is not None
        or _transforms() is not None
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or (_modes() and any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack()))
    )


class Watched:
    """Classes, plain attributes and children of some modules, as they are now.

    Attributes:
        constants: those attributes that are plain values, by module and name.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._types = list(map(type, self._modules))
        named = [(module, _attributes(module)) for module in self._modules]
        self._getters = [itemgetter(*names) for _, names in named if names]
        self._held = [module.__dict__ for module, names in named if names]
        self.constants = [
            (module, name, module.__dict__[name])
            for module, names in named
            for name in names
            if isinstance(module.__dict__[name], bool | int | float | str | tuple | None)
        ]
        self._values = list(map(call, self._getters, self._held))
        self._holders = [module._modules for module in self._modules if module._modules]
        self._then = [dict(held) for held in self._holders]
        self._own = [module.__dict__ for module in self._modules]
        self._sizes = list(map(len, self._own))
        entries = [(module.__dict__, name) for module, names in named for name in names]
        self._looked = look(entries=entries, contents=self._holders, sizes=self._own, objects=self._modules)

    def changed(self) -> bool:
        """Whether one of them is no longer what it was."""
        if self._looked.same():
            return False
        try:
            return (
                list(map(call, self._getters, self._held)) != self._values
                or self._holders != self._then
                or list(map(len, self._own)) != self._sizes  # a forward of an instance's own, say
                or list(map(type, self._modules)) != self._types
            )
        except (KeyError, RuntimeError, ValueError):  # gone, or tensors and arrays, which do not compare
            return True


def _attributes(module: nn.Module) -> list[str]:
    """Names of what may decide what `module` computes besides its tensors and children."""
    idle = _IDLE | _IDLE_IN_PLAIN if source_type(module) in _PLAIN else _IDLE
    names = [
        name
        for name, value in module.__dict__.items()
        if name not in idle and not name.startswith("_updp_rt") and not isinstance(value, Tensor | nn.Module)
    ]
    return [*names, "training"] if isinstance(module, MOODY) else names
