"""Accelerated models are their source to whatever saves, inspects or prunes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import updp_rt
from updp_rt._marks import source_type, to_source
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.runtime.fused import Fused


class Fast(nn.Module):
    _updp_rt_fused = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("an accelerated module was run where its source was wanted")


def fuse_all(model: nn.Module) -> nn.Module:
    for module in model.modules():
        kind = type(module)
        module.__class__ = type(f"Fast{kind.__name__}", (Fast, kind), {})
    return model


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    size = {"img_size": 32} if name == "test_vit" else {}
    return timm.create_model(name, num_classes=3, **size).eval()


NAMES = ["resnet10t", "test_convnext", "test_vit"]


def test_the_source_of_a_module() -> None:
    relu = nn.ReLU()
    assert source_type(relu) is nn.ReLU
    assert source_type(fuse_all(relu)) is nn.ReLU
    relu.__class__ = type("Twice", (type("Faster", (), {"_updp_rt_fused": True}), type(relu)), {})
    assert source_type(relu) is nn.ReLU
    assert type(to_source(nn.Sequential(relu))[0]) is nn.ReLU


@pytest.mark.parametrize("name", NAMES)
def test_accelerated_models_are_inspected_and_pruned_as_their_source(name: str) -> None:
    model = small(name)
    fused = fuse_all(small(name))
    kinds = [type(module) for module in fused.modules()]
    assert updp_rt.inspect(fused) == updp_rt.inspect(model)
    subnet = make_progressive(fused, prunable_blocks(fused)[:1])
    set_lambda(subnet, 1.0)
    assert not any(isinstance(module, Fast) for module in merge_model(subnet).modules())
    assert [type(module) for module in fused.modules()] == kinds


@pytest.mark.parametrize("name", NAMES)
def test_accelerated_models_are_saved_as_their_source(name: str, tmp_path: Path) -> None:
    model = small(name)
    loaded = updp_rt.load(updp_rt.save(fuse_all(model), tmp_path))
    assert not any(isinstance(module, Fast) for module in loaded.modules())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), to_source(model)(x))


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_what_the_runtime_makes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fused, "_updp_rt_fused", True, raising=False)
    model: Any = small(name)
    x = torch.randn(1, 3, 32, 32)
    fast = updp_rt.accelerate(model, example_input=x, backends=["reference"])
    assert any(isinstance(module, Fused) for module in fast.modules())
    loaded = updp_rt.load(updp_rt.save(fast, tmp_path))
    assert [type(m) for m in loaded.modules()] == [type(m) for m in model.modules()]
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert updp_rt.inspect(fast, (3, 32, 32)) == updp_rt.inspect(model, (3, 32, 32))
