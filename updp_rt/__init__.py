"""Faster vision models: depth pruning (supernet, search, training, exact merging), channel pruning, fused kernels.

Names load on first use, so ``import updp_rt`` is quick, touches no GPU and compiles nothing.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

from updp_rt._torchvision import make_torchvision_importable

if TYPE_CHECKING:
    from updp_rt.artifacts import load, save
    from updp_rt.blocks import UnsupportedModelError, check_model, inspect
    from updp_rt.channels import ChannelError, ChannelResult, prune_channels
    from updp_rt.conversion import ConversionError, as_transformers, from_transformers, to_transformers
    from updp_rt.deployment import ExportError, export, from_pretrained, push_to_hub, save_pretrained
    from updp_rt.methods import prune
    from updp_rt.pruning import PruneConfig, PruneResult
    from updp_rt.reparam import MergeError
    from updp_rt.runtime import (
        AccelerationError,
        EngineLimits,
        VerificationError,
        accelerate,
        explain,
        prewarm,
        refresh,
        restore,
        verify,
    )
    from updp_rt.verification import Certificate

__version__ = "0.1.0"

_PARTS = (
    "emulator",
    "reparam",
    "blocks",
    "channels",
    "artifacts",
    "data",
    "pruning",
    "methods",
    "ops",
    "backends",
    "verification",
    "runtime",
    "projection",
    "report",
    "deployment",
    "conversion",
    "cli",
)
_HOMES = {
    "AccelerationError": "runtime",
    "EngineLimits": "runtime",
    "VerificationError": "runtime",
    "accelerate": "runtime",
    "explain": "runtime",
    "prewarm": "runtime",
    "refresh": "runtime",
    "restore": "runtime",
    "swap": "runtime",
    "verify": "runtime",
    "ExportError": "deployment",
    "export": "deployment",
    "from_pretrained": "deployment",
    "push_to_hub": "deployment",
    "save_pretrained": "deployment",
    "ConversionError": "conversion",
    "as_transformers": "conversion",
    "from_transformers": "conversion",
    "to_transformers": "conversion",
    "load": "artifacts",
    "save": "artifacts",
    "ChannelError": "channels",
    "ChannelResult": "channels",
    "prune_channels": "channels",
    "UnsupportedModelError": "blocks",
    "check_model": "blocks",
    "inspect": "blocks",
    "PruneConfig": "pruning",
    "PruneResult": "pruning",
    "prune": "methods",  # which knows the rivals too
    "MergeError": "reparam",
    "Certificate": "verification",
}

__all__ = [
    "AccelerationError",
    "Certificate",
    "ChannelError",
    "ChannelResult",
    "ConversionError",
    "EngineLimits",
    "ExportError",
    "MergeError",
    "PruneConfig",
    "PruneResult",
    "UnsupportedModelError",
    "VerificationError",
    "accelerate",
    "as_transformers",
    "check_model",
    "explain",
    "export",
    "from_pretrained",
    "from_transformers",
    "inspect",
    "load",
    "prewarm",
    "prune",
    "prune_channels",
    "push_to_hub",
    "refresh",
    "restore",
    "save",
    "save_pretrained",
    "swap",
    "to_transformers",
    "verify",
]

make_torchvision_importable()


def __getattr__(name: str) -> object:
    if name in _PARTS:
        return importlib.import_module(f"updp_rt.{name}")
    if name == "verify_model":
        warnings.warn("updp_rt.verify_model is now called updp_rt.check_model", DeprecationWarning, stacklevel=2)
        name = "check_model"
    if name not in _HOMES:
        raise AttributeError(f"module 'updp_rt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"updp_rt.{_HOMES[name]}"), name)
