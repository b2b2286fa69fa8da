"""Merged and narrow models are timm's models: features, heads, checkpointing, and what timm's scripts call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.optim
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import resolve_model_input_args
from timm.models._features import FeatureGetterNet
from timm.utils import reparameterize_model
from torch import Tensor, nn

import updp_rt
import updp_rt.timm
from tests.deployment.conftest import (
    SIZE,
    narrow_mobilenet,
    small_convnext,
    small_mobilenet,
    small_resnet,
    small_vit,
    sound,
)
from tests.marks import slow
from updp_rt.artifacts import ArtifactError


def narrow(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **options).eval()
    return sound(updp_rt.prune_channels(model, torch.randn(2, *SIZE), amount=0.4).model)


def narrow_resnet() -> nn.Module:
    return narrow("resnet10t", channels=(16, 8, 16, 24))


def narrow_convnext() -> nn.Module:
    return narrow("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


def narrow_vit() -> nn.Module:
    return narrow("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet": small_resnet,
    "vit": small_vit,
    "convnext": small_convnext,
    "mobilenet": small_mobilenet,
    "narrow-resnet": narrow_resnet,
    "narrow-convnext": narrow_convnext,
    "narrow-mobilenet": narrow_mobilenet,
    "narrow-vit": narrow_vit,
}
QUICK = ("resnet", "narrow-resnet")
IMAGES = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else slow(name) for name in MODELS],
)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model and its folder."""
    model = MODELS[request.param]()
    return model, updp_rt.save(model, tmp_path_factory.mktemp("saved"), input_size=SIZE)


def create(folder: Path, **options: Any) -> Any:
    return timm.create_model("updp_rt", folder=str(folder), **options)


@torch.no_grad()
def test_a_registered_entry_builds_what_was_saved(saved: Any) -> None:
    model, folder = saved
    assert timm.is_model("updp_rt")
    again = create(folder).eval()
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert resolve_data_config(model=again)["input_size"] == SIZE
    updp_rt.load(updp_rt.save(again, folder.parent / "again"))


@torch.no_grad()
def test_features_and_heads(saved: Any) -> None:
    model, folder = saved
    for again in (model, create(folder)):
        features = again.forward_features(IMAGES)
        assert torch.equal(again.forward_head(features), model(IMAGES))
        assert again.forward_head(features, pre_logits=True).shape[-1] == again.head_hidden_size
        assert again.num_features in features.shape[1:]
        last, stages = again.forward_intermediates(IMAGES)
        assert torch.equal(last, features)
        info = again.feature_info
        assert [y.shape[1] for y in stages] == [entry["num_chs"] for entry in getattr(info, "info", info)]


@torch.no_grad()
def test_features_only(saved: Any) -> None:
    model, folder = saved
    getter = create(folder, features_only=True, out_indices=(0, 1))
    stages = model.forward_intermediates(IMAGES, indices=(0, 1), intermediates_only=True)
    found = getter(IMAGES)
    assert isinstance(getter, FeatureGetterNet)
    assert all(torch.equal(*pair) for pair in zip(found, stages, strict=True))
    assert getter.feature_info.channels() == [y.shape[1] for y in found]
    assert create(folder, features_only=True)(IMAGES)[-1].shape[0] == 2


@torch.no_grad()
def test_a_new_classifier(saved: Any) -> None:
    model, folder = saved
    assert model.get_classifier().out_features == model.num_classes == 7
    for again in (copy.deepcopy(model), create(folder)):
        again.reset_classifier(5)
        assert again(IMAGES).shape == (2, 5)
        assert again.get_classifier().out_features == again.num_classes == 5
        again.reset_classifier(0)
        assert again(IMAGES).shape == (2, again.head_hidden_size)
    other = create(folder, num_classes=3)
    assert other(IMAGES).shape == (2, 3)
    assert torch.equal(other.forward_features(IMAGES), model.forward_features(IMAGES))
    assert updp_rt.load(updp_rt.save(other, folder.parent / "other"))(IMAGES).shape == (2, 3)


def test_checkpointing_changes_no_gradient(saved: Any) -> None:
    model, _ = saved
    gradients = []
    for checkpointing in (False, True):
        again = copy.deepcopy(model).double().train()
        again.set_grad_checkpointing(checkpointing)
        again(IMAGES.double()).square().sum().backward()
        gradients.append([p.grad for p in again.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert (plain is None and checkpointed is None) or torch.equal(plain, checkpointed)


@torch.no_grad()
def test_reparameterizing_changes_nothing(saved: Any) -> None:
    model, _ = saved
    assert torch.equal(reparameterize_model(copy.deepcopy(model))(IMAGES), model(IMAGES))


def test_it_is_grouped_for_layer_decay(saved: Any) -> None:
    model, _ = saved
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert {name for names in groups.values() for name in names} == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"in_chans": 1}, "takes images of 3 channels, not 1"),
        ({"global_pool": "max"}, "pools by 'avg', not 'max'"),
        ({"img_size": 64, "depth": 3}, "depth: a saved model is built as it was saved"),
        ({"img_size": 64}, "cannot be given another image size"),
    ],
)
def test_what_a_saved_model_does_not_take(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    updp_rt.save(timm.create_model("test_resnet").eval(), tmp_path)
    with pytest.raises(ArtifactError, match=why):
        create(tmp_path, **options)
    with pytest.raises(ArtifactError, match="folder"):
        timm.create_model("updp_rt")


@torch.no_grad()
def test_a_transformer_takes_another_image_size(tmp_path: Path) -> None:
    updp_rt.save(small_vit(), tmp_path)
    again = create(tmp_path, img_size=64)
    assert again(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_what_timm_s_scripts_call(saved: Any, tmp_path: Path) -> None:
    """validate.py, benchmark.py and inference.py, call by call, and a step of train.py."""
    from PIL import Image

    model, folder = saved
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.new("RGB", (40, 36), color=(ord(label), 99, 9)).save(tmp_path / label / "0.png")
    arguments = {"folder": str(folder)}
    given = resolve_model_input_args(
        "updp_rt",
        {"img_size": None},
        pretrained=True,
        num_classes=None,
        global_pool=None,
        scriptable=False,
        **arguments,
    )
    again = reparameterize_model(timm.create_model(**given))
    config = timm.data.resolve_data_config({}, model=again, use_test_size=True)
    assert config["input_size"] == SIZE
    again = again.to(device="cpu", memory_format=torch.channels_last).eval()
    loader = create_loader(
        create_dataset("", root=str(tmp_path)),
        input_size=config["input_size"],
        batch_size=2,
        use_prefetcher=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        num_workers=0,
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )
    ((images, target),) = list(loader)
    with torch.inference_mode():
        output = again(images.contiguous(memory_format=torch.channels_last))
        wanted = model(images)
    assert torch.allclose(output, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert len(timm.utils.accuracy(output, target, topk=(1, 5))) == 2

    bench = timm.create_model(
        "updp_rt", in_chans=3, global_pool=None, scriptable=False, drop_rate=0.5, drop_path_rate=None, **arguments
    )
    with torch.no_grad():
        features = bench.train().forward_features(images)
        assert not torch.equal(bench.forward_head(features), bench.forward_head(features))  # dropout at work
    assert bench.default_cfg is bench.pretrained_cfg
    optimizer = timm.optim.create_optimizer_v2(bench.train(), opt="sgd", lr=1e-4)
    loss: Tensor = nn.functional.cross_entropy(bench(images), target)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
