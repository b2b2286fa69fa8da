"""Saved models come back bit for bit; damaged and hostile ones give one clear error and change nothing."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import updp_rt
from tests.marks import slow
from updp_rt.artifacts import ArtifactError, read_manifest
from updp_rt.blocks import make_progressive, merge_model, model_input_size, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize


def merged_model(name: str = "test_vit", **arguments: Any) -> nn.Module:
    model = randomize(timm.create_model(name, **arguments))
    subnet = make_progressive(model, prunable_blocks(model)[1::2])
    set_lambda(subnet, 1.0)
    return merge_model(subnet)


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return updp_rt.save(merged_model(), tmp_path_factory.mktemp("saved") / "model", accuracy=0.875)


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    """A folder of its own for each test to damage."""
    return shutil.copytree(saved_once, tmp_path / "model")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        slow("test_vit", {}),
        ("test_vit", {"img_size": (48, 64), "patch_size": 8, "num_classes": 10}),
        ("resnet18", {"in_chans": 1, "num_classes": 0}),
        slow("mobilenetv2_035", {"num_classes": 7, "global_pool": "max", "depth_multiplier": 0.5}),
        slow("convnext_atto", {"num_classes": 3}),
        slow("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 4}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_save_load_run_is_bit_identical(name: str, arguments: dict, dtype: torch.dtype, tmp_path: Path) -> None:
    model = merged_model(name, **arguments).to(dtype)
    again = updp_rt.load(updp_rt.save(model, tmp_path))
    assert {k: v.dtype for k, v in again.state_dict().items()} == {k: v.dtype for k, v in model.state_dict().items()}
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
    x = torch.randn(3, *model_input_size(model)).to(dtype)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize(("body", "form"), [("shrunk", "conv"), ("full", "conv"), ("full", "factored")])
def test_every_form_comes_back(body: str, form: str, tmp_path: Path) -> None:
    subnet = make_progressive(timm.create_model("resnet18"), {"layer1.0": body, "layer2.0": body})
    set_lambda(subnet, 1.0)
    model = merge_model(subnet, dict.fromkeys(("layer1.0", "layer2.0"), form))
    again = updp_rt.load(updp_rt.save(model, tmp_path))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_the_manifest_says_what_it_is(saved: Path) -> None:
    manifest = read_manifest(saved)
    assert manifest.architecture == "test_vit"
    assert manifest.accuracy == 0.875
    assert {name: block.form for name, block in manifest.blocks.items()} == dict.fromkeys(
        ("blocks.1", "blocks.3", "blocks.5"), "linear"
    )
    assert {"torch", "timm", "updp_rt"} <= manifest.versions.keys()


def test_saving_again_replaces_the_old_model(saved: Path) -> None:
    first = read_manifest(saved).weights
    updp_rt.save(merged_model("test_resnet"), saved)
    assert read_manifest(saved).architecture == "test_resnet"
    assert sorted(p.name for p in saved.iterdir()) == sorted(["manifest.json", read_manifest(saved).weights])
    assert first != read_manifest(saved).weights


def test_a_failure_while_saving_keeps_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("updp_rt.artifacts.store.write_text", fail)
    with pytest.raises(OSError, match="no space"):
        updp_rt.save(merged_model("test_resnet"), saved)
    assert read_manifest(saved).architecture == "test_vit"
    updp_rt.load(saved)


def test_models_not_of_timm_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"create it with timm.create_model"):
        updp_rt.save(nn.Sequential(nn.Conv2d(3, 4, 1)), tmp_path)
    with pytest.raises(ArtifactError, match="model_args cannot be saved: pretrained"):
        updp_rt.save(merged_model(), tmp_path, model_args={"pretrained": True})


def corrupt_weights(folder: Path, damage: str) -> None:
    path = next(folder.glob("*.safetensors"))
    payload = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(payload[: len(payload) // 2])
    elif damage == "altered":
        path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    elif damage == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "truncated or altered"),
        ("altered", "truncated or altered"),
        ("missing", "the weights cannot be read .*copy the whole folder"),
    ],
)
def test_damaged_weights(saved: Path, damage: str, message: str) -> None:
    corrupt_weights(saved, damage)
    with pytest.raises(ArtifactError, match=message):
        updp_rt.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "of schema 99, newer than the 4 this version reads; upgrade"),
        ({"schema_version": 99, "unknown": 1}, "newer than"),
        ({"schema_version": "x"}, "not a manifest of updp_rt"),
        ({"format": "onnx"}, "of format 'onnx', not a model saved by updp_rt"),
        ({"architecture": "no_such_net"}, "does not know the architecture 'no_such_net'"),
        ({"architecture": "resnet18"}, "not those of this architecture|cannot be merged in these forms"),
        ({"architecture": "hf-hub:someone/something"}, "does not know the architecture"),
        ({"model_args": {"pretrained": True}}, "damaged .*pretrained"),
        ({"model_args": {"checkpoint_path": "evil.pth"}}, "damaged .*checkpoint_path"),
        ({"model_args": {"num_classes": 10**12}}, "damaged .*num_classes"),
        ({"model_args": {"embed_dim": 999_936, "num_heads": 3}}, "not those of this architecture"),
        ({"model_args": {"patch_size": 0}}, "timm cannot build"),
        ({"weights": "../../secret.safetensors"}, "damaged .*weights"),
        ({"weights": "/etc/passwd"}, "damaged .*weights"),
        ({"blocks": {"blocks.99": {"body": "full", "form": "linear"}}}, "is not a prunable block"),
        ({"blocks": {"blocks.1": {"body": "full", "form": "conv"}}}, "no merged form 'conv'"),
        ({"blocks": {"blocks.1": {"body": "odd", "form": "linear"}}}, "no pruned body 'odd'"),
        ({"blocks": {}}, "not those of this architecture"),
        ({"blocks": 3}, "damaged .*blocks"),
        ({"model_args": {"cache_dir": "/tmp"}}, "damaged .*cache_dir"),
        ({"model_args": {"device": "cpu"}}, "damaged .*device"),
        ({"model_args": {"block_args": {"a": ["../x/y"]}}}, "damaged .*block_args"),
        ({"model_args": {"no_such": 1}}, "timm cannot build test_vit .*no_such"),
        ({"model_args": {"act_layer": "no_such"}}, "timm cannot build test_vit"),
        ({"model_args": {"embed_dim": [[[[[1]]]]]}}, "damaged .*embed_dim"),
        ({"surprise": 1}, "damaged .*surprise"),
    ],
)
def test_hostile_and_foreign_manifests(saved: Path, changes: dict, message: str) -> None:
    before = {path.name: path.stat().st_size for path in saved.iterdir() if path.name != "manifest.json"}
    edit(saved, **changes)
    with pytest.raises(ArtifactError, match=message) as error:
        updp_rt.load(saved)
    assert "manifest.json" in str(error.value)
    assert {path.name: path.stat().st_size for path in saved.iterdir() if path.name != "manifest.json"} == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": "updp_rt"}', "\x00\xff"])
def test_manifests_that_are_no_json_object(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="not a manifest of updp_rt"):
        updp_rt.load(saved)


def test_a_manifest_of_absurd_size(saved: Path) -> None:
    (saved / "manifest.json").write_text(" " * (5 * 2**20))
    with pytest.raises(ArtifactError, match="larger than any manifest"):
        updp_rt.load(saved)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest.json: cannot be read .*give a folder written by updp_rt"):
        updp_rt.load(tmp_path / "nowhere")


def test_pickled_weights_are_not_unpickled(saved: Path) -> None:
    """A pickle whose digest the manifest confirms is still only bytes that are no safetensors."""
    import hashlib

    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (saved / "exploded",))

    payload = pickle.dumps(Bomb())
    digest = hashlib.sha256(payload).hexdigest()
    (saved / f"model-{digest[:16]}.safetensors").write_bytes(payload)
    edit(saved, sha256=digest, weights=f"model-{digest[:16]}.safetensors")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        updp_rt.load(saved)
    assert not (saved / "exploded").exists()
