"""What a model says of its pictures is saved with it, and loaded again: whatever timm has for its architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from pydantic import ValidationError
from timm.data import resolve_data_config
from torch import nn

import updp_rt
from updp_rt.artifacts import ArtifactError, read_manifest
from updp_rt.artifacts.preprocessing import Preprocessing, model_preprocessing, set_preprocessing
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda

GIVEN = Preprocessing(
    mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="lanczos", crop_pct=0.8, crop_mode="squash"
)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "mobilenetv2_035", "test_efficientnet_gn"])
def test_a_saved_model_keeps_what_its_configuration_says(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=4).eval()
    config = resolve_data_config({}, model=model)
    manifest = json.loads((updp_rt.save(model, tmp_path) / "manifest.json").read_text())
    assert manifest["preprocessing"] == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    }
    assert resolve_data_config({}, model=updp_rt.load(tmp_path)) == config


def test_what_was_set_is_loaded_again_with_the_size_that_was_given(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=4).eval()  # timm's own names another size for tests
    set_preprocessing(model, GIVEN, (3, 64, 48))
    updp_rt.save(model, tmp_path, input_size=(3, 96, 64))
    loaded = updp_rt.load(tmp_path)
    for use_test_size in (False, True):
        config = resolve_data_config({}, model=loaded, use_test_size=use_test_size)
        assert config == {**GIVEN.model_dump(), "input_size": (3, 96, 64)}
    assert read_manifest(updp_rt.save(loaded, tmp_path)).preprocessing == GIVEN


def test_merged_pruned_and_accelerated_models_keep_it(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", img_size=32, num_classes=4).eval()
    set_preprocessing(model, GIVEN, (3, 32, 32))
    images = torch.randn(1, 3, 32, 32)
    subnet = make_progressive(model, prunable_blocks(model)[:1])
    set_lambda(subnet, 1.0)
    for number, made in enumerate(
        (merge_model(subnet), updp_rt.prune_channels(model, images).model, updp_rt.accelerate(model, images))
    ):
        assert model_preprocessing(made, 3) == GIVEN
        if number < 2:
            assert read_manifest(updp_rt.save(made, tmp_path / str(number))).preprocessing == GIVEN


def test_a_tag_of_its_own_is_kept(tmp_path: Path) -> None:
    """An architecture is built again without its tag, whose figures may differ."""
    model = timm.create_model("mobilenetv3_small_100.lamb_in1k", num_classes=4).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.5,) * 3, "crop_pct": 0.7}
    loaded = updp_rt.load(updp_rt.save(model, tmp_path))
    assert resolve_data_config({}, model=loaded)["crop_pct"] == 0.7
    assert resolve_data_config({}, model=loaded)["mean"] == (0.5,) * 3


def test_grey_models_take_the_mean_of_three_and_other_counts_say_nothing(tmp_path: Path) -> None:
    grey = model_preprocessing(timm.create_model("resnet10t", in_chans=1), 1)
    assert grey is not None
    assert grey.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    five = timm.create_model("resnet10t", in_chans=5, num_classes=4)
    assert model_preprocessing(five, 5) is None
    assert read_manifest(updp_rt.save(five, tmp_path)).preprocessing is None


@pytest.mark.parametrize(
    "changes",
    [{"crop_pct": 0}, {"std": (0.0,) * 3}, {"mean": ()}, {"interpolation": "cubic"}, {"mean": (float("nan"),)}],
)
def test_values_that_no_picture_can_have_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Preprocessing.model_validate({**GIVEN.model_dump(), **changes})


def test_wrappers_say_what_their_model_says_and_one_value_is_for_all_channels() -> None:
    model = timm.create_model("test_vit")
    own = model_preprocessing(model, 3)
    assert own is not None
    assert own.mean == (0.5,) * 3
    assert model_preprocessing(nn.DataParallel(model), 3) == model_preprocessing(torch.compile(model), 3) == own
    model.pretrained_cfg = {"mean": (0.4,), "std": (0.2,)}
    found = model_preprocessing(model, 3)
    assert found is not None
    assert (found.mean, found.std) == ((0.4,) * 3, (0.2,) * 3)


@pytest.mark.parametrize("change", [{"interpolation": "random"}, {"crop_mode": "pad"}, {"std": (0.0, 1.0, 1.0)}])
def test_a_configuration_that_cannot_be_followed_is_one_line(change: dict[str, object], tmp_path: Path) -> None:
    model = timm.create_model("test_vit")
    model.pretrained_cfg = {**model.pretrained_cfg, **change}
    with pytest.raises(ArtifactError, match=rf"^the model's pretrained_cfg: {next(iter(change))}[^\n]*set another"):
        updp_rt.save(model, tmp_path / "m")
