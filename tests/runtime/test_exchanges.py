"""What utilities exchange in a model, beside its weights: classes, methods, tensors that were not there, hooks."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import pytest
import torch
from timm.layers import SEModule
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import updp_rt
from tests.marks import slow
from tests.runtime.small import assert_same, small_model, twins
from updp_rt.blocks.randomize import randomize
from updp_rt.runtime import bound, tensors
from updp_rt.runtime.fused import fused_modules


class HalfConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class Tripled(nn.Identity):
    """Derived from the identity, as quantizers of activations are, and computes something."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * input


class AwakeDropout(nn.Dropout):
    """As Monte Carlo dropout: never asleep. It draws nothing here, to be compared."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * input


def model_with_all() -> nn.Module:
    model: Any = small_model()
    model[1].se = SEModule(8, rd_ratio=1.0)
    model.append(nn.Linear(5, 4, bias=False))
    model.append(nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)))
    return model


# Changes


def class_of_a_layer(model: Any) -> None:
    model[1].conv1.__class__ = HalfConv


def class_of_an_activation(model: Any) -> None:
    model[1].act1.__class__ = nn.SiLU


def forward_of_an_instance(model: Any) -> None:
    conv = model[1].conv2
    conv.forward = MethodType(lambda self, x: type(self).forward(self, x) / 2, conv)


def bias_where_there_was_none(model: Any) -> None:
    model[0][0].bias = nn.Parameter(torch.ones(8))
    model[1].conv1.bias = nn.Parameter(torch.ones(8))
    model[3].bias = nn.Parameter(torch.ones(4))


def norm_becomes_affine(model: Any) -> None:
    model[4][2].weight, model[4][2].bias = nn.Parameter(torch.full((4,), 2.0)), nn.Parameter(torch.ones(4))


def no_statistics(model: Any) -> None:
    model[1].bn1.running_mean = model[1].bn1.running_var = None


def no_squeeze_and_excite(model: Any) -> None:
    model[1].se = None


def identity_that_computes(model: Any) -> None:
    model[1].bn1 = Tripled()


def dropout_that_never_sleeps(model: Any) -> None:
    model[1].drop_path = AwakeDropout()


def part_with_a_hook(model: Any) -> None:
    model[1].act1 = nn.SiLU()
    model[1].act1.register_forward_hook(lambda module, args, y: 3 * y)


def attribute_and_hook(model: Any) -> None:
    model[1].bn1.eps = 0.5
    model[1].bn1.register_forward_hook(lambda module, args, y: 3 * y)


def larger_kernel(model: Any) -> None:
    torch.manual_seed(7)
    model[1].conv1.weight, model[1].conv1.padding = nn.Parameter(torch.randn(8, 8, 5, 5)), "same"


CHANGES: list[Callable[[Any], None]] = [
    class_of_a_layer, class_of_an_activation, forward_of_an_instance, bias_where_there_was_none, norm_becomes_affine,
    no_statistics, no_squeeze_and_excite, identity_that_computes, dropout_that_never_sleeps, larger_kernel,
    part_with_a_hook, attribute_and_hook,
]  # fmt: skip


@pytest.fixture
def compile_() -> Iterator[Callable[[Any], Any]]:
    torch.compiler.reset()
    yield lambda module: torch.compile(module, backend="eager", dynamic=False)
    torch.compiler.reset()


@pytest.mark.parametrize(
    "change",
    [change if index % 3 == 0 else slow(change) for index, change in enumerate(CHANGES)],
    ids=lambda change: change.__name__,
)
@torch.no_grad()
def test_an_exchange_is_followed(change: Callable[[Any], None], compile_: Callable[[Any], Any]) -> None:
    source, fast, images = twins(model_with_all())
    before = source(images)
    for each in (source, fast):
        change(each)
    assert not torch.allclose(source(images), before), "it changed nothing, so this shows nothing"
    assert_same(compile_(fast), source, images)  # compiled before anybody else has called it
    assert_same(fast, source, images)


@pytest.mark.parametrize(
    "change",
    [
        class_of_a_layer,
        *map(slow, (forward_of_an_instance, bias_where_there_was_none, no_statistics, no_squeeze_and_excite)),
    ],
)
@torch.no_grad()
def test_an_exchange_in_a_compiled_model_is_followed(
    change: Callable[[Any], None], compile_: Callable[[Any], Any]
) -> None:
    """As torch follows it: its 2.10 does not see that a layer is of another class."""
    source, fast, images = twins(model_with_all())
    run, plain = compile_(fast), compile_(source)
    assert_same(run, plain, images)
    for each in (source, fast):
        change(each)
    assert_same(run, plain, images)


@torch.no_grad()
def test_modules_derived_from_idle_ones_are_run() -> None:
    source: Any = VisionTransformer(16, 4, num_classes=3, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2)
    block, other = source.blocks
    block.mlp.drop1, block.drop_path1, other.ls1, other.attn.q_norm = AwakeDropout(), Tripled(), Tripled(), Tripled()
    randomize(source.eval(), seed=1)
    images = torch.randn(2, 3, 16, 16)
    assert_same(updp_rt.accelerate(source, images, backends=["onednn", "reference"]), source, images)


@pytest.mark.parametrize("kind", [Attention, nn.Conv2d])
@torch.no_grad()
def test_methods_put_into_a_class_are_run(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """As scripts do that want attention maps, or count or quantize what every layer gives."""
    plain: Any = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *args, **named: 2 * plain(self, *args, **named))
    source = VisionTransformer(16, 4, num_classes=3, embed_dim=8, depth=1, num_heads=2, mlp_ratio=2).eval()
    images = torch.randn(2, 3, 16, 16)
    assert_same(updp_rt.accelerate(source, images, backends=["onednn", "reference"]), source, images)
    source, fast, images = twins()
    assert_same(fast, source, images)


@torch.no_grad()
def test_modes_that_see_every_function_see_the_sources() -> None:
    class Halving(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            y = func(*args, **(kwargs or {}))
            return y / 2 if func in (torch.conv2d, nn.functional.linear) else y

    source, fast, images = twins()
    with Halving():
        assert_same(fast, source, images)
    calls: list[Any] = []
    for _, module, fusion in fused_modules(fast):
        with torch.device("cpu"):
            calls.append(fusion.active(module, (images,), {}))
    assert all(calls), "a default device is no reason to run unfused"


# Tensors


@pytest.mark.parametrize("name", ["0.0.weight", "1.conv1.weight", "2.3.weight", "2.3.bias", "1.bn2.bias"])
@torch.no_grad()
def test_tensors_are_swapped(name: str) -> None:
    """torch swaps the insides only of those that nobody points to."""
    source, fast, images = twins()
    before = source(images)
    for each in (source, fast):
        tensor = each.get_parameter(name)
        torch.utils.swap_tensors(tensor, nn.Parameter(tensor * 2 + 0.1))
    assert not torch.allclose(source(images), before)
    assert_same(fast, source, images)


@torch.no_grad()
def test_new_statistics_for_each_batch_leave_nothing_behind() -> None:
    """As adaptation at test time does."""
    source, fast, images = twins()
    kept = []
    for step in range(12):
        for each in (source, fast):
            each[1].bn1.running_mean = torch.full((8,), float(step))
            kept.append(each[1].bn1.running_mean)
        assert_same(fast, source, images)
    assert len(bound.calls_of(fast[1].conv1.weight).bound) == 1


def test_models_that_wake_up_in_another_process_follow_their_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast, _ = twins()
    data = pickle.dumps(fast)
    hooked: list[Any] = []
    monkeypatch.setattr(tensors, "_hooked", False)
    monkeypatch.setattr(tensors, "register_optimizer_step_post_hook", hooked.append)
    with torch.no_grad():
        pickle.loads(data)(torch.randn(2, 3, 8, 8))
    assert hooked == [tensors._mark_trained]


# What nothing shows


def another_view_of_its_memory(model: Any) -> None:
    model[1].conv1.weight.data = model[1].conv1.weight.data.transpose(2, 3)


def statistics_of_a_bare_function(model: Any) -> None:
    norm = model[1].bn1
    torch.manual_seed(3)
    nn.functional.batch_norm(torch.randn(4, 8, 5, 5), norm.running_mean, norm.running_var, training=True)


def all_that_a_layer_holds(model: Any) -> None:
    torch.manual_seed(3)
    model[1].conv1.__dict__.update(nn.Conv2d(8, 8, 3, padding=1, bias=False).__dict__)


def dictionaries_of_hooks(model: Any) -> None:
    for module in model.modules():
        module._forward_hooks = OrderedDict()
    model[1].conv1.register_forward_hook(lambda module, args, y: 3 * y)


@pytest.mark.parametrize(
    "change",
    [another_view_of_its_memory, statistics_of_a_bare_function, all_that_a_layer_holds, dictionaries_of_hooks],
)
@torch.no_grad()
def test_refresh_reads_all_again(change: Callable[[Any], None]) -> None:
    source, fast, images = twins()
    for each in (source, fast):
        change(each)
    updp_rt.refresh(fast)
    assert_same(fast, source, images)


def test_what_is_written_for_our_families_is_fused() -> None:
    """The check for methods put into classes takes none of the libraries' own for such a one."""
    _, fast, _ = twins()
    assert len(list(fused_modules(fast))) == 4
    assert all(fusion.usable for *_, fusion in fused_modules(fast))
