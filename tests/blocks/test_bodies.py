"""A block with a choice of pruned bodies: each is what it is alone, with norms of its own."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.conftest import relative_error
from updp_rt.blocks import ProgressiveBlock, make_progressive, merge_model, progressive_blocks, set_lambda, take_bodies
from updp_rt.blocks.randomize import randomize

BODIES = ("shrunk", "full")


def resnet() -> nn.Module:
    model = timm.create_model("resnet18", num_classes=5, channels=(8, 8, 12, 16), layers=(1, 2, 1, 1))
    return randomize(model).double().eval()


def offered(model: nn.Module) -> nn.Module:
    subnet = make_progressive(model)
    for block in progressive_blocks(subnet).values():
        block.offer(BODIES)
    return randomize_norms(subnet)


def randomize_norms(subnet: nn.Module) -> nn.Module:
    for index, block in enumerate(progressive_blocks(subnet).values()):
        randomize(block.norms, index)
    return subnet


def alone(model: nn.Module, body: str, like: nn.Module) -> nn.Module:
    """The blocks of one body, with the norms that `like` has for it."""
    subnet = make_progressive(model, dict.fromkeys(progressive_blocks(like), body))
    for name, block in progressive_blocks(subnet).items():
        norms = progressive_blocks(like)[name].norms.state_dict()
        own = {key.removeprefix(f"{body}/"): value for key, value in norms.items() if key.startswith(f"{body}/")}
        block.norms.load_state_dict(own)
    return subnet


@torch.no_grad()
def test_each_body_is_what_it_is_alone_whatever_was_taken_before() -> None:
    model = resnet()
    switched, x = offered(model), torch.randn(2, 3, 39, 47, dtype=torch.float64)
    outputs = []
    for body in (*BODIES, *BODIES):
        take_bodies(switched, dict.fromkeys(progressive_blocks(switched), body))
        single = alone(model, body, switched)
        for lam in (1.0, 0.3):
            set_lambda(switched, lam)
            set_lambda(single, lam)
            assert torch.equal(switched(x), single(x))
        set_lambda(switched, 0.0)
        assert relative_error(switched(x), model(x)) < 1e-12
        set_lambda(switched, 1.0)
        outputs.append(switched(x))
        assert relative_error(merge_model(switched)(x), outputs[-1]) < 1e-12
    assert torch.equal(outputs[0], outputs[2])
    assert relative_error(outputs[0], outputs[1]) > 1e-3


@torch.no_grad()
def test_bodies_are_mixed_and_copies_keep_them() -> None:
    model = resnet()
    switched, x = offered(model), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    mixed = dict(zip(progressive_blocks(switched), ("full", "shrunk", "full", "full", "shrunk"), strict=True))
    take_bodies(switched, mixed)
    set_lambda(switched, 1.0)
    copied = copy.deepcopy(switched)
    take_bodies(switched, dict.fromkeys(mixed, "full"))
    assert relative_error(switched(x), copied(x)) > 1e-3
    merged = merge_model(copied)
    assert {name: merged.get_submodule(name).origin.body for name in mixed} == mixed
    assert relative_error(merged(x), copied(x)) < 1e-12


@torch.no_grad()
def test_norms_are_fitted_for_the_body_that_is_taken() -> None:
    block = progressive_blocks(offered(resnet()))["layer2.0"]
    x: Tensor = torch.randn(3, 8, 17, 17, dtype=torch.float64)
    before = copy.deepcopy(block.norms.state_dict())
    block.take("full")
    block.calibrate(x)
    for key, value in block.norms.state_dict().items():
        fitted = key.startswith("full/") and not key.endswith("num_batches_tracked")
        assert torch.equal(value, before[key]) != fitted, key


def test_what_was_not_offered_is_refused() -> None:
    block: ProgressiveBlock = next(iter(progressive_blocks(make_progressive(resnet())).values()))
    assert block.bodies == ("shrunk",)
    block.take("shrunk")
    assert list(block.norms) == ["bn1", "bn2"], "one body's norms are named as they always were"
    with pytest.raises(ValueError, match=r"layer1.0: has norms of shrunk alone, not of the body 'full'"):
        block.take("full")
    with pytest.raises(ValueError, match=r"layer1.0: no pruned body 'tiny'; choose one of shrunk, full"):
        block.offer(("shrunk", "tiny"))
