"""Depth pruning of vision models: supernet, search, progressive training, exact merging.

Names load on first use, so ``import updp_rt`` is quick, touches no GPU and compiles nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from updp_rt._torchvision import make_torchvision_importable

if TYPE_CHECKING:
    from updp_rt.artifacts import load, save
    from updp_rt.blocks import UnsupportedModelError, inspect
    from updp_rt.pruning import PruneConfig, PruneResult, prune
    from updp_rt.reparam import MergeError
    from updp_rt.verify import verify_model

__version__ = "0.1.0"

_PARTS = ("reparam", "blocks", "artifacts", "data", "pruning", "verify", "cli")
_HOMES = {
    "load": "artifacts",
    "save": "artifacts",
    "UnsupportedModelError": "blocks",
    "inspect": "blocks",
    "PruneConfig": "pruning",
    "PruneResult": "pruning",
    "prune": "pruning",
    "MergeError": "reparam",
    "verify_model": "verify",
}

__all__ = [
    "MergeError",
    "PruneConfig",
    "PruneResult",
    "UnsupportedModelError",
    "inspect",
    "load",
    "prune",
    "save",
    "verify_model",
]

make_torchvision_importable()


def __getattr__(name: str) -> object:
    if name in _PARTS:
        return importlib.import_module(f"updp_rt.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'updp_rt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"updp_rt.{_HOMES[name]}"), name)
