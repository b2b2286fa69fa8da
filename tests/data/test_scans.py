"""Scans as data sets: framed, split by a fixed seed, changed in training, and the same by timm's transforms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.data.making import make_scans
from updp_rt.artifacts.preprocessing import Preprocessing
from updp_rt.data import load_splits, scans
from updp_rt.data.idx import FASHION_MNIST, read_folder
from updp_rt.data.scans import ScanImages
from updp_rt.data.transforms import make_transform


def images(data: object) -> Tensor:
    return torch.stack([data[index][0] for index in range(len(data))])  # type: ignore[arg-type,index]


def test_splits_do_not_overlap_and_are_always_the_same(tmp_path: Path) -> None:
    make_scans(tmp_path, 200, 20)
    splits, again = (load_splits(f"idx/{tmp_path}", (1, 32, 32), val_fraction=0.25) for _ in range(2))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (150, 50, 20)  # type: ignore[arg-type]
    assert splits.num_classes == 4
    val, test = images(splits.val), images(splits.test)
    assert torch.equal(val, images(again.val))
    every = {tuple(scan.flatten().tolist()) for scan in read_folder(tmp_path)["train"].images}
    kept, held = (
        {tuple(scan.flatten().tolist()) for scan in data.images}  # type: ignore[attr-defined]
        for data in (splits.train, splits.val)
    )
    assert not kept & held
    assert kept | held == every
    assert len({tuple(image.flatten().tolist()) for image in test}) == 20
    few = splits.first(30, 1000)
    assert (len(few.train), len(few.val), len(few.test)) == (30, 50, 20)  # type: ignore[arg-type]
    assert few.train[3][1] == splits.train[3][1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("given", [{}, {"mean": 0.3, "std": 0.2}])
def test_images_are_what_the_recorded_transform_makes_of_the_scans(
    tmp_path: Path, channels: int, given: dict[str, float]
) -> None:
    make_scans(tmp_path)
    splits = load_splits(f"idx/{tmp_path}", (channels, 32, 32), transforms=given)
    transform = make_transform((channels, 32, 32), splits.preprocessing)
    raw = read_folder(tmp_path)["test"]
    for index in range(12):
        image, label = splits.test[index]
        scan = Image.fromarray(raw.images[index].numpy()).convert("L" if channels == 1 else "RGB")
        assert torch.equal(image, transform(scan))
        assert label == raw.labels[index]
    # As a manifest recorded it, and then the model's own figures are followed; those of other pictures are not.
    again = load_splits(f"idx/{tmp_path}", (channels, 32, 32), preprocessing=splits.preprocessing)
    assert again.preprocessing == splits.preprocessing
    other = Preprocessing.model_validate({**splits.preprocessing.model_dump(), "crop_mode": "center", "mean": (0.9,)})
    assert load_splits(f"idx/{tmp_path}", (channels, 32, 32), preprocessing=other).preprocessing.mean[0] == scans.MEAN


def test_training_moves_and_mirrors_within_the_frame_and_follows_torchs_seed(tmp_path: Path) -> None:
    make_scans(tmp_path)
    raw = read_folder(tmp_path)["train"]
    plain, changed = ScanImages(raw, channels=1), ScanImages(raw, channels=1, augment=True)
    torch.manual_seed(3)
    first = images(changed)
    torch.manual_seed(3)
    assert torch.equal(first, images(changed))
    places = set()
    for image, scan in zip(first, images(plain)[:, :, 2:30, 2:30], strict=True):
        found = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if torch.equal(image[:, top : top + 28, left : left + 28], scan.flip(2) if mirrored else scan)
        ]
        assert len(found) == 1
        inside = torch.zeros(1, 32, 32, dtype=torch.bool)
        inside[:, found[0][0] : found[0][0] + 28, found[0][1] : found[0][1] + 28] = True
        assert not image[~inside].any()  # the ground is 0
        places |= set(found)
    assert {top for top, _, _ in places} == {left for _, left, _ in places} == set(range(5))
    assert {mirrored for _, _, mirrored in places} == {False, True}


def test_other_sizes_are_resized_with_their_frame(tmp_path: Path) -> None:
    make_scans(tmp_path)
    splits = load_splits(f"idx/{tmp_path}", (3, 64, 48))
    image, _ = splits.test[0]
    assert image.shape == (3, 64, 48)
    assert not image[:, :3].any()  # black
    assert image[:, 4:-4, 3:-3].ne(0).float().mean() > 0.9


def test_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scans(tmp_path)
    data = f"idx/{tmp_path}"
    with pytest.raises(ValueError, match="always sized and changed in the same way: hflip does not apply"):
        load_splits(data, (3, 32, 32), transforms={"hflip": 0.5})
    with pytest.raises(ValueError, match=r"numbers its classes itself: give no class map \(--class-map\)"):
        load_splits(data, (3, 32, 32), class_map=tmp_path / "map.txt")
    with pytest.raises(ValueError, match="no IDX files there"):
        load_splits("idx/nowhere", (3, 32, 32))
    monkeypatch.setattr(scans, "FASHION_MNIST", tmp_path / "not there")
    with pytest.raises(ValueError, match=r"apt-get install dataset-fashion-mnist\), or give a folder .*: idx/FOLDER"):
        load_splits("fashion-mnist", (3, 32, 32))


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist() -> None:
    splits = load_splits("fashion-mnist", (3, 32, 32))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (54_000, 6_000, 10_000)  # type: ignore[arg-type]
    counts = torch.bincount(splits.train.images[:6000].flatten(), minlength=256).double()  # type: ignore[attr-defined]
    assert abs(float(((torch.arange(256) / 255).square() * counts).sum() / counts.sum()) ** 0.5 - scans.STD) < 5e-3
    assert splits.num_classes == 10
