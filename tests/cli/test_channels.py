"""``updp-rt channels``: table, picture, saved model, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import updp_rt
from tests.cli.test_cli import run


def test_prune_save_and_draw(tmp_path: Path) -> None:
    folder = tmp_path / "pruned"
    options = ["--img-size", "40", "--num-classes", "5", "--rounds", "1", "--limit", "layer4.*=0.25"]
    status, out, _ = run("channels", "resnet18", *options, "--out", str(folder))
    assert status == 0
    for word in ("layer1.0.conv1", "gathered channels:", "constrained", "naive", "reordered", "view"):
        assert word in out
    assert (folder / "channels.png").read_bytes().startswith(b"\x89PNG")
    assert updp_rt.load(folder)(torch.randn(2, 3, 40, 40)).shape == (2, 5)
    status, out, _ = run("channels", str(folder), "--img-size", "40", "--rounds", "1", "--json", "--amount", "0.2")
    summary = json.loads(out)
    assert status == 0
    assert set(summary["latency_ms"]) == {"baseline", "constrained", "naive", "reordered"}
    assert summary["params"]["reordered"] < summary["params"]["baseline"]


def test_notes_of_many_places_are_one_line() -> None:
    status, out, _ = run("channels", "test_vit", "--img-size", "32", "--rounds", "1", "--amount", "0.2")
    assert status == 0
    (line,) = (line for line in out.splitlines() if "all stay" in line)
    assert line.startswith("the model and 6 more: add joins channels with a tensor whose channels are unknown;")


def test_ranks_and_accuracy_on_data() -> None:
    options = ["--img-size", "32", "--num-classes", "10", "--rounds", "1", "--amount", "0.2", "--json"]
    status, out, _ = run("channels", "test_vit", "--data", "digits", "--importance", "hrank", *options)
    summary = json.loads(out)
    assert status == 0
    assert set(summary["accuracy"]) == set(summary["latency_ms"])
    assert any("all stay" in note for note in summary["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["resnet999"], "timm knows no model"),
        (["resnet18", "--amount", "1.5"], "from 0 to below 1"),
        (["resnet18", "--copies", "none"], "choose among cheapest"),
        (["resnet18", "--limit", "fc"], "--limit takes PATTERN=SHARE"),
        (["resnet18", "--importance", "hrank"], "needs images"),
    ],
)
def test_errors_in_one_line(options: list[str], message: str) -> None:
    status, _, err = run("channels", *options, "--img-size", "33", "--rounds", "1")
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
