"""Deployed models that train on: a merged one stays accelerated with its new weights, an unmerged one merges again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import updp_rt
from tests.conftest import relative_error
from tests.deployment.conftest import SIZE, small_convnext, small_mobilenet, small_resnet, small_vit, sound
from tests.marks import slow
from updp_rt.blocks import make_progressive, merge_model, merge_origins, prunable_blocks, set_lambda
from updp_rt.runtime.fused import fused_modules

IMAGES = torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([1, 0, 6, 3])


def tune(model: nn.Module, steps: int = 3) -> list[float]:
    """The loss before each step; leaves the model in eval mode."""
    dtype = next(model.parameters()).dtype
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(IMAGES.to(dtype)), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def ran(fast: nn.Module) -> set[str]:
    """The fused operators that a call of the model runs."""
    sites = {f"{name} {own}": site for name, _, fusion in fused_modules(fast) for own, site in fusion.sites.items()}
    with ExitStack() as stack:
        found = {name: stack.enter_context(site.recorded()) for name, site in sites.items()}
        with torch.inference_mode():
            fast(IMAGES)
    return {name for name, choices in found.items() if choices}


def kernels(certificate: Any) -> dict[str, int]:
    """How many kernels each fused module ran."""
    return {record.name: len(record.kernels) for record in certificate.modules}


MERGED = [small_resnet, *map(slow, (small_vit, small_mobilenet, small_convnext))]


@pytest.mark.parametrize("make", MERGED)
def test_a_merged_model_trains_and_stays_accelerated(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    fast = updp_rt.accelerate(model, IMAGES, measure=False)
    before = ran(fast)
    twin = copy.deepcopy(model)
    losses, wanted = tune(fast), tune(twin)
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(wanted, rel=1e-5)
    source = updp_rt.restore(fast)
    with torch.inference_mode():
        found = fast(IMAGES)
        assert relative_error(found, twin(IMAGES)) < 1e-4
        assert relative_error(found, model(IMAGES)) > 1e-4
    assert ran(fast) == before != set()
    again = updp_rt.load(updp_rt.save(fast, tmp_path))
    assert merge_origins(again).keys() == merge_origins(model).keys() != set()
    with torch.inference_mode():
        assert torch.equal(again(IMAGES), source(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("make", [small_resnet, small_vit, small_mobilenet, small_convnext])
def test_it_is_certified_again(make: Callable[[], nn.Module]) -> None:
    model = make()
    fast = updp_rt.accelerate(model, IMAGES)
    before = updp_rt.verify(model, fast, IMAGES)
    tune(fast)
    after = updp_rt.verify(updp_rt.restore(fast), fast, IMAGES)
    assert before.passed
    assert after.passed
    assert before.model.weights_sha256 != after.model.weights_sha256
    assert kernels(before) == kernels(after)


def subnet_of(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=7, **options)
    subnet = make_progressive(sound(model), prunable_blocks(model)).double()
    set_lambda(subnet, 1.0)
    return subnet


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {"channels": (16, 8, 16, 8)}),
        slow("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}),
        slow("mobilenetv2_035", {"depth_multiplier": 0.4}),
        slow("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    ],
)
def test_a_subnet_trains_on_and_merges_again(name: str, options: dict[str, Any]) -> None:
    subnet = subnet_of(name, **options)
    tune(subnet, steps=1)
    early = merge_model(subnet)
    x: Tensor = IMAGES.double()
    with torch.no_grad():
        shipped = early(x)
    losses = tune(subnet)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        assert torch.equal(early(x), shipped)
        assert relative_error(merge_model(subnet)(x), subnet(x)) <= 1e-10
        assert relative_error(subnet(x), shipped) > 1e-4


@pytest.mark.slow
def test_a_merged_folder_is_trained_like_a_baseline(tmp_path: Path) -> None:
    """As `updp-rt train FOLDER` does."""
    start = updp_rt.load(updp_rt.save(small_resnet(), tmp_path / "p8", input_size=SIZE))
    data = [(torch.randn(SIZE), number % 7) for number in range(16)]
    config = updp_rt.pruning.TrainConfig(epochs=1, batch_size=8)
    updp_rt.pruning.train_baseline(start, data, data, tmp_path / "tuned", config, show_progress=False)
    tuned = updp_rt.load(tmp_path / "tuned")
    assert merge_origins(tuned)
    assert updp_rt.verify(tuned, updp_rt.accelerate(tuned, IMAGES), IMAGES).passed
