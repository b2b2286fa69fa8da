"""The invariants at full size, and a verifier that can fail."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from updp_rt.blocks import progressive
from updp_rt.reparam import AffineConv, move_padding
from updp_rt.verification import invariants, verify_model
from updp_rt.verification.randomize import randomize

BOUND = 1e-12

FULL_SIZE = [
    "resnet18",
    "resnet34",
    "mobilenetv2_100",
    "mobilenetv2_140",
    "convnext_atto",
    "convnext_tiny",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "vit_base_patch16_224",
]


def assert_exact(name: str, size: tuple[int, int]) -> None:
    arguments = {"img_size": size} if "patch16" in name else {}
    verdict = verify_model(timm.create_model(name, **arguments), input_size=(3, *size))
    assert verdict.lambda0_error <= BOUND
    assert verdict.merge_error_interior <= BOUND
    assert verdict.merge_error_border <= BOUND
    assert verdict.merge_error_logits <= BOUND
    assert verdict.passed


@pytest.mark.parametrize("name", FULL_SIZE)
def test_at_224(name: str) -> None:
    assert_exact(name, (224, 224))


@pytest.mark.parametrize("name", FULL_SIZE)
def test_at_odd_sizes(name: str) -> None:
    """Odd numbers of pixels, or, for transformers, of patches."""
    assert_exact(name, (112, 144) if "patch16" in name else (95, 117))


def wrong_bias(chain: list[AffineConv]) -> list[AffineConv]:
    head, *rest = move_padding(chain)
    return [replace(head, bias=head.bias * 1.001), *rest]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "convnext_atto", "test_vit"])
def test_a_wrong_merge_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progressive, "move_padding", wrong_bias)
    arguments = {"img_size": 48} if "vit" in name else {}
    verdict = verify_model(timm.create_model(name, **arguments), input_size=(3, 48, 48))
    assert not verdict.passed
    assert verdict.merge_error_logits > 1e-9
    assert verdict.lambda0_error <= BOUND


def test_a_merge_that_forgets_the_padding_is_wrong_on_the_border_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic mistake: paddings left where they were while training, moved when merging."""
    real = progressive.ProgressiveBlock.forward

    def padded_inside(self, x, *args, **kwargs):
        if self.lam != 1.0:
            return real(self, x, *args, **kwargs)
        y = x
        for step, place in zip(self.steps(), self._places, strict=True):
            y = step.run(y, 1.0, place)
            if isinstance(step, progressive.Fade):  # zeros in the ring, as padding inside gives
                y = progressive._pad_ring(progressive.interior(y, place.ring), place.ring)
        skip = self.skip(x)
        return self.activation()(y if skip is None else y + skip)

    monkeypatch.setattr(progressive.ProgressiveBlock, "forward", padded_inside)
    verdict = verify_model(timm.create_model("mobilenetv2_050"), prune=1, input_size=(3, 96, 96), seed=1)
    assert verdict.merge_error_interior <= BOUND
    assert verdict.merge_error_border > 1e-6
    assert not verdict.passed


@pytest.mark.parametrize("nth", [0, 1])
def test_a_nan_in_one_form_is_caught(nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever form it is in: a maximum must not pass over it."""
    real, calls = invariants.merge_model, []

    def poisoned(*args):
        merged = real(*args)
        if len(calls) == nth:
            merged.get_classifier().bias.fill_(torch.nan)
        calls.append(merged)
        return merged

    monkeypatch.setattr(invariants, "merge_model", poisoned)
    verdict = verify_model(timm.create_model("mobilenetv2_050"), prune=1, input_size=(3, 48, 48))
    assert len(calls) > 1
    assert not verdict.passed
    assert math.isnan(verdict.merge_error_logits)


def test_float32_has_its_own_bound() -> None:
    verdict = verify_model(timm.create_model("test_vit"), dtype=torch.float32)
    assert verdict.passed
    assert 1e-4 < verdict.bound < 1e-3
    assert verdict.merge_error_logits > BOUND
    with pytest.raises(ValueError, match=r"float64 or float32, not torch.float16"):
        verify_model(timm.create_model("test_vit"), dtype=torch.float16)


def test_the_model_is_left_alone() -> None:
    model = timm.create_model("test_vit").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    verify_model(model, prune=2)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_randomize_moves_everything_that_defaults_would_hide() -> None:
    model = randomize(timm.create_model("convnext_atto", ls_init_value=1e-6))
    for name, value in model.state_dict().items():
        if name.endswith(("bias", "gamma")) or "norm" in name:
            assert value.unique().numel() > 1, name
    norm = randomize(nn.BatchNorm2d(8))
    assert not torch.equal(norm.running_var, torch.ones(8))
    assert bool((norm.running_var > 0).all())
