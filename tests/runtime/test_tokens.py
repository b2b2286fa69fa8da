"""ViT's class token and positions: one fused operator on a GPU, here an emulated MI100, and torch's own elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import updp_rt
from tests.runtime.test_accelerate import assert_as_good_as
from updp_rt.blocks.randomize import randomize
from updp_rt.kernels import hip

BACKENDS = ("hip", "reference")


def vit(**options: Any) -> tuple[nn.Module, Tensor]:
    options = {"dynamic_img_size": False} | options
    model = timm.create_model("test_vit", img_size=32, embed_dim=24, depth=1, num_classes=7, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return randomize(model.eval()), torch.randn(2, 3, 32, 32)


def operators(fast: nn.Module) -> set[str]:
    return {row.operator for row in updp_rt.explain(fast).rows}


@pytest.mark.usefixtures("mi100")
def test_they_are_put_together_in_one_pass() -> None:
    model, images = vit()
    fast = updp_rt.accelerate(model, images, backends=BACKENDS)
    (row,) = (row for row in updp_rt.explain(fast).rows if row.operator == "prepend_tokens")
    assert row.kernel.startswith("hip:")
    assert_as_good_as(fast, model, images)


@pytest.mark.usefixtures("mi100")
def test_they_are_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = vit()
    fast = updp_rt.accelerate(model, images, backends=BACKENDS)
    (record,) = (one for one in updp_rt.verify(model, fast, images).modules if one.name == "_pos_embed")
    assert record.source == "VisionTransformer"
    assert record.passed
    assert {case.inputs for case in record.cases} > {"seen"}
    monkeypatch.setattr(hip, "prepend_tokens", lambda x, table, kernel: torch.zeros(len(x), len(table), x.shape[2]))
    with torch.no_grad():
        fast.pos_embed.add_(0)  # packed again, and not checked a second time
    certificate = updp_rt.verify(model, fast, images)
    assert "_pos_embed" in certificate.failed


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize("name", ["cls_token", "pos_embed"])
def test_changes_are_followed(name: str) -> None:
    model, images = vit()
    fast = updp_rt.accelerate(model, images, backends=BACKENDS)
    before = fast(images)
    for one in (model, fast):
        with torch.no_grad():
            getattr(one, name).mul_(-2)
    assert_as_good_as(fast, model, images)
    assert not torch.equal(fast(images), before)


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize(
    "options",
    [
        {"no_embed_class": True},
        {"reg_tokens": 2},
        {"class_token": False, "global_pool": "avg"},
        {"dynamic_img_size": True},
    ],
    ids=str,
)
def test_others_stay_as_they_are(options: dict[str, Any]) -> None:
    model, images = vit(**options)
    fast = updp_rt.accelerate(model, images, backends=BACKENDS, strict=True)
    assert "prepend_tokens" not in operators(fast)
    assert_as_good_as(fast, model, images)


def test_on_a_cpu_they_are_torchs() -> None:
    model, images = vit()
    fast = updp_rt.accelerate(model, images, strict=True)
    assert "prepend_tokens" not in operators(fast)
    assert_as_good_as(fast, model, images)
