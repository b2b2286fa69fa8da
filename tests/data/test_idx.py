"""IDX files: read as they were written, and one clear error for everything else."""

from __future__ import annotations

import gzip
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.making import idx, make_scans
from updp_rt.data.idx import read_folder, read_idx

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 5, 2)])
def test_what_was_written_is_read(tmp_path: Path, shape: tuple[int, ...], zipped: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape)
    path = tmp_path / "some"  # what tells a gzip file is what it holds, not its name
    path.write_bytes(gzip.compress(idx(values)) if zipped else idx(values))
    assert torch.equal(read_idx(path, len(shape)), torch.from_numpy(values).to(torch.uint8))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", [".", "raw", "FashionMNIST/raw"])
def test_a_folder_as_the_package_or_torchvision_has_it(tmp_path: Path, place: str, zipped: bool) -> None:
    make_scans(tmp_path / place, 40, 12, zipped=zipped)
    found = read_folder(tmp_path)
    assert {split: len(scans.images) for split, scans in found.items()} == {"train": 40, "test": 12}
    assert found["test"].images.shape[1:] == (28, 28)
    assert found["train"].labels[:6].tolist() == [0, 1, 2, 3, 0, 1]


def test_names_with_a_dot_are_the_same(tmp_path: Path) -> None:
    make_scans(tmp_path)
    (tmp_path / TRAIN_IMAGES).rename(tmp_path / "train-images.idx3-ubyte")
    assert len(read_folder(tmp_path)["train"].images) == 40


GOOD = idx(np.arange(24).reshape(2, 3, 4))
WRONG = {
    "empty": (b"", "not an IDX file"),
    "foreign": (b"\x89PNG\r\n\x1a\n" + bytes(40), "not an IDX file"),
    "other type": (GOOD[:2] + b"\x0d" + GOOD[3:], "type 0x0d; 3 dimensions of bytes"),
    "other dimensions": (idx(np.arange(4)), "1 dimensions and type 0x08; 3 dimensions"),
    "header cut short": (GOOD[:9], "cut short within its header"),
    "cut short": (GOOD[:-1], "its header says 2x3x4, which is not what the file holds"),
    "too long": (GOOD + b"\0", "its header says 2x3x4, which is not what the file holds"),
    "nothing": (idx(np.zeros((0, 3, 4))), r"holds nothing \(its header says 0x3x4\)"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_such_file_is_one_error(tmp_path: Path, case: str, zipped: bool) -> None:
    content, message = WRONG[case]
    path = tmp_path / "some"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("at", [3, 12, 17, -9, -1])
def test_a_damaged_gzip_file_is_one_error(tmp_path: Path, at: int) -> None:
    """A wrong flag, wrong data, a wrong checksum, a wrong length, or a file cut short there."""
    whole = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (9, 28, 28))), mtime=0)
    path = tmp_path / "some"
    for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] if at > 0 else whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"fetch the file again|not an IDX file|an IDX file of"):
            read_idx(path, 3)


@pytest.mark.parametrize("zipped", [False, True])
def test_no_memory_is_taken_for_sizes_that_cannot_be_true(tmp_path: Path, zipped: bool) -> None:
    """Nor for 4 GiB, which a gzip file's own length leaves out."""
    shape = (2**16, 2**8, 2**8)
    header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in shape)
    path = tmp_path / "some"
    path.write_bytes(gzip.compress(header) if zipped else header)
    tracemalloc.start()
    with pytest.raises(ValueError, match="its header says 65536x256x256, which is not what the file holds"):
        read_idx(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    whole = make_scans(tmp_path / "whole")

    def spoilt(name: str, content: bytes | None) -> Path:
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        return folder

    cases = {
        (TRAIN_LABELS, None): "train-labels-idx1-ubyte .or .gz. is missing there",
        ("t10k-images-idx3-ubyte", None): "t10k-images-idx3-ubyte .or .gz. is missing there",
        (TRAIN_LABELS, idx(np.arange(39) % 4)): "40 images but 39 labels in train",
        (TRAIN_LABELS, idx(np.full(40, 0))): "hold a single class",
        (TRAIN_LABELS, idx(np.arange(40) % 2 * 2)): "hold none of class 1",
        (TRAIN_IMAGES, idx(np.zeros((40, 28, 20)))): "images of 28x20; square ones were expected",
        (TRAIN_IMAGES, idx(np.zeros((40, 20, 20)))): "images to train on are 20x20, images to test on 28x28",
        ("t10k-labels-idx1-ubyte", idx(np.arange(12))): "a test label is 11, but train has 4 classes",
    }
    for (name, content), message in cases.items():
        with pytest.raises(ValueError, match=message):
            read_folder(spoilt(name, content))


def test_a_folder_without_them_is_told_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no IDX files there: train-images-idx3-ubyte \(or \.gz\), train-labels"):
        read_folder(tmp_path)
