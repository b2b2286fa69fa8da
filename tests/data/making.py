"""Tiny data sets on disk: a few small pictures a class, each of a colour of its own."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A noisy RGB picture of ``(width, height)`` that depends on `number` alone."""
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(number: int, format: str = "PNG", size: tuple[int, int] = (40, 40)) -> bytes:
    buffer = io.BytesIO()
    picture(number, size).save(buffer, format)
    return buffer.getvalue()


def make_folder(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (40, 40), suffix: str = "png") -> Path:
    """Folders such as ``train/cat`` with so many pictures each, under `root`."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            (root / name / f"{number}.{suffix}").write_bytes(encoded(number, suffix.replace("jpg", "jpeg"), size))
            number += 1
    return root


def make_shards(
    root: Path, labels: Mapping[str, Iterable[str | int]], torn: Iterable[str] = (), image: str = "png"
) -> Path:
    """One shard a split with these labels, and an ``_info.json``; samples of keys in `torn` are cut short."""
    described = {}
    for split, given in labels.items():
        values = list(given)
        with tarfile.open(root / f"{split}-0.tar", "w") as tar:
            for number, label in enumerate(values):
                key, payload = f"{split}{number:03}", encoded(number)
                payload = payload[: len(payload) // 2] if key in torn else payload
                for name, data in ((f"{key}.{image}", payload), (f"{key}.cls", str(label).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        described[split] = {
            "name": split,
            "num_samples": len(values),
            "filenames": [f"{split}-0.tar"],
            "shard_lengths": [len(values)],
        }
    (root / "_info.json").write_text(json.dumps({"splits": described}))
    return root


def idx(values: np.ndarray) -> bytes:
    """An array of bytes in IDX, as MNIST's files hold it."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return b"\0\0\x08" + bytes([values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def make_scans(root: Path, train: int = 40, test: int = 12, *, classes: int = 4, zipped: bool = False) -> Path:
    """Four IDX files under MNIST's names: random scans on a ground of 0, the classes in turn."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", train), ("t10k", test))):
        images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28))
        for name, values in (("images-idx3", images), ("labels-idx1", np.arange(count) % classes)):
            path = root / f"{split}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(idx(values), mtime=0) if zipped else idx(values))
    return root
