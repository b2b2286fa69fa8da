"""Checkpoints that others wrote: read where they hold weights alone, and called by what they are where not."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from updp_rt.artifacts import ArtifactError, load_checkpoint

State = dict[str, Tensor]


def small() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=3)


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return small().state_dict()


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def assert_loads(path: Path, state: State) -> None:
    model = small()
    load_checkpoint(model, path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=1.0)},
        lambda s: {"model": s, "optimizer": {"state": {}}},
        lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {"loss.weight": torch.ones(3), **{f"model.net.{k}": v for k, v in s.items()}}},
        lambda s: {"n_averaged": torch.tensor(7), **{f"module.{k}": v for k, v in s.items()}},
        lambda s: {
            "model": {k: v + 1 for k, v in s.items()},
            "model_ema": {"n": torch.ones(1), **{f"module.{k}": s[k] for k in s}},
        },
        lambda s: {"net": s, "optimizer": {"state": {0: {"step": torch.ones(())}}}, "accuracy": np.float64(0.5)},
        lambda s: {"model": {"state_dict": s}, "args": argparse.Namespace(output=Path("out"))},
        lambda s: {**s, "epoch": 3},
        lambda s: {k.replace("layer1.0.", "layer1.0._orig_mod."): v for k, v in s.items()},
        lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    ],
)
def test_what_training_scripts_write(wrap: Callable[[State], Any], state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(wrap(state)))
    assert_loads(path, state)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights"])
def test_the_content_counts_not_the_name(name: str, state: State, tmp_path: Path) -> None:
    for content in (save(state), saved(state), saved(state, _use_new_zipfile_serialization=False)):
        (tmp_path / name).write_bytes(content)
        assert_loads(tmp_path / name, state)


def altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def plain_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("notes.txt", "nothing here")
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


OLD = {"_use_new_zipfile_serialization": False}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: b"", "empty"),
        (lambda s: b"e" * 500, "not a checkpoint; give a file of weights"),
        (lambda s: b"<!DOCTYPE html><html>", "not a checkpoint"),
        (lambda s: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (lambda s: save(s)[:-100], "a safetensors file, truncated or damaged"),
        (lambda s: save(s)[:200], "a safetensors file, truncated or damaged"),
        (lambda s: saved(s)[:-100], "truncated or damaged"),
        (lambda s: saved(s)[:1000], "truncated or damaged"),
        (lambda s: altered(saved(s)), "damaged: .*a checksum in it is wrong"),
        (lambda s: saved(s, **OLD)[:-100], "truncated or damaged"),
        (lambda s: saved(s, **OLD)[:50], "truncated or damaged"),
        (lambda s: saved(small()), r"pickled objects \(timm\.models.*weights_only=False\).*found\.state_dict\(\)"),
        (lambda s: saved(small(), **OLD), r"pickled objects \(timm\.models"),
        (lambda s: saved({"model": small()}), "pickled objects"),
        (lambda s: pickle.dumps([1, 2]), "not written by torch.save, or damaged"),
        (lambda s: script(), r"a TorchScript program; .*torch\.jit\.load"),
        (lambda s: plain_zip(), "an archive without a state_dict"),
        (lambda s: saved([1, 2]), "holds a list, not a state_dict"),
        (
            lambda s: saved({"epoch": 3, "optimizer": {}}),
            r"no state_dict of tensors in it \(it holds epoch, optimizer\)",
        ),
        (lambda s: saved({}), "it holds nothing"),
        (
            lambda s: saved({f"{who}.{k}": v for who in ("student", "teacher") for k, v in s.items()}),
            r"several models of these names \(student\.\* and teacher\.\*\)",
        ),
        (lambda s: saved({k: v.int() for k, v in s.items()}), "weight is of int32"),
        (lambda s: saved(s | {"fc.weight": s["fc.weight"].to_sparse()}), "fc.weight is of float32, sparse"),
        (lambda s: saved({k: v for k, v in s.items() if "fc." not in k}), "fc.weight is missing.*num_classes=0"),
    ],
)
def test_what_is_no_file_of_weights(
    content: Callable[[State], bytes], message: str, name: str, state: State, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content(state))
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ArtifactError, match=message) as caught:
        load_checkpoint(model, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such checkpoint"):
        load_checkpoint(small(), tmp_path / "none.pth")
    with pytest.raises(ArtifactError, match="a folder; give a file of weights"):
        load_checkpoint(small(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": (5, 1), "fc.bias": (5,)}, r"fc\.weight is \(5, \d+\), \(3, \d+\) was expected.*num_classes=5"),
        ({"extra": (1,)}, r"test_resnet: extra is \(1,\), nothing was expected"),
        ({"fc.bias": None}, r"fc\.bias is missing, \(3,\) was expected; give a checkpoint of this model"),
    ],
)
def test_weights_of_another_model(change: dict[str, Any], message: str, state: State, tmp_path: Path) -> None:
    width = state["fc.weight"].shape[1]
    changed = dict(state)
    for name, shape in change.items():
        if shape is None:
            del changed[name]
        else:
            changed[name] = torch.zeros(shape if len(shape) == 1 else (shape[0], width))
    save_file(changed, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match=message):
        load_checkpoint(small(), tmp_path / "w.safetensors")


def test_weights_of_quite_another_model(tmp_path: Path) -> None:
    save_file({"gamma": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="weights of another model than test_resnet: it has no gamma"):
        load_checkpoint(small(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["fc.weight", "bn1.running_var"])
def test_weights_that_are_not_finite(name: str, state: State, tmp_path: Path) -> None:
    changed = {key: value.clone() for key, value in state.items()}
    changed[name].view(-1)[-1] = float("nan")
    save_file(changed, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match=f"{name} holds values that are not finite"):
        load_checkpoint(small(), tmp_path / "w.safetensors")


def test_position_embeddings_of_another_size(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", img_size=64).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match=r"pos_embed is .*images of the size that one was for \(img_size") as caught:
        load_checkpoint(timm.create_model("test_vit", img_size=32), tmp_path / "w.safetensors")
    assert "num_classes" not in str(caught.value)
