"""Models of transformers as timm's: the same results in float64, and the same weights when they come back."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import updp_rt
from tests.conftest import relative_error
from tests.conversion.models import MODELS, images, make, results

pytestmark = pytest.mark.service


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model of transformers and what becomes of it."""
    model = make(request.param)
    return model, updp_rt.from_transformers(model, None)


@torch.no_grad()
def test_results_are_the_same(pair: Any) -> None:
    theirs, ours = pair
    for x in images(theirs):
        assert relative_error(ours(x), results(theirs, x)) <= 1e-12
        assert relative_error(ours.forward_features(x), theirs.base_model(x).last_hidden_state) <= 1e-12


def test_weights_come_back_bit_for_bit(pair: Any) -> None:
    theirs, ours = pair
    before = copy.deepcopy(theirs.state_dict())
    back: Any = updp_rt.to_transformers(ours, theirs)
    assert type(back) is type(theirs)
    assert back.config.to_dict() == theirs.config.to_dict()
    assert back.state_dict().keys() == before.keys()
    for name, value in back.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(theirs.state_dict()[name], before[name]), name
        assert value.dim() == 0 or value.data_ptr() != theirs.state_dict()[name].data_ptr()


@torch.no_grad()
def test_what_was_trained_goes_back(pair: Any) -> None:
    theirs, ours = pair
    trained = copy.deepcopy(ours)
    for number, parameter in enumerate(trained.parameters()):
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    back = updp_rt.to_transformers(trained, theirs)
    (x, *_) = images(theirs)
    assert relative_error(results(back, x), trained(x)) <= 1e-12
    assert relative_error(results(theirs, x), trained(x)) > 1e-6


def test_norms_are_theirs(pair: Any) -> None:
    found = [sorted(module.eps for module in model.modules() if hasattr(module, "eps")) for model in pair]
    assert found[0] == found[1]


def test_dropouts_are_theirs(pair: Any) -> None:
    theirs, ours = pair
    share = getattr(theirs.config, "hidden_dropout_prob", 0)
    if "embeddings.position_embeddings" in dict(theirs.base_model.named_parameters()):
        assert ours.pos_drop.p == share
        for block in ours.blocks:
            assert block.attn.attn_drop.p == theirs.config.attention_probs_dropout_prob
            assert (block.attn.proj_drop.p, block.mlp.drop1.p, block.mlp.drop2.p) == (share, 0, share)
    elif theirs.config.model_type == "mobilenet_v2":
        assert ours.drop_rate == (0.8 if ours.num_classes else 0)


@torch.no_grad()
def test_it_is_saved_like_any_other_model(pair: Any, tmp_path: Path) -> None:
    theirs, ours = pair
    again = updp_rt.load(updp_rt.save(ours, tmp_path))
    (x, *_) = images(theirs)
    assert torch.equal(again(x), ours(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_mode_are_kept(dtype: torch.dtype) -> None:
    theirs = make("vit").to(dtype).train()
    ours = updp_rt.from_transformers(theirs, None)
    back = updp_rt.to_transformers(ours, make("vit"))
    for model in (ours, back):
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert all(module.training for module in model.modules())
    with torch.inference_mode():
        made = updp_rt.from_transformers(theirs, None)
    assert not any(parameter.is_inference() for parameter in made.parameters())


def test_eager_attention_is_the_same_but_for_its_softmax_in_float32() -> None:
    theirs = make("deit-teacher")
    theirs.set_attn_implementation("eager")
    ours = updp_rt.from_transformers(theirs, None)
    (x,) = images(theirs)
    with torch.no_grad():
        assert 0 < relative_error(ours(x), results(theirs, x)) < 1e-5
    assert theirs.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("name", "changes", "architecture"),
    [
        ("resnet", {"depths": [3, 4, 6, 3]}, "resnet34"),
        ("resnet", {}, "resnet18"),
        ("resnet-bottleneck", {"depths": [3, 4, 6, 3]}, "resnet50"),
        ("vit", {"hidden_size": 192, "image_size": 64, "patch_size": 16}, "vit_tiny_patch16_224"),
        ("deit-teacher", {"hidden_size": 192}, "deit_tiny_distilled_patch16_224"),
        ("convnext", {}, "convnext_tiny"),
        ("mobilenet", {"depth_multiplier": 1.4}, "mobilenetv2_140"),
    ],
)
def test_it_is_called_what_timm_calls_it(name: str, changes: Any, architecture: str) -> None:
    ours: Any = updp_rt.from_transformers(make(name, **changes), None)
    assert ours.pretrained_cfg["architecture"] == architecture


def test_names_of_classes_are_kept(tmp_path: Path) -> None:
    ours = updp_rt.from_transformers(make("resnet"), None)
    updp_rt.save_pretrained(ours, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["label_names"] == list("abcdefg")


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("resnet", {"embedding_size": 32}, "embedding_size=32: timm's ResNet is there with 64 alone"),
        ("resnet", {"downsample_in_first_stage": True}, "downsample_in_first_stage=True"),
        ("resnet", {"depths": [1, 1, 1], "hidden_sizes": [8, 16, 24]}, "ResNet has four stages"),
        ("resnet", {"hidden_act": "silu"}, "hidden_act=silu: timm's ResNet is there with relu alone"),
        ("resnet-bottleneck", {"downsample_in_bottleneck": True}, "downsample_in_bottleneck=True"),
        ("resnet-bottleneck", {"hidden_sizes": [18, 36, 48, 64]}, "multiples of 4"),
        ("convnext", {"hidden_act": "gelu_fast"}, "hidden_act='gelu_fast': only relu, relu6, gelu"),
        ("convnext", {"patch_size": 2}, "patch_size=2: .* 4 alone"),
        ("convnext", {"layer_scale_init_value": 0.0}, "layer scale in each block"),
        ("mobilenet", {"depth_multiplier": 0.6}, "depth_multiplier=0.6: .* 0.35, 0.5, 0.75, 1.0, 1.4"),
        ("mobilenet", {"finegrained_output": False}, "finegrained_output=False"),
        ("mobilenet", {"first_layer_is_expansion": False}, "first_layer_is_expansion=False"),
        ("mobilenet", {"expand_ratio": 4.0}, "expand_ratio=4.0"),
    ],
)
def test_options_that_timm_has_not_are_named(name: str, changes: Any, why: str) -> None:
    with pytest.raises(updp_rt.ConversionError, match=why):
        updp_rt.from_transformers(make(name, **changes), None)


def _another_head(model: Any) -> None:
    model.classifier = nn.Sequential(nn.Linear(48, 20), nn.Linear(20, 7))


def _another_activation(model: Any) -> None:
    for module in model.modules():
        for name, child in list(module.named_children()):
            if "GELU" in type(child).__name__:
                setattr(module, name, nn.SiLU())


def _other_classes(model: Any) -> None:
    model.classifier = nn.Linear(48, 9)


def _nan(model: Any) -> None:
    model.classifier.weight.data[0] = torch.nan


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_another_head, "differ in classifier.0.bias, which one of them has not: another layer"),
        (_another_activation, "a layer or setting was exchanged"),
        (_other_classes, r"differ in head.weight, \[7, 48\], where classifier.weight makes \[9, 48\]"),
        (_nan, "weights are not finite"),
    ],
)
def test_what_was_exchanged_is_seen(change: Any, why: str) -> None:
    model = make("vit")
    change(model)
    with pytest.raises(updp_rt.ConversionError, match=why):
        updp_rt.from_transformers(model, None)


def test_other_classes_of_transformers_are_refused() -> None:
    import transformers

    config = make("vit").config
    with pytest.raises(updp_rt.ConversionError, match="add_pooling_layer=False"):
        updp_rt.from_transformers(transformers.ViTModel(config), None)
    with pytest.raises(updp_rt.ConversionError, match=r"this is a ViTForMaskedImageModeling; .* ViTForImageClass"):
        updp_rt.from_transformers(transformers.ViTForMaskedImageModeling(config), None)


def test_what_has_another_shape_does_not_go_back() -> None:
    theirs = make("resnet")
    ours: Any = updp_rt.from_transformers(theirs, None)
    ours.reset_classifier(5)
    with pytest.raises(updp_rt.ConversionError, match=r"differ in fc.weight, \[5, 32\]"):
        updp_rt.to_transformers(ours, theirs)
    back = updp_rt.to_transformers(ours, make("resnet", num_labels=5, id2label=None, label2id=None))
    (x, *_) = images(theirs)
    assert relative_error(results(back, x), ours(x).detach()) <= 1e-12
