"""Graphs on the emulated MI100: our launcher's launches are recorded by the stand-in driver, and replayed by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from tests.marks import slow
from tests.runtime.test_accelerate import assert_as_good_as
from tests.runtime.test_emulated_mi100 import BACKENDS, chosen
from tests.runtime.test_whole_models import whole_model
from updp_rt.blocks.randomize import randomize
from updp_rt.kernels import hip
from updp_rt.runtime.device import capturing
from updp_rt.runtime.fused import fused_modules

CPU = torch.device("cpu")


@pytest.fixture
def launches(mi100: hip.EmulatedMI100, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every launch by our launcher, whether it was recorded."""
    found: list[bool] = []
    queue = mi100.queue
    monkeypatch.setattr(mi100, "queue", lambda *a, **kw: (found.append(mi100.recording), queue(*a, **kw)))
    return found


def convolutions(dtype: torch.dtype = torch.float32) -> tuple[Any, Tensor]:
    """A model of convolutions and a linear layer with nothing but views between, and images."""
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 24, 3, stride=2), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(24, 8, 3), nn.Flatten(), nn.Linear(8, 5)),
    )
    return randomize(model.eval(), seed=1).to(dtype), images(2, dtype)


def images(batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 8, 7, 7).to(dtype, memory_format=torch.channels_last)


def accelerated(model: nn.Module, *examples: Tensor) -> Any:
    return updp_rt.accelerate(model, examples, backends=BACKENDS, engine="graph")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@torch.no_grad()
def test_a_call_is_one_launch_of_a_graph(dtype: torch.dtype, mi100: hip.EmulatedMI100, launches: list[bool]) -> None:
    model, x = convolutions(dtype)
    fast = accelerated(model, x, images(1, dtype))
    assert launches.count(True) == 2 * 4
    assert set(chosen(fast).values()) <= {name for name in chosen(fast).values() if name.startswith("hip:")}
    assert updp_rt.explain(fast).engine == "graph"
    launches.clear()
    kept = []
    for batch in (2, 1, 2, 1):
        x = images(batch, dtype)
        kept.append((fast(x), fast(x).clone()))
        assert_as_good_as(fast, model, x)
    assert launches == []
    assert all(torch.equal(y, then) for y, then in kept), "a result is the caller's own"
    assert_as_good_as(fast, model, images(3, dtype))
    assert launches, "another batch size runs by the modules"
    assert not any(launches)


@pytest.mark.parametrize(
    ("name", "pruned"), [slow("resnet34", 6), ("mobilenetv2", 0), slow("convnext_tiny", 6), ("deit_tiny", 0)]
)
@torch.no_grad()
def test_a_whole_model_runs_as_one_graph(name: str, pruned: int, launches: list[bool]) -> None:
    """Those of which nothing is left to torch's own kernels."""
    model, x = whole_model(name, pruned)
    fast = accelerated(model, x)
    launches.clear()
    x = torch.randn_like(x)
    assert_as_good_as(fast, model, x)
    assert launches == []
    assert updp_rt.explain(fast, x).left == []


@torch.no_grad()
def test_it_computes_the_same_in_any_order_of_waves(monkeypatch: pytest.MonkeyPatch, mi100: hip.EmulatedMI100) -> None:
    model, x = convolutions(torch.float16)
    wanted = accelerated(model, x)(x)
    with hip.emulated_mi100(hip.EmulatedMI100(backward=True)):
        assert torch.equal(accelerated(model, x)(x), wanted)


@torch.no_grad()
def test_weights_are_followed_by_a_new_graph(launches: list[bool]) -> None:
    model, x = convolutions()
    fast = accelerated(model, x)
    for change in (
        lambda m: m[0][0].weight.mul_(1.5),
        lambda m: m[0][1].running_mean.add_(0.5),
        lambda m: m.load_state_dict({name: value * 1 for name, value in model.state_dict().items()}),
        lambda m: setattr(m[2][2], "weight", nn.Parameter(m[2][2].weight * 2)),
    ):
        for each in (model, fast):
            change(each)
        launches.clear()
        fast(x)
        assert launches.count(True) == 0
        assert_as_good_as(fast, model, x)
        assert launches.count(True) == 4
        launches.clear()
        assert_as_good_as(fast, model, images(2))
        assert launches == []


@pytest.mark.usefixtures("mi100")
def test_it_is_certified_by_its_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = convolutions(torch.float16)
    fast = accelerated(model, x)
    certificate = updp_rt.verify(model, fast, x)
    assert certificate.passed, (certificate.failed, certificate.worst())
    assert certificate.engine == "graph"
    monkeypatch.setattr(hip.EmulatedMI100, "replay", lambda device, graph: None)
    assert not updp_rt.verify(model, fast, images(2, torch.float16)).logits.passed


@pytest.mark.usefixtures("mi100")
@pytest.mark.parametrize(
    ("last", "name"),
    [(nn.Hardswish(), "hardswish"), (nn.GroupNorm(4, 24), "group_norm"), (nn.Softplus(), "softplus")],
)
def test_torchs_own_operators_are_named(last: nn.Module, name: str) -> None:
    model, x = convolutions()
    model[1].append(last.eval())
    with pytest.raises(
        updp_rt.AccelerationError,
        match=rf"engine 'graph' cannot run this model here: it runs torch's aten::\w*{name}\w*, and an emulated MI100",
    ):
        updp_rt.accelerate(model, x, backends=BACKENDS, engine="graph", inplace=True)
    assert not list(fused_modules(model))
    assert not capturing(CPU)
    assert_as_good_as(updp_rt.accelerate(model, x, backends=BACKENDS), model, x)  # the device is as it was


@pytest.mark.usefixtures("mi100")
def test_a_copy_to_another_layout_is_a_kernel_of_torchs() -> None:
    model, x = convolutions()
    with pytest.raises(updp_rt.AccelerationError, match="it runs torch's aten::contiguous"):
        accelerated(model, x.contiguous())


def test_without_a_gpu_it_says_so() -> None:
    model, x = convolutions()
    with pytest.raises(updp_rt.AccelerationError, match="'graph' cannot run this model here: graphs are captured on a"):
        accelerated(model, x)
