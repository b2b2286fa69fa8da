"""Packed weights follow the source's tensors, however they change, and are held once."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from tests.marks import slow
from tests.runtime.conftest import model_and_images
from updp_rt.runtime.fused import fused_modules

NAMES = ["resnet18-merged", "convnext", "vit-merged", *map(slow, ("mobilenetv2", "convnext-merged", "vit-layerscale"))]


def close(fast: nn.Module, source: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        found, expected = fast(images), source(images)
    return bool((found - expected).abs().max() <= 1e-4 * (1 + expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_tensor_is_followed_when_changed_in_place(name: str) -> None:
    model, images = model_and_images(name, batch=1)
    fast = updp_rt.accelerate(model, images)
    theirs = dict(model.named_parameters()) | dict(model.named_buffers())
    for key, tensor in (dict(fast.named_parameters()) | dict(fast.named_buffers())).items():
        if not tensor.is_floating_point():
            continue
        before = fast(images)
        change = torch.rand_like(tensor) + 0.5
        tensor.mul_(change)
        theirs[key].mul_(change)
        assert close(fast, model, images), key
        assert not torch.equal(fast(images), before), f"{key} had no influence, so this shows nothing"


def in_place(model: nn.Module, new: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(new[key])


def load(model: nn.Module, new: dict[str, Tensor]) -> None:
    model.load_state_dict(new)


def assign(model: nn.Module, new: dict[str, Tensor]) -> None:
    model.load_state_dict({key: value.clone() for key, value in new.items()}, assign=True)


def replace(model: nn.Module, new: dict[str, Tensor]) -> None:
    for key, value in new.items():
        owner, _, name = key.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, name, nn.Parameter(value.clone()) if name in module._parameters else value.clone())


def through_views(model: nn.Module, new: dict[str, Tensor]) -> None:
    """All parameters become views of one storage, which is then written as a whole."""
    parameters = dict(model.named_parameters())
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
    offset = 0
    for key, parameter in parameters.items():
        owner, _, name = key.rpartition(".")
        view = flat[offset : offset + parameter.numel()].view_as(parameter)
        setattr(model.get_submodule(owner), name, nn.Parameter(view))
        offset += parameter.numel()
    with torch.no_grad():
        model(torch.zeros(1, 3, 48, 48))  # packs the weights as they still are
        flat.copy_(torch.cat([new[key].flatten() for key in parameters]))
        for key, buffer in model.named_buffers():
            buffer.copy_(new[key])


@pytest.mark.parametrize("way", [in_place, load, assign, replace, through_views])
@pytest.mark.parametrize("name", ["resnet18-merged", slow("convnext-merged"), "vit-merged"])
def test_new_weights_are_followed_whichever_way_they_come(
    name: str, way: Callable[[nn.Module, dict[str, Tensor]], None]
) -> None:
    model, images = model_and_images(name, batch=1)
    fast = updp_rt.accelerate(model, images)
    new = {
        key: value + 0.1 * torch.rand_like(value) if value.is_floating_point() else value.clone()
        for key, value in model.state_dict().items()
    }
    way(fast, new)
    assert not close(fast, model, images)
    model.load_state_dict(new)
    assert close(fast, model, images)


@pytest.mark.parametrize("name", ["resnet18-merged", "convnext-merged", "vit-merged"])
def test_conversions_are_followed_there_and_back(name: str) -> None:
    """After two conversions the weights may lie at their old address with other values."""
    model, images = model_and_images(name, batch=1)
    fast = updp_rt.accelerate(model, images)
    for each in (model, fast):
        each.to(torch.bfloat16)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(images.bfloat16().double())
        own = (model(images.bfloat16()) - exact).abs().max()
        assert (fast(images.bfloat16()) - exact).abs().max() <= 2 * own + 0.05 * exact.abs().max()
    for each in (model, fast):
        each.to(torch.float32)
    assert close(fast, model, images)


def test_weights_at_an_address_used_before_are_not_mistaken() -> None:
    model, images = model_and_images("resnet18", batch=1)
    fast = updp_rt.accelerate(model, images)
    for _ in range(3):  # the allocator likes to give the same address again
        for each in (model, fast):
            each.to(torch.bfloat16).to(torch.float32)
        scale = 1 + torch.rand(())
        for each in (model, fast):
            each.fc.weight.data = each.fc.weight.data * scale
        assert close(fast, model, images)


def test_each_operator_holds_one_packed_copy() -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images)
    sites = [site for *_, fusion in fused_modules(fast) for site in fusion.sites.values()]
    assert sites
    for site in sites:
        assert sum(len(calls) for calls in site.bound._prepared.values()) == 1
    with torch.no_grad():
        fast(images[:1])
    for site in sites:
        candidates = {choice.candidate for choice in site.choices.values()}
        assert sum(len(calls) for calls in site.bound._prepared.values()) == len(candidates)


def test_a_model_made_in_inference_mode_is_copied_into_one_that_can_be_followed() -> None:
    with torch.inference_mode():
        model, images = model_and_images("resnet18", batch=1)
        with pytest.raises(
            ValueError, match=r"create or load the model outside inference_mode, or leave inplace=False"
        ):
            updp_rt.accelerate(model, images, inplace=True)
        fast = updp_rt.accelerate(model, images)
    with torch.no_grad():
        fast.fc.weight.mul_(2)
        expected = updp_rt.restore(fast)
    assert close(fast, expected, images.clone())


def test_weights_moved_in_inference_mode_are_still_right(caplog: pytest.LogCaptureFixture) -> None:
    model, images = model_and_images("vit", batch=1)
    fast = updp_rt.accelerate(model, images)
    with torch.inference_mode():
        for each in (model, fast):
            each.double().float()
        fast(images)
        for each in (model, fast):
            each.head.weight.mul_(3)
        assert close(fast, model, images)
    assert "packed again at every call" in caplog.text
