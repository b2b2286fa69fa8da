"""Data sets: the embedded digits, image folders, WebDataset shards; and loaders that depend on seed and epoch alone."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from updp_rt.data import Digits, EpochSampler, first_images, load_splits, make_loader

SCANS = load_digits()


def png(index: int) -> bytes:
    scan = (SCANS.images[index] * 15).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(scan).resize((24, 24)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Real handwriting in the usual layout: train/ and val/, one folder a class."""
    labels = SCANS.target
    for index in range(60):
        split = "val" if index % 4 == 0 else "train"
        folder = tmp_path / split / f"digit_{labels[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(png(index))
    return tmp_path


def test_digits_are_split_without_overlap() -> None:
    splits = {name: Digits(name) for name in ("train", "val", "test")}
    assert sum(len(split) for split in splits.values()) == 1797
    seen = [tuple(image.flatten().tolist()) for split in splits.values() for image, _ in split]
    assert len(set(seen)) >= 1797 - 2  # the data set itself repeats hardly any scan
    assert {label for _, label in splits["test"]} == set(range(10))


def test_digits_have_the_asked_shape_and_are_standardised() -> None:
    train = Digits("train", (28, 20), 1)
    image, label = train[0]
    assert image.shape == (1, 28, 20)
    assert image.is_contiguous()
    assert isinstance(label, int)
    scans = Digits("train", (8, 8), 1)
    every = torch.stack([scans[i][0] for i in range(len(scans))])
    assert abs(float(every.mean())) < 0.05
    assert abs(float(every.std()) - 1) < 0.05


def test_augmentation_shifts_and_follows_torchs_seed() -> None:
    plain, moved = Digits("train"), Digits("train", augment=True)
    torch.manual_seed(1)
    first = [moved[i][0] for i in range(20)]
    torch.manual_seed(1)
    assert all(torch.equal(image, moved[i][0]) for i, image in enumerate(first))
    assert any(not torch.equal(image, plain[i][0]) for i, image in enumerate(first))


def test_unknown_split_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="no split 'training' of the digits; choose one of train, val, test"):
        Digits("training")


def test_an_image_folder(image_folder: Path) -> None:
    splits = load_splits(str(image_folder), (3, 32, 32), val_fraction=0.2)
    assert splits.num_classes == 10
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 9, 15)
    image, label = splits.val[0]
    assert image.shape == (3, 32, 32)
    assert 0 <= label < 10
    held_out, trained = set(splits.val.indices), set(splits.train.indices)
    assert held_out.isdisjoint(trained)
    assert held_out | trained == set(range(45))


def test_an_image_folder_with_a_test_split(image_folder: Path) -> None:
    (image_folder / "val").rename(image_folder / "validation")
    (image_folder / "test" / "digit_0").mkdir(parents=True)
    for digit in range(1, 10):
        (image_folder / "test" / f"digit_{digit}").mkdir()
    (image_folder / "test" / "digit_0" / "x.png").write_bytes(png(0))
    splits = load_splits(str(image_folder), (3, 32, 32))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (45, 15, 1)


def write_shard(path: Path, indices: range) -> None:
    labels = SCANS.target
    with tarfile.open(path, "w") as tar:
        for index in indices:
            for name, payload in ((f"{index:04}.png", png(index)), (f"{index:04}.cls", str(labels[index]).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))


def test_webdataset_shards(tmp_path: Path) -> None:
    splits = {"train": range(40), "validation": range(40, 52), "test": range(52, 60)}
    described = {}
    for name, indices in splits.items():
        write_shard(tmp_path / f"{name}-0.tar", indices)
        described[name] = {
            "name": name,
            "num_samples": len(indices),
            "filenames": [f"{name}-0.tar"],
            "shard_lengths": [len(indices)],
        }
    (tmp_path / "_info.json").write_text(json.dumps({"splits": described}))
    found = load_splits(f"wds/{tmp_path}", (3, 32, 32), num_classes=10)
    labels = SCANS.target
    for split, indices in ((found.val, splits["validation"]), (found.test, splits["test"])):
        batches = list(make_loader(split, 4, training=False))
        assert torch.cat([y for _, y in batches]).tolist() == labels[indices].tolist()
        assert batches[0][0].shape == (4, 3, 32, 32)
    images, _ = next(iter(make_loader(found.train, 8, training=True)))
    assert images.shape == (8, 3, 32, 32)
    with pytest.raises(ValueError, match="does not say how many classes it has; give num_classes"):
        load_splits(f"wds/{tmp_path}", (3, 32, 32))
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {k: v for k, v in described.items() if k != "test"}}))
    with pytest.raises(ValueError, match="cannot read the test split"):
        load_splits(f"wds/{tmp_path}", (3, 32, 32), num_classes=10)


@pytest.mark.parametrize("data", ["nowhere", "digit", "imagenet/"])
def test_data_that_is_not_there(data: str) -> None:
    with pytest.raises(ValueError, match=r"no data set .*give 'digits', an image folder"):
        load_splits(data, (3, 32, 32))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    a, b, c = EpochSampler(50, 1), EpochSampler(50, 1), EpochSampler(50, 2)
    assert list(a) == list(b) != list(c)
    assert sorted(a) == list(range(50))
    first = list(a)
    a.set_epoch(1)
    assert list(a) != first
    a.set_epoch(0)
    assert list(a) == first


def test_training_loaders_drop_the_last_partial_batch_and_others_keep_it() -> None:
    data = TensorDataset(torch.arange(10).float(), torch.arange(10))
    assert [len(y) for _, y in make_loader(data, 4, training=True)] == [4, 4]
    assert [len(y) for _, y in make_loader(data, 4, training=False)] == [4, 4, 2]
    assert [len(y) for _, y in make_loader(data, 16, training=True)] == [10]
    ready = DataLoader(data, 3)
    assert make_loader(ready, 4, training=True) is ready


def test_first_images_are_the_same_wherever_training_is() -> None:
    loader = make_loader(TensorDataset(torch.arange(20).float(), torch.arange(20)), 4, training=True)
    first = first_images(loader, 10)
    assert len(first) == 10
    loader.sampler.set_epoch(5)
    assert torch.equal(first_images(loader, 10), first)
    assert len(first_images(loader, 100)) == 20
