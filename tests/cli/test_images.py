"""Options of pictures, from the command line to the run's folder, its log, the manifest and the certificate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config

import updp_rt
from tests.cli.test_cli import run
from tests.data.making import make_folder
from updp_rt.artifacts import read_manifest
from updp_rt.verification import Certificate

COUNTS = {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("ant", "bee")}
FEW = ("--batch-size", "4", "--epochs", "1", "--set", "supernet_epochs=0", "--trials", "1", "--num-pruned", "1")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", COUNTS, (40, 40))


@pytest.fixture
def base(tmp_path: Path, pictures: Path) -> tuple[str, ...]:
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32, num_classes=2).state_dict(), tmp_path / "start.safetensors")
    checkpoint = ("--checkpoint", str(tmp_path / "start.safetensors"), "--img-size", "32")
    return ("prune", "test_vit", *checkpoint, "--data", str(pictures), "--out", str(tmp_path / "run"), *FEW)


@pytest.mark.slow
def test_what_is_applied_is_printed_logged_and_saved(tmp_path: Path, base: tuple[str, ...]) -> None:
    given = ("--crop-pct", "0.9", "--std", "0.4", "--scale", "0.5,1", "--hflip", "0")
    status, _, error = run(*base, *given)
    assert status == 0, error
    applied = "images: bicubic, crop_pct 0.9 (center), mean 0.5, std 0.4"
    training = "training images: crops of 0.5 to 1 of the area, hflip 0, color_jitter 0.4,0.4,0.4"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert applied in error
    assert applied in log
    assert training in log
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (identity["augmentation"]["scale"], identity["augmentation"]["hflip"]) == ([0.5, 1.0], 0)
    saved = json.loads((tmp_path / "run" / "merged" / "manifest.json").read_text())
    assert saved["preprocessing"] == identity["preprocessing"]
    assert saved["augmentation"] == {k: v for k, v in identity["augmentation"].items() if v is not None}
    assert saved["preprocessing"] == {
        "mean": [0.5] * 3,  # test_vit's own
        "std": [0.4] * 3,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
    }
    config = resolve_data_config({}, model=updp_rt.load(tmp_path / "run" / "merged"))
    assert (config["std"], config["crop_pct"], config["input_size"]) == ((0.4,) * 3, 0.9, (3, 32, 32))
    assert run("merge", str(tmp_path / "run"), "--out", str(tmp_path / "again"))[0] == 0
    again, first = read_manifest(tmp_path / "again"), read_manifest(tmp_path / "run" / "merged")
    assert (again.preprocessing, again.augmentation) == (first.preprocessing, first.augmentation)
    status, _, error = run(*base, *given[:-1], "1")
    assert status == 2
    assert "holds another run (augmentation:" in error
    # What the manifest recorded is what a later command's pictures go through.
    status, _, error = run("verify", str(tmp_path / "run"), "--data", str(tmp_path / "data"), "--batch", "2")
    assert status == 0, error
    assert applied in error


def test_a_certificate_is_checked_on_pictures_of_the_same_options(tmp_path: Path, pictures: Path) -> None:
    folder = updp_rt.save(timm.create_model("test_vit", img_size=32, num_classes=2).eval(), tmp_path / "model")
    asked = ("--data", str(pictures), "--batch", "2", "--mean", "0.1,0.2,0.3", "--interpolation", "bilinear")
    status, _, error = run("verify", str(folder), *asked)
    assert status == 0, error
    assert "images: bilinear, crop_pct 0.95 (center), mean 0.1,0.2,0.3, std 0.5" in error
    source = Certificate.load(folder / "certificate.json").inputs.source
    assert source.startswith(f'{pictures}, validation, {{"mean": [0.1, 0.2, 0.3]')
    status, out, _ = run("verify", "--check", str(folder / "certificate.json"), "--json")
    assert (status, json.loads(out)["changes"]) == (0, [])


@pytest.mark.slow
def test_channels_reads_pictures_as_the_model_says_and_saves_it(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "narrow"
    asked = ("--data", str(pictures), "--img-size", "32", "--num-classes", "2", "--rounds", "1", "--out", str(folder))
    status, _, error = run("channels", "test_resnet", *asked, "--crop-mode", "squash")
    assert status == 0, error
    assert "images: bilinear, crop_pct 0.95 (squash), mean 0.5, std 0.5" in error
    manifest = read_manifest(folder)
    assert (manifest.preprocessing.crop_mode, manifest.preprocessing.mean) == ("squash", (0.5,) * 3)
    assert manifest.input_size == (3, 32, 32)


@pytest.mark.slow
def test_grey_models_get_grey_pictures(tmp_path: Path, base: tuple[str, ...]) -> None:
    grey = timm.create_model("test_vit", img_size=32, num_classes=2, in_chans=1)
    save_file(grey.state_dict(), tmp_path / "start.safetensors")
    status, _, error = run(*base, "--in-chans", "1", "--stage", "supernet")
    assert status == 0, error
    assert json.loads((tmp_path / "run" / "run.json").read_text())["input_size"] == [1, 32, 32]
    status, _, error = run(*base, "--in-chans", "4", "--stage", "supernet")
    assert status == 2
    assert "takes images of 4 channels, but pictures have 1 (grey) or 3" in error
    asked = ("--data", str(tmp_path / "data"), "--img-size", "32", "--rounds", "1", "--out", str(tmp_path / "narrow"))
    status, _, error = run("channels", "test_vit", "--in-chans", "1", *asked)
    assert status == 0, error
    assert read_manifest(tmp_path / "narrow").input_size == (1, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("channels", "test_vit", "--mean", "0.5"), "options for pictures (--mean, --crop-pct ...) need --data"),
        (("verify", "test_vit", "--crop-pct", "1"), "options for pictures (--mean, --crop-pct ...) need --data"),
        (("channels", "test_vit", "--data", "DATA", "--mean", "half"), "--mean takes numbers, such as 0.5"),
        (
            ("channels", "test_vit", "--data", "DATA", "--mean", ".5,.5", "--img-size", "32"),
            "mean has 2 values, but images have 3 channels",
        ),
        (("channels", "test_vit", "--data", "DATA", "--num-classes", "2"), "4.0 times for the model's 160x160: say"),
        (("channels", "test_vit", "--data", "DATA", "--class-map", "DATA/x.txt"), "x.txt: not a class map"),
    ],
)
def test_what_cannot_be_is_one_line(pictures: Path, arguments: tuple[str, ...], message: str) -> None:
    status, _, error = run(*(argument.replace("DATA", str(pictures)) for argument in arguments))
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1
