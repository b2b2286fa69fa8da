"""WebDataset shards through timm's reader: labels are numbers, or names that train's shards number."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import random
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

from PIL import Image
from timm.data.readers.reader_wds import ReaderWds, log_and_continue, wds
from torch import Tensor
from torch.utils.data import get_worker_info

from updp_rt.data.folders import SPLITS, number_classes
from updp_rt.data.order import mix, numbers_kept, seed_numbers
from updp_rt.data.pictures import UNREADABLE, PicturesError, Transform, reason, refuse_torn, to_channels
from updp_rt.data.sharing import PartedImages
from updp_rt.data.sources import Source, Three

_logger = logging.getLogger(__name__)

_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
_HELD = 2048  # pictures, undecoded, that a worker draws from

Sample = dict[str, Any]


class ShardReader(ReaderWds):
    """timm's reader of one split; pictures that cannot be read are left out by name, too many of them are an error.

    Args:
        classes: indices of labels that are names; other labels are whole numbers below `num_classes`.
    """

    def __init__(
        self, root: str, split: str, channels: int, num_classes: int, classes: Mapping[str, int], *, training: bool
    ) -> None:
        super().__init__(root, split=split, is_training=training)
        self.training = training
        self.channels, self.num_classes, self.classes = channels, num_classes, classes
        self.torn: list[str] = []
        self.lengths: Sequence[int] = self.split_info.shard_lengths
        if len(self.lengths) != len(self.split_info.filenames):
            raise ValueError(f"{len(self.split_info.filenames)} shards, but {len(self.lengths)} shard_lengths")
        self.num_samples = sum(self.lengths)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for sample in self.samples(range(len(self.lengths)), 0, self.num_samples):
            if (found := self.decode(sample)) is not None:
                yield found[:2]

    def samples(self, shards: Iterable[int], first: int, last: int) -> Iterator[Sample]:
        """What the images from `first` to `last` are stored as, counted through these shards."""
        begin = 0
        for shard in shards:
            length = self.lengths[shard]
            start, stop = max(0, first - begin), last - begin
            begin += length
            if start < length and stop > 0:
                url = os.path.join(self.root, self.split_info.filenames[shard])
                stored = wds.tariterators.tarfile_samples([{"url": url}], handler=log_and_continue)
                yield from islice(stored, start, stop if stop < length else None)

    def decode(self, sample: Sample) -> tuple[Image.Image, int, str] | None:
        """A sample's picture, label and name; None where the split leaves it out or it cannot be read."""
        name = f"{sample.get('__url__', self.root)}: {sample['__key__']}"
        label = self._label(sample, name)
        if label < 0:  # timm's way to mark what a split leaves out
            return None
        try:
            payload = next(sample[key] for key in _PICTURES if key in sample)
            return to_channels(Image.open(io.BytesIO(payload)), self.channels), label, name
        except StopIteration:
            raise PicturesError(f"{name}: holds no picture; one of {', '.join(_PICTURES)} was expected") from None
        except UNREADABLE as error:
            if name not in self.torn:
                _logger.warning("left out: %s: cannot be read (%s)", name, reason(error))
                self.torn.append(name)
                refuse_torn(self.torn[:3], len(self.torn), self.num_samples)
            return None

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


class ShardImages(PartedImages):
    """Images of a split's shards, of which each process, and each worker of its loader, reads a range of its own.

    Ranges are of images, not of shards: disjoint and together all, whatever the sizes of shards and the number of
    processes. For training, shards are in an order that follows from seed and epoch, and pictures are drawn from some
    that are held; every process gives equally many whole batches, and what is left over, in each epoch another, is left
    out. A process whose pictures cannot all be read gives some twice, so that no other waits for it. A picture's random
    changes follow from seed, epoch and its name.
    """

    def __init__(self, reader: ShardReader, transform: Transform) -> None:
        self.reader, self.transform = reader, transform
        self.batch_size, self.seed, self.epoch, self.rank, self.processes = 1, 0, 0, 0, 1

    def arranged(self, batch_size: int, seed: int) -> Self:
        found = copy.copy(self)
        found.batch_size, found.seed = batch_size, seed
        return found

    def part(self, rank: int, processes: int) -> Self:
        found = copy.copy(self)
        found.rank, found.processes = rank, processes
        return found

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        first, last = self._range()
        return last - first

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        first, last = self._range()
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        batches = -(-(last - first) // self.batch_size)
        begin, end = (first + self.batch_size * (batches * w // workers) for w in (worker, worker + 1))
        yield from self._read(begin, min(end, last), worker)

    def _range(self) -> tuple[int, int]:
        """The images that this process reads, counted through the shards."""
        images = len(self.reader)
        if not self.reader.training:
            return images * self.rank // self.processes, images * (self.rank + 1) // self.processes
        each = images // (self.batch_size * self.processes) * self.batch_size
        if self.processes == 1 and each == 0:
            return 0, images
        return self.rank * each, (self.rank + 1) * each

    def _read(self, first: int, last: int, worker: int) -> Iterator[tuple[Tensor, int]]:
        shards, given, training = list(range(len(self.reader.lengths))), 0, self.reader.training
        if training:
            random.Random(mix(self.seed, self.epoch)).shuffle(shards)
        drawn = random.Random(mix(self.seed, self.epoch, self.rank, worker))
        while given < last - first:
            before = given
            samples = self.reader.samples(shards, first, last)
            for sample in _drawn(samples, drawn) if training else samples:
                found = self.reader.decode(sample)
                if found is None:
                    continue
                image, label, name = found
                with numbers_kept():
                    seed_numbers(mix(self.seed, self.epoch, zlib.crc32(name.encode())))
                    changed = self.transform(image)
                yield changed, label
                given += 1
                if training and given == last - first:
                    return
            if not training:
                return
            if given == before:
                raise PicturesError(f"{self.reader.root}: none of the pictures from {first} to {last} can be read")


def _drawn(samples: Iterable[Sample], drawn: random.Random) -> Iterator[Sample]:
    """The same in a random order, as far as `_HELD` of them allow."""
    held: list[Sample] = []
    for sample in samples:
        held.append(sample)
        if len(held) > _HELD:
            place = drawn.randrange(len(held))
            held[place], held[-1] = held[-1], held[place]
            yield held.pop()
    drawn.shuffle(held)
    yield from held


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
            ShardImages(read(split, training=split == "train"), transform)
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
