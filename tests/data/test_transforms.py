"""A model's own preprocessing is what its pictures go through; small ones are not cropped; everything can be set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import CenterCrop, Compose

from tests.data.making import make_folder, picture
from updp_rt.artifacts.preprocessing import Augmentation, Preprocessing
from updp_rt.data import Splits, load_splits
from updp_rt.data.transforms import make_transform

COUNTS = {"train/ant": 3, "train/bee": 3, "val/ant": 2}
RECORDED = Preprocessing(mean=(0.1,) * 3, std=(0.2,) * 3, interpolation="box", crop_pct=0.7, crop_mode="squash")


def folder(root: Path, size: tuple[int, int], channels: int = 3, edge: int = 32, **settings: Any) -> Splits:
    return load_splits(str(make_folder(root, COUNTS, size)), (channels, edge, edge), **settings)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "resnet10t", "test_convnext", "mobilenetv2_035", "beit_base_patch16_224"]
)
def test_large_pictures_go_through_what_the_model_says(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    splits = folder(tmp_path, (70, 50), preprocessing=model)
    config = {**resolve_data_config({}, model=model), "input_size": (3, 32, 32)}
    assert torch.equal(splits.test[0][0], create_transform(**config)(picture(6, (70, 50))))
    assert splits.preprocessing.model_dump() == {k: v for k, v in config.items() if k != "input_size"}
    training = create_transform(**config, is_training=True)
    torch.manual_seed(0)
    np.random.seed(0)
    assert str(splits.train.dataset.transform) == str(training)


def test_without_a_model_it_is_what_timm_has_for_imagenet(tmp_path: Path) -> None:
    splits = folder(tmp_path, (70, 50))
    assert splits.preprocessing.mean == (0.485, 0.456, 0.406)
    assert splits.preprocessing.interpolation == "bicubic"
    assert splits.augmentation == Augmentation()


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (20, 32)])
def test_small_pictures_are_not_cropped(tmp_path: Path, size: tuple[int, int]) -> None:
    """resnet18's crop_pct is 0.95: 32x32 would be enlarged to 33 and lose its border."""
    splits = folder(tmp_path, size, preprocessing=timm.create_model("resnet18"))
    assert splits.preprocessing.crop_pct == 1
    assert splits.augmentation is not None
    assert splits.augmentation.scale[0] >= 0.5
    assert not any(splits.augmentation.color_jitter)
    if size == (32, 32):
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (splits.preprocessing.mean, splits.preprocessing.std))
        plain = torch.from_numpy(np.array(picture(6, size))).permute(2, 0, 1) / 255
        assert torch.allclose(splits.test[0][0] * std + mean, plain, atol=1e-6)
        assert "pictures are enlarged" not in " ".join(splits.describe())
    else:
        assert splits.describe()[-1] == f"pictures are enlarged {32 / min(size):.1f} times"


@pytest.mark.parametrize("edge", [32, 40])
def test_what_is_asked_for_comes_before_everything(tmp_path: Path, edge: int) -> None:
    transforms = {
        "mean": [0.5],
        "std": (0.1, 0.2, 0.3),
        "interpolation": "nearest",
        "crop_pct": 0.5,
        "crop_mode": "border",
        "scale": (0.3, 0.4),
        "hflip": 0,
        "color_jitter": 0.1,
    }
    splits = folder(tmp_path, (40, 40), edge=edge, preprocessing=timm.create_model("resnet18"), transforms=transforms)
    assert splits.preprocessing.model_dump() == {
        "mean": (0.5,) * 3,
        "std": (0.1, 0.2, 0.3),
        "interpolation": "nearest",
        "crop_pct": 0.5,
        "crop_mode": "border",
    }
    assert splits.augmentation == Augmentation(scale=(0.3, 0.4), hflip=0, color_jitter=(0.1,) * 3)
    assert splits.describe()[0] == "images: nearest, crop_pct 0.5 (border), mean 0.5, std 0.1,0.2,0.3"


def test_what_a_manifest_recorded_is_followed_to_the_letter(tmp_path: Path) -> None:
    assert folder(tmp_path, (32, 32), preprocessing=RECORDED).preprocessing == RECORDED
    changed = folder(tmp_path, (32, 32), preprocessing=RECORDED, transforms={"crop_pct": 0.9})
    assert changed.preprocessing == RECORDED.model_copy(update={"crop_pct": 0.9})


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ({"crop": 0.9}, "unknown transform option crop; choose among mean, std, interpolation, crop_pct"),
        ({"mean": (0.5, 0.5)}, "mean has 2 values, but images have 3 channels: give 1 or 3"),
        ({"std": (0.0,)}, r"std.0: Input should be greater than 0"),
        ({"interpolation": "cubic"}, "interpolation: Input should be 'nearest', 'bilinear', 'bicubic'"),
        ({"crop_pct": 0}, "crop_pct: Input should be greater than 0"),
        ({"scale": (0.9, 0.1)}, "scale: .*the smaller of the two numbers comes first"),
        ({"hflip": 2}, "hflip: Input should be less than or equal to 1"),
        ({"color_jitter": (0.1, 0.2)}, "color_jitter: .*at least 3 items"),
    ],
)
def test_transforms_that_cannot_be(tmp_path: Path, transforms: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder(tmp_path, (32, 32), transforms=transforms)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_runs_on_grey_and_coloured_pictures(channels: int) -> None:
    augmentation = (
        Augmentation(auto_augment="rand-m9-mstd0.5", re_prob=0.5, vflip=0.5, color_jitter=(0.1,) * channels)
        if channels == 3
        else Augmentation(re_prob=0.5, vflip=0.5)
    )
    applied = Preprocessing(
        mean=(0.5,) * channels, std=(0.5,) * channels, interpolation="bicubic", crop_pct=1, crop_mode="center"
    )
    transform = make_transform((channels, 24, 32), applied, augmentation)
    for number in range(8):
        image = picture(number).convert("L" if channels == 1 else "RGB")
        assert transform(image).shape == (channels, 24, 32)


def test_no_augmentation_is_evaluations_transform() -> None:
    training = make_transform((3, 32, 32), RECORDED, Augmentation(no_aug=True))
    assert str(training) == str(make_transform((3, 32, 32), RECORDED))
    assert isinstance(training, Compose)
    assert any(isinstance(step, CenterCrop) for step in training.transforms)


@pytest.mark.parametrize("size", [(32, 32), (500, 30)])
def test_pictures_are_not_enlarged_sevenfold_without_being_asked(tmp_path: Path, size: tuple[int, int]) -> None:
    shown = f"{size[1]}x{size[0]}"
    with pytest.raises(
        ValueError, match=rf"are about {shown} and would be enlarged 7.\d times .*--img-size {shown} or --img"
    ):
        folder(tmp_path, size, edge=224, enlarge=False)
    assert "pictures are enlarged 7" in folder(tmp_path, size, edge=224).notes[0]
    assert folder(tmp_path, (150, 150), edge=224, enlarge=False).notes == ("pictures are enlarged 1.5 times",)


def test_the_digits_have_one_way_and_take_a_mean(tmp_path: Path) -> None:
    plain = load_splits("digits", (3, 32, 32))
    assert plain.preprocessing.mean == (0.3053,) * 3
    scans = plain.val[0][0] * 0.3760 + 0.3053
    other = load_splits("digits", (3, 32, 32), transforms={"mean": (0.1, 0.2, 0.3), "std": (0.5,)})
    assert torch.allclose(other.val[0][0], (scans - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5, atol=1e-6)
    assert load_splits("digits", (3, 32, 32), preprocessing=RECORDED).preprocessing == plain.preprocessing
    recorded = load_splits("digits", (3, 32, 32), preprocessing=other.preprocessing)
    assert recorded.preprocessing == other.preprocessing
    torch.manual_seed(0)
    moved = recorded.train[0][0]
    assert moved.amin((1, 2)).tolist() == pytest.approx([-0.2, -0.4, -0.6])  # what comes in from the side is paper
    with pytest.raises(ValueError, match="'digits' numbers its classes itself"):
        load_splits("digits", (3, 32, 32), class_map=tmp_path)
    with pytest.raises(ValueError, match="crop_pct does not apply to them"):
        load_splits("digits", (3, 32, 32), transforms={"crop_pct": 0.9})


@pytest.mark.parametrize("policy", ["foo", "autoaug"])
def test_a_policy_that_timm_lacks(tmp_path: Path, policy: str) -> None:
    with pytest.raises(ValueError, match=f"auto_augment '{policy}' is none of timm's.*try rand-m9"):
        folder(tmp_path, (40, 40), transforms={"auto_augment": policy})
