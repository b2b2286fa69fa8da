"""Changes that people make to a model after it was accelerated: of its weights, its attributes and its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn


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
