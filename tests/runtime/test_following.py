"""Whatever changes a model's weights, attributes or parts is followed, or runs as the source does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import updp_rt
from tests.runtime.changes import (
    CHANGES,
    channels_last,
    dropout_awake,
    load,
    no_bias,
    no_norm,
    old_weight_norm,
    other_activation,
    parametrized,
    pruned,
    pruned_for_good,
    running_statistics,
    scaled,
    stride,
    train,
    weight_norm,
)
from tests.runtime.small import assert_same, small_model, twins
from updp_rt.runtime.fused import fused_modules


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_followed(change: Callable[[Any, Tensor], None]) -> None:
    source, fast, images = twins()
    with torch.no_grad():
        before = fast(images)
    for each in (source, fast):
        change(each, images)
    assert_same(fast, source, images)
    with torch.no_grad():
        assert change is channels_last or not torch.equal(fast(images), before) or change in (dropout_awake, no_norm)
    for each in (source, fast):  # and what comes after a change
        load(each, images) if change not in (pruned, old_weight_norm, no_bias) else running_statistics(each, images)
    assert_same(fast, source, images)


@pytest.mark.parametrize("change", [parametrized, weight_norm, other_activation, pruned_for_good, stride])
def test_a_changed_model_is_restored_as_it_is_now(change: Callable[[Any, Tensor], None]) -> None:
    source, fast, images = twins()
    for each in (source, fast):
        change(each, images)
    back = updp_rt.restore(fast)
    assert not list(fused_modules(back))
    assert [type(m).__name__ for m in back.modules()] == [type(m).__name__ for m in source.modules()]
    assert_same(back, source, images)


@torch.no_grad()
def test_functional_calls_use_the_weights_they_are_given() -> None:
    source, fast, images = twins()
    other = scaled(source, 1.5)
    found = [torch.func.functional_call(each, other, (images,)) for each in (source, fast)]
    assert torch.allclose(*found, rtol=1e-4, atol=1e-4)
    assert_same(fast, source, images)


@pytest.mark.parametrize("average", [lambda m: ModelEmaV3(m, decay=0.5), AveragedModel], ids=["timm's EMA", "SWA"])
@torch.no_grad()
def test_averages_of_weights_are_followed(average: Callable[[nn.Module], Any]) -> None:
    source, fast, images = twins()
    averages = [average(each).eval() for each in (source, fast)]
    for factor in (1.5, 2.0, 0.5):
        for each, mean in zip((source, fast), averages, strict=True):
            each.load_state_dict(scaled(source, factor)) if each is fast else None
            mean.update(each) if hasattr(mean, "update") else mean.update_parameters(each)
        source.load_state_dict(fast.state_dict())
    mine, theirs = averages[1].module, updp_rt.restore(averages[1].module)
    assert_same(mine, theirs, images)
    assert_same(averages[1], theirs, images)


@torch.no_grad()
def test_stochastic_weights_swapped_in_and_out() -> None:
    """As trainers do around an evaluation."""
    source, fast, images = twins()
    kept = [parameter.detach().clone() for parameter in fast.parameters()]
    for factor in (0.5, 1.0):
        for parameter, value, own in zip(fast.parameters(), kept, source.parameters(), strict=True):
            parameter.data.copy_(value * factor)
            own.copy_(value * factor)
        assert_same(fast, source, images)


@torch.no_grad()
def test_hooks_of_huggingface_are_run() -> None:
    class Seen(ModelHook):  # type: ignore[misc]
        calls = 0

        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return args, kwargs

    source, fast, images = twins()
    hooks = [Seen() for _ in range(4)]
    places = (fast[0][0], fast[1].conv2, fast[1], fast[2][3])
    for module, hook in zip(places, hooks, strict=True):
        add_hook_to_module(module, hook)
    assert_same(fast, source, images)
    assert [hook.calls for hook in hooks] == [1] * 4
    for module in places:
        remove_hook_from_module(module)
    assert_same(fast, source, images)
    assert [hook.calls for hook in hooks] == [1] * 4


@torch.no_grad()
def test_what_nothing_shows_has_a_call() -> None:
    """A single value written past torch by another holder of the memory."""
    source, fast, images = twins()
    for each in (source, fast):
        each[1].conv1.weight.detach().numpy()[0] += 1
    updp_rt.refresh(fast)
    assert_same(fast, source, images)
    with pytest.raises(ValueError, match="not accelerated"):
        updp_rt.refresh(source)


@torch.no_grad()
def test_attributes_that_do_not_compare_are_no_error() -> None:
    model: Any = small_model()
    model[1].note = torch.zeros(3).numpy()
    source, fast, images = twins(model)
    for value in (torch.ones(3).numpy(), [torch.zeros(2)], [torch.ones(2)], 1):
        fast[1].note = value
        assert_same(fast, source, images)


def test_a_schedule_of_frozen_layers_is_followed() -> None:
    """Fine-tuning by stages: what trains changes from epoch to epoch."""
    source, fast, images = twins()
    for each in (source, fast):
        for layer in (each[2], each[1], each[0]):
            each.requires_grad_(False)
            layer.requires_grad_(True)
            optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, each.parameters()), lr=0.01, fused=True)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
            train(each, images, optimizer)
            scheduler.step()
    assert_same(fast, source, images)


@torch.no_grad()
def test_a_part_of_an_accelerated_model_moves_to_another() -> None:
    source, fast, images = twins()
    other_source, other, _ = twins(small_model())
    with torch.no_grad():
        other_source[1].conv1.weight.mul_(1.5)
        other[1].conv1.weight.mul_(1.5)
    source[1], fast[1] = other_source[1], other[1]
    assert_same(fast, source, images)
    source[1].conv2, fast[1].conv2 = copy.deepcopy(source[1].conv1), copy.deepcopy(other[1].conv1)
    assert_same(fast, source, images)
