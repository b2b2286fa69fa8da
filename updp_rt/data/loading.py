"""Data sets by name, and loaders whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset

from updp_rt.data.digits import NUM_CLASSES, Digits

Loader = DataLoader[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Splits:
    """Training images, images that choose between candidates, and images that only the last figures see."""

    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    num_classes: int


def load_splits(
    data: str, input_size: tuple[int, int, int], *, num_classes: int | None = None, val_fraction: float = 0.1
) -> Splits:
    """The three splits of a data set.

    Args:
        data: "digits" (embedded); an image folder with ``train/`` and ``validation/`` (or ``val/``) and perhaps
            ``test/``, each of one folder a class; ``wds/PATH``, WebDataset shards with an ``_info.json`` that names
            the splits train, validation and test; ``hfds/NAME``, a HF dataset with train and validation.
        input_size: ``(channels, height, width)`` of the images.
        num_classes: of the data set; counted where its folders name them.
        val_fraction: without a test split, validation serves as one, and this share of the training images is held
            out to choose between candidates.

    Raises:
        ValueError: the data set is not there, lacks a split, or does not say how many classes it has.
    """
    channels, height, width = input_size
    if data == "digits":
        size = (height, width)
        train, val, test = (Digits(s, size, channels, augment=s == "train") for s in ("train", "val", "test"))
        return Splits(train, val, test, NUM_CLASSES)
    return _timm_splits(data, input_size, num_classes, val_fraction)


def _timm_splits(data: str, input_size: tuple[int, int, int], num_classes: int | None, val_fraction: float) -> Splits:
    from timm.data import create_dataset, create_transform

    name, root, has_test = _locate(data)
    training = create_transform(input_size, is_training=True)
    evaluation = create_transform(input_size, is_training=False)

    def create(split: str, transform: Any, *, is_training: bool = False) -> Any:
        try:
            return create_dataset(name, root=root, split=split, is_training=is_training, transform=transform)
        except (AssertionError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"cannot read the {split} split of {data!r}: {error}") from error

    train = create("train", training, is_training=True)
    classes = num_classes or _count_classes(train)
    if classes is None:
        raise ValueError(f"{data!r} does not say how many classes it has; give num_classes (--num-classes)")
    validation = create("validation", evaluation)
    if has_test:
        return Splits(train, validation, create("test", evaluation), classes)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    cut = max(1, round(val_fraction * len(order)))
    held_out = Subset(create("train", evaluation), order[:cut])
    return Splits(Subset(train, order[cut:]), held_out, validation, classes)


def _locate(data: str) -> tuple[str, str | None, bool]:
    """timm's name and root of a data set, and whether it has a test split of its own."""
    if data.startswith("wds/"):
        return "wds/", data.removeprefix("wds/"), True  # a stream cannot be held out from by index
    if data.startswith("hfds/"):
        return data, None, False
    folder = Path(data)
    if not (folder / "train").is_dir() or not any((folder / name).is_dir() for name in ("validation", "val")):
        raise ValueError(
            f"no data set {data!r}: give 'digits', an image folder with train/ and validation/, wds/PATH or hfds/NAME"
        )
    return "", data, (folder / "test").is_dir()


def _count_classes(dataset: Any) -> int | None:
    class_to_idx = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return len(class_to_idx) if class_to_idx else None


class EpochSampler(Sampler[int]):
    """A shuffle that depends on the seed and the epoch alone, so that a resumed epoch sees the same order."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.length, generator=generator).tolist()


def first_images(loader: Loader, count: int) -> Tensor:
    """The first `count` images of a loader's first epoch (or as many as it has), wherever training has got to."""
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(0)
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
    """A loader over `data`: shuffled by `EpochSampler` and without a last partial batch when training.

    A ready DataLoader is taken as it is: its batch size and order are the user's.
    """
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size, num_workers=workers)
    length = len(data)  # type: ignore[arg-type]
    if length == 0:
        raise ValueError("the data set holds no images")
    sampler = EpochSampler(length, seed) if training else None
    drop_last = training and length >= batch_size
    return DataLoader(data, batch_size, sampler=sampler, drop_last=drop_last, num_workers=workers)
