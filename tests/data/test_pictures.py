"""Pictures in the channels the model takes; 16 bits are scaled; torn ones are left out by name, many are refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.making import encoded, make_folder, picture
from updp_rt.data import PicturesError, load_splits, make_loader
from updp_rt.data.folders import FolderReader
from updp_rt.data.pictures import Pictures, to_channels

COUNTS = {"train/ant": 6, "train/bee": 6, "val/ant": 4, "val/bee": 4}


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).float()


def pictures(paths: list[Path], channels: int = 3) -> Pictures:
    return Pictures(FolderReader([(str(path), index) for index, path in enumerate(paths)]), channels, to_tensor)


def tear(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    grey = np.asarray(picture(1).convert("L"))
    path = tmp_path / f"16.{suffix}"
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    wanted = torch.from_numpy(grey.copy()).float()
    assert torch.equal(pictures([path], 1)[0][0], wanted)
    assert torch.equal(pictures([path], 3)[0][0], wanted.unsqueeze(-1).expand(-1, -1, 3))


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_wide_pixels_whatever_their_order(kind: str) -> None:
    values = np.array([[0, 257, 65535], [128 * 257, 1, 300]], dtype=kind)
    mode = {"<u2": "I;16", ">u2": "I;16B", "<i4": "I"}[kind]
    image = Image.frombytes(mode, (3, 2), values.tobytes())
    assert np.asarray(to_channels(image, 1)).tolist() == [[0, 1, 255], [128, 0, 1]]


@pytest.mark.parametrize("image", [Image.new("I", (2, 2), 70000), Image.new("F", (2, 2), 0.5)])
def test_pixels_whose_range_is_unknown_are_refused(image: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"more than 16 bits|floating-point"):
        to_channels(image, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_coloured(mode: str, channels: int) -> None:
    assert to_channels(picture(2).convert(mode), channels).mode == {1: "L", 3: "RGB"}[channels]


def test_one_channel_is_grey_from_the_folder_to_the_batch(tmp_path: Path) -> None:
    splits = load_splits(str(make_folder(tmp_path, COUNTS)), (1, 40, 40))
    for split in (splits.train, splits.val, splits.test):
        assert next(iter(make_loader(split, 2, training=False)))[0].shape[1:] == (1, 40, 40)
    grey = torch.from_numpy(np.array(picture(12).convert("L"))).float() / 255
    mean, std = splits.preprocessing.mean[0], splits.preprocessing.std[0]
    assert torch.allclose(splits.test[0][0][0], (grey - mean) / std, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4, 12])
@pytest.mark.parametrize("data", ["folder", "wds/folder"])
def test_other_counts_of_channels_are_refused_at_once(channels: int, data: str) -> None:
    with pytest.raises(ValueError, match=rf"takes images of {channels} channels, but pictures have 1 \(grey\) or 3"):
        load_splits(data, (channels, 32, 32))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_torn_picture_is_left_out_by_name_and_no_other_counts_twice(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path, COUNTS, suffix=suffix)
    tear(tmp_path / f"val/ant/13.{suffix}", 0.8)
    splits = load_splits(str(tmp_path), (3, 32, 32))
    assert f"left out: {tmp_path}/val/ant/13.{suffix}: cannot be read" in caplog.text
    assert f"left out, since they cannot be read: 1 ({tmp_path}/val/ant/13.{suffix})" in splits.describe()
    batches = list(make_loader(splits.test, 3, training=False))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 1, 1, 1, 1]
    images = torch.cat([images for images, _ in batches])
    assert len({tuple(image.flatten().tolist()) for image in images}) == 7


@pytest.mark.parametrize("payload", [b"", b"<html>not found</html>", encoded(0)[:20]])
def test_what_is_no_picture_is_left_out_too(tmp_path: Path, payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    make_folder(tmp_path, COUNTS)
    (tmp_path / "train/bee/7.png").write_bytes(payload)
    splits = load_splits(str(tmp_path), (3, 32, 32))
    assert "train/bee/7.png: cannot be read" in caplog.text
    assert len(splits.train) + len(splits.val) == 11


def test_jpegs_with_something_after_their_end_are_sound(tmp_path: Path) -> None:
    make_folder(tmp_path, COUNTS, suffix="jpg")
    path = tmp_path / "train/ant/0.jpg"
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert load_splits(str(tmp_path), (3, 32, 32)).notes == ()


@pytest.mark.parametrize("split", ["train", "val"])
def test_many_torn_pictures_are_refused_at_the_start(tmp_path: Path, split: str) -> None:
    make_folder(tmp_path, {**COUNTS, "train/ant": 60})
    files = sorted((tmp_path / split / "ant").iterdir())
    for path in files:
        tear(path)
    with pytest.raises(
        PicturesError, match=rf"{len(files)} of \d+ pictures cannot be read: .*/{split}/ant/.*; replace"
    ):
        load_splits(str(tmp_path), (3, 32, 32))


def test_a_class_whose_pictures_are_all_torn_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/ant": 30, "train/bee": 1, "val/ant": 2})
    tear(tmp_path / "train/bee/30.png")
    with pytest.raises(ValueError, match="train: no picture of the class 'bee' can be read"):
        load_splits(str(tmp_path), (3, 32, 32))


def broken_inside(path: Path) -> None:
    """A PNG whose ends are sound and whose pixels are not."""
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 0xFF
    path.write_bytes(payload)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_only_decoding_shows_is_left_out_of_its_batch(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(number))
    broken_inside(paths[5])
    data = pictures(paths)
    for _ in range(2):
        loader = make_loader(data, 4, training=False, workers=workers)
        assert torch.cat([labels for _, labels in loader]).tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert data.torn.nonzero().flatten().tolist() == [5]
    if not workers:  # in a worker it is said on its stderr
        assert caplog.text.count("5.png: cannot be read") == 1
    broken_inside(paths[6])
    with pytest.raises(
        PicturesError, match=r"^2 of 12 pictures cannot be read: .*5.png, .*6.png; replace or remove them$"
    ):
        data.__getitems__([6, 7])


def test_an_error_of_a_loaders_worker_is_one_line() -> None:
    text = "Caught PicturesError in worker process 0.\nTraceback\nupdp_rt.data.pictures.PicturesError: a.png: torn\n"
    assert str(PicturesError(text)) == "a.png: torn"


def test_a_torn_picture_by_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(0)[:900])
    with pytest.raises(PicturesError, match=r"0.png: cannot be read \(.*truncated"):
        pictures([tmp_path / "0.png"])[0]
    with pytest.raises(PicturesError, match="no picture of a batch of 1 can be read"):
        list(make_loader(pictures([tmp_path / "0.png"]), 1, training=False))


def test_files_are_closed(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(0))
    opened: list[io.BufferedReader] = []

    class Reader(FolderReader):
        def __getitem__(self, index: int) -> tuple[io.BufferedReader, int]:
            file, label = super().__getitem__(index)
            opened.append(file)  # type: ignore[arg-type]
            return opened[-1], label

    assert Pictures(Reader([(str(tmp_path / "0.png"), 0)]), 3, to_tensor)[0][0].shape == (40, 40, 3)
    assert all(file.closed for file in opened)


def test_pixels_of_unknown_range_are_refused_at_the_start_with_the_reason(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/ant": 4, "train/bee": 4, "val/ant": 2}, suffix="tiff")
    for path in (tmp_path / "train/bee").iterdir():
        Image.fromarray(np.ones((40, 40), np.float32)).save(path)
    with pytest.raises(PicturesError, match=r"4 of 8 pictures cannot be read: .*4.tiff \(floating-point pixels"):
        load_splits(str(tmp_path), (3, 32, 32))
