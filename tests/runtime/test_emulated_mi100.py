"""Accelerated models on an emulated MI100: launcher, HIP kernels, dispatch and lowering together, against float64."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from torch import nn

import updp_rt
from tests.marks import slow
from tests.runtime.conftest import merged, model_and_images
from tests.runtime.test_accelerate import assert_as_good_as
from updp_rt.blocks.randomize import randomize
from updp_rt.kernels import hip
from updp_rt.runtime.rules import vit

BACKENDS = ("hip", "reference")
MODELS = ("resnet18", "resnet18-merged", "mobilenetv2-merged", "convnext", "convnext-merged", "vit", "vit-merged")

# A real block of each family as it is merged, and its input.
BLOCKS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "resnet34": ("resnet34", "layer1.0", (1, 64, 56, 56)),
    "resnet34 strided": ("resnet34", "layer2.0", (1, 64, 28, 28)),
    "mobilenetv2_100": ("mobilenetv2_100", "blocks.2.1", (1, 32, 28, 28)),
    "convnext_tiny": ("convnext_tiny", "stages.0.blocks.0", (1, 96, 28, 28)),
    "deit_tiny": ("deit_tiny_patch16_224", "blocks.0", (1, 197, 192)),
}


def chosen(fast: nn.Module) -> dict[str, str]:
    """The kernel chosen for each fused operator, by its problem."""
    return {row.problem: row.kernel for row in updp_rt.explain(fast).rows}


def has_hip_kernel(problem: str) -> bool:
    """Convolutions in groups run in torch."""
    return not problem.startswith("conv2d ") or " g1 " in problem


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize("dtype", [torch.float16, slow(torch.float32)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_small_model_of_each_family(name: str, dtype: torch.dtype) -> None:
    model, images = model_and_images(name, batch=1, dtype=dtype)
    fast = updp_rt.accelerate(model, images, backends=BACKENDS)
    assert_as_good_as(fast, model, images)
    kernels = chosen(fast)
    assert any(kernel.startswith("hip:") for kernel in kernels.values())
    assert [p for p, kernel in kernels.items() if kernel.startswith("hip:") != has_hip_kernel(p)] == []


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_merged_block_at_its_real_size(block: str, dtype: torch.dtype) -> None:
    name, path, shape = BLOCKS[block]
    form = "factored" if name.startswith("convnext") else None
    source = randomize(timm.create_model(name).eval(), seed=2)
    module = merged(source, form).get_submodule(path)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
    model, x = nn.Sequential(module).eval().to(dtype), torch.randn(shape).to(dtype)
    fast = updp_rt.accelerate(model, x, backends=BACKENDS)
    assert_as_good_as(fast, model, x)
    assert [p for p, kernel in chosen(fast).items() if kernel.startswith("hip:") != has_hip_kernel(p)] == []


@pytest.mark.usefixtures("mi100")
def test_normed_queries_and_keys_take_the_kernel_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit, "_is_on_gpu", lambda x: True)
    model, images = model_and_images("vit-qknorm", batch=1, dtype=torch.float16)
    fast = updp_rt.accelerate(model, images, backends=BACKENDS)
    assert_as_good_as(fast, model, images)
    (kernel,) = {kernel for problem, kernel in chosen(fast).items() if problem.startswith("attention")}
    assert kernel.startswith("hip:")


@pytest.mark.usefixtures("mi100")
def test_weights_are_followed() -> None:
    layer = nn.Sequential(nn.Linear(24, 40)).eval()
    x = torch.randn(5, 24)
    fast = updp_rt.accelerate(layer, x, backends=BACKENDS)
    with torch.no_grad():
        fast[0].weight.mul_(2)
        layer[0].weight.mul_(2)
    assert_as_good_as(fast, layer, x)


@pytest.mark.usefixtures("mi100")
def test_a_kernel_that_computes_something_else_is_demoted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hip, "linear", lambda *args: torch.zeros(args[0].shape[0], args[1].shape[0]))
    layer, x = nn.Sequential(nn.Linear(24, 40)).eval(), torch.randn(5, 24)
    fast = updp_rt.accelerate(layer, x, backends=BACKENDS)
    assert list(chosen(fast).values()) == ["reference"]
    assert "its error of" in caplog.text
    with pytest.raises(updp_rt.AccelerationError, match=r"hip:.* is not fit"):
        updp_rt.accelerate(layer, x, backends=BACKENDS, strict=True)


def test_without_a_gpu_or_an_emulated_one_the_backend_says_so() -> None:
    with pytest.raises(ValueError, match="hip: HIP kernels do not run on cpu"):
        updp_rt.accelerate(nn.Sequential(nn.Linear(8, 8)).eval(), torch.randn(2, 8), backends=("hip",))


def test_tables_of_the_emulated_device_are_its_own() -> None:
    layer = nn.Sequential(nn.Linear(8, 8)).eval()
    fast = partial(updp_rt.accelerate, layer, torch.randn(2, 8), backends=("reference",))
    before = updp_rt.explain(fast()).environment["device"]
    with hip.emulated_mi100():
        assert updp_rt.explain(fast()).environment["device"] == f"emulated-gfx908-{before}"


@pytest.mark.slow
@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize("name", ["resnet18-merged", "convnext-merged", "vit-merged"])
def test_hip_kernels_are_certified_on_adversarial_inputs_too(name: str) -> None:
    model, images = model_and_images(name, batch=1, dtype=torch.float16)
    fast = updp_rt.accelerate(model, images, backends=BACKENDS)
    certificate = updp_rt.verify(model, fast, images)
    assert certificate.passed, (certificate.failed, certificate.worst())
    assert "hip" in certificate.sources
    assert certificate.environment["device"].startswith("emulated-gfx908")
