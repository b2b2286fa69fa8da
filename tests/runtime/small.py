"""A model that is fused in all three ways, small enough to be measured in no time, and what must hold of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.models import create_model
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

import updp_rt
from updp_rt.blocks.randomize import randomize


def small_model(width: int = 8) -> nn.Module:
    """A stem in a Sequential, timm's residual block, single layers."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        BasicBlock(width, width),
        nn.Sequential(nn.Conv2d(width, 6, 1), nn.Hardswish(), nn.Flatten(), nn.Linear(6 * 8 * 8, 5)),
    )


def small_resnet(**options: Any) -> Any:
    return randomize(create_model("test_resnet", num_classes=5, **options).eval(), seed=1)


def twins(model: nn.Module | None = None, **options: Any) -> tuple[Any, Any, Tensor]:
    """A source, what it is accelerated to, and images; modules of both may be changed."""
    source: Any = randomize((model or small_model()).eval(), seed=1)
    images = torch.randn(2, 3, 8, 8)
    options.setdefault("backends", ["onednn", "reference"])
    return source, updp_rt.accelerate(copy.deepcopy(source), images, **options), images


@torch.no_grad()
def assert_same(fast: nn.Module, source: nn.Module, images: Tensor) -> None:
    """That both compute the same, to rounding."""
    found, wanted = fast(images), source(images)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
