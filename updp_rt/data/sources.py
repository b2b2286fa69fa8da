"""Where pictures come from: image folders and data sets of the HF hub, with their classes and sizes of pictures."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from updp_rt.data.folders import FolderReader, find_split, read_split, read_train
from updp_rt.data.holding import hold_out
from updp_rt.data.pictures import Pictures, Transform, refuse_torn, survey

_logger = logging.getLogger(__name__)

Three = tuple[Dataset[Any], Dataset[Any], Dataset[Any]]


@dataclass(frozen=True)
class Source:
    """An opened data set: `make` gives its splits from the transforms of training and evaluation."""

    sizes: Sequence[tuple[int, int]]  # (width, height) of pictures that were looked at
    num_classes: int
    make: Callable[[Transform, Transform], Three]
    notes: tuple[str, ...] = ()


def open_folder(
    data: str, channels: int, num_classes: int | None, classes: Mapping[str, int] | None, val_fraction: float
) -> Source:
    """An image folder. Raises `ValueError` as `load_splits` says, naming the folder or the files."""
    folder = Path(data)
    roots = {split: find_split(folder, split) for split in ("train", "validation", "test")}
    train_root, val_root, test_root = roots.values()
    if train_root is None or val_root is None:
        lacks = "" if not folder.is_dir() else f" ({data} lacks {'train/' if train_root is None else 'validation/'})"
        raise ValueError(
            f"no data set {data!r}{lacks}: give 'digits', an image folder with train/ and validation/, "
            "'fashion-mnist', idx/FOLDER, wds/PATH or hfds/NAME"
        )
    train, numbers = read_train(train_root, classes)
    evaluated = [read_split(root, numbers) for root in (val_root, test_root) if root is not None]
    notes = dict.fromkeys(note for reader in (train, *evaluated) for note in reader.notes)
    if num_classes is not None and num_classes <= max(numbers.values()):
        raise ValueError(f"{data!r} has {len(numbers)} classes, more than the {num_classes} that --num-classes says")
    sizes: list[tuple[int, int]] = []
    torn = []
    readers = []
    for reader in (train, *evaluated):
        found = survey(reader)
        names = [reader.filename(index) for index in found.torn]
        first = [f"{name} ({why})" for name, why in zip(names[:3], found.torn.values(), strict=False)]
        refuse_torn(first, len(names), len(found.sizes) + len(names))
        for name, why in zip(names, found.torn.values(), strict=True):
            _logger.warning("left out: %s: cannot be read (%s)", name, why)
        torn += names
        sizes = sizes or found.sizes
        readers.append(FolderReader([s for i, s in enumerate(reader.samples) if i not in found.torn]))
    train, *evaluated = readers
    _check_counts(train, train_root, numbers if classes is None else None)
    kept, held_out = list[int](), list[int]()
    if test_root is None:
        kept, held_out = hold_out([label for _, label in train.samples], val_fraction, train_root)

    def make(training: Transform, evaluation: Transform) -> Three:
        fitted = Pictures(train, channels, training)
        val, *rest = (Pictures(reader, channels, evaluation) for reader in evaluated)
        if rest:
            return fitted, val, rest[0]
        return Subset(fitted, kept), Subset(Pictures(train, channels, evaluation), held_out), val

    named = ", ".join(torn[:8]) + (" ..." if len(torn) > 8 else "")
    left_out = (f"left out, since they cannot be read: {len(torn)} ({named})",) if torn else ()
    return Source(sizes, num_classes or max(numbers.values()) + 1, make, (*notes, *left_out))


def open_hub(
    data: str, channels: int, num_classes: int | None, classes: Mapping[str, int] | None, val_fraction: float
) -> Source:
    """A data set of the HF hub, ``hfds/NAME``, through timm's reader. Raises `ValueError` where it cannot be read."""
    from timm.data.readers import create_reader

    def read(split: str, class_map: Mapping[str, int] | None) -> Any:
        try:
            return create_reader(data, split=split, class_map=class_map)
        except (AssertionError, ImportError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"cannot read the {split} split of {data!r}: {error}") from error

    train, validation = read("train", classes), read("validation", None)
    names = dict(train.class_to_idx or {})
    if not names and num_classes is None:
        raise ValueError(f"{data!r} does not say how many classes it has; give num_classes (--num-classes)")
    unknown = sorted(set(validation.class_to_idx or {}) - set(names))
    if names and unknown:
        raise ValueError(f"the validation split of {data!r} has a class {unknown[0]!r}, which train does not have")
    if names and names != validation.class_to_idx:
        validation = read("validation", names)  # the same name is the same class, whatever its number there
    found = survey(train, most=64)
    torn = [train.filename(index) or f"picture {index}" for index in found.torn]
    refuse_torn(torn[:3], len(torn), len(found.sizes) + len(torn))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    cut = max(1, round(val_fraction * len(order)))

    def make(training: Transform, evaluation: Transform) -> Three:
        fitted, chosen_by = Pictures(train, channels, training), Pictures(train, channels, evaluation)
        return Subset(fitted, order[cut:]), Subset(chosen_by, order[:cut]), Pictures(validation, channels, evaluation)

    return Source(found.sizes, num_classes or max(names.values()) + 1, make)


def _check_counts(train: FolderReader, root: Path, numbers: Mapping[str, int] | None) -> None:
    """Raise `ValueError` if a class of the training split has lost all its pictures, or there is only one picture."""
    left = Counter(label for _, label in train.samples)
    for name, number in (numbers or {}).items():
        if not left[number]:
            raise ValueError(f"{root}: no picture of the class {name!r} can be read; replace them or remove its folder")
    if len(train) < 2:
        raise ValueError(f"{root}: too few pictures to train on ({len(train)}); two are the least")
