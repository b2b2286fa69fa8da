"""Whatever changes a model's weights, attributes or parts is followed, or runs as the source does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
from accelerate import Accelerator
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

import updp_rt
from tests.runtime.small import assert_same, small_model, twins
from updp_rt.runtime.fused import fused_modules


def train(model: nn.Module, images: Tensor, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()
    model.eval()


def scaled(model: nn.Module, factor: float) -> dict[str, Tensor]:
    """A state of its own."""
    return {k: v * factor if v.is_floating_point() else v.clone() for k, v in model.state_dict().items()}


# Weights


def fused_adamw(model: Any, images: Tensor) -> None:
    train(model, images, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True))


def foreach_sgd(model: Any, images: Tensor) -> None:
    train(model, images, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True))


def step_without_training_mode(model: Any, images: Tensor) -> None:
    """Gradients from elsewhere, as of a server that gathers them; the model stays in eval mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def compiled_step(model: Any, images: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.compile(optimizer.step, backend="eager")()


def huggingface_accelerate(model: Any, images: Tensor) -> None:
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    prepared.train()
    accelerator.backward(prepared(images).square().mean())
    optimizer.step()
    accelerator.unwrap_model(prepared).eval()


def gradient_scaler(model: Any, images: Tensor) -> None:
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    model.eval()


def load(model: Any, images: Tensor) -> None:
    model.load_state_dict(scaled(model, 1.5))


def load_assigning(model: Any, images: Tensor) -> None:
    model.load_state_dict(scaled(model, 1.5), assign=True)


def load_one_child(model: Any, images: Tensor) -> None:
    model[1].conv2.load_state_dict(scaled(model[1].conv2, 1.5))


def scale_data(model: Any, images: Tensor) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


def replace_data(model: Any, images: Tensor) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5


def through_numpy(model: Any, images: Tensor) -> None:
    for parameter in model.parameters():
        parameter.detach().numpy()[...] *= 1.5


def new_parameter(model: Any, images: Tensor) -> None:
    model[1].conv1.weight = nn.Parameter(model[1].conv1.weight.detach() * 1.5)


def no_bias(model: Any, images: Tensor) -> None:
    model[2][0].bias = None


def tied(model: Any, images: Tensor) -> None:
    """Two layers share a weight, which is then changed through one of them."""
    model[1].conv2.weight = model[1].conv1.weight
    with torch.no_grad():
        model[1].conv1.weight.mul_(1.5)


def running_statistics(model: Any, images: Tensor) -> None:
    model[1].bn1.running_mean.add_(0.5)


def statistics_reset(model: Any, images: Tensor) -> None:
    model[1].bn2.reset_running_stats()


def statistics_again(model: Any, images: Tensor) -> None:
    update_bn([images, images + 1], model)


def vector_to_parameters(model: Any, images: Tensor) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 1.5, model.parameters())


def lazy_initialisation(model: Any, images: Tensor) -> None:
    for k, m in enumerate(model.modules()):
        if isinstance(m, nn.Conv2d | nn.Linear):
            torch.manual_seed(k)
            m.reset_parameters()


def channels_last(model: Any, images: Tensor) -> None:
    model.to(memory_format=torch.channels_last)


def swapped_tensors(model: Any, images: Tensor) -> None:
    """What torchao and tensor subclasses use: a parameter stays the same object and gets another's insides."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double().float()
        model.load_state_dict(scaled(model, 1.5))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def there_and_back(model: Any, images: Tensor) -> None:
    """A model moved to the meta device and given memory again, as big models are loaded."""
    state = scaled(model, 1.5)
    model.to_empty(device="cpu")
    model.load_state_dict(state)


def pruned(model: Any, images: Tensor) -> None:
    torch.nn.utils.prune.l1_unstructured(model[1].conv1, "weight", 0.5)
    torch.nn.utils.prune.ln_structured(model[2][0], "weight", 0.5, n=2, dim=0)


def pruned_for_good(model: Any, images: Tensor) -> None:
    for module in (model[1].conv1, model[2][3]):
        torch.nn.utils.prune.l1_unstructured(module, "weight", 0.5)
        torch.nn.utils.prune.remove(module, "weight")


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrized(model: Any, images: Tensor) -> None:
    for module in (model[0][0], model[1].conv1, model[2][3]):
        nn.utils.parametrize.register_parametrization(module, "weight", Doubled())


def parametrized_for_good(model: Any, images: Tensor) -> None:
    parametrized(model, images)
    for module in (model[0][0], model[1].conv1, model[2][3]):
        nn.utils.parametrize.remove_parametrizations(module, "weight")


def weight_norm(model: Any, images: Tensor) -> None:
    nn.utils.parametrizations.weight_norm(model[1].conv2)
    with torch.no_grad():
        model[1].conv2.parametrizations.weight.original0.mul_(2)


def old_weight_norm(model: Any, images: Tensor) -> None:
    nn.utils.weight_norm(model[1].conv2)
    with torch.no_grad():
        model[1].conv2.weight_g.mul_(2)


# Attributes


def stride(model: Any, images: Tensor) -> None:
    model[1].conv1.stride = (2, 2)
    model[1].downsample = nn.AvgPool2d(2)
    model[2][3] = nn.Identity()


def padding_mode(model: Any, images: Tensor) -> None:
    model[0][0].padding_mode = "circular"
    model[0][0]._reversed_padding_repeated_twice = [1, 1, 1, 1]


def dilation(model: Any, images: Tensor) -> None:
    model[1].conv1.dilation, model[1].conv1.padding = (2, 2), (2, 2)


def eps(model: Any, images: Tensor) -> None:
    model[1].bn1.eps = model[0][1].eps = 0.5


def statistics_of_the_batch(model: Any, images: Tensor) -> None:
    model[1].bn1.track_running_stats = False
    model[1].bn1.running_mean = model[1].bn1.running_var = None


def negative_slope(model: Any, images: Tensor) -> None:
    model[1].act2 = nn.LeakyReLU(0.1)
    model[1].act2.negative_slope = 0.7


# Parts


def other_activation(model: Any, images: Tensor) -> None:
    model[1].act1 = nn.SiLU()
    model[0][2] = nn.Tanh()


def no_norm(model: Any, images: Tensor) -> None:
    """As fusing conv and norm by hand leaves it."""
    fused = nn.utils.fuse_conv_bn_eval(model[1].conv1, model[1].bn1)
    model[1].conv1, model[1].bn1 = fused, nn.Identity()


def quantized_part(model: Any, images: Tensor) -> None:
    class Half(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) / 2

    torch.manual_seed(5)
    model[1].conv2 = Half(8, 8, 3, padding=1)


def forward_of_its_own(model: Any, images: Tensor) -> None:
    for module in (model[1].conv1, model[2][3]):
        plain = module.forward
        module.forward = lambda x, plain=plain: 2 * plain(x)


def appended(model: Any, images: Tensor) -> None:
    model[0].append(nn.Tanh())
    model[0].insert(1, nn.Dropout())
    model[0].eval()


def squeeze_and_excite(model: Any, images: Tensor) -> None:
    model[1].se = nn.Sigmoid()


def dropout_awake(model: Any, images: Tensor) -> None:
    """A module that draws nothing, awake in a model that sleeps."""
    model[1].drop_path = nn.Dropout(0.0).train()


def frozen_norm_in_training_mode(model: Any, images: Tensor) -> None:
    model[1].bn1.train()
    model[1].bn1.momentum = 0.0


CHANGES: list[Callable[[Any, Tensor], None]] = [
    fused_adamw, foreach_sgd, step_without_training_mode, compiled_step, huggingface_accelerate, gradient_scaler,
    load, load_assigning, load_one_child, scale_data, replace_data, through_numpy, new_parameter, no_bias, tied,
    running_statistics, statistics_reset, statistics_again, vector_to_parameters, lazy_initialisation, channels_last,
    swapped_tensors, there_and_back, pruned, pruned_for_good, parametrized, parametrized_for_good, weight_norm,
    old_weight_norm, stride, padding_mode, dilation, eps, statistics_of_the_batch, negative_slope, other_activation,
    no_norm, quantized_part, forward_of_its_own, appended, squeeze_and_excite, dropout_awake,
    frozen_norm_in_training_mode,
]  # fmt: skip


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
