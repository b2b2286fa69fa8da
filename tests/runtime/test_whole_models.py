"""A whole model of each family at its real depth, unpruned and with six blocks merged, on an emulated MI100."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import updp_rt
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize

# Narrow and small, with as many blocks as the models that are measured.
_NARROW: dict[str, Any] = {"num_classes": 7}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet34": lambda: timm.create_model("resnet34", channels=(16, 16, 32, 32), **_NARROW),
    "mobilenetv2": lambda: timm.create_model("mobilenetv2_035", **_NARROW),
    "convnext_tiny": lambda: timm.create_model("convnext_tiny", dims=(16, 16, 32, 32), **_NARROW),
    "deit_tiny": lambda: timm.create_model(
        "deit_tiny_patch16_224", img_size=SIDE, patch_size=8, embed_dim=96, num_heads=3, **_NARROW
    ),
}
SIDE = 32


def whole_model(name: str, pruned: int) -> tuple[nn.Module, Tensor]:
    """The model with every other block merged, as many as are asked for, and an image as it is served."""
    torch.manual_seed(0)
    model = randomize(MODELS[name]().eval(), seed=1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    if pruned:
        names = prunable_blocks(model)[::2]
        subnet = make_progressive(model, names[:pruned]).eval()
        set_lambda(subnet, 1.0)
        model = merge_model(subnet)
    images = torch.randn(1, 3, SIDE, SIDE).to(torch.float16, memory_format=torch.channels_last)
    return model.to(torch.float16), images


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize("pruned", [pytest.param(0, marks=pytest.mark.slow), 6], ids="P{}".format)
@pytest.mark.parametrize("name", MODELS)
def test_runs_on_hip_kernels_with_a_certificate(name: str, pruned: int) -> None:
    model, images = whole_model(name, pruned)
    assert sum(type(module).__name__.startswith("Merged") for module in model.modules()) == pruned
    fast = updp_rt.accelerate(model, images, backends=("hip", "reference"))
    certificate = updp_rt.verify(model, fast, images)
    assert certificate.passed, (certificate.failed, certificate.worst())
    assert certificate.environment["device"].startswith("emulated-gfx908")
    explanation = updp_rt.explain(fast, images)
    assert {row.kernel.partition(":")[0] for row in explanation.rows} <= {"hip", "reference"}
    assert explanation.left == [], "torch is left with views alone"
