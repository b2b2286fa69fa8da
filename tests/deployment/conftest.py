"""Small models, merged, narrow and accelerated ones, and a process in which this package is not there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import updp_rt
from tests.runtime.conftest import merged
from tests.tables import own_tables
from updp_rt.blocks.randomize import randomize

SIZE = (3, 32, 32)

# What stands before code that is to run without this package, wherever it is installed.
_WITHOUT = "import sys; sys.modules['updp_rt'] = None\n"


@pytest.fixture(autouse=True, scope="module")
def own_table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_tables(tmp_path_factory.mktemp("cache")):
        yield


def small_resnet() -> nn.Module:
    """Merged in all its blocks, and 16 channels wide."""
    torch.manual_seed(0)
    return sound(merged(timm.create_model("resnet10t", channels=(16, 8, 16, 8), num_classes=7)))


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3, num_classes=7)
    return sound(merged(vit))


def small_mobilenet() -> nn.Module:
    torch.manual_seed(0)
    return sound(merged(timm.create_model("mobilenetv2_035", depth_multiplier=0.4, num_classes=7)))


def small_convnext() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=7)
    return sound(merged(model))


def narrow_mobilenet() -> nn.Module:
    """With half of its channels pruned, and no block merged."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", depth_multiplier=0.4, num_classes=7).eval()
    return sound(updp_rt.prune_channels(model, torch.randn(1, *SIZE), amount=0.5).model)


def sound(model: nn.Module) -> nn.Module:
    """With random statistics, and weights whose results are of the size that trained ones have."""
    randomize(model.eval(), seed=1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model


@pytest.fixture
def run_without(tmp_path: Path) -> Callable[[str], str]:
    """Runs code in a process that has torch and not updp_rt; gives what it prints."""

    def run(code: str) -> str:
        command = [sys.executable, "-c", _WITHOUT + code]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300).stdout

    return run
