"""Pictures on disk as a data set: read in the model's channels; damaged ones are left out by name and counted."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

_logger = logging.getLogger(__name__)

TORN_SHARE = 0.1  # of the pictures; one damaged file never stops a run
_LOOKED_AT = 10_000  # pictures whose ends are checked beforehand: about a second
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

Transform = Callable[[Image.Image], Tensor]


class PicturesError(ValueError):
    """Pictures that cannot be read; the message is one line in whatever process it was raised."""

    def __init__(self, message: str) -> None:
        own = message.rpartition(f"{type(self).__name__}: ")[2]  # a loader's worker adds a traceback
        super().__init__(own.strip())


class EmptyBatchError(PicturesError):
    """No picture of a batch can be read; those that cannot were named."""

    @classmethod
    def of(cls, size: int) -> EmptyBatchError:
        return cls(f"no picture of a batch of {size} can be read; see the files named above")


class Reader(Protocol):
    """What timm's readers and `FolderReader` have in common."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[BinaryIO, int]: ...
    def filename(self, index: int) -> str: ...


@dataclass
class Survey:
    """What a look at a split's pictures found: ``(width, height)`` of sound ones, and what is wrong with others."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    torn: dict[int, str] = field(default_factory=dict)


def check_channels(channels: int) -> None:
    """Raise `ValueError` unless pictures can be read in this number of channels."""
    if channels not in (1, 3):
        raise ValueError(
            f"the model takes images of {channels} channels, but pictures have 1 (grey) or 3: make your own data sets "
            "and call updp_rt.prune or updp_rt.verify in Python"
        )


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """A grey or colour picture of 8 bits per channel; 16 bits are scaled, while PIL's own conversion would clip them.

    Raises:
        ValueError: one channel of more than 16 bits per pixel, or floats.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError("more than 16 bits per pixel")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    _check_mode(image)
    return image.convert("L" if channels == 1 else "RGB")


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures of a reader, as float32 images ``[channels, height, width]`` with their classes.

    A batch lacks the pictures that cannot be read; each is named once, and too many of them are an error.
    """

    def __init__(self, reader: Reader, channels: int, transform: Transform) -> None:
        check_channels(channels)
        self.reader, self.channels, self.transform = reader, channels, transform
        self.torn = torch.zeros(len(reader), dtype=torch.bool).share_memory_()  # with the workers of a loader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            file, label = self.reader[index]
            with file, Image.open(file) as opened:
                image = to_channels(opened, self.channels)
        except UNREADABLE as error:
            raise PicturesError(f"{self.reader.filename(index)}: cannot be read ({reason(error)})") from error
        return self.transform(image), int(label)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        found = []
        for index in indices:
            try:
                found.append(self[index])
            except PicturesError as error:
                self._leave_out(index, error)
        if not found:
            raise EmptyBatchError.of(len(indices))
        return found

    def _leave_out(self, index: int, error: PicturesError) -> None:
        if not self.torn[index]:
            self.torn[index] = True
            _logger.warning("left out: %s", error)
        torn = self.torn.nonzero().flatten().tolist()
        refuse_torn([self.reader.filename(i) for i in torn[:3]], len(torn), len(self))


def survey(reader: Reader, most: int = _LOOKED_AT) -> Survey:
    """Look at the headers and the ends of a split's pictures, or of `most` evenly spread ones if there are more."""
    found = Survey()
    for index in range(0, len(reader), max(1, -(-len(reader) // most))):
        try:
            file, _ = reader[index]
            with file:
                found.sizes.append(_look(file))
        except UNREADABLE as error:
            found.torn[index] = reason(error)
    return found


def refuse_torn(first: Sequence[str], torn: int, pictures: int) -> None:
    """Raise `PicturesError` if more than `TORN_SHARE` of the pictures, and more than one, cannot be read."""
    if torn > max(1, TORN_SHARE * pictures):
        more = " ..." if torn > len(first) else ""
        raise PicturesError(
            f"{torn} of {pictures} pictures cannot be read: {', '.join(first)}{more}; replace or remove them"
        )


def _look(file: Any) -> tuple[int, int]:
    """A picture's ``(width, height)``; decodes it only if it does not end as its format does."""
    with Image.open(file) as image:
        _check_mode(image)
        end = _ENDS.get(image.format or "")
        if end is None:
            return image.size
        position = file.tell()
        file.seek(-min(64, file.seek(0, 2)), 2)
        if end not in file.read():
            file.seek(position)
            image.load()
        return image.size


def reason(error: Exception) -> str:
    """Why a picture cannot be read, in a few words."""
    return "not a picture" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
