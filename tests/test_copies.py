"""Copies of models: as the original in modes, hooks and values, and a clear word where none can be made."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import updp_rt
from updp_rt._copies import copy_model

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Remembers(nn.Module):
    """Keeps its last activation, with the graph behind it, in several places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.seen: dict[str, list[Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.conv(x)
        self.seen["all"] = [self.last]
        return self.last


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(weight_norm(nn.Conv2d(3, 4, 1)), nn.ReLU())


def masked() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    return net


def spectral() -> nn.Module:
    net = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)))
    net(X)
    return net.eval()


def remembers() -> nn.Module:
    net = Remembers()
    net(X)
    return net


def parametrized() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 1)))


@pytest.mark.parametrize("make", [old_weight_norm, masked, spectral, remembers, parametrized])
def test_what_deepcopy_refuses_is_copied(make: Any) -> None:
    net = make()
    copied = copy_model(net)
    assert torch.equal(copied(X), net(X))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1.0)
    assert not torch.equal(copied(X), net(X))
    copied(X).sum().backward()
    assert all(p.grad is not None for p in copied.parameters())
    assert all(p.grad is None for p in net.parameters())


def test_kept_activations_are_copied_once_as_values() -> None:
    net = remembers()
    copied: Any = copy_model(net)
    assert copied.last is copied.seen["all"][0]
    assert copied.last is not net.last
    assert copied.last.grad_fn is None
    assert net.last.grad_fn is not None


def test_each_module_keeps_its_mode_and_each_parameter_its_gradient() -> None:
    net = timm.create_model("resnet10t", num_classes=3).train()
    net.layer1.eval()
    net.conv1.requires_grad_(False)
    copied = copy_model(net)
    assert [m.training for m in copied.modules()] == [m.training for m in net.modules()]
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in net.parameters()]


@pytest.mark.parametrize("training", [False, True])
def test_graph_modules_keep_modes_hooks_and_have_layers_of_their_own(training: bool) -> None:
    net = timm.create_model("resnet10t", features_only=True, feature_cls="fx").train(training)
    calls: list[str] = []
    net.graph_module.register_forward_hook(lambda *_: calls.append("here"))
    copied = copy_model(net)
    assert {m.training for m in net.modules()} == {training}
    assert {m.training for m in copied.modules()} == {training}
    assert not {id(p) for p in net.parameters()} & {id(p) for p in copied.parameters()}
    x = torch.randn(2, 3, 32, 32)
    for ours, theirs in zip(copied(x), net(x), strict=True):
        assert torch.equal(ours, theirs)
    assert calls == ["here", "here"]
    assert {m.training for m in copied.eval().train().modules()} == {True}


def test_a_traced_model_keeps_modules_that_its_graph_no_longer_calls() -> None:
    traced = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout())).eval()
    traced.add_submodule("spare", nn.Linear(2, 2))
    copied = copy_model(nn.Sequential(traced))
    assert "0.spare.weight" in copied.state_dict()
    assert not copied[0].training
    assert torch.equal(copied(X), traced(X))


def test_copies_made_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        copied = copy_model(net)
    copied(X).sum().backward()
    assert not any(t.is_inference() for t in copied.state_dict(keep_vars=True).values())


def test_shared_tensors_are_shared() -> None:
    net = masked()
    copied = copy_model(net, shared=net.parameters())
    assert [id(p) for p in copied.parameters()] == [id(p) for p in net.parameters()]
    assert copied[0] is not net[0]


@pytest.mark.parametrize("change", [weight_norm, lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5)])
def test_blocks_whose_weights_are_made_at_each_call_say_so(change: Any) -> None:
    net: Any = timm.create_model("test_resnet", num_classes=3).eval()
    known = updp_rt.inspect(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        change(net.layer1[0].conv2)
    report = updp_rt.inspect(net)
    assert report.prunable == known.prunable - 1
    assert "conv2 makes its weight at each call (weight norm or pruning mask)" in str(report.blocks[0].reason)
    assert report.cost.macs == known.cost.macs


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Stubborn(nn.Module):
    def __deepcopy__(self, memo: Any) -> Any:
        raise NotImplementedError("there is\nonly one")


def test_what_cannot_be_copied_is_named() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Sequential(Locked()))
    with pytest.raises(ValueError, match=r"^1\.0\.lock of this Sequential, a lock, cannot be copied .*inplace=True"):
        copy_model(net)
    with pytest.raises(ValueError, match=r"^this Sequential cannot be copied \(there is only one\): "):
        copy_model(nn.Sequential(Stubborn()))


def test_modules_that_copy_themselves_keep_their_mode() -> None:
    class Fresh(nn.Dropout):
        def __deepcopy__(self, memo: Any) -> Fresh:
            return Fresh(self.p)

    net = nn.Sequential(Fresh()).eval()
    assert copy.deepcopy(net)[0].training
    assert not copy_model(net)[0].training
