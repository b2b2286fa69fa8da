"""Data sets by name, and loaders whose order depends on the seed and the epoch alone."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from updp_rt.artifacts.preprocessing import Augmentation, Preprocessing
from updp_rt.data import scans
from updp_rt.data.digits import MEAN, NUM_CLASSES, STD, Digits
from updp_rt.data.folders import read_class_map
from updp_rt.data.order import EpochSampler, SeededImages
from updp_rt.data.pictures import check_channels
from updp_rt.data.scans import ScanImages, names_scans
from updp_rt.data.sharing import PartedImages
from updp_rt.data.sources import open_folder, open_hub
from updp_rt.data.transforms import choose_transforms, enlargement, make_transform

Loader = DataLoader[tuple[Tensor, Tensor]]

OUTLIVES = 30  # seconds that SIGTERM leaves to a process that loads images


@dataclass(frozen=True)
class Splits:
    """Training images, images that choose between candidates, and images that only the last figures see.

    `preprocessing` is what all of them go through; `augmentation`, what else is done to training images (None for
    scans, which are changed in their own way: `changes` says how).
    """

    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    num_classes: int
    preprocessing: Preprocessing
    augmentation: Augmentation | None = None
    changes: str = ""
    notes: tuple[str, ...] = ()

    def first(self, train: int, val: int) -> Splits:
        """The same with at most so many images to train on and to choose by: the first, which of scans are random."""
        return replace(self, train=_first(self.train, train), val=_first(self.val, val))

    def describe(self, *, training: bool = True) -> tuple[str, ...]:
        """Lines for people: the transforms that are applied, training's too, and what is odd about the data."""
        changes = self.changes if self.augmentation is None else str(self.augmentation)
        return f"images: {self.preprocessing}", *([f"training images: {changes}"] if training else []), *self.notes


def load_splits(
    data: str,
    input_size: tuple[int, int, int],
    *,
    num_classes: int | None = None,
    val_fraction: float = 0.1,
    preprocessing: nn.Module | Preprocessing | None = None,
    transforms: Mapping[str, Any] | None = None,
    class_map: Path | None = None,
    enlarge: bool = True,
) -> Splits:
    """The three splits of a data set.

    Args:
        data: "digits" (embedded); "fashion-mnist" (of Debian's package); ``idx/FOLDER``, IDX files as MNIST
            has them; an image folder with ``train/`` and ``validation/`` (``val/``, ``valid/``) and perhaps ``test/``,
            each with one folder per class; ``wds/PATH``, WebDataset shards with an ``_info.json`` of
            the splits train, validation and test; ``hfds/NAME``, a HF dataset with train and validation.
        input_size: ``(channels, height, width)`` of the images; pictures are read as grey for one channel.
        num_classes: of the data set; counted if its folders name them.
        val_fraction: this share of the training images is held out to choose between candidates, of IDX files and where
            there is no test split (validation then serves as one).
        preprocessing: a model, whose ``pretrained_cfg`` says what its images go through (except that pictures no larger
            than `input_size` are not cropped), or what a manifest recorded, which is followed to the letter. By
            default timm's for ImageNet.
        transforms: overrides, under timm's names: see `transforms.OPTIONS`.
        class_map: file of the classes' indices, see `read_class_map`; by default train's classes in timm's order.
        enlarge: False refuses pictures that would be enlarged more than twice.

    Raises:
        ValueError: the data set is not there, lacks a split, does not say how many classes it has, or holds pictures
            that cannot be read or whose class train does not have; an unknown transform.
    """
    given = dict(transforms or {})
    if data == "digits" or names_scans(data):
        if class_map is not None:
            raise ValueError(f"{data!r} numbers its classes itself: give no class map (--class-map)")
        opened = _digits if data == "digits" else partial(_scans, data, val_fraction)
        return opened(input_size, preprocessing, given)
    check_channels(input_size[0])
    classes = read_class_map(class_map) if class_map else None
    if data.startswith("wds/"):
        from updp_rt.data.shards import open_shards

        source = open_shards(data.removeprefix("wds/"), input_size[0], num_classes, classes)
    else:
        open_pictures = open_hub if data.startswith("hfds/") else open_folder
        source = open_pictures(data, input_size[0], num_classes, classes, val_fraction)
    factor = enlargement(input_size, source.sizes)
    if factor > 2 and not enlarge:
        width, height = source.sizes[len(source.sizes) // 2]
        size = "x".join(map(str, input_size[1:]))
        raise ValueError(
            f"the pictures of {data!r} are about {height}x{width} and would be enlarged {factor:.1f} times for the "
            f"model's {size}: say which size the model should see, --img-size {height}x{width} or --img-size {size}"
        )
    applied, augmentation = choose_transforms(input_size, source.sizes, preprocessing, given)
    training = make_transform(input_size, applied, augmentation)
    train, val, test = source.make(training, make_transform(input_size, applied))
    notes = (*source.notes, *([f"pictures are enlarged {factor:.1f} times"] if factor > 1 else []))
    return Splits(train, val, test, source.num_classes, applied, augmentation, notes=notes)


def _digits(input_size: tuple[int, int, int], own: nn.Module | Preprocessing | None, given: dict[str, Any]) -> Splits:
    channels, *size = input_size
    how = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
    applied = _choose_scans(input_size, own, given, how, MEAN, STD)
    train, val, test = (
        Digits(s, (size[0], size[1]), channels, augment=s == "train", mean=applied.mean, std=applied.std)
        for s in ("train", "val", "test")
    )
    return Splits(train, val, test, NUM_CLASSES, applied, changes="the digits' shifts")


def _scans(
    data: str,
    val_fraction: float,
    input_size: tuple[int, int, int],
    own: nn.Module | Preprocessing | None,
    given: dict[str, Any],
) -> Splits:
    found, chosen = scans.open_scans(data, val_fraction)
    channels, *size = input_size
    edge = found["train"].images.shape[1]
    # timm's words for a scan in its frame: pictures are padded to what is larger than they are.
    how = {"interpolation": "bilinear", "crop_pct": 1 + 2 * scans.FRAME / edge, "crop_mode": "border"}
    applied = _choose_scans(input_size, own, given, how, scans.MEAN, scans.STD)
    train, val, test = (
        ScanImages(
            found["test" if split == "test" else "train"],
            (size[0], size[1]),
            channels,
            augment=split == "train",
            mean=applied.mean,
            std=applied.std,
            indices=chosen[split],
        )
        for split in ("train", "val", "test")
    )
    classes = int(found["train"].labels.max()) + 1
    return Splits(train, val, test, classes, applied, changes=scans.AUGMENTATION)


def _choose_scans(
    input_size: tuple[int, int, int],
    own: nn.Module | Preprocessing | None,
    given: dict[str, Any],
    how: dict[str, Any],
    mean: float,
    std: float,
) -> Preprocessing:
    """What scans go through: always sized in the same way; normalised as asked, as recorded, or by their own."""
    odd = sorted(set(given) - {"mean", "std"})
    if odd:
        raise ValueError(f"scans are always sized and changed in the same way: {odd[0]} does not apply to them")
    normalised: dict[str, Any] = {"mean": (mean,), "std": (std,)}
    if isinstance(own, Preprocessing) and how.items() <= own.model_dump().items():
        normalised = {"mean": own.mean, "std": own.std}
    return choose_transforms(input_size, (), None, {**normalised, **how, **given})[0]


def _first(data: Dataset[Any], count: int) -> Dataset[Any]:
    return Subset(data, range(min(count, len(data))))  # type: ignore[arg-type]


def first_images(loader: Loader, count: int) -> Tensor:
    """The first `count` images of a loader's first epoch (or as many as it has), however far training has got."""
    for each in (loader.sampler, loader.dataset):
        if hasattr(each, "set_epoch"):
            each.set_epoch(0)
    taken: list[Tensor] = []
    for images, _ in loader:
        taken.append(images)
        if sum(len(batch) for batch in taken) >= count:
            break
    if not taken:
        raise ValueError("the training split holds no images")
    return torch.cat(taken)[:count]


def make_loader(
    data: Dataset[Any] | Loader, batch_size: int, *, training: bool, seed: int = 0, workers: int = 0
) -> Loader:
    """A loader over `data`: for training shuffled by `EpochSampler`, changed as `SeededImages` says, in whole batches.

    A DataLoader is taken as it is: its batch size and order are the user's.
    """
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, IterableDataset):
        arranged = data.arranged(batch_size, seed) if isinstance(data, PartedImages) else data
        return DataLoader(arranged, batch_size, num_workers=workers, worker_init_fn=_outlive)
    length = len(data)  # type: ignore[arg-type]
    if length == 0:
        raise ValueError("the data set holds no images")
    if not training:
        return DataLoader(data, batch_size, num_workers=workers, worker_init_fn=_outlive)
    order = EpochSampler(length, seed)
    images, drop_last = SeededImages(data, order), length >= batch_size
    return DataLoader(
        images, batch_size, sampler=order, drop_last=drop_last, num_workers=workers, worker_init_fn=_outlive
    )


def _outlive(_: int) -> None:
    """Schedulers send SIGTERM to all processes at once: one that loads images lives on until its owner has stopped."""
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(OUTLIVES))
