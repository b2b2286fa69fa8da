"""What timm's models say of their widths, by which timm makes classifiers and others build on features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_shapes


@dataclass(frozen=True)
class Widths:
    """Channels of a timm model's features, of what its classifier is given, and of each stage's features."""

    features: int
    hidden: int
    stages: tuple[int, ...]


@torch.no_grad()
def read_widths(model: nn.Module, shape: tuple[int, ...]) -> Widths | None:
    """The widths that `model` has for images ``[N, C, H, W]`` of this shape, by running it on shapes alone.

    None for a model without timm's ``forward_features``, ``forward_head`` and ``num_features``.
    """
    if not all(hasattr(model, name) for name in ("forward_features", "forward_head", "num_features")):
        return None
    shapes: Any = copy_shapes(model)
    images = torch.empty(shape, device="meta", dtype=next(shapes.parameters()).dtype)
    try:
        features, stages = shapes.forward_features(images), ()
        hidden = shapes.forward_head(features, pre_logits=True)
        if hasattr(shapes, "forward_intermediates") and hasattr(shapes, "feature_info"):
            stages = tuple(y.shape[1] for y in shapes.forward_intermediates(images, intermediates_only=True))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None  # its methods are not timm's, or do not run on shapes
    if not (isinstance(features, Tensor) and isinstance(hidden, Tensor)):
        return None
    axis = 1 if features.dim() == 4 and getattr(shapes, "output_fmt", "NCHW") == "NCHW" else -1
    return Widths(features.shape[axis], hidden.shape[-1], stages)


def tell_widths(model: nn.Module, widths: Widths | None) -> None:
    """Have `model`, and the head that makes its classifier, say these widths."""
    if widths is None:
        return
    head: Any = getattr(model, "head", None)
    names = {"num_features": widths.features, "embed_dim": widths.features, "head_hidden_size": widths.hidden}
    _set(model, names)
    if isinstance(head, nn.Module) and not isinstance(head, nn.Linear | nn.Conv2d):
        _set(head, {"in_features": widths.features, "num_features": widths.hidden})
    info = getattr(model, "feature_info", [])
    entries = getattr(info, "info", info)
    if len(entries) == len(widths.stages):
        for entry, width in zip(entries, widths.stages, strict=True):
            entry["num_chs"] = width


def _set(module: nn.Module, values: dict[str, int]) -> None:
    for name, value in values.items():
        if type(vars(module).get(name)) is int:
            setattr(module, name, value)
