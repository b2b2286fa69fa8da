"""A model in service that is swapped and restored while other threads call it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from updp_rt.blocks.randomize import randomize
from updp_rt.runtime import swapping
from updp_rt.runtime.engines import engine_of


def small() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7)),
    )


@pytest.fixture
def served() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return randomize(small().eval()), torch.randn(4, 3, 16, 16)


def answer(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def test_no_call_fails_or_sees_half_of_each(served: tuple[nn.Module, Tensor]) -> None:
    model, images = served
    batches = [images[:1], images[:3], images]
    slow = [answer(model, batch) for batch in batches]
    fast = updp_rt.accelerate(model, images)
    quick = [answer(fast, batch) for batch in batches]
    assert not any(torch.equal(one, other) for one, other in zip(slow, quick, strict=True)), "cannot be told apart"
    wrong: list[Any] = []
    stop = threading.Event()

    def serve(turn: int) -> None:
        try:
            while not stop.is_set():
                turn = (turn + 1) % len(batches)
                found = answer(model, batches[turn])
                if not any(torch.equal(found, each[turn]) for each in (slow, quick)):
                    wrong.append(found)
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            updp_rt.swap(model, images)
            assert torch.equal(answer(model, images), quick[-1])
            updp_rt.restore(model, inplace=True)
            assert torch.equal(answer(model, images), slow[-1])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_it_is_the_same_module(served: tuple[nn.Module, Tensor]) -> None:
    model, images = served
    kind, names, state = type(model), [name for name, _ in model.named_modules()], model.state_dict()
    swapped = updp_rt.swap(model, images)
    assert all(certificate.passed for certificate in swapped.certificates)
    assert len(swapped.certificates) == 1
    assert isinstance(model, kind)
    assert engine_of(model) == "swapped"
    assert torch.equal(answer(model, images), answer(swapped.fast, images))
    assert [name for name, _ in model.named_modules()] == names
    assert all(value.data_ptr() == state[name].data_ptr() for name, value in model.state_dict().items())
    updp_rt.restore(model, inplace=True)
    assert type(model) is kind
    assert engine_of(model) == "modules"


def weights_in_place(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.9)


def state_dict_loaded(model: Any) -> None:
    model.load_state_dict({name: value * 0.9 for name, value in model.state_dict().items()})


def state_dict_assigned(model: Any) -> None:
    model.load_state_dict({name: value * 0.9 for name, value in model.state_dict().items()}, assign=True)


def layer_replaced(model: Any) -> None:
    torch.manual_seed(3)
    model[-1] = nn.Linear(16, 5).eval()


def hook_on_a_layer(model: Any) -> None:
    model[3].register_forward_hook(lambda module, args, output: output * 0)


def forward_of_an_instance(model: Any) -> None:
    model[3].forward = lambda x: x * 2


def train_mode(model: Any) -> None:
    model.train()


@pytest.mark.parametrize(
    "change",
    [
        weights_in_place,
        state_dict_loaded,
        state_dict_assigned,
        layer_replaced,
        hook_on_a_layer,
        forward_of_an_instance,
        train_mode,
    ],
)
def test_changes_are_followed(change: Callable[[Any], None], served: tuple[nn.Module, Tensor]) -> None:
    model, images = served
    twin = copy.deepcopy(model)
    before = answer(twin, images)
    updp_rt.swap(model, images)
    for each in (model, twin):
        change(each)
    torch.manual_seed(1)
    expected = answer(twin, images)
    torch.manual_seed(1)
    found = answer(model, images)
    assert expected.shape != before.shape or not torch.allclose(expected, before), "it changed nothing"
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max() + 1))


def test_gradients_are_the_model_s_own(served: tuple[nn.Module, Tensor]) -> None:
    model, images = served
    updp_rt.swap(model, images)
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_copies_and_pickles_are_the_plain_model(served: tuple[nn.Module, Tensor]) -> None:
    model, images = served
    expected = answer(model, images)
    updp_rt.swap(model, images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), updp_rt.restore(model)):
        assert engine_of(other) == "modules"
        assert torch.equal(answer(other, images), expected)
    assert engine_of(model) == "swapped"


def test_what_is_wrong_never_serves(served: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = served
    expected = answer(model, images)

    def spoiled(*args: Any, **options: Any) -> nn.Module:
        fast = updp_rt.accelerate(copy.deepcopy(args[0]), *args[1:], **options)
        fast[-1].register_forward_hook(lambda module, args, output: output * 1.01)
        return fast

    monkeypatch.setattr(swapping, "accelerate", spoiled)
    with pytest.raises(updp_rt.VerificationError):
        updp_rt.swap(model, images)
    assert engine_of(model) == "modules"
    assert torch.equal(answer(model, images), expected)


def test_a_second_swap_is_refused(served: tuple[nn.Module, Tensor]) -> None:
    model, images = served
    updp_rt.swap(model, images)
    with pytest.raises(ValueError, match="restore"):
        updp_rt.swap(model, images)
    with pytest.raises(ValueError, match="accelerated already"):
        updp_rt.swap(updp_rt.accelerate(updp_rt.restore(model), images), images)
    with torch.inference_mode():
        other = small().eval()
    with pytest.raises(ValueError, match="outside inference_mode"):
        updp_rt.swap(other, images)
