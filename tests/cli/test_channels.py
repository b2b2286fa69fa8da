"""``updp-rt channels``: table, picture, saved model, errors in one line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import updp_rt
from tests.cli.test_cli import run
from updp_rt.artifacts import read_manifest


@pytest.mark.slow
def test_prune_save_and_draw(tmp_path: Path) -> None:
    folder = tmp_path / "pruned"
    options = ["--img-size", "40", "--num-classes", "5", "--rounds", "1", "--limit", "layer4.*=0.25", "--amount", "0.6"]
    status, out, _ = run("channels", "resnet10t", *options, "--out", str(folder))
    assert status == 0
    for word in ("layer1.0.conv1", "gathered channels:", "constrained", "naive", "reordered", "view"):
        assert word in out
    assert (folder / "channels.png").read_bytes().startswith(b"\x89PNG")
    assert updp_rt.load(folder)(torch.randn(2, 3, 40, 40)).shape == (2, 5)
    again = tmp_path / "again"
    status, out, _ = run("channels", str(folder), "--rounds", "1", "--json", "--amount", "0.2", "--out", str(again))
    summary = json.loads(out)
    assert status == 0
    assert read_manifest(folder).input_size == read_manifest(again).input_size == (3, 40, 40)
    assert set(summary["latency_ms"]) == {"baseline", "constrained", "naive", "reordered"}
    assert summary["params"]["reordered"] < summary["params"]["baseline"]


@pytest.mark.slow
def test_notes_of_many_places_are_one_line() -> None:
    status, out, _ = run("channels", "test_vit", "--img-size", "32", "--rounds", "1", "--amount", "0.2")
    assert status == 0
    (line,) = (line for line in out.splitlines() if "all stay" in line)
    assert line.startswith("the model and 6 more: add joins channels with a tensor whose channels are unknown;")


@pytest.mark.slow
def test_ranks_and_accuracy_on_data() -> None:
    options = ["--img-size", "32", "--rounds", "1", "--amount", "0.2", "--json"]
    status, out, _ = run("channels", "test_vit", "--data", "digits", "--importance", "hrank", *options)
    summary = json.loads(out)
    assert status == 0
    assert set(summary["accuracy"]) == set(summary["latency_ms"])
    assert any("all stay" in note for note in summary["notes"])


@pytest.mark.slow
def test_classes_are_counted_in_the_data(tmp_path: Path) -> None:
    """As `prune` counts them, so a model fine-tuned on a folder needs no further option."""
    for split, name in itertools.product(("train", "validation"), ("ant", "bee", "cat")):
        (tmp_path / "data" / split / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (32, 32), (60 * number, 20, 90)).save(tmp_path / "data" / split / name / f"{number}.png")
    model = timm.create_model("test_vit", num_classes=3, img_size=32)
    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    options = ["--data", str(tmp_path / "data"), "--rounds", "1", "--amount", "0.1", "--img-size", "32"]
    folder = tmp_path / "narrow"
    checkpoint = ["--checkpoint", str(tmp_path / "tuned.pth")]
    status, out, err = run("channels", "test_vit", *checkpoint, *options, "--json", "--out", str(folder))
    assert status == 0, err
    assert json.loads(out)["accuracy"].keys() == json.loads(out)["latency_ms"].keys()
    assert read_manifest(folder).model_args.given()["num_classes"] == 3
    status, _, err = run("channels", str(folder), "--data", "digits", "--rounds", "1")
    assert status == 2
    assert "the model was trained for 3 classes, but 'digits' has 10: fine-tune it" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["resnet999"], "timm knows no model"),
        (["test_vit", "--amount", "1.5"], "from 0 to below 1"),
        (["test_vit", "--copies", "none"], "choose among cheapest"),
        (["test_vit", "--limit", "fc"], "--limit takes PATTERN=SHARE"),
        (["test_vit", "--importance", "hrank"], "needs images"),
    ],
)
def test_errors_in_one_line(options: list[str], message: str) -> None:
    status, _, err = run("channels", *options, "--img-size", "32", "--rounds", "1")
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
