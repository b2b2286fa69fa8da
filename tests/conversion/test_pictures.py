"""Image processors of transformers in timm's terms: the same size, crop and normalisation, or a reason why not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import updp_rt
from tests.conversion.models import make
from updp_rt.conversion import ConversionError
from updp_rt.conversion.pictures import read_processor

HALF = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def processor(**attributes: Any) -> Any:
    return SimpleNamespace(**(HALF | {"resample": 3} | attributes))


def square(edge: int) -> dict[str, int]:
    return {"height": edge, "width": edge}


@pytest.mark.parametrize(
    ("given", "mode", "resized", "size"),
    [
        (processor(size=square(224)), "squash", 224, (224, 224)),
        (processor(size={"height": 32, "width": 48}), "squash", 32, (32, 48)),
        (processor(size=square(256), do_center_crop=True, crop_size=square(224)), "squash", 256, (224, 224)),
        (processor(size={"shortest_edge": 224}, crop_pct=0.875), "center", 256, (224, 224)),
        (processor(size={"shortest_edge": 384}, crop_pct=0.875), "squash", 384, (384, 384)),
        (
            processor(size={"shortest_edge": 256, "height": None}, do_center_crop=True, crop_size=square(224)),
            "center",
            256,
            (224, 224),
        ),
    ],
)
def test_sizes_and_crops(given: Any, mode: str, resized: int, size: tuple[int, int]) -> None:
    found, images = read_processor(given, 3)
    assert (found.crop_mode, images) == (mode, size)
    assert math.floor(size[0] / found.crop_pct) == resized
    assert (found.mean, found.std, found.interpolation) == ((0.5,) * 3, (0.25,) * 3, "bicubic")


def test_the_share_that_is_cropped_gives_the_size_back() -> None:
    """timm divides by it and rounds down, so that a last bit decides."""
    for resized in range(200, 300):
        for crop in (199, 192, 160, 96, 33):
            given = processor(size={"shortest_edge": resized}, do_center_crop=True, crop_size=square(crop))
            assert math.floor(crop / read_processor(given, 3)[0].crop_pct) == resized


def test_one_value_is_for_all_channels_and_none_is_no_normalisation() -> None:
    found, _ = read_processor(processor(size=square(32), image_mean=0.1, image_std=0.2, resample=2), 4)
    assert (found.mean, found.std, found.interpolation) == ((0.1,) * 4, (0.2,) * 4, "bilinear")
    found, _ = read_processor(processor(size=square(32), do_normalize=False), 3)
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)
    found, _ = read_processor(processor(size=square(32), resample=SimpleNamespace(value="lanczos")), 3)
    assert found.interpolation == "lanczos"


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"do_resize": False}, "leaves pictures as large as they are"),
        ({"rescale_factor": 1.0}, "does not bring pixels between 0 and 1"),
        ({"do_rescale": False}, "does not bring pixels between 0 and 1"),
        ({"size": {"shortest_edge": 224}}, "do not come out of one size"),
        ({"size": {"longest_edge": 224}}, "do not come out of one size"),
        ({"do_center_crop": True, "crop_size": square(40)}, "timm crops the same share"),
        ({"do_center_crop": True, "crop_size": {"height": 16, "width": 20}}, "timm crops the same share"),
        ({"do_center_crop": True}, "timm crops the same share"),
        ({"image_mean": [0.5] * 4}, "of 4 channels, the model for 3"),
        ({"image_std": [0.0] * 3}, "the image_processor's std"),
        ({"resample": 9}, "the image_processor's interpolation"),
    ],
)
def test_what_timm_does_not_do_is_named(attributes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConversionError, match=why):
        read_processor(processor(**({"size": square(32)} | attributes)), 3)


@pytest.mark.service
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("vit", "ViTImageProcessor", {"size": square(32)}),
        ("deit", "DeiTImageProcessor", {"size": square(40), "crop_size": square(32)}),
        ("convnext", "ConvNextImageProcessor", {"size": {"shortest_edge": 48}}),
        ("resnet", "ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("mobilenet", "MobileNetV2ImageProcessor", {"size": {"shortest_edge": 56}, "crop_size": square(44)}),
    ],
)
def test_pictures_come_out_as_from_transformers_own(name: str, kind: str, options: dict[str, Any]) -> None:
    """But for how each library rounds when it interpolates: two levels of 255."""
    import transformers

    prepare = getattr(transformers, kind)(**options, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3])
    ours = updp_rt.from_transformers(make(name), prepare)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 95, 3), dtype=np.uint8))
    wanted = prepare(picture, return_tensors="pt")["pixel_values"][0]
    found = create_transform(**resolve_data_config(model=ours))(picture)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 2.01 / 255 / 0.2
    assert not torch.equal(found.roll(1, dims=2), found)


@pytest.mark.service
def test_a_processor_of_another_size_is_refused() -> None:
    import transformers

    with pytest.raises(ConversionError, match=r"gives images of \(224, 224\), and the model takes \(32, 32\)"):
        updp_rt.from_transformers(make("vit"), transformers.ViTImageProcessor())
