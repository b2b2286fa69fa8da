"""Both equalities at full size, and a check that can fail."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

import updp_rt
from tests.marks import slow
from updp_rt.blocks import MergedBlock, check, check_model, progressive, prunable_blocks, steps
from updp_rt.blocks.randomize import randomize
from updp_rt.reparam import AffineConv, move_padding

BOUND = 1e-12

FAMILIES = ["resnet18", "mobilenetv2_100", "convnext_atto", "deit_tiny_patch16_224"]
LARGER = ["resnet34", "mobilenetv2_140", "convnext_tiny", "deit_small_patch16_224", "vit_base_patch16_224"]


def assert_exact(name: str, size: tuple[int, int]) -> None:
    arguments = {"img_size": size} if "patch16" in name else {}
    verdict = check_model(timm.create_model(name, **arguments), input_size=(3, *size))
    assert verdict.lambda0_error <= BOUND
    assert verdict.merge_error_interior <= BOUND
    assert verdict.merge_error_border <= BOUND
    assert verdict.merge_error_logits <= BOUND
    assert verdict.passed


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_at_224(name: str) -> None:
    assert_exact(name, (224, 224))


@pytest.mark.parametrize("name", [*FAMILIES[1::2], *map(slow, [*FAMILIES[::2], *LARGER])])
def test_at_odd_sizes(name: str) -> None:
    """Odd numbers of pixels, or, for transformers, of patches."""
    assert_exact(name, (112, 144) if "patch16" in name else (95, 117))


def wrong_bias(chain: list[AffineConv]) -> list[AffineConv]:
    head, *rest = move_padding(chain)
    return [replace(head, bias=head.bias * 1.001), *rest]


@pytest.mark.parametrize("name", ["mobilenetv2_050", "test_vit", slow("resnet18"), slow("convnext_atto")])
def test_a_wrong_merge_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progressive, "move_padding", wrong_bias)
    arguments = {"img_size": 48} if "vit" in name else {}
    verdict = check_model(timm.create_model(name, **arguments), input_size=(3, 48, 48))
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
            if isinstance(step, steps.Fade):  # zeros in the ring, as padding inside gives
                y = steps._pad_ring(steps.interior(y, place.ring), place.ring)
        skip = self.skip(x)
        return self.activation()(y if skip is None else y + skip)

    monkeypatch.setattr(progressive.ProgressiveBlock, "forward", padded_inside)
    verdict = check_model(timm.create_model("mobilenetv2_050"), prune=1, input_size=(3, 96, 96), seed=1)
    assert verdict.merge_error_interior <= BOUND
    assert verdict.merge_error_border > 1e-6
    assert not verdict.passed


@pytest.mark.parametrize("nth", [0, 1])
def test_a_nan_in_one_form_is_caught(nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever form it is in: a maximum must not pass over it."""
    real, calls = check.merge_model, []

    def poisoned(*args):
        merged = real(*args)
        if len(calls) == nth:
            merged.get_classifier().bias.fill_(torch.nan)
        calls.append(merged)
        return merged

    monkeypatch.setattr(check, "merge_model", poisoned)
    verdict = check_model(timm.create_model("mobilenetv2_050"), prune=1, input_size=(3, 48, 48))
    assert len(calls) > 1
    assert not verdict.passed
    assert math.isnan(verdict.merge_error_logits)


def chain_of(blocks: int) -> nn.Module:
    """A MobileNetV2 of few channels and many blocks."""
    stages = (["ds_r1_k3_s1_c16"], [f"ir_r{blocks}_k3_s2_e2_c16"])
    torch.manual_seed(0)
    return EfficientNet(block_args=decode_arch_def(stages), stem_size=8, num_features=32, num_classes=10)


@pytest.mark.parametrize("blocks", [1, 10, 30])
def test_rounding_that_adds_up_over_the_depth_is_no_wrong_merge(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged blocks that round about as badly as each of them may."""
    forward = MergedBlock.forward

    def rough(self, x):
        y = forward(self, x)
        return y + 0.9 * BOUND * y.abs().max() * torch.where(torch.rand_like(y) < 0.5, -1, 1)

    monkeypatch.setattr(MergedBlock, "forward", rough)
    torch.manual_seed(0)
    verdict = check_model(chain_of(blocks), input_size=(3, 32, 32))
    assert verdict.passed
    assert 0.8 * BOUND < verdict.merge_error_interior <= BOUND
    assert verdict.merge_error_logits <= verdict.bound_logits < 1e-6


def test_a_small_error_in_one_block_of_a_deep_model_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is held to its own bound, however far rounding may move the logits."""
    forward = MergedBlock.forward
    monkeypatch.setattr(MergedBlock, "forward", lambda self, x: forward(self, x) * self.factor)
    monkeypatch.setattr(MergedBlock, "factor", 1.0, raising=False)
    real = check.merge_model

    def slightly_wrong(*args):
        merged = real(*args)
        merged.get_submodule("blocks.1.14").factor = 1 + 1e-11
        return merged

    monkeypatch.setattr(check, "merge_model", slightly_wrong)
    verdict = check_model(chain_of(20), input_size=(3, 32, 32))
    assert not verdict.passed
    assert verdict.lambda0_error <= BOUND
    assert verdict.merge_error_interior == pytest.approx(1e-11, rel=0.01)


def test_float32_has_its_own_bound() -> None:
    verdict = check_model(timm.create_model("test_vit"), dtype=torch.float32)
    assert verdict.passed
    assert 1e-4 < verdict.bound < 1e-3
    assert verdict.merge_error_logits > BOUND
    with pytest.raises(ValueError, match=r"float64 or float32, not torch.float16"):
        check_model(timm.create_model("test_vit"), dtype=torch.float16)


def test_the_model_is_left_alone() -> None:
    model = timm.create_model("test_vit").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_model(model, prune=2)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_models_that_deepcopy_refuses() -> None:
    model = timm.create_model("test_resnet").eval()
    nn.utils.parametrizations.weight_norm(model.fc)
    block = next(iter(prunable_blocks(model)))
    model.get_submodule(block).register_forward_hook(lambda module, args, output: setattr(module, "kept", output))
    model(torch.randn(1, 3, 32, 32))
    assert check_model(model, prune=1, input_size=(3, 32, 32)).passed


def test_randomize_moves_everything_that_defaults_would_hide() -> None:
    model = randomize(timm.create_model("convnext_atto", ls_init_value=1e-6))
    for name, value in model.state_dict().items():
        if name.endswith(("bias", "gamma")) or "norm" in name:
            assert value.unique().numel() > 1, name
    norm = randomize(nn.BatchNorm2d(8))
    assert not torch.equal(norm.running_var, torch.ones(8))
    assert bool((norm.running_var > 0).all())


def test_the_old_name_works_and_says_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match=r"updp_rt\.check_model"):
        assert updp_rt.verify_model is check_model
