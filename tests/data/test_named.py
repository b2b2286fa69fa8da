"""Images by name: the same ones again, with the options that were given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.data.making import make_folder
from updp_rt.data import load_splits
from updp_rt.data.named import RANDOM, name_images, named_images


def test_random_images_are_drawn_by_the_seed() -> None:
    first, again, other = (named_images(RANDOM, (2, 3, 8, 9), seed=seed) for seed in (0, 0, 1))
    assert first.shape == (2, 3, 8, 9)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_data_set_gives_its_first_validation_images() -> None:
    assert name_images("digits") == "digits, validation"
    images = named_images("digits, validation", (2, 3, 32, 32))
    val = load_splits("digits", (3, 32, 32)).val
    assert torch.equal(images, torch.stack([val[0][0], val[1][0]]))
    with pytest.raises(ValueError, match=r"'digits' has \d+ validation images: give --batch \d+ or less"):
        named_images("digits, validation", (9999, 1, 8, 8))


def test_options_are_part_of_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "a, b"  # a comma is no end of a name
    make_folder(folder, {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("ant", "bee")})
    classes = tmp_path / "classes.txt"
    classes.write_text("ant\nbee\n")
    name = name_images(str(folder), {"mean": (0.25,), "crop_pct": 0.9}, classes)
    said: list[str] = []
    images = named_images(name, (2, 3, 16, 16), tell=said.append)
    assert "crop_pct 0.9" in said[0]
    assert "mean 0.25" in said[0]
    plain = named_images(name_images(str(folder)), (2, 3, 16, 16))
    assert images.shape == plain.shape
    assert not torch.equal(images, plain)
    classes.write_text("ant\n")
    with pytest.raises(ValueError, match="bee"):
        named_images(name, (2, 3, 16, 16))
