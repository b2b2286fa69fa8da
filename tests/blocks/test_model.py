"""Finding blocks, merging whole models, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import timm
import torch
from timm.models.regnet import Bottleneck, RegNet
from timm.models.vgg import VGG
from torch import nn

from updp_rt.blocks import (
    FAMILIES,
    Family,
    ProgressiveBlock,
    UnsupportedModelError,
    add_family,
    find_blocks,
    find_family,
    make_progressive,
    merge_model,
    merge_origins,
    progressive_blocks,
    prunable_blocks,
    set_lambda,
)
from updp_rt.blocks.norms import BatchNormTokens, fit_batchnorm
from updp_rt.reparam import MergeError


@pytest.mark.parametrize(
    ("name", "block", "reason"),
    [
        ("resnet50", "layer1.0", "Bottleneck"),
        ("resnet18d", "layer2.0", "AvgPool2d"),
        ("seresnet18", "layer1.0", "squeeze-excite"),
        ("resnetblur18", "layer2.0", "anti-aliasing"),
        ("convnextv2_atto", "stages.0.blocks.0", "GRN"),
        ("efficientnet_b0", "blocks.1.0", "squeeze-excite"),
        ("tf_efficientnet_lite0", "blocks.1.0", "Conv2dSame"),
        ("efficientnetv2_rw_t", "blocks.1.0", "EdgeResidual"),
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.0", "windowed attention"),
        ("samvit_base_patch16_224", "blocks.0", "windowed attention"),
        ("vit_small_plus_patch16_dinov3", None, None),
    ],
)
def test_every_refusal_has_its_reason(name: str, block: str | None, reason: str | None) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    if block is None:
        with pytest.raises(UnsupportedModelError, match="belongs to no family"):
            find_blocks(model)
        return
    reasons = {info.name: info.reason for info in find_blocks(model)}
    assert reason in (reasons[block] or "")


def test_a_dilated_resnet_says_so() -> None:
    blocks = find_blocks(timm.create_model("resnet18", output_stride=8))
    assert "dilation" in (blocks[-1].reason or "")
    assert blocks[0].reason is None


def test_unknown_models_are_told_the_families() -> None:
    with pytest.raises(UnsupportedModelError) as error:
        find_blocks(timm.create_model("vgg11"))
    for family in FAMILIES:
        assert family.name in str(error.value)
        assert family.example in str(error.value)


def test_a_model_without_prunable_blocks_says_why() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50")
    with pytest.raises(UnsupportedModelError, match="no block of this ResNet can be pruned: Bottleneck"):
        prunable_blocks(model)


def test_making_progressive_leaves_the_model_alone() -> None:
    model = timm.create_model("mobilenetv2_050")
    before = copy.deepcopy(model.state_dict())
    kinds = [type(m) for m in model.modules()]
    inplace = [getattr(m, "inplace", None) for m in model.modules()]
    subnet = make_progressive(model)
    set_lambda(subnet, 1.0)
    with torch.no_grad():
        subnet.train()(torch.randn(2, 3, 32, 32))
    assert [type(m) for m in model.modules()] == kinds
    assert [getattr(m, "inplace", None) for m in model.modules()] == inplace
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_both_forms_share_every_weight_but_the_norms() -> None:
    model = timm.create_model("resnet18")
    subnet = make_progressive(model)
    ours = {key.replace(".block.", ".") for key in subnet.state_dict() if ".norms." not in key}
    assert ours == set(model.state_dict())


def test_names_that_are_no_prunable_block_are_refused() -> None:
    model = timm.create_model("resnet18")
    with pytest.raises(ValueError, match=r"'layer9' is not a prunable block.*layer1.0"):
        make_progressive(model, ["layer9"])
    with pytest.raises(ValueError, match="no pruned body 'tiny'; choose one of shrunk, full"):
        make_progressive(model, {"layer1.0": "tiny"})


def test_merging_needs_lambda_one() -> None:
    subnet = make_progressive(timm.create_model("resnet18"), ["layer1.0"])
    set_lambda(subnet, 0.4)
    with pytest.raises(MergeError, match=r"cannot merge layer1.0: λ is 0.4"):
        merge_model(subnet)
    set_lambda(subnet, 1.0)
    with pytest.raises(ValueError, match="no merged form 'linear' of the 'shrunk' body; choose one of conv"):
        merge_model(subnet, {"layer1.0": "linear"})


def test_lambda_zero_gives_the_timm_blocks_back() -> None:
    model = timm.create_model("test_vit")
    back = merge_model(make_progressive(model))
    assert not progressive_blocks(back)
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in back.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "convnext_atto", "test_vit"])
def test_timm_reparameterizes_it(name: str) -> None:
    from timm.utils import reparameterize_model

    model = timm.create_model(name)
    subnet = make_progressive(model, prunable_blocks(model)[:3]).eval()
    set_lambda(subnet, 1.0)
    merged = reparameterize_model(subnet)
    assert not progressive_blocks(merged)
    assert list(merge_origins(merged)) == prunable_blocks(model)[:3]
    x = torch.randn(1, *model.default_cfg["input_size"])
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(x), merge_model(subnet)(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "convnext_atto", "test_vit"])
def test_merged_models_export_and_compile(name: str) -> None:
    subnet = make_progressive(timm.create_model(name))
    set_lambda(subnet, 1.0)
    merged = merge_model(subnet)
    x = torch.randn(2, *merged.default_cfg["input_size"])
    exported = torch.export.export(merged, (x,))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), merged(x))
    plain = {type(m).__module__.split(".")[0] for m in merged.modules()}
    assert plain <= {"torch", "timm", "updp_rt"}
    assert not any("progressive" in type(m).__module__ for m in merged.modules())


def test_merging_keeps_the_dtype() -> None:
    subnet = make_progressive(timm.create_model("resnet18").to(torch.bfloat16))
    set_lambda(subnet, 1.0)
    assert {value.dtype for value in merge_model(subnet).state_dict().values() if value.is_floating_point()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("tokens", [False, True])
def test_a_fitted_batchnorm_is_the_least_squares_line(tokens: bool) -> None:
    seen = torch.randn(6, 5, 7, dtype=torch.float64) if tokens else torch.randn(6, 7, 4, 5, dtype=torch.float64)
    wanted = torch.relu(seen * 2 - 0.5)
    norm = (BatchNormTokens(7) if tokens else nn.BatchNorm2d(7)).double().eval()
    fit_batchnorm(norm, seen, wanted)
    fitted = norm(seen).detach()
    rows = (lambda t: t.reshape(-1, 7)) if tokens else (lambda t: t.movedim(1, -1).reshape(-1, 7))
    for channel in range(7):
        a = torch.stack([rows(seen)[:, channel], torch.ones_like(rows(seen)[:, channel])], dim=1)
        best = a @ torch.linalg.lstsq(a, rows(wanted)[:, channel : channel + 1]).solution
        torch.testing.assert_close(rows(fitted)[:, channel : channel + 1], best)


def test_a_constant_channel_is_fitted_by_its_bias() -> None:
    norm = nn.BatchNorm2d(2).double().eval()
    seen, wanted = torch.full((3, 2, 2, 2), 0.7).double(), torch.randn(3, 2, 2, 2).double()
    fit_batchnorm(norm, seen, wanted)
    assert torch.isfinite(norm.weight).all()
    torch.testing.assert_close(norm(seen).mean((0, 2, 3)), wanted.mean((0, 2, 3)))


def test_a_family_is_added_once_and_takes_no_others_models() -> None:
    regnet = Family("regnet", "regnetx_002", (RegNet,), (Bottleneck,), lambda block: "not yet", ProgressiveBlock)
    model = timm.create_model("regnetx_002")
    with pytest.raises(UnsupportedModelError, match=r"RegNet belongs to no family.* or add a family"):
        find_family(model)
    add_family(regnet)
    try:
        assert find_family(model) is regnet
        assert {block.reason for block in find_blocks(model)} == {"not yet"}
        with pytest.raises(ValueError, match="models of RegNet belong to the family regnet already"):
            add_family(regnet)
        with pytest.raises(ValueError, match="the name 'regnet' belong"):
            add_family(replace(regnet, models=(VGG,)))
    finally:
        FAMILIES.remove(regnet)
