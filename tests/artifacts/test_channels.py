"""Manifests of models whose channels were pruned: damaged and hostile ones give one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import updp_rt
from updp_rt.artifacts import ArtifactError
from updp_rt.blocks.randomize import randomize


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = randomize(timm.create_model("resnet18", num_classes=5)).eval()
    result = updp_rt.prune_channels(model, torch.randn(1, 3, 33, 33))
    return updp_rt.save(result.model, tmp_path_factory.mktemp("saved"))


def test_plain_models_name_no_channels(tmp_path: Path) -> None:
    folder = updp_rt.save(timm.create_model("resnet18", num_classes=5).eval(), tmp_path)
    assert "channels" not in json.loads((folder / "manifest.json").read_text())


def test_the_manifest_is_small(saved: Path) -> None:
    assert (saved / "manifest.json").stat().st_size < 20_000


def _set(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


SHAPES, SELECTIONS, NUMBERS = (("channels", kind) for kind in ("shapes", "selections", "numbers"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*SHAPES, "conv1.weight"), [10**6, 3, 7, 7], "no .* for 'conv1.weight', which is"),
        ((*SHAPES, "conv1.weight"), [64, 3], "no .* for 'conv1.weight'"),
        ((*SHAPES, "conv1.weight"), [0, 3, 7, 7], "no .* for 'conv1.weight'"),
        ((*SHAPES, "conv1.weight"), [5, 3, 7, 7], "do not fit one another"),
        ((*SHAPES, "nothing.weight"), [1], "'nothing.weight', which it has not"),
        ((*SHAPES, "fc.bias"), [4], "do not fit|not those of this architecture"),
        ((*SELECTIONS, "nothing"), {"kind": "view", "axis": 1, "width": [3], "take": ["0:2"]}, "no module 'nothing'"),
        ((*SELECTIONS, ""), {"kind": "view", "axis": 1, "width": [3], "take": ["0:2"]}, "no module ''"),
        ((*SELECTIONS, "conv1"), {"kind": "pickle", "axis": 1, "width": [3], "take": ["0:2"]}, "'view', 'gather'"),
        ((*SELECTIONS, "conv1"), {"kind": "view", "axis": 1, "width": [3], "take": ["0:2 x"]}, "pattern"),
        ((*SELECTIONS, "conv1"), {"kind": "view", "axis": 1, "width": [3], "take": ["0:1 2:3"]}, "does not go with"),
        ((*SELECTIONS, "conv1"), {"kind": "gather", "axis": 1, "width": [3], "take": ["2:3 0:1"]}, "not ranges of 3"),
        ((*SELECTIONS, "conv1"), {"kind": "gather", "axis": 1, "width": [3], "take": ["0:9"]}, "not ranges of 3"),
        ((*SELECTIONS, "conv1"), {"kind": "gather", "axis": 1, "width": [3], "take": []}, "does not go with"),
        ((*SELECTIONS, "conv1"), {"kind": "gather", "axis": 1, "width": [3, 3], "take": ["0:1", ""]}, "of one tensor"),
        ((*SELECTIONS, "conv1"), {"kind": "parts", "axis": 1, "width": [3], "take": ["0:1"]}, "do not fit one another"),
        ((*SELECTIONS, "conv1"), {"kind": "view", "axis": 4, "width": [3], "take": ["0:2"]}, "do not fit one another"),
        (NUMBERS, {"fc.out_features": 9}, "no 9 for 'fc.out_features', which is 5"),
        (NUMBERS, {"fc.nothing": 1}, "no 1 for 'fc.nothing', which it has not"),
        (NUMBERS, {"fc.training": 1}, "no 1 for 'fc.training', which it has not"),
        (NUMBERS, {"layer1.0.conv2.groups": 0}, "greater than 0"),
        (NUMBERS, {"layer1.0.conv2.in_channels": "_"}, "valid integer"),
    ],
)
def test_hostile_manifests(saved: Path, tmp_path: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    _set(manifest, path, value)
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=message) as caught:
        updp_rt.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000
