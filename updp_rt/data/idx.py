"""IDX, the format of MNIST, Fashion-MNIST and their like: one array of bytes a file, often compressed with gzip.

``00 00 08 n``, n sizes as big-endian 32-bit numbers, and the values (Yann LeCun's page on MNIST describes it).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
_PLACES = ("", "raw", "FashionMNIST/raw")  # beside the package's: as torchvision lays them out
_NAMES = {"train": "train", "test": "t10k"}
_KINDS = {"images": 3, "labels": 1}
_MOST_DEFLATED = 1032  # bytes that one byte of gzip can stand for


@dataclass(frozen=True)
class Scans:
    """Grey pictures of one split, and their classes.

    Attributes:
        images: ``[N, edge, edge]`` uint8, the ground being 0.
        labels: ``[N]`` uint8.
    """

    images: Tensor
    labels: Tensor


def read_folder(folder: Path) -> dict[str, Scans]:
    """The splits train and test of a folder that holds four IDX files, ``train-images-idx3-ubyte`` and so on.

    Args:
        folder: holds the files, gzipped or not, or a folder ``raw`` or ``FashionMNIST/raw`` of them.

    Raises:
        ValueError: a file is missing, damaged or something else, or images and labels do not belong together.
    """
    place = next((folder / name for name in _PLACES if _find(folder / name, "train", "images")), None)
    if place is None:
        raise ValueError(
            f"{folder}: no IDX files there: train-images-idx3-ubyte (or .gz), train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte were expected"
        )
    found = {split: _read_split(place, split) for split in _NAMES}
    train, test = found["train"], found["test"]
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = ["x".join(map(str, scans.images.shape[1:])) for scans in (train, test)]
        raise ValueError(f"{place}: images to train on are {sizes[0]}, images to test on {sizes[1]}: not one data set")
    counts = torch.bincount(train.labels)
    if len(counts) < 2 or not bool(counts.all()):
        missing = [number for number, count in enumerate(counts.tolist()) if not count]
        which = f"none of class {missing[0]}" if missing else "a single class"
        raise ValueError(f"{place}: the labels to train on hold {which}; classes are numbered from 0 without gaps")
    if int(test.labels.max()) >= len(counts):
        raise ValueError(f"{place}: a test label is {int(test.labels.max())}, but train has {len(counts)} classes")
    return found


def read_idx(path: Path, dims: int) -> Tensor:
    """The array in an IDX file, uint8 with so many dimensions.

    Memory is taken only once the sizes in the header are known to be those of what the file holds.

    Raises:
        ValueError: no IDX file of bytes with so many dimensions, or cut short, too long or damaged.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            size = file.seek(0, 2)
            claimed = _claimed(file, size) if zipped else size
            file.seek(0)
            if not zipped:
                return _read(file, path, dims, size, size)
            with gzip.open(file) as stream:
                return _read(cast(BinaryIO, stream), path, dims, claimed, _MOST_DEFLATED * size)
    except (OSError, EOFError, zlib.error) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"{path}: cannot be read ({what}); fetch the file again") from error


def _find(folder: Path, split: str, kind: str) -> Path | None:
    stem, dims = f"{_NAMES[split]}-{kind}", _KINDS[kind]
    names = [f"{stem}{mark}idx{dims}-ubyte{suffix}" for suffix in ("", ".gz") for mark in "-."]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_split(folder: Path, split: str) -> Scans:
    arrays = {}
    for kind, dims in _KINDS.items():
        path = _find(folder, split, kind)
        if path is None:
            raise ValueError(f"{folder}: {_NAMES[split]}-{kind}-idx{dims}-ubyte (or .gz) is missing there")
        arrays[kind] = read_idx(path, dims)
    images, labels = arrays["images"], arrays["labels"]
    if len(images) != len(labels):
        raise ValueError(
            f"{folder}: {len(images)} images but {len(labels)} labels in {_NAMES[split]}; fetch both again"
        )
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"{folder}: images of {images.shape[1]}x{images.shape[2]}; square ones were expected")
    return Scans(images, labels)


def _claimed(file: BinaryIO, size: int) -> int:
    """How many bytes a gzip file says that it holds, modulo 2³²: its last number."""
    if size < 18:
        raise EOFError("it is cut short")
    file.seek(-4, 2)
    return int(struct.unpack("<I", file.read(4))[0])


def _read(stream: BinaryIO, path: Path, dims: int, claimed: int, most: int) -> Tensor:
    """What follows the header, once it can be as long as that says; `claimed` is the length modulo 2³²."""
    header = stream.read(4 + 4 * dims)
    if len(header) < 4 or header[:2] != b"\0\0":
        raise ValueError(f"{path}: not an IDX file; MNIST's format was expected")
    if header[2] != 8 or header[3] != dims:
        raise ValueError(
            f"{path}: an IDX file of {header[3]} dimensions and type {header[2]:#04x}; {dims} dimensions of bytes "
            "(0x08) were expected"
        )
    if len(header) < 4 + 4 * dims:
        raise ValueError(f"{path}: cut short within its header; fetch the file again")
    sizes = struct.unpack(f">{dims}I", header[4:])
    length, shape = math.prod(sizes), "x".join(map(str, sizes))
    if length == 0:
        raise ValueError(f"{path}: holds nothing (its header says {shape})")
    whole = length + len(header)
    if whole % 2**32 != claimed % 2**32 or whole > most:
        raise ValueError(f"{path}: its header says {shape}, which is not what the file holds; fetch the file again")
    values = bytearray(stream.read(length))
    if len(values) != length or stream.read(1):
        raise ValueError(f"{path}: its header says {shape}, which is not what the file holds; fetch the file again")
    return torch.frombuffer(values, dtype=torch.uint8).view(sizes)
