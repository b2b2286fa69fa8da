"""WebDataset shards through timm's reader: labels are numbers, or names that train's shards number."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data.dataset import IterableImageDataset
from timm.data.readers.reader_wds import ReaderWds

from updp_rt.data.folders import SPLITS, number_classes
from updp_rt.data.pictures import UNREADABLE, PicturesError, Transform, reason, refuse_torn, to_channels
from updp_rt.data.sources import Source, Three

_logger = logging.getLogger(__name__)

_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")


class ShardReader(ReaderWds):
    """timm's reader of one split; pictures that cannot be read are left out by name, too many of them are an error.

    Args:
        classes: indices of labels that are names; other labels are whole numbers below `num_classes`.
    """

    def __init__(
        self, root: str, split: str, channels: int, num_classes: int, classes: Mapping[str, int], *, training: bool
    ) -> None:
        super().__init__(root, split=split, is_training=training)
        self.channels, self.num_classes, self.classes = channels, num_classes, classes
        self.torn: list[str] = []

    def _lazy_init(self) -> None:
        super()._lazy_init()
        # timm's last two stages decode, clip 16 bits and drop whatever fails without naming it.
        self.ds.pipeline[-2:] = [self._decode]

    def _decode(self, samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            name = f"{sample.get('__url__', self.root)}: {sample['__key__']}"
            label = self._label(sample, name)
            if label < 0:  # timm's way to mark what a split leaves out
                continue
            try:
                payload = next(sample[key] for key in _PICTURES if key in sample)
                image = to_channels(Image.open(io.BytesIO(payload)), self.channels)
            except StopIteration:
                raise PicturesError(f"{name}: holds no picture; one of {', '.join(_PICTURES)} was expected") from None
            except UNREADABLE as error:
                _logger.warning("left out: %s: cannot be read (%s)", name, reason(error))
                self.torn.append(name)
                refuse_torn(self.torn[:3], len(self.torn), self.num_samples)
                continue
            yield {"image": image, "target": label}

    def _label(self, sample: dict[str, Any], name: str) -> int:
        text = read_label(sample, self.split_info.alt_label)
        if text is None:
            raise PicturesError(f"{name}: has no label (.cls)")
        label = self.classes.get(text)
        if label is None and not _is_number(text):
            raise PicturesError(f"{name}: its class {text!r} is not in train")
        label = int(text) if label is None else label
        if label >= self.num_classes:
            raise PicturesError(
                f"{name}: its class is {label}, but there are {self.num_classes} classes (--num-classes)"
            )
        return label


def read_label(sample: Mapping[str, bytes], field: str = "") -> str | None:
    """The label of a sample: its ``.cls``, or that field of its ``.json``."""
    if field and "json" in sample:
        return str(json.loads(sample["json"])[field])
    return sample["cls"].decode().strip() if "cls" in sample else None


def open_shards(root: str, channels: int, num_classes: int | None, classes: Mapping[str, int] | None) -> Source:
    """WebDataset shards whose ``_info.json`` names the splits train, validation and test.

    Raises:
        ValueError: a split is missing or cannot be read, the number of classes is not known, or the name of a class is
            not one of train's.
    """

    def read(split: str, *, training: bool = False) -> ShardReader:
        errors: list[Exception] = []
        for name in SPLITS[split]:
            try:
                return ShardReader(root, name, channels, num_classes or 0, classes or {}, training=training)
            except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
                errors.append(error)
        raise ValueError(f"cannot read the {split} split of 'wds/{root}': {errors[0]}") from errors[0]

    readers = [read(split) for split in SPLITS]
    names = [_class_names(reader) for reader in readers]
    if names[0] and classes is None:
        classes = number_classes(names[0])
    for found in names:
        unknown = next((name for name in found if name not in (classes or {})), None)
        if unknown is not None:
            raise ValueError(f"{found[unknown]}: its class {unknown!r} is not in train")
    if num_classes is None and not classes:
        raise ValueError(f"'wds/{root}' does not say how many classes it has; give num_classes (--num-classes)")
    num_classes = num_classes or max((classes or {}).values()) + 1
    sizes = [image.size for image, _ in islice(read("validation"), 32)]
    if not sizes:
        raise ValueError(f"the validation split of 'wds/{root}' holds no pictures")

    def make(training: Transform, evaluation: Transform) -> Three:
        train, val, test = (
            IterableImageDataset(root, reader=read(split, training=split == "train"), transform=transform)
            for split, transform in zip(SPLITS, (training, evaluation, evaluation), strict=True)
        )
        return train, val, test

    return Source(sizes, num_classes, make)


def _class_names(reader: ShardReader) -> dict[str, str]:
    """Labels of a split that are names rather than numbers, each with the sample where it is first met.

    Only the first label is read if it is a number. Shards that are not local files are skipped.
    """
    found: dict[str, str] = {}
    field = reader.split_info.alt_label
    for shard in reader.split_info.filenames:
        path = Path(reader.root, shard)
        if not path.is_file():
            continue
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, suffix = member.name.rpartition("/")[2].partition(".")
                    if suffix != ("json" if field else "cls"):
                        continue
                    payload = tar.extractfile(member)
                    label = read_label({suffix: payload.read() if payload else b""}, field) or ""
                    if _is_number(label):
                        return {}
                    found.setdefault(label, f"{path}: {key}")
        except (OSError, tarfile.TarError) as error:
            raise ValueError(f"{path}: cannot be read ({error})") from error
    return found


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdigit()
